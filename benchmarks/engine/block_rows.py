"""What does writing block after block cost against its matrix products? Steps of a block, and the commits behind it.

Each is timed inside the generation that it belongs to, as the steps of LLaDA are: all steps of the first block, whose
masks become fewer, and the commits of all blocks but the first, whose context becomes longer.
"""

import functools
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.engine import cases, floor
from benchmarks.engine.turns import Bursts, Row
from llmbench.config.decoders import Diffusion
from llmbench.decoding.blocks import BlockDecoder

if TYPE_CHECKING:
    from benchmarks.engine.measure import Bench


@torch.inference_mode()
def steps(bench: "Bench", case: cases.StepCase, row: Row) -> None:
    """The steps of a block; the floor has the head at the masked positions of a step on average, rounded up."""
    batch, decoder = bench.batch(case.batch), _decoder(bench)
    loop, row.setup_s = bench.prepared(decoder, batch)
    loop.start(batch, 0)
    loop.read()
    text, masked = loop.text.clone(), list[int]()
    left, _ = loop.begin_part(0, 0)
    while left:
        masked.append(left)
        loop.step(left)
        left, _ = loop.masked()
    timed = [functools.partial(loop.step, left) for left in masked]

    def begin() -> None:
        loop.text.copy_(text)
        loop.begin_part(0, 0)

    products = floor.capture(bench.engine, case.batch * bench.block, case.batch * -(-sum(masked) // len(masked)))
    Bursts(row, bench.probe, smoke=bench.smoke).run(products, begin, timed, len(timed), {})
    begin()
    bench.profiled(row, timed[0])


@torch.inference_mode()
def commits(bench: "Bench", case: cases.StepCase, row: Row) -> None:
    """Commits; the floor has the head at one position of every row where a commit predicts a token."""
    batch, decoder = bench.batch(case.batch), _decoder(bench)
    loop, row.setup_s = bench.prepared(decoder, batch)

    def begin() -> None:  # waits for the device; the first commit keeps it busy while the others are launched
        loop.start(batch, 0)
        loop.commit()

    products = floor.capture(bench.engine, case.batch * bench.block, case.batch * bench.mode.given)
    timed: list[Any] = [loop.commit] * (bench.canvas // bench.block - 1)
    Bursts(row, bench.probe, smoke=bench.smoke).run(products, begin, timed, len(timed), {})
    bench.profiled(row, begin)  # from the beginning: a cache has no place for more commits than blocks


def _decoder(bench: "Bench") -> BlockDecoder:
    assert bench.mask_id is not None
    settings = Diffusion(steps=bench.steps, canvas=bench.canvas, block_length=bench.block, temperature=0.0)
    return BlockDecoder(settings, bench.mode, stop_ids=(), mask_id=bench.mask_id, pad_id=0)
