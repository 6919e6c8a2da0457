"""How are the samples taken? Floor and decoder in turn, in one run, each long enough for its own clocks to settle.

A GPU at its power limit lowers its clocks some time after the power was drawn: in a burst of ours behind one of the
floor, a full canvas took 10.7 ms a step after 0.3 s, and 10.0 ms after 0.6 s (one H100). So floor and decoder run in
*bursts*, of which the first second is not timed; a sample is the mean over some steps of a burst, a ratio is taken per
pair of samples. The ratio in turns of one step stands beside it.

A step is timed inside the generation that it belongs to: LLaMA's tokens 2 to G, the steps of a block of LLaDA. Between
the bursts the loops of others have a turn. One model is on the device at a time, and what a case captured is destroyed
before the next.
"""

import dataclasses
import functools
import gc
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from llmbench import checkpoints
from llmbench.bench import cases, floor, official
from llmbench.bench.cases import StepCase, WholeCase
from llmbench.bench.official_model import OfficialModel
from llmbench.bench.profile import profile
from llmbench.config import Autoregressive, Diffusion, HardwareConfig, Transformers
from llmbench.decoding.autoregressive import AutoregressiveDecoder
from llmbench.decoding.base import PromptBatch
from llmbench.decoding.diffusion import DiffusionDecoder
from llmbench.decoding.generate import TransformersDecoder
from llmbench.measure import device
from llmbench.measure.timing import OnStep, time_region
from llmbench.models.engine import EagerEngine
from llmbench.models.fused import FusedEngine

FLOOR, OURS = "matmul floor", "llmbench"
OFFICIAL, SAME_LOOP = "official loop", "the same loop through Transformers' modules"
EAGER, STATIC = "Transformers eager", "Transformers static + compile"

FLOOR_TURNS, OURS_TURNS = "matmul floor, in turns of one step", "llmbench, in turns of one step"

BURSTS = 3
"""Bursts of floor and decoder in a step case, each pair followed by a turn of every other loop."""

SETTLE_MS, TIMED_MS = 1000.0, 500.0
"""So long a burst runs before it is timed, and so long at least it is timed."""

SMOKE: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 16,
    "num_key_value_heads": 2, "vocab_size": 512, "bos_token_id": None, "pad_token_id": 1, "eos_token_id": 0,
}  # fmt: skip
"""Shapes of a trial run that no page in docs/ is made of."""


@dataclass
class Row:
    """What was measured of one case; `samples` in milliseconds, per step or per generation."""

    name: str
    samples: dict[str, list[float]] = field(default_factory=dict)
    setup_s: float | None = None
    over_model_bytes: int | None = None
    prefill_ms: list[float] = field(default_factory=list)
    profile: list[dict[str, Any]] = field(default_factory=list)
    failed: str | None = None
    missing: dict[str, str] = field(default_factory=dict)  # parts that failed while the others are there, and why


class Bench:
    """One model on the device, and how its cases are measured."""

    def __init__(self, model: str, hardware: HardwareConfig, *, smoke: bool, compile: bool) -> None:
        self._hardware, self._smoke, self._compile = hardware, smoke, compile
        self._probe = device.probe(hardware)
        files = checkpoints.resolve({"llama": "shape:llama-3-8b", "llada": "shape:llada-8b"}[model], "dummy")
        if smoke:
            files = _small(files)
        checkpoint = checkpoints.load(files, hardware, "dummy")
        self._mask_id = checkpoint.mask_id
        self._vocabulary = checkpoint.architecture.vocab
        self.model: Any = checkpoint.model
        self.engine = FusedEngine(checkpoint.model)
        self._authors = OfficialModel(checkpoint.model)
        self._probe.clean()
        self._model_reserved = self._probe.reserved_bytes()
        sizes = cases.SMOKE if smoke else cases.FULL
        self.prompt, self.canvas, self.block, self.steps = sizes.prompt, sizes.canvas, sizes.block, sizes.steps

    def close(self) -> None:
        """Take the model off the device."""
        self.engine.close()
        del self.engine, self.model, self._authors
        self._probe.clean()

    def step(self, case: StepCase) -> Row:
        """Samples of one step case."""
        row = Row(name=case.name)
        with self._cleaned():
            if case.model == "llama":
                self._tokens(case, row)
            else:
                self._denoising(case, row)
        return row

    @torch.inference_mode()
    def whole(self, case: WholeCase) -> Row:
        """Samples of whole generations, each beside one of its reference.

        6 are the fewest that have an interval; LLaMA's repeats lie within a thousandth of each other, so 3 do.
        """
        row = Row(name=case.name)
        with self._cleaned():
            batch, decoder = self._batch(case.batch), self._decoder(case.model, case.cache)
            loop = decoder.prepare(self.engine, batch)
            if case.model == "llada":
                others = _Others(row, {OFFICIAL: lambda: self._ms(lambda: self._official(self._authors, batch))})
                same = _Others(row, {SAME_LOOP: lambda: self._ms(lambda: self._official(self.model, batch))})
            for repeat in range(3 if case.model == "llama" else 6):
                row.samples.setdefault(OURS, []).append(self._ms(lambda: self._run(decoder, batch)))
                if case.model == "llama":
                    loop.start(batch, 0)
                    row.prefill_ms.append(self._ms(loop.first))
                    row.samples.setdefault("inter-token", []).append(self._later_tokens(loop, batch))
                else:
                    others.take()
                    if repeat % 2:
                        same.take()
        return row

    # ------------------------------------------------------------------------------------------------------------
    # Steps

    @torch.inference_mode()
    def _tokens(self, case: StepCase, row: Row) -> None:
        """LLaMA: portions of a generation beside replays of the floor."""
        batch, decoder = self._batch(case.batch), self._decoder("llama", "none")
        loop, row.setup_s = self._prepared(decoder, batch)
        products = floor.capture(self.engine, case.batch, case.batch)

        def begin() -> None:
            loop.start(batch, 0)
            loop.first()

        steps = [loop.next] * (self.canvas - 1)
        self._bursts(row, products, begin, steps, 3 if self._smoke else 15, self._baselines(batch))
        loop.start(batch, 0)
        loop.first()
        _times(self.canvas // 2, loop.next)
        self._profile(row, loop.next)

    @torch.inference_mode()
    def _denoising(self, case: StepCase, row: Row) -> None:
        """LLaDA: the steps of the first block, or with a cache those after the block's first."""
        batch, decoder = self._batch(case.batch), self._decoder("llada", case.cache)
        loop, row.setup_s = self._prepared(decoder, batch)
        loop.start(batch, 0)
        skipped = 0 if case.cache == "none" else 1
        masked = [self.block - sum(loop.schedule[:index]) for index in range(len(loop.schedule))]

        steps = [functools.partial(loop.step, index, masked[index]) for index in range(skipped, len(masked))]

        def begin() -> None:
            loop.begin_block(self.prompt)
            if skipped:
                loop.step(0, masked[0])

        if case.cache == "none":
            row.over_model_bytes = self._over_model(begin, *steps)
        asked = -(-sum(masked[skipped:]) // len(masked[skipped:])) * case.batch
        queries = self.block if case.cache == "dual" else self.prompt + self.canvas
        products = floor.capture(self.engine, case.batch * queries, asked)
        others = self._official_steps(batch) if case.cache == "none" else {}
        self._bursts(row, products, begin, steps, len(steps), others)
        begin()
        self._profile(row, steps[0])

    def _profile(self, row: Row, step: Callable[[], object]) -> None:
        """The kernels of a step; without them the row still has its times."""
        try:
            row.profile = profile(step, self._hardware.device)
        except RuntimeError as error:
            row.missing["profile"] = one_line(error)

    def _bursts(
        self,
        row: Row,
        products: Callable[[], None],
        begin: Callable[[], None],
        steps: Sequence[Callable[[], object]],
        portion: int,
        others: "dict[str, Callable[[], float]]",
    ) -> None:
        """Samples of floor and decoder: in bursts, then in turns of one step.

        Args:
            row: takes the samples.
            products: the floor of one step.
            begin: goes before a round; not timed.
            steps: of one round.
            portion: steps of a sample.
            others: loops that have a turn behind every burst of ours.
        """
        round_ms = self._steady(begin, steps, len(steps), 0, 1)[0] * len(steps)
        settle = 0 if self._smoke else math.ceil(SETTLE_MS / round_ms * len(steps))
        fewest = 2 if len(steps) == portion else 1  # samples
        rounds = 1 if self._smoke else max(fewest, math.ceil(TIMED_MS / round_ms))
        turns = _Others(row, others)
        for _ in range(BURSTS):
            for name, first, each in ((FLOOR, _nothing, [products] * len(steps)), (OURS, begin, steps)):
                row.samples.setdefault(name, []).extend(self._steady(first, each, portion, settle, rounds))
            turns.take()
        for _ in range(BURSTS):
            self._turns(row, products, begin, steps[:portion])

    def _steady(
        self,
        begin: Callable[[], None],
        steps: Sequence[Callable[[], object]],
        portion: int,
        settle: int,
        rounds: int,
    ) -> list[float]:
        """Milliseconds per step of every portion of some rounds, behind `settle` steps that are not timed."""
        whole = len(steps) // portion * portion
        unsettled = [steps[: settle - done] for done in range(0, settle, len(steps))]

        def play(mark: OnStep | None) -> None:
            assert mark is not None
            for part in unsettled:
                begin()
                for step in part:
                    step()
            number = itertools.count()
            for _ in range(rounds):
                begin()
                for at in range(0, whole, portion):
                    mark(next(number))
                    for step in steps[at : at + portion]:
                        step()
                mark(next(number))

        reading, _ = time_region(self._probe.clock(), play, "every")
        per_round = whole // portion + 1
        marks = [reading.marks_ms[i : i + per_round] for i in range(0, len(reading.marks_ms), per_round)]
        return [(after - before) / portion for each in marks for before, after in itertools.pairwise(each)]

    def _turns(
        self,
        row: Row,
        products: Callable[[], None],
        begin: Callable[[], None],
        steps: Sequence[Callable[[], object]],
    ) -> None:
        """One sample of the floor and one of ours, per step, in turns of one step each."""

        def play(mark: OnStep | None) -> None:
            assert mark is not None
            begin()
            mark(0)
            for number, step in enumerate(steps):
                products()
                mark(2 * number + 1)
                step()
                mark(2 * number + 2)

        reading, _ = time_region(self._probe.clock(), play, "every")
        spans = [after - before for before, after in itertools.pairwise(reading.marks_ms)]
        row.samples.setdefault(FLOOR_TURNS, []).append(sum(spans[::2]) / len(steps))
        row.samples.setdefault(OURS_TURNS, []).append(sum(spans[1::2]) / len(steps))

    def _later_tokens(self, loop: Any, batch: PromptBatch) -> float:
        """Milliseconds per token of tokens 2 to G."""
        loop.start(batch, 0)
        loop.first()
        return self._ms(lambda: _times(self.canvas - 1, loop.next)) / (self.canvas - 1)

    # ------------------------------------------------------------------------------------------------------------
    # Others

    def _baselines(self, batch: PromptBatch) -> "dict[str, Callable[[], float]]":
        """Milliseconds per token of Transformers' `generate`; compiled for one shape: that takes most of a minute."""
        loops = {EAGER: self._generate(batch, "dynamic")}
        if batch.ids.shape[0] == 1 and self._compile:
            loops[STATIC] = self._generate(batch, "static")
        return loops

    def _generate(self, batch: PromptBatch, cache: str) -> Callable[[], float]:
        """A turn of `generate`: milliseconds per token, prefill and first token left out."""
        tokens = 4 if self._smoke else 32
        settings = Transformers(kind="transformers", max_new_tokens=tokens, temperature=0.0, cache=cache)  # type: ignore[arg-type]
        decoder, engine = TransformersDecoder(settings, stop_ids=(), pad_id=0), EagerEngine(self.model)

        def turn() -> float:
            reading, _ = time_region(
                self._probe.clock(), lambda on_step: decoder.generate(engine, batch, seed=0, on_step=on_step), "every"
            )
            return (reading.marks_ms[-1] - reading.marks_ms[0]) / (len(reading.marks_ms) - 1)

        return turn

    def _official_steps(self, batch: PromptBatch) -> "dict[str, Callable[[], float]]":
        """Milliseconds per step of the official loop, through the authors' modules and through Transformers'."""
        count = 4 if batch.ids.shape[0] == 1 else 2
        return {
            OFFICIAL: lambda: self._ms(lambda: self._official(self._authors, batch, count)) / count,
            SAME_LOOP: lambda: self._ms(lambda: self._official(self.model, batch, count)) / count,
        }

    def _official(self, model: Any, batch: PromptBatch, most_steps: int | None = None) -> None:
        assert self._mask_id is not None
        official.generate(
            model,
            batch.ids,
            steps=self.steps,
            canvas=self.canvas,
            block_length=self.block,
            mask_id=self._mask_id,
            most_steps=most_steps,
        )

    # ------------------------------------------------------------------------------------------------------------
    # Parts

    def _batch(self, rows: int) -> PromptBatch:
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(3, self._vocabulary - 200, (rows, self.prompt), generator=generator)
        return PromptBatch(ids=ids.to(self.engine.device), mask=None)

    def _decoder(self, model: str, cache: str) -> Any:
        if model == "llama":
            ar = Autoregressive(kind="autoregressive", max_new_tokens=self.canvas, temperature=0.0)
            never = self._vocabulary  # the stop check is part of a generation: made, and never true
            return AutoregressiveDecoder(ar, stop_ids=(never,), pad_id=0)
        assert self._mask_id is not None
        diffusion = Diffusion(
            kind="diffusion",
            steps=self.steps,
            canvas=self.canvas,
            block_length=self.block,
            temperature=0.0,
            cache=cache,  # type: ignore[arg-type]
        )
        return DiffusionDecoder(diffusion, stop_ids=(), mask_id=self._mask_id)

    def _prepared(self, decoder: Any, batch: PromptBatch) -> tuple[Any, float]:
        """The loop of a shape, and the seconds that its compilation and capture took."""
        begun = time.perf_counter()
        loop = decoder.prepare(self.engine, batch)
        self._probe.synchronize()
        return loop, time.perf_counter() - begun

    def _run(self, decoder: Any, batch: PromptBatch) -> None:
        decoder.generate(self.engine, batch, seed=0, on_step=None)

    def _over_model(self, *parts: Callable[[], object]) -> int | None:
        """Most reserved while the parts run, minus the model alone; set-up is not part of it."""
        self._probe.clean()
        for part in parts:
            part()
        self._probe.synchronize()
        peak = self._probe.peak_reserved_bytes()
        return None if peak is None or self._model_reserved is None else peak - self._model_reserved

    def _ms(self, run: Callable[[], object]) -> float:
        return time_region(self._probe.clock(), lambda _: run())[0].e2e_ms

    def _cleaned(self) -> "_Cleaned":
        return _Cleaned(self.engine, self._probe)


class _Others:
    """Loops of others, which have a turn now and then; one that fails is left out from then on."""

    def __init__(self, row: Row, loops: dict[str, Callable[[], float]]) -> None:
        """Run each once, untimed: that compiles, and fills what is filled once."""
        self._row, self._loops = row, dict(loops)
        self._run()

    def take(self) -> None:
        """A sample of each."""
        for name, sample in self._run().items():
            self._row.samples.setdefault(name, []).append(sample)

    def _run(self) -> dict[str, float]:
        samples = {}
        for name, loop in list(self._loops.items()):
            try:
                samples[name] = loop()
            except Exception as error:
                self._row.missing[name] = one_line(error)
                del self._loops[name]
        return samples


class _Cleaned:
    """Afterwards nothing is left of what was captured or allocated."""

    def __init__(self, engine: FusedEngine, probe: Any) -> None:
        self._engine, self._probe = engine, probe

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self._engine.close()
        gc.collect()
        self._probe.clean()


def run(
    names: set[str] | None, hardware: HardwareConfig, *, smoke: bool, compile: bool, say: Callable[[str], None]
) -> Iterator[Row]:
    """Measure the cases in turn, model by model; a case that fails gives a row that says why."""
    for model in ("llama", "llada"):
        chosen: list[StepCase | WholeCase] = [
            case for case in cases.ALL if case.model == model and (names is None or case.name in names)
        ]
        if not chosen:
            continue
        say(f"{model}: load")
        bench = Bench(model, hardware, smoke=smoke, compile=compile)
        for case in chosen:
            say(case.title)
            try:
                yield bench.step(case) if isinstance(case, StepCase) else bench.whole(case)
            except Exception as error:
                yield Row(name=case.name, failed=one_line(error))
        bench.close()


def one_line(error: Exception) -> str:
    """An error as it stands on the page."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def _nothing() -> None: ...


def _times(count: int, call: Callable[[], object]) -> None:
    for _ in range(count):
        call()


def _small(files: Any) -> Any:
    """The same checkpoint in shapes for a trial."""
    own = {"mask_token_id": 500, "is_causal": False} if files.family == "diffusion" else {}
    config = type(files.config).from_dict(files.config.to_dict() | SMOKE | own)
    return dataclasses.replace(files, config=config, digest=f"smoke-{files.digest}", mask_id=own.get("mask_token_id"))
