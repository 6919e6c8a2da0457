"""What verdicts say: the only test that asserts sentences.

After a wording was changed on purpose, rewrite the file, read the difference, and commit it:

    LLMBENCH_REWRITE_GOLDEN=1 python -m pytest tests/analysis/parity/test_sentences.py
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.worlds import World, study
from llmbench.analysis.parity.analyze import parity
from llmbench.analysis.parity.parity import Parity
from llmbench.record import Record
from records import implementation, make_record, make_sweep, server_record, with_curve

GOLDEN = Path(__file__).parent / "golden" / "sentences.txt"


def simulated(shifts: Sequence[float], entropies: Sequence[float], prompts: int = 200) -> Parity:
    world = World(prompts=prompts, shifts=shifts, entropies=entropies, bend=0.5)
    return parity(study(world, np.random.default_rng(1)))


def cases() -> dict[str, Parity]:
    """One verdict of every kind."""
    whole = with_curve(make_sweep())
    llama, *others = make_sweep(second=45.0)
    heard = [replace(make_record("llada", r.steps, perplexity=40.0, entropy=3.3, second=90.0)) for r in others]
    return {
        "reached, with a k that is not judged": parity([_gated(record) for record in whole]),
        "not reached, on the curve": simulated((1.9, 1.7, 1.5, 1.3), (2.8, 2.9, 3.0, 3.1)),
        "not reached, dominated": simulated((1.9, 1.7, 1.5, 1.3), (2.3, 2.4, 2.45, 2.5)),
        "degenerate": simulated((0.0, 0.0, 0.0, 0.0), (2.3, 2.4, 2.5, 2.5)),
        "undecided, with the prompts that would decide": simulated((0.3, 0.2, 0.1, 0.0), (2.8, 2.9, 3.0, 3.1), 60),
        "undecided, more varied than the curve": simulated((0.0, 0.0, 0.0, 0.0), (3.5, 3.5, 3.5, 3.5)),
        "undecided, relevance": parity([*whole[:1], *whole[5:], *make_sweep((64,), relevance=0.0)[1:]]),
        "undecided, two judges": parity(with_curve([llama, *heard])),
        "invalid": parity(make_sweep(empty=2)),
        "insensitive": parity([_weak(record) for record in whole]),
        "another process on the GPU": parity([_disturbed(record) for record in whole]),
        "missing side": parity(make_sweep()[1:]),
        "drafts, the fastest of several implementations": parity([*map(_drafted, (*_OTHERS, "lookup")), *whole]),
        "a server that runs here, no candidate": parity(
            [implementation("transformers", 35.0, "static"), server_record(20.0, trust_same_hardware=True)]
        ),
    }


_OTHERS = ("llada", "model", "transformers")


def _drafted(draft: str) -> Record:
    times = {"lookup": 90.0, "llada": 110.5, "model": 250.0}
    if draft in times:
        return implementation("autoregressive", times[draft], draft=draft)
    return implementation(draft, 400.0, "dynamic", draft="lookup")


def _gated(record: Record) -> Record:
    if record.steps != 8:
        return record
    outputs = tuple(replace(o, utf8_bytes=86) for o in record.outputs)
    return replace(record, outputs=outputs, scores=tuple(replace(s, utf8_bytes=86) for s in record.scores))


def _disturbed(record: Record) -> Record:
    return replace(
        record, device_use=replace(record.device_use, other_sm_percent=37.0 if record.steps is None else 2.0)
    )


def _weak(record: Record) -> Record:
    scores = tuple(replace(s, nll_nats=77.0) if s.subject == "shuffled" else s for s in record.scores)
    return replace(record, scores=scores)


def test_verdicts_in_words() -> None:
    said = "\n\n".join(f"# {name}\n{verdict}" for name, verdict in cases().items()) + "\n"
    if os.environ.get("LLMBENCH_REWRITE_GOLDEN"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(said, encoding="utf-8")
    assert said == GOLDEN.read_text(encoding="utf-8")
