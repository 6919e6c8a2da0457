"""Small but complete Records for tests of everything that reads them: analysis, tracking, report, notebooks.

`make_record` fills every part of a Record consistently: the metrics follow from its raw material by the definitions of
docs/metrics.md, worked out here on their own. Prompts differ, and their sums come to what was asked for exactly, so
that equal arguments give equal values. `make_sweep` is the main job in small: LLaMA, and LLaDA at 8, 16, 32 and 64
steps. `with_curve` adds LLaMA at other temperatures.
"""

import math
import random
from collections.abc import Callable, Sequence
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

PREFIXES = (8, 16)
"""Judge tokens over which entropy is kept; a text has about 20."""

CURVE = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Temperatures of `with_curve`."""

PROCESS = "host 100 1700000000"


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
    second: float | None = None,
    relevance: float = 0.11,
    copying: float = 0.05,
    repetition: float = 0.05,
    per_document: int = 1,
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
        entropy: nats, the mean over the outputs.
        bertscore: F1, the mean over the outputs, or None.
        second: perplexity under a second judge, or None.
        relevance: nats per token.
        copying: share of 4-grams that occur in outputs of other prompts.
        repetition: share of tokens in repeated 4-grams.
        per_document: prompts of one task that come from one document.
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
    outputs = tuple(
        _output(i, ids[i], i // batch, 0 if i >= prompts - empty else tokens, i // 4 // per_document)
        for i in range(prompts)
    )
    timings = tuple(
        _timing(outputs, b, r, _time(e2e_ms, spread, r, repeats, b), steps, canvas)
        for r in range(repeats)
        for b in range(len(partition) if r == 0 else repeated)
    )
    shape = ForwardShape(rows=batch, queries=1, keys=90, logits=1)
    costs = (ForwardCost(shape=shape, count=4, flops=1e8, bytes=3e7),)
    drawn = f"{model} {steps} {temperature:g} {(conditions or {}).get('seed', 0)}"
    texts = {"relevance": relevance, "copying": copying, "repetition": repetition}
    scores = () if perplexity is None else _scores(outputs, drawn, perplexity, entropy, bertscore, second, **texts)
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
            **({"second_judge": "j1"} if second is not None else {}),
            "torch": "2.13.0",
            "transformers": "5.23.0",
            "decoding.temperature": str(temperature),
            "decoding.checkpoint": f"{model}0",
            **(conditions or {}),
        },
        process=PROCESS,
        signatures={
            "checkpoint": f"bundled:{model}@{model}0",
            "workload": "bundled:continuation@w0",
            "judge": "test-judge@j0",
            **({"second_judge": "other-judge@j1"} if second is not None else {}),
        },
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
    """LLaMA and LLaDA over k: LLaDA's perplexity falls 80, 60, 40, 30; LLaMA has 45 (reached) or 20 (not reached).

    LLaDA's text is more varied than LLaMA's at its one temperature (reached), or less (not reached).
    """
    qualities = dict(zip((8, 16, 32, 64), (80.0, 60.0, 40.0, 30.0), strict=True))
    own = {"perplexity": 45.0 if reached else 20.0, "entropy": 3.2, "bertscore": 0.35}
    varied = 3.22 if reached else 2.8
    llama = make_record("llama", e2e_ms=200.0, **(own | common))
    return [llama] + [
        make_record(
            "llada",
            k,
            e2e_ms=10.0 * k,
            **({"perplexity": qualities.get(k, 50.0), "entropy": varied + k / 400} | common),
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


def rescored(record: Record, change: Callable[[PromptScore], PromptScore | None]) -> Record:
    """A Record with other scores of its outputs, and the metrics that follow (absent where they are no numbers).

    Args:
        record: with scores.
        change: gives the new score of an output; None leaves it out.
    """
    pairs = [(score, change(score) if score.subject == "output" else score) for score in record.scores]
    changed = tuple(new for _, new in pairs if new is not None)
    others = {key: value for key, value in record.metrics.items() if key not in _quality(record.scores)}
    known = {key: value for key, value in _quality(changed).items() if math.isfinite(value)}
    return replace(record, scores=changed, metrics=others | known)


def with_curve(records: Sequence[Record], temperatures: Sequence[float] = CURVE) -> list[Record]:
    """The Records, and for each timed one of LLaMA's plain decoder its texts at other temperatures (role "curve").

    Entropy rises by 0.68 (T^1.5 - own^1.5); quality falls along a concave curve through the Record's own point.
    """
    plain = [
        r
        for r in records
        if r.family == "autoregressive"
        and r.role == "timed"
        and r.scores
        and r.conditions.get("decoding.kind", "autoregressive") == "autoregressive"
        and r.conditions.get("decoding.draft", "None") == "None"
    ]
    return [*records, *(_at(record, t) for record in plain for t in temperatures if f"{t}" != _temperature(record))]


def _temperature(record: Record) -> str:
    return record.conditions["decoding.temperature"]


def _at(record: Record, temperature: float) -> Record:
    """What LLaMA wrote at another temperature."""
    own = float(_temperature(record))
    rise = 0.68 * (temperature**1.5 - own**1.5)
    fall = _exact(2 * rise + rise**2)
    seed = record.conditions["seed"] if temperature else "0"
    outputs = [score for score in record.scores if score.subject == "output"]
    noise, varied = (
        dict(
            zip((s.prompt_id for s in outputs), _noise(f"{temperature:g} {seed} {what}", len(outputs), sd), strict=True)
        )
        for what, sd in (("nll", 0.1), ("entropy", 0.004))
    )

    def moved(score: PromptScore) -> PromptScore:
        more = (score.judged_tokens or 0) * fall + noise[score.prompt_id]
        change = _exact(rise) + varied[score.prompt_id]
        return replace(
            score,
            nll_nats=None if score.nll_nats is None else score.nll_nats + more,
            second_nll_nats=None if score.second_nll_nats is None else score.second_nll_nats + more,
            other_nll_nats=score.other_nll_nats and (score.other_nll_nats[0] + more, score.other_nll_nats[1] + more),
            entropy_nats=None if score.entropy_nats is None else score.entropy_nats + change,
            entropy_prefixes=tuple((m, nats + change) for m, nats in score.entropy_prefixes),
            bertscore_precision=None,
            bertscore_recall=None,
            bertscore_f1=None,
        )

    model = record.config["model"]
    made = rescored(record, moved)
    return replace(
        made,
        identity=f"curve-{temperature:g}-{seed}",
        role="curve",
        timings=(),
        marks=(),
        metrics={key: value for key, value in made.metrics.items() if key.startswith("quality/")},
        config=record.config | {"model": model | {"decoder": model["decoder"] | {"temperature": temperature}}},
        conditions=record.conditions | {"decoding.temperature": str(temperature)},
        outputs=tuple(
            replace(output, text=f"{output.text}at {temperature:g}") if output.tokens else output
            for output in record.outputs
        ),
    )


def implementation(
    kind: str, e2e_ms: float, cache: str | None = None, draft: str | None = None, **changes: Any
) -> Record:
    """LLaMA as another implementation decodes it: "autoregressive" or "transformers" with its cache, and drafts."""
    own = {"kind": kind} | ({"cache": cache} if cache else {}) | ({"draft": draft} if draft else {})
    conditions = {f"decoding.{key}": value for key, value in own.items()} | changes.pop("conditions", {})
    made = make_record("llama", e2e_ms=e2e_ms, conditions=conditions, **({"perplexity": 45.0} | changes))
    config = made.config | {"model": made.config["model"] | {"decoder": made.config["model"]["decoder"] | own}}
    return replace(made, identity=f"{kind}-{cache}-{draft}-{conditions.get('seed', 0)}-{e2e_ms:.0f}", config=config)


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


def _output(index: int, prompt_id: str, batch: int, tokens: int, document: int) -> Output:
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
        document=f"{TASKS[index % 4]} {document}",
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


def _exact(value: float) -> float:
    """To 2^-30: sums of such numbers do not depend on their order."""
    return round(value * 2**30) / 2**30


def _noise(drawn: str, count: int, sd: float) -> list[float]:
    """What sets prompts apart: drawn by name, of sum 0 exactly."""
    rng = random.Random(drawn)
    values = [_exact(rng.gauss(0, sd)) for _ in range(count)]
    middle = _exact(sum(values) / count) if count else 0.0
    values = [value - middle for value in values]
    return [value - sum(values) if i == 0 else value for i, value in enumerate(values)]


def _scores(
    outputs: Sequence[Output],
    drawn: str,
    perplexity: float,
    entropy: float,
    bertscore: float | None,
    second: float | None,
    *,
    relevance: float,
    copying: float,
    repetition: float,
) -> tuple[PromptScore, ...]:
    """Sums of outputs; of human references (perplexity 25, entropy 3.4), shuffled ones (400), and the prompt's tail."""
    floor = None if bertscore is None else 0.1
    subjects = (("output", perplexity, entropy, bertscore), ("human", 25.0, 3.4, None), ("shuffled", 400.0, 3.4, floor))
    tokens = _token_counts(len(outputs))
    made = []
    for subject, quality, diversity, similarity in subjects:
        name = f"{drawn} {subject}" if subject == "output" else subject
        columns = (("nll", 0.1), ("entropy", 0.004), ("similar", 0.0005), ("second", 0.1), ("relevance", 0.1))
        noise = {what: _noise(f"{name} {what}", len(outputs), sd) for what, sd in columns}
        for i, output in enumerate(outputs):
            is_output = subject == "output"
            empty = is_output and not output.tokens
            nll = _exact(tokens[i] * math.log(quality)) + noise["nll"][i]
            varied = _exact(diversity) + noise["entropy"][i]
            f1 = None if similarity is None else _exact(similarity) + noise["similar"][i]
            own: dict[str, Any] = {
                "repeated_tokens": 1,
                "entropy_nats": varied,
                "bigrams": 19,
                "distinct_bigrams": 17,
                "diversity_tokens": 20,
                "text_tokens": tokens[i],
            }
            if is_output:
                apart = _exact(tokens[i] * relevance) + noise["relevance"][i]
                own |= {
                    "repeated_tokens": round(repetition * 20),
                    "entropy_prefixes": tuple((m, varied - _exact(math.log(16 / m))) for m in PREFIXES),
                    "other_nll_nats": (nll + apart + 0.25, nll + apart - 0.25),
                    "shared_4grams": copying,
                }
            if second is not None and subject != "human":
                heard = _exact(tokens[i] * math.log(second if is_output else quality)) + noise["second"][i]
                own |= {"second_nll_nats": heard, "second_judged_tokens": tokens[i]}
            if empty:
                own = {"diversity_tokens": 0, "text_tokens": 0, "repeated_tokens": 0, "shared_4grams": None}
                own |= {"other_nll_nats": (nll, nll)}
            made.append(
                PromptScore(
                    prompt_id=output.prompt_id,
                    subject=subject,  # type: ignore[arg-type]
                    utf8_bytes=(output.utf8_bytes or 0) if is_output else 100,
                    nll_nats=nll,
                    judged_tokens=tokens[i],
                    bertscore_precision=f1,
                    bertscore_recall=f1,
                    bertscore_f1=f1,
                    **own,
                )
            )
    return (*made, *map(_echo, outputs, tokens, _noise("echo", len(outputs), 0.1)))


def _token_counts(count: int) -> list[int]:
    """Judge tokens of each text: 20 on average."""
    pairs = [20 + sign * (1 + i % 3) for i in range(count // 2) for sign in (1, -1)]
    return pairs + [20] * (count - len(pairs))


def _echo(output: Output, tokens: int, noise: float) -> PromptScore:
    """The prompt's own tail: perplexity 420, and 0.3 nats per token less likely under another prompt."""
    nll = tokens * math.log(420) + noise
    other = nll + 0.3 * tokens
    return PromptScore(
        prompt_id=output.prompt_id,
        subject="prompt_tail",
        utf8_bytes=100,
        nll_nats=nll,
        judged_tokens=tokens,
        text_tokens=tokens,
        other_nll_nats=(other, other),
    )


def _metrics(record: Record) -> dict[str, float]:
    """The metrics of a Record, by the definitions and nothing else."""
    rows = [
        mean(t.e2e_ms for t in record.timings if t.repeat == r and t.batch in record.repeated_batches)
        for r in range(1 + max(t.repeat for t in record.timings))
    ]
    timed = [t for t in record.timings if t.repeat == 0]
    spans = [(median(o.e2e_ms for o in record.timings if o.batch == t.batch) / 1000, t.batch) for t in timed]
    seconds = sum(span for span, _ in spans)
    waited = sum(span * len(record.partition[batch]) for span, batch in spans)
    middle = median(rows)
    metrics = {
        "latency/e2e_ms": middle,
        "latency/e2e_ms_n": float(len(rows)),
        "latency/e2e_wall_ms": middle + 0.1,
        "latency/first_text_ms": middle if record.steps is not None else middle / 10,
        "latency/tokenize_ms": 0.8,
        "throughput/tokens_per_s": sum(t.tokens for t in timed) / seconds,
        "throughput/bytes_per_s": sum(t.utf8_bytes for t in timed) / seconds,
        "throughput/tokens_per_s_per_user": sum(t.tokens for t in timed) / waited,
        "throughput/bytes_per_s_per_user": sum(t.utf8_bytes for t in timed) / waited,
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
        tokens = sum(score.judged_tokens or 0 for score in own)
        nll = sum(score.nll_nats or 0.0 for score in own)
        metrics[f"quality/perplexity{suffix}"] = math.exp(nll / tokens)
        if size := sum(score.utf8_bytes for score in own):
            metrics[f"quality/bits_per_byte{suffix}"] = nll / math.log(2) / size
        if varied := [score.entropy_nats for score in own if score.entropy_nats is not None]:
            metrics[f"quality/entropy{suffix}"] = math.fsum(varied) / len(varied)
            metrics[f"quality/distinct_2{suffix}"] = 17 / 19
        if written := sum(score.text_tokens or 0 for score in own):
            metrics[f"quality/repetition{suffix}"] = sum(score.repeated_tokens or 0 for score in own) / written
        if own[0].bertscore_f1 is not None:
            metrics[f"quality/bertscore_f1{suffix}"] = math.fsum(score.bertscore_f1 or 0.0 for score in own) / len(own)
        if subject == "output":
            metrics |= _of_outputs(own, tokens)
    return metrics


def _of_outputs(scores: Sequence[PromptScore], tokens: int) -> dict[str, float]:
    metrics: dict[str, float] = {}
    pairs = [(score.other_nll_nats, score.nll_nats) for score in scores]
    if all(other is not None for other, _ in pairs):
        metrics["quality/relevance"] = math.fsum(sum(other or ()) / 2 - (nll or 0.0) for other, nll in pairs) / tokens
    if shared := [score.shared_4grams for score in scores if score.shared_4grams is not None]:
        metrics["quality/shared_4grams"] = math.fsum(shared) / len(shared)
    if all(score.second_nll_nats is not None for score in scores):
        nll = math.fsum(score.second_nll_nats or 0.0 for score in scores)
        metrics["quality/perplexity_second"] = math.exp(nll / sum(score.second_judged_tokens or 0 for score in scores))
        if size := sum(score.utf8_bytes for score in scores):
            metrics["quality/bits_per_byte_second"] = nll / math.log(2) / size
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
