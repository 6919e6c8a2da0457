"""Real texts: LLaMA's at every temperature, LLaDA's at k = 64, LLaMA's again with another seed, and the judge's own.

`real_texts.json.xz` was made from two sweeps on an NVIDIA H200 (bfloat16, 400 prompts, commit 83f40b6) and the bundled
judge, which wrote after the first `SOME` prompts, or after none, at temperature 0.7:

    llmbench -m model=llama,llada steps=8,16,32,64
    llmbench -m model=llama temperature=0.1,0.3,0.5,0.9 seed=1 metric.likelihood=false timing.energy_seconds=0
    python tests/real_texts.py FOLDER_OF_THE_FIRST FOLDER_OF_THE_SECOND
"""

import functools
import json
import lzma
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmbench import record as records_room
from llmbench.metrics import quality
from llmbench.record import DeviceUse, JobContext, PromptScore, Record

FILE = Path(__file__).with_name("real_texts.json.xz")

SOME = 64
"""Prompts whose texts are judged anew by a test."""

CANVAS = 64


@functools.cache
def _data() -> dict[str, Any]:
    data: dict[str, Any] = json.loads(lzma.decompress(FILE.read_bytes()))
    return data


@functools.cache
def records() -> tuple[Record, ...]:
    """LLaMA at 0.7 and on its curve, and LLaDA at k = 64; 400 prompts."""
    return tuple(map(_parsed, _data()["records"]))


@functools.cache
def controls() -> tuple[Record, ...]:
    """LLaMA with another seed at 0.1, 0.3, 0.5, 0.9; 400 prompts."""
    return tuple(map(_parsed, _data()["controls"]))


def judge_texts(*, prompted: bool) -> list[str]:
    """What the judge writes for the first `SOME` prompts."""
    texts: list[str] = _data()["judge, prompted" if prompted else "judge, alone"]
    return texts


def _parsed(values: dict[str, Any]) -> Record:
    return records_room.parse(json.dumps(values).encode())


def first_prompts(record: Record, count: int = SOME) -> Record:
    """A Record of the first prompts alone, whole batches of it."""
    outputs = record.outputs[:count]
    known = {output.prompt_id for output in outputs}
    batches = {output.batch for output in outputs}
    kept = replace(
        record,
        outputs=outputs,
        scores=tuple(score for score in record.scores if score.prompt_id in known),
        timings=tuple(timing for timing in record.timings if timing.batch in batches),
        partition=tuple(batch for batch in record.partition if known & set(batch)),
    )
    return with_metrics(kept)


def with_metrics(record: Record) -> Record:
    """A Record with the qualities that its scores give."""
    others = {key: value for key, value in record.metrics.items() if not key.startswith("quality/")}
    return replace(record, metrics=others | quality.compute(record))


# ----------------------------------------------------------------------------------------------------------------
# How the file is made


def _trimmed(record: Record) -> Record:
    """What a verdict reads, and the outputs."""
    decoder = record.config["model"]["decoder"]
    subjects = ("output", "shuffled", "prompt_tail") if record.role == "timed" and record.steps is None else ("output",)
    return replace(
        record,
        config={"model": {"decoder": decoder}},
        marks=(),
        device_use=DeviceUse(),
        forward_costs=(),
        other_forward_costs=(),
        ceilings=None,
        likelihood=None,
        notes=(),
        context=JobContext(),
        scores=tuple(_rounded(score) for score in record.scores if score.subject in subjects),
    )


def _rounded(score: PromptScore) -> PromptScore:
    def short(value: float | None) -> float | None:
        return None if value is None else round(value, 4)

    others = score.other_nll_nats and (round(score.other_nll_nats[0], 4), round(score.other_nll_nats[1], 4))
    return replace(
        score,
        nll_nats=short(score.nll_nats),
        entropy_nats=short(score.entropy_nats),
        other_nll_nats=others,
        shared_4grams=short(score.shared_4grams),
        entropy_prefixes=tuple((m, round(nats, 4)) for m, nats in score.entropy_prefixes),
    )


def _written_by_judge(prompts: list[str]) -> list[str]:
    """The judge's own continuations, sampled at 0.7 one by one."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from llmbench.checkpoints.resolve import BUNDLED

    tokenizer = AutoTokenizer.from_pretrained(BUNDLED / "judge")
    model = AutoModelForCausalLM.from_pretrained(BUNDLED / "judge", dtype=torch.float32)
    torch.manual_seed(0)
    texts = []
    for prompt in prompts:
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"] or [model.config.eos_token_id]
        asked = torch.tensor([ids])
        made = model.generate(
            asked, attention_mask=torch.ones_like(asked), do_sample=True, temperature=0.7, top_k=0,
            max_new_tokens=CANVAS, min_new_tokens=CANVAS, pad_token_id=model.config.eos_token_id,
        )  # fmt: skip
        texts.append(tokenizer.decode(made[0, len(ids) :], skip_special_tokens=True))
    return texts


def _main(first: Path, second: Path) -> None:
    def loaded(folder: Path) -> list[Record]:
        return [_trimmed(records_room.load(path)) for path in sorted(folder.glob("*/record.json"))]

    mine = [r for r in loaded(first) if r.role != "retimed" and r.steps in (None, 64)]
    baseline = next(r for r in mine if r.role == "timed" and r.steps is None)
    prompts = [output.prompt or "" for output in baseline.outputs[:SOME]]
    data = {
        "records": [json.loads(record.to_json()) for record in mine],
        "controls": [json.loads(record.to_json()) for record in loaded(second)],
        "judge, prompted": _written_by_judge(prompts),
        "judge, alone": _written_by_judge([""] * SOME),
    }
    FILE.write_bytes(lzma.compress(json.dumps(data).encode(), preset=9))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]))
