"""What a failed Check says, what it forbids, and which settings would let it pass."""

from collections.abc import Callable

from llmbench.analysis.formats import TITLES, listed, number
from llmbench.analysis.parity.verdict import Check, CheckName


def reason(check: Check) -> str:
    """What a failed Check found, without a full stop."""
    v = check.values
    label, name = v.get("label", ""), check.name

    def n(key: str, digits: int = 3) -> str:
        found = v.get(key)
        return _short(found, digits) if isinstance(found, float) else str(found)

    def percent(key: str) -> str:
        found = v.get(key)
        return f"{100 * found:.3g} %" if isinstance(found, float) else str(found)

    if v.get("measured") == "no":
        return f"{name.value} of {label} was not measured"
    said: dict[CheckName, Callable[[], str]] = {
        CheckName.MISSING: lambda: (
            f"seeds differ: {v['other_label']} has {v['other_value'] or 'none'} and {label} has {v['value'] or 'none'}"
            if v.get("key") == "seeds"
            else f"{label} failed: {v['reason']}"
        ),
        CheckName.NOT_RUN: lambda: f"{label} has not run: the sweep did not come to its end",
        CheckName.EMPTY: lambda: (
            f"{percent('share')} of the outputs of {label} are empty, at most {percent('limit')} may be"
        ),
        CheckName.LENGTH: lambda: _length_reason(v),
        CheckName.NOT_TIMED: lambda: _not_timed_reason(v),
        CheckName.MIXED: lambda: _mixed_reason(v),
        CheckName.THROTTLED: lambda: f"{percent('share')} of the timed batches of {label} ran at throttled clocks",
        CheckName.TWICE: lambda: f"prompts {v['first']} and {v['second']} of {label} have one text",
        CheckName.JUDGE: lambda: f"{label} has the weights of its judge",
        CheckName.PROMPTS: lambda: (
            f"{label} has no {_metric(check)} for {n('missing')} of {n('prompts')} prompts ({v['first']})"
            if label
            else f"no sums of {_metric(check)} were recorded"
        ),
        CheckName.NOT_FINITE: lambda: f"{_metric(check)} of {label} is not finite (prompts: {v['first'] or 'all'})",
        CheckName.FEW: lambda: f"{n('prompts')} prompts give no bound",
        CheckName.NO_SPREAD: lambda: f"the {_metric(check)} of {label} is the same for every prompt",
        CheckName.SHORT: lambda: (
            f"{percent('value')} of the outputs of {label} are shorter than {n('prefix')} tokens, "
            f"{percent('reference')} of the baseline's"
        ),
        CheckName.REPETITION: lambda: (
            f"{percent('value')} of the text of {label} repeats itself, at most {percent('limit')} may"
        ),
        CheckName.RELEVANCE: lambda: (
            f"the text of {label} is not shown to depend on its prompts as the baseline's does (relevance "
            f"{n('value')} against {n('reference')} nats per token, lower bound {n('lower')} below {n('limit')})"
        ),
        CheckName.ECHO: lambda: (
            f"the text of {label} is not shown to be less than half an echo of its prompts (relevance {n('value')} "
            f"nats per token; half an echo has {n('limit')})"
        ),
        CheckName.RELEVANCE_ASSAY: lambda: (
            f"relevance does not tell the baseline's texts from texts under other prompts (lower bound {n('lower')}, "
            f"more than {n('limit')} is needed)"
        ),
        CheckName.COPYING: lambda: (
            f"{percent('value')} of the 4-grams of {label} occur in its texts for other prompts, at most "
            f"{percent('limit')} may"
        ),
        CheckName.CURVE: lambda: (
            f"{label} failed: {v['reason']}" if label else "the baseline's curve over temperature has no usable point"
        ),
        CheckName.SLOW_BASELINE: lambda: f"{label} runs at {percent('value')} of its roofline limit: a slow baseline",
        CheckName.THREADS: lambda: (
            "CPU threads differ: "
            + ", ".join(f"{_short(count)} at {side}" for side, count in v.items() if isinstance(count, float))
        ),
        CheckName.CARD: lambda: f"the baseline was not timed in the process and on the card of {label}",
        CheckName.OTHERS: lambda: (
            f"another process kept {percent('value')} of the GPU's multiprocessors busy while {label} was timed, at "
            f"most {percent('limit')} may be"
        ),
        CheckName.UNSTEADY: lambda: (
            f"repeats of one batch at k = {check.steps} differ {n('ratio', 2)}-fold between their quartiles: other "
            "work ran on this device"
        ),
        CheckName.DRIFT: lambda: f"the baseline's time changed {n('ratio')}-fold while the candidates were timed",
    }
    return said[name]()


def _short(value: float, digits: int = 3) -> str:
    """Counts without a point."""
    return f"{value:g}" if value.is_integer() else number(value, digits)


def _metric(check: Check) -> str:
    return TITLES.get(check.metrics[0], check.metrics[0]) if check.metrics else "score"


def _length_reason(v: dict[str, float | str]) -> str:
    own, other = v["value"], v["reference"]
    assert isinstance(own, float)
    assert isinstance(other, float)
    change = abs(own / other - 1) if other else 1.0
    kind = "shorter" if own < other else "longer"
    return f"its texts are {100 * change:.0f} % {kind} ({own:.0f} bytes against {other:.0f})"


def _not_timed_reason(v: dict[str, float | str]) -> str:
    label, what = v["label"], v["what"]
    place = f"batch {v['batch']:g}" if isinstance(v.get("batch"), float) else ""
    if what == "timed":
        return f"{label}: {place} was scored and never timed"
    if what == "bytes":
        return f"{label}: prompt {v['first']} was scored with {v['scored']:g} bytes and written with {v['written']:g}"
    repeat = f"repeat {v['repeat']:g} of " if "repeat" in v else ""
    return f"{label}: {repeat}{place} was timed writing {v['timed']:g} tokens, {v['scored']:g} were scored"


def _mixed_reason(v: dict[str, float | str]) -> str:
    both = f"{v['label']} and {v['other_label']}"
    if v["key"] == "partition":
        return f"{both} have different batch partitions"
    if v["key"] == "prompts":
        return f"{both} had different prompts under {v['first']} ({v['count']:g} prompts)"
    name = str(v["key"]).removeprefix("decoding.")
    return f"{name} is {v['other_value']} at {v['other_label']} and {v['value']} at {v['label']}"


def effect(check: Check) -> str:
    """What a failed Check forbids."""
    at = f" at k = {check.steps}" if check.steps is not None else ""
    what = listed([TITLES[key] for key in check.metrics])
    verb = "is" if len(check.metrics) == 1 else "are"
    return {
        "verdict": f"{f'{what} {verb} not' if what else 'nothing is'} judged{at}",
        "reached": f"{what or 'parity'} cannot be reached{at}",
        "speed": f"no claim on speed{at}",
        "viable": f"LLaDA cannot be called faster{at}",
        "note": f"noted{at}",
    }[check.blocks]


def change(check: Check) -> str:
    """The settings that would let a Check pass."""
    v = check.values
    if check.name is CheckName.MISSING and v.get("key") == "seeds":
        seeds = sorted({*str(v["value"]).split(", "), *str(v["other_value"]).split(", ")} - {""})
        return f"seed={','.join(seeds)} for both sides, with reuse=all"
    if check.name is CheckName.EMPTY and v.get("family") == "diffusion":
        return "larger steps, a smaller block_length, another diffusion_temperature, or other prompts (workload.tasks)"
    if check.name is CheckName.MIXED:
        return _mixed_change(v)
    if check.name in (CheckName.PROMPTS, CheckName.NOT_FINITE):
        return _SUMS[(check.metrics or ("quality/perplexity",))[0].removesuffix("_second")]
    return _CHANGES.get(check.name, "change what is named, and run again")


def _mixed_change(v: dict[str, float | str]) -> str:
    key = str(v["key"])
    if key in ("partition", "prompts"):
        return "run both sides in one sweep, with one workload, workload.* and batch"
    name = "model.chat" if key == "decoding.chat" else key.removeprefix("decoding.")
    return f"give both sides the same {name}" if v["settable"] == "both" else f"{name}={v['settable']}"


_CHANGES = {
    CheckName.MISSING: "correct what made the job fail and add reuse=all, or leave it out",
    CheckName.NOT_RUN: "the same command runs it",
    CheckName.EMPTY: "workload.tasks or workload (prompts that ask for text), model.chat, or temperature",
    CheckName.LENGTH: "lower canvas until both sides fill it, or larger steps",
    CheckName.NOT_TIMED: "temperature=0, hardware.engine=eager or hardware.dtype=float32: repeats then agree",
    CheckName.THROTTLED: "raise timing.throttle_retries, or cool the device",
    CheckName.TWICE: "remove one of the two prompts from the workload",
    CheckName.JUDGE: "another metric.perplexity.judge",
    CheckName.FEW: "raise workload.prompts",
    CheckName.NO_SPREAD: "other prompts (workload)",
    CheckName.CURVE: "parity.baseline_temperatures, with a temperature at which LLaMA writes text",
    CheckName.SLOW_BASELINE: "hardware.engine=fused, a larger batch, or model=llama,llama_generate,llada",
    CheckName.THREADS: "hardware.threads=N for both sides in one sweep, on one machine",
    CheckName.CARD: "run both sides in one process on one card",
    CheckName.RELEVANCE: "more prompts, larger steps, or another diffusion_temperature",
    CheckName.ECHO: "more prompts, or prompts that are not repeated",
    CheckName.RELEVANCE_ASSAY: "more prompts, or prompts that say more (workload.prompt_words)",
    CheckName.COPYING: "larger steps, or another diffusion_temperature",
    CheckName.REPETITION: "larger steps, or another diffusion_temperature",
    CheckName.SHORT: "lower canvas until both sides fill it",
    CheckName.OTHERS: "stop the other process on this GPU, or use another GPU (CUDA_VISIBLE_DEVICES)",
    CheckName.UNSTEADY: "stop the other work on this device, or raise timing.repeats",
}

_JUDGE = "one metric.perplexity.judge and the same workload.* for both sides, in one sweep"
_SUMS = {
    "quality/perplexity": _JUDGE,
    "quality/bits_per_byte": _JUDGE,
    "quality/bertscore_f1": "metric.bertscore and a reference for every prompt on both sides, or metric.bertscore=null",
    "quality/accuracy": "an answer for every prompt (workload.answer_field), or leave those prompts out",
}
