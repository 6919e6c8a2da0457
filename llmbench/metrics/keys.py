"""What does a metric's key mean: in which unit, which way is better, which jobs have it?

`METRICS` is the one registry of the keys under which a Record holds its values (`Record.metrics`), MLflow logs them
and `docs/metrics.md` defines them. `performance` and `quality` fill it; analysis, tables and figures look directions
up here.
"""

from dataclasses import dataclass
from typing import Literal

from llmbench.record import Family


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One key: its unit, which way is better, who has it. The definition itself is in docs/metrics.md."""

    key: str
    unit: str
    better: Literal["lower", "higher"] | None
    families: tuple[Family, ...]
    device: Literal["any", "cuda", "cpu"]
    spread: bool  # also logged with SPREAD suffixes
    summary: str

    def applies(self, family: Family, device: str) -> bool:
        """Whether a job of this family on this device ("cpu", "cuda") can have the key."""
        return family in self.families and self.device in ("any", device)


SPREAD = ("_q1", "_q3", "_n", "_ci_low", "_ci_high")
"""Suffixes of a latency's quartiles, sample count and 95 % interval (absent below 6 repeats)."""

_BOTH: tuple[Family, ...] = ("autoregressive", "diffusion")
_AR: tuple[Family, ...] = ("autoregressive",)
_DIFFUSION: tuple[Family, ...] = ("diffusion",)


def _registry() -> dict[str, Metric]:
    rows: tuple[tuple[str, str, str | None, tuple[Family, ...], str, bool, str], ...] = (
        (
            "latency/e2e_ms",
            "ms",
            "lower",
            _BOTH,
            "any",
            True,
            "L_e2e: prompt ids on the device to all output ids final",
        ),
        ("latency/e2e_wall_ms", "ms", "lower", _BOTH, "any", True, "the same region by the host clock"),
        (
            "latency/clock_gap_ms",
            "ms",
            None,
            _BOTH,
            "cuda",
            True,
            "host clock minus CUDA events: a check on the clocks",
        ),
        (
            "latency/host_overhead_ms",
            "ms",
            "lower",
            _BOTH,
            "cuda",
            False,
            "L_e2e minus the time in which a kernel runs",
        ),
        ("latency/prefill_ms", "ms", "lower", _AR, "any", True, "until the first output token is final (TTFT)"),
        ("latency/itl_ms", "ms", "lower", _AR, "any", True, "(L_e2e - L_prefill) / (F - 1)"),
        ("latency/token_gap_ms", "ms", "lower", _AR, "any", True, "gaps between marked tokens"),
        ("latency/step_ms", "ms", "lower", _DIFFUSION, "any", True, "one denoising step, marked"),
        ("latency/first_text_ms", "ms", "lower", _BOTH, "any", True, "first moment at which final text can be shown"),
        ("latency/tokenize_ms", "ms", "lower", _BOTH, "any", False, "text to ids of one batch; not part of L_e2e"),
        ("throughput/tokens_per_s", "tokens/s", "higher", _BOTH, "any", False, "valid output tokens per second"),
        ("throughput/bytes_per_s", "bytes/s", "higher", _BOTH, "any", False, "UTF-8 bytes of output per second"),
        (
            "throughput/canvas_tokens_per_s",
            "tokens/s",
            "higher",
            _BOTH,
            "any",
            False,
            "B x G / L_e2e, padding included",
        ),
        ("throughput/nfe", "forwards", "lower", _BOTH, "any", False, "forward passes per batch"),
        ("throughput/tokens_per_forward", "tokens", "higher", _BOTH, "any", False, "valid tokens / (B x NFE)"),
        (
            "throughput/forwarded_tokens",
            "tokens",
            "lower",
            _BOTH,
            "any",
            False,
            "positions that went through the network, per output",
        ),
        (
            "memory/peak_reserved_bytes",
            "bytes",
            "lower",
            _BOTH,
            "cuda",
            False,
            "M_peak: most reserved while generating",
        ),
        ("memory/setup_peak_reserved_bytes", "bytes", "lower", _BOTH, "cuda", False, "most reserved while warming up"),
        ("memory/model_reserved_bytes", "bytes", "lower", _BOTH, "cuda", False, "reserved with the model alone"),
        (
            "memory/over_model_bytes",
            "bytes",
            "lower",
            _BOTH,
            "cuda",
            False,
            "M_peak minus the model: cache or activations",
        ),
        ("memory/device_used_bytes", "bytes", "lower", _BOTH, "cuda", False, "in use on the device, by the driver"),
        (
            "memory/peak_allocated_bytes",
            "bytes",
            "lower",
            _BOTH,
            "cuda",
            False,
            "most allocated while generating (eager)",
        ),
        ("memory/peak_rss_bytes", "bytes", "lower", _BOTH, "cpu", False, "peak resident set of the process"),
        ("energy/joules_per_token", "J/token", "lower", _BOTH, "cuda", False, "NVML energy per valid token"),
        ("energy/joules_per_byte", "J/byte", "lower", _BOTH, "cuda", False, "NVML energy per byte of output"),
        ("hardware/sm_clock_mhz_before", "MHz", None, _BOTH, "cuda", False, "SM clock before the timed pass"),
        ("hardware/sm_clock_mhz", "MHz", None, _BOTH, "cuda", False, "SM clock after the timed pass"),
        ("hardware/throttled", "share", "lower", _BOTH, "cuda", False, "share of timed batches that were throttled"),
        ("roofline/limit_ms", "ms", None, _BOTH, "any", False, "least time for the same work on this device"),
        ("roofline/efficiency", "share", "higher", _BOTH, "any", False, "limit / L_e2e"),
        ("quality/perplexity", "1", "lower", _BOTH, "any", False, "generative perplexity under a third-party judge"),
        ("quality/bits_per_byte", "bits", "lower", _BOTH, "any", False, "the same NLL per UTF-8 byte"),
        ("quality/entropy", "nats", "higher", _BOTH, "any", False, "unigram entropy of the first m judge tokens"),
        ("quality/distinct_2", "share", "higher", _BOTH, "any", False, "distinct bigrams / bigrams"),
        ("quality/repetition", "share", "lower", _BOTH, "any", False, "tokens inside a repeated 4-gram"),
        ("quality/bertscore_f1", "1", "higher", _BOTH, "any", False, "BERTScore F1 against the reference"),
        ("quality/bertscore_precision", "1", "higher", _BOTH, "any", False, "BERTScore precision"),
        ("quality/bertscore_recall", "1", "higher", _BOTH, "any", False, "BERTScore recall"),
        ("quality/accuracy", "share", "higher", _BOTH, "any", False, "answers that could be checked and are right"),
        ("quality/empty_share", "share", "lower", _BOTH, "any", False, "outputs without text"),
        ("quality/length_bytes", "bytes", None, _BOTH, "any", False, "mean UTF-8 bytes of an output"),
        (
            "likelihood/bits_per_byte",
            "bits",
            "lower",
            _BOTH,
            "any",
            False,
            "held-out text: exact (AR) or bound (diffusion)",
        ),
    )
    return {
        key: Metric(key=key, unit=unit, better=better, families=families, device=device, spread=spread, summary=summary)  # type: ignore[arg-type]
        for key, unit, better, families, device, spread, summary in rows
    }


METRICS: dict[str, Metric] = _registry()
"""Every key that a job may log. `quality/*` keys also appear with `_floor` and `_human`."""
