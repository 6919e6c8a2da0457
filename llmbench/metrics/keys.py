"""What does a metric's key mean: in which unit, which way is better, which jobs have it?

`METRICS` is the one registry of the keys of `Record.metrics`. docs/metrics.md defines them.
"""

from dataclasses import dataclass
from typing import Literal

from llmbench.record import Family

SPREAD = ("_q1", "_q3", "_n", "_ci_low", "_ci_high")
"""Suffixes of a latency's quartiles, sample count and 95 % interval (absent below 6 repeats)."""

_BOTH: tuple[Family, ...] = ("autoregressive", "diffusion")
_AR: tuple[Family, ...] = ("autoregressive",)


@dataclass(frozen=True)
class Metric:
    """One key: its unit, which way is better, who has it."""

    key: str
    unit: str
    better: Literal["lower", "higher"] | None
    families: tuple[Family, ...] = _BOTH
    device: Literal["any", "cuda", "cpu"] = "any"
    spread: bool = False  # also logged with SPREAD suffixes

    def applies(self, family: Family, device: str) -> bool:
        """Whether a job of this family on this device ("cpu", "cuda") can have the key."""
        return family in self.families and self.device in ("any", device)


_ALL = (
    Metric("latency/e2e_ms", "ms", "lower", spread=True),
    Metric("latency/e2e_wall_ms", "ms", "lower", spread=True),
    Metric("latency/clock_gap_ms", "ms", None, device="cuda", spread=True),
    Metric("latency/host_overhead_ms", "ms", "lower", device="cuda"),
    Metric("latency/prefill_ms", "ms", "lower", families=_AR, spread=True),
    Metric("latency/itl_ms", "ms", "lower", families=_AR, spread=True),
    Metric("latency/token_gap_ms", "ms", "lower", families=_AR, spread=True),
    Metric("latency/step_ms", "ms", "lower", spread=True),
    Metric("latency/first_text_ms", "ms", "lower", spread=True),
    Metric("latency/tokenize_ms", "ms", "lower"),
    Metric("throughput/tokens_per_s", "tokens/s", "higher"),
    Metric("throughput/bytes_per_s", "bytes/s", "higher"),
    Metric("throughput/tokens_per_s_per_user", "tokens/s", "higher"),
    Metric("throughput/bytes_per_s_per_user", "bytes/s", "higher"),
    Metric("throughput/canvas_tokens_per_s", "tokens/s", "higher"),
    Metric("throughput/nfe", "forwards", "lower"),
    Metric("throughput/tokens_per_forward", "tokens", "higher"),
    Metric("throughput/forwarded_tokens", "tokens", "lower"),
    Metric("memory/peak_reserved_bytes", "bytes", "lower", device="cuda"),
    Metric("memory/setup_peak_reserved_bytes", "bytes", "lower", device="cuda"),
    Metric("memory/model_reserved_bytes", "bytes", "lower", device="cuda"),
    Metric("memory/over_model_bytes", "bytes", "lower", device="cuda"),
    Metric("memory/device_used_bytes", "bytes", "lower", device="cuda"),
    Metric("memory/peak_allocated_bytes", "bytes", "lower", device="cuda"),
    Metric("memory/peak_rss_bytes", "bytes", "lower", device="cpu"),
    Metric("energy/joules_per_token", "J/token", "lower", device="cuda"),
    Metric("energy/joules_per_byte", "J/byte", "lower", device="cuda"),
    Metric("hardware/sm_clock_mhz_before", "MHz", None, device="cuda"),
    Metric("hardware/sm_clock_mhz", "MHz", None, device="cuda"),
    Metric("hardware/throttled", "share", "lower", device="cuda"),
    Metric("roofline/limit_ms", "ms", None),
    Metric("roofline/efficiency", "share", "higher"),
    Metric("quality/perplexity", "1", "lower"),
    Metric("quality/bits_per_byte", "bits", "lower"),
    Metric("quality/perplexity_second", "1", "lower"),
    Metric("quality/bits_per_byte_second", "bits", "lower"),
    Metric("quality/entropy", "nats", "higher"),
    Metric("quality/distinct_2", "share", "higher"),
    Metric("quality/repetition", "share", "lower"),
    Metric("quality/relevance", "nats", "higher"),
    Metric("quality/shared_4grams", "share", "lower"),
    Metric("quality/bertscore_f1", "1", "higher"),
    Metric("quality/bertscore_precision", "1", "higher"),
    Metric("quality/bertscore_recall", "1", "higher"),
    Metric("quality/accuracy", "share", "higher"),
    Metric("quality/empty_share", "share", "lower"),
    Metric("quality/length_bytes", "bytes", None),
    Metric("likelihood/bits_per_byte", "bits", "lower"),
)

METRICS: dict[str, Metric] = {metric.key: metric for metric in _ALL}
"""Every key that a job may log. Keys of scored texts also appear with `_floor` and `_human`."""
