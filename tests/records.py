"""Small but complete Records for tests of everything that reads them: analysis, tracking, report, notebooks.

`make_record` fills every part of a Record consistently: the metrics follow from its raw material by the definitions of
docs/metrics.md, worked out here on their own. `make_sweep` is the main job in small: LLaMA, and LLaDA at 8, 16, 32 and
64 steps.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import mean, median
from typing import Any

from llmbench.record import (
    Ceilings,
    DeviceUse,
    Environment,
    ForwardCost,
    ForwardShape,
    Marks,
    Output,
    PromptScore,
    Record,
    Timing,
)

TASKS = ("story", "chat", "speech", "poem")


def make_record(
    model: str = "llada",
    steps: int | None = 8,
    *,
    e2e_ms: float = 100.0,
    spread: float = 0.02,
    repeats: int = 6,
    repeated: int = 1,
    prompts: int = 8,
    batch: int = 4,
    canvas: int = 64,
    perplexity: float | None = 40.0,
    entropy: float = 3.0,
    bertscore: float | None = 0.3,
    tokens: int = 20,
    empty: int = 0,
    device: str = "cpu",
    temperature: float = 0.7,
    status: str = "finished",
    reason: str | None = None,
    conditions: dict[str, str] | None = None,
    **changes: Any,
) -> Record:
    """A Record whose numbers are what the arguments say.

    Args:
        model: "llama" is autoregressive (then `steps` is ignored), anything else is diffusion.
        steps: k.
        e2e_ms: the middle of the times.
        spread: repeat r of R takes e2e_ms * (1 + spread * (r - (R - 1) / 2) / R); batch b takes b % more.
        repeats: of the first `repeated` batches.
        repeated: batches that are repeated.
        prompts: how many, in batches of `batch`.
        batch: B.
        canvas: G.
        perplexity: of the outputs; None leaves all quality out.
        entropy: nats, of every output.
        bertscore: F1 of every output, or None.
        tokens: N_i of every output that is not empty; an output has 5 bytes a token.
        empty: how many outputs, from the last, are empty.
        device: "cpu" or "cuda".
        temperature: of the decoder.
        status: "finished" or "failed".
        reason: when failed.
        conditions: changed or added conditions.
        changes: any other field of Record, as it should be.
    """
    steps = None if model == "llama" else steps
    family = "diffusion" if steps is not None else "autoregressive"
    ids = [f"{TASKS[i % 4]}-{i}" for i in range(prompts)]
    partition = tuple(tuple(ids[i : i + batch]) for i in range(0, prompts, batch))
    outputs = tuple(_output(i, ids[i], i // batch, 0 if i >= prompts - empty else tokens) for i in range(prompts))
    timings = tuple(
        _timing(outputs, b, r, _time(e2e_ms, spread, r, repeats, b), steps, canvas)
        for r in range(repeats)
        for b in range(len(partition) if r == 0 else repeated)
    )
    shape = ForwardShape(rows=batch, queries=1, keys=90, logits=1)
    costs = (ForwardCost(shape=shape, count=4, flops=1e8, bytes=3e7),)
    scores = () if perplexity is None else _scores(outputs, perplexity, entropy, bertscore)
    decoder = {"kind": family, "temperature": temperature, **({"steps": steps} if steps is not None else {})}
    record = Record(
        identity=f"{model[:5]:0<5}{steps or 0:04d}{batch:03d}",
        model=model,
        family=family,
        steps=steps,
        status=status,  # type: ignore[arg-type]
        reason=reason,
        started_at="2026-11-23T10:00:00+00:00",
        duration_s=12.5,
        config=_config(model, decoder, batch, canvas, device, prompts),
        conditions={
            "device_name": "Test CPU" if device == "cpu" else "Test GPU",
            "device": device,
            "dtype": "float32",
            "engine": "eager",
            "weights": "real",
            "canvas": str(canvas),
            "batch": str(batch),
            "seed": "0",
            "workload": "w0",
            "judge": "j0",
            "encoder": "e0",
            "torch": "2.13.0",
            "transformers": "5.23.0",
            "decoding.temperature": str(temperature),
            "decoding.checkpoint": f"{model}0",
            **(conditions or {}),
        },
        signatures={"checkpoint": f"bundled:{model}@{model}0", "workload": "bundled:continuation@w0"},
        environment=_environment(device),
        partition=partition,
        outputs=outputs,
        timings=timings,
        marks=(Marks(batch=0, repeat=0, at_ms=tuple(float(10 * (i + 1)) for i in range(steps or 4))),),
        tokenize_ms=0.8,
        canvas=canvas,
        block_length=canvas if steps is not None else None,
        device_use=_device_use(device),
        forward_costs=costs,
        other_forward_costs=(costs,) * (repeated - 1),
        repeated_batches=tuple(range(repeated)),
        ceilings=Ceilings(
            flops_per_s=1e11, bytes_per_s=1e10, last_level_cache_bytes=30_000_000, judged=device == "cuda"
        ),
        scores=scores,
        notes=(),
    )
    if status == "failed":
        return replace(record, outputs=(), timings=(), marks=(), scores=(), **changes)
    return replace(record, **{"metrics": _metrics(record), **changes})


def make_sweep(steps: Sequence[int] = (8, 16, 32, 64), *, reached: bool = True, **common: Any) -> list[Record]:
    """LLaMA and LLaDA over k: LLaDA's perplexity falls 80, 60, 40, 30; LLaMA has 45 (reached) or 20 (not reached)."""
    qualities = dict(zip((8, 16, 32, 64), (80.0, 60.0, 40.0, 30.0), strict=True))
    own = {"perplexity": 45.0 if reached else 20.0, "entropy": 3.2, "bertscore": 0.35}
    llama = make_record("llama", e2e_ms=200.0, **(own | common))
    return [llama] + [
        make_record(
            "llada", k, e2e_ms=10.0 * k, **({"perplexity": qualities.get(k, 50.0), "entropy": 3.0 + k / 200} | common)
        )
        for k in steps
    ]


def with_baseline_jobs(records: Sequence[Record]) -> list[Record]:
    """The same sweep with two points of LLaMA's curve and LLaMA timed again, all far from its own numbers."""
    (llama,) = [record for record in records if record.family == "autoregressive"]
    point = make_record("llama", perplexity=5.0, entropy=2.0, temperature=0.0)
    quality = {key: value for key, value in point.metrics.items() if key.startswith("quality/")}
    untimed = replace(point, role="curve", timings=(), marks=(), repeated_batches=(), tokenize_ms=None, metrics=quality)
    again = replace(make_record("llama", e2e_ms=1.0), role="retimed", outputs=(), scores=(), identity="again")
    points = [
        replace(untimed, identity=f"curve{t}", conditions=llama.conditions | {"decoding.temperature": t})
        for t in ("0.0", "1.0")
    ]
    return [*points, *records, again]


def implementation(kind: str, e2e_ms: float, cache: str | None = None, **changes: Any) -> Record:
    """LLaMA as another implementation decodes it: "autoregressive" or "transformers" with its cache."""
    own = {"decoding.kind": kind} | ({"decoding.cache": cache} if cache else {})
    made = make_record("llama", e2e_ms=e2e_ms, conditions=own, **({"perplexity": 45.0} | changes))
    decoder = made.config["model"]["decoder"] | {"kind": kind} | ({"cache": cache} if cache else {})
    config = made.config | {"model": made.config["model"] | {"decoder": decoder}}
    return replace(made, identity=f"{kind}-{cache}-{e2e_ms:.0f}", config=config)


def server_record(
    e2e_ms: float, url: str = "http://host:8000/v1", trust_same_hardware: bool = False, **changes: Any
) -> Record:
    """LLaMA as a server runs it: nothing is known of its device."""
    made = implementation("server", e2e_ms, **changes)
    unknown = {"device", "dtype", "torch", "transformers"}
    own = {
        "device_name": f"vllm 0.11 at {url}",
        "engine": "server",
        "clock": "wall",
        "decoding.url": url,
        "decoding.served_model": "meta/llama",
        "decoding.trust_same_hardware": str(trust_same_hardware),
    }
    conditions = {key: value for key, value in made.conditions.items() if key not in unknown} | own
    return replace(
        made,
        identity=f"server-{url}-{e2e_ms:.0f}",
        conditions=conditions,
        ceilings=None,
        forward_costs=(),
        other_forward_costs=(),
    )


def _output(index: int, prompt_id: str, batch: int, tokens: int) -> Output:
    text = "word " * tokens
    return Output(
        prompt_id=prompt_id,
        task=TASKS[index % 4],
        prompt=f"Opening number {index}, and then",
        text=text,
        batch=batch,
        tokens=tokens,
        utf8_bytes=len(text),
        stopped=index % 2 == 0,
    )


def _time(middle: float, spread: float, repeat: int, repeats: int, batch: int) -> float:
    return middle * (1 + spread * (repeat - (repeats - 1) / 2) / repeats) * (1 + 0.01 * batch)


def _timing(outputs: Sequence[Output], batch: int, repeat: int, ms: float, steps: int | None, canvas: int) -> Timing:
    own = [output for output in outputs if output.batch == batch]
    return Timing(
        batch=batch,
        repeat=repeat,
        e2e_ms=ms,
        e2e_wall_ms=ms + 0.1,
        prefill_ms=None if steps is not None else ms / 10,
        forwards=steps if steps is not None else canvas,
        tokens=sum(output.tokens for output in own),
        utf8_bytes=sum(output.utf8_bytes for output in own),
    )


def _scores(
    outputs: Sequence[Output], perplexity: float, entropy: float, bertscore: float | None
) -> tuple[PromptScore, ...]:
    """Sums of outputs, of human references (perplexity 25, entropy 3.4) and of shuffled ones (perplexity 400)."""
    subjects = (("output", perplexity, entropy, bertscore), ("human", 25.0, 3.4, None), ("shuffled", 400.0, 3.4, 0.1))
    return tuple(
        PromptScore(
            prompt_id=output.prompt_id,
            subject=subject,  # type: ignore[arg-type]
            utf8_bytes=(output.utf8_bytes or 0) if subject == "output" else 100,
            nll_nats=20 * math.log(quality),
            judged_tokens=20,
            entropy_nats=diversity,
            bigrams=19,
            distinct_bigrams=17,
            diversity_tokens=20,
            repeated_tokens=1,
            bertscore_precision=similarity,
            bertscore_recall=similarity,
            bertscore_f1=similarity,
        )
        for output in outputs
        for subject, quality, diversity, similarity in subjects
        if not (subject == "shuffled" and bertscore is None and similarity is None)
    )


def _metrics(record: Record) -> dict[str, float]:
    """The metrics of a Record, by the definitions and nothing else."""
    rows = [
        mean(t.e2e_ms for t in record.timings if t.repeat == r and t.batch in record.repeated_batches)
        for r in range(1 + max(t.repeat for t in record.timings))
    ]
    timed = [t for t in record.timings if t.repeat == 0]
    seconds = sum(median(o.e2e_ms for o in record.timings if o.batch == t.batch) for t in timed) / 1000
    middle = median(rows)
    metrics = {
        "latency/e2e_ms": middle,
        "latency/e2e_ms_n": float(len(rows)),
        "latency/e2e_wall_ms": middle + 0.1,
        "latency/first_text_ms": middle if record.steps is not None else middle / 10,
        "latency/tokenize_ms": 0.8,
        "throughput/tokens_per_s": sum(t.tokens for t in timed) / seconds,
        "throughput/bytes_per_s": sum(t.utf8_bytes for t in timed) / seconds,
        "throughput/nfe": float(timed[0].forwards),
        "roofline/limit_ms": 4 * 3e7 / 1e10 * 1000,
        "quality/empty_share": mean(output.tokens == 0 for output in record.outputs),
        "quality/length_bytes": mean(output.utf8_bytes for output in record.outputs),
    }
    metrics["roofline/efficiency"] = metrics["roofline/limit_ms"] / middle
    if len(rows) >= 6:  # up to 8, where the interval is that of the extremes
        metrics |= {"latency/e2e_ms_ci_low": min(rows), "latency/e2e_ms_ci_high": max(rows)}
    if record.steps is None:
        metrics |= {"latency/prefill_ms": middle / 10, "latency/itl_ms": middle * 0.9 / (timed[0].forwards - 1)}
    else:
        metrics["latency/step_ms"] = 10.0
    use = record.device_use
    if use.peak_reserved_bytes is not None and use.model_reserved_bytes is not None:
        metrics |= {
            "memory/peak_reserved_bytes": float(use.peak_reserved_bytes),
            "memory/model_reserved_bytes": float(use.model_reserved_bytes),
            "memory/over_model_bytes": float(use.peak_reserved_bytes - use.model_reserved_bytes),
        }
    if use.peak_rss_bytes is not None:
        metrics["memory/peak_rss_bytes"] = float(use.peak_rss_bytes)
    return metrics | _quality(record.scores)


def _quality(scores: Sequence[PromptScore]) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for subject, suffix in (("output", ""), ("human", "_human"), ("shuffled", "_floor")):
        own = [score for score in scores if score.subject == subject]
        if not own:
            continue
        nll = sum(score.nll_nats or 0.0 for score in own)
        metrics[f"quality/perplexity{suffix}"] = math.exp(nll / sum(score.judged_tokens or 0 for score in own))
        metrics[f"quality/bits_per_byte{suffix}"] = nll / math.log(2) / sum(score.utf8_bytes for score in own)
        metrics[f"quality/entropy{suffix}"] = mean(score.entropy_nats or 0.0 for score in own)
        metrics[f"quality/distinct_2{suffix}"] = 17 / 19
        metrics[f"quality/repetition{suffix}"] = 1 / 20
        if own[0].bertscore_f1 is not None:
            metrics[f"quality/bertscore_f1{suffix}"] = mean(score.bertscore_f1 or 0.0 for score in own)
    return metrics


def _config(model: str, decoder: dict[str, Any], batch: int, canvas: int, device: str, prompts: int) -> dict[str, Any]:
    return {
        "model": {"name": model, "checkpoint": f"bundled:{model}", "decoder": {**decoder, "canvas": canvas}},
        "hardware": {"device": device, "dtype": "float32", "engine": "eager", "threads": 1},
        "workload": {"source": "bundled:continuation", "prompts": prompts},
        "tracking": {"uri": None, "experiment": "llmbench"},
        "batch": batch,
        "seed": 0,
        "weights": "real",
    }


def _environment(device: str) -> Environment:
    return Environment(
        device=device,
        device_name="Test CPU" if device == "cpu" else "Test GPU",
        driver=None if device == "cpu" else "570.1",
        threads=1,
        load_average=0.5,
        python="3.11.7",
        platform="Linux",
        versions={"llmbench": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
        git_commit="0123456789abcdef0123456789abcdef01234567",
        git_dirty=False,
    )


def _device_use(device: str) -> DeviceUse:
    if device == "cpu":
        return DeviceUse(peak_rss_bytes=900 * 2**20)
    return DeviceUse(
        model_reserved_bytes=100 * 2**20,
        peak_reserved_bytes=160 * 2**20,
        reserved_trace_bytes=(120 * 2**20, 160 * 2**20),
        allocated_trace_bytes=(110 * 2**20, 130 * 2**20),
    )
