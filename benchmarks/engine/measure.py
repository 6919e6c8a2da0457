"""How are the samples taken? Floor and decoder in turn, in one run; `turns` says how.

A step is timed inside the generation that it belongs to: LLaMA's tokens 2 to G, the steps of a block of LLaDA, those of
a block of Nemotron and its commits (`block_rows`). One model is on the device at a time, and what a case captured is
destroyed before the next.
"""

import functools
import gc
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks.engine import block_rows, cases, floor, models, official, vllm_rows
from benchmarks.engine.cases import EAGER, OFFICIAL, OURS, SAME_LOOP, STATIC, StepCase, VllmCase, WholeCase
from benchmarks.engine.official_model import OfficialModel
from benchmarks.engine.profile import profile
from benchmarks.engine.turns import Bursts, Others, Row, reason
from llmbench.checkpoints.load import load_checkpoint
from llmbench.config.decoders import Autoregressive, Diffusion, Transformers
from llmbench.config.job import HardwareConfig
from llmbench.decoding.autoregressive import AutoregressiveDecoder
from llmbench.decoding.base import PromptBatch
from llmbench.decoding.diffusion import DiffusionDecoder
from llmbench.decoding.generate import TransformersDecoder
from llmbench.measure import device
from llmbench.measure.timing import time_region
from llmbench.models.engine import EagerEngine
from llmbench.models.fused import FusedEngine


class Bench:
    """One model on the device, and how its cases are measured."""

    def __init__(self, model: str, hardware: HardwareConfig, *, smoke: bool, compile: bool) -> None:
        self._hardware, self._compile = hardware, compile
        self.smoke, self.dtype = smoke, hardware.dtype
        self.probe = device.probe(hardware)
        files = models.files(model, smoke=smoke)
        checkpoint = load_checkpoint(files, hardware, "dummy")
        self.mask_id = checkpoint.mask_id
        self._vocabulary = checkpoint.architecture.vocab
        self.model: Any = checkpoint.model
        self.mode = files.mode("autoregressive" if model == "llama" else "diffusion")
        self.engine = FusedEngine(checkpoint.model, self.mode)
        self._authors: Any = OfficialModel(checkpoint.model) if model != "nemotron" else None
        self.probe.clean()
        self._model_reserved = self.probe.reserved_bytes()
        sizes = cases.SMOKE if smoke else cases.FULL
        self.prompt, self.canvas, self.block, self.steps = sizes.prompt, sizes.canvas, sizes.block, sizes.steps

    def close(self) -> None:
        """Take the model off the device."""
        self.engine.close()
        del self.engine, self.model, self._authors
        self.probe.clean()

    def step(self, case: StepCase) -> Row:
        """Samples of one step case."""
        row = Row(name=case.name)
        with self.cleaned():
            if case.model == "nemotron":
                (block_rows.commits if case.commits else block_rows.steps)(self, case, row)
            elif case.model == "llama":
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
        with self.cleaned():
            batch, decoder = self.batch(case.batch), self._decoder(case.model, case.cache)
            loop = decoder.prepare(self.engine, batch)
            if case.model == "llada":
                others = Others(row, {OFFICIAL: lambda: self._ms(lambda: self._official(self._authors, batch))})
                same = Others(row, {SAME_LOOP: lambda: self._ms(lambda: self._official(self.model, batch))})
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
        batch, decoder = self.batch(case.batch), self._decoder("llama", "none")
        loop, row.setup_s = self.prepared(decoder, batch)
        products = floor.capture(self.engine, case.batch, case.batch)

        def begin() -> None:
            loop.start(batch, 0)
            loop.first()

        steps = [loop.next] * (self.canvas - 1)
        Bursts(row, self.probe, smoke=self.smoke).run(
            products, begin, steps, 3 if self.smoke else 15, self._baselines(batch)
        )
        loop.start(batch, 0)
        loop.first()
        _times(self.canvas // 2, loop.next)
        self.profiled(row, loop.next)

    @torch.inference_mode()
    def _denoising(self, case: StepCase, row: Row) -> None:
        """LLaDA: the steps of the first block, or with a cache those after the block's first."""
        batch, decoder = self.batch(case.batch), self._decoder("llada", case.cache)
        loop, row.setup_s = self.prepared(decoder, batch)
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
        Bursts(row, self.probe, smoke=self.smoke).run(products, begin, steps, len(steps), others)
        begin()
        self.profiled(row, steps[0])

    def profiled(self, row: Row, step: Callable[[], object]) -> None:
        """Add the kernels of a step; without them the row still has its times."""
        try:
            row.profile = profile(step, self._hardware.device)
        except RuntimeError as error:
            row.missing["profile"] = reason(error)

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
        tokens = 4 if self.smoke else 32
        settings = Transformers(kind="transformers", max_new_tokens=tokens, temperature=0.0, cache=cache)  # type: ignore[arg-type]
        decoder, engine = TransformersDecoder(settings, stop_ids=(), pad_id=0), EagerEngine(self.model)

        def turn() -> float:
            reading, _ = time_region(
                self.probe.clock(), lambda on_step: decoder.generate(engine, batch, seed=0, on_step=on_step), "every"
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
        assert self.mask_id is not None
        official.generate(
            model,
            batch.ids,
            steps=self.steps,
            canvas=self.canvas,
            block_length=self.block,
            mask_id=self.mask_id,
            most_steps=most_steps,
        )

    # ------------------------------------------------------------------------------------------------------------
    # Parts

    def prompts(self, rows: int) -> list[list[int]]:
        """Token ids, [rows, P]; the same in every case."""
        generator = torch.Generator().manual_seed(0)
        found: list[list[int]] = torch.randint(
            3, self._vocabulary - 200, (rows, self.prompt), generator=generator
        ).tolist()
        return found

    def host_ms(self, prompts: list[list[int]], new_tokens: int) -> float:
        """Milliseconds of one greedy generation of LLaMA by the host clock, from lists of ids to lists of ids."""
        decoder = self._decoder("llama", "none", new_tokens)

        def run() -> None:
            decoder.generate(self.engine, self._on_device(prompts), seed=0, on_step=None).tokens.tolist()

        return time_region(self.probe.clock(), lambda _: run())[0].wall_ms

    def batch(self, rows: int) -> PromptBatch:
        """The prompts of a case."""
        return self._on_device(self.prompts(rows))

    def _on_device(self, prompts: list[list[int]]) -> PromptBatch:
        return PromptBatch(ids=torch.tensor(prompts, device=self.engine.device), mask=None)

    def _decoder(self, model: str, cache: str, new_tokens: int | None = None) -> Any:
        if model == "llama":
            length = self.canvas if new_tokens is None else new_tokens
            ar = Autoregressive(kind="autoregressive", max_new_tokens=length, temperature=0.0)
            never = self._vocabulary  # the stop check is part of a generation: made, and never true
            return AutoregressiveDecoder(ar, stop_ids=(never,), pad_id=0)
        assert self.mask_id is not None
        diffusion = Diffusion(
            kind="diffusion",
            steps=self.steps,
            canvas=self.canvas,
            block_length=self.block,
            temperature=0.0,
            cache=cache,  # type: ignore[arg-type]
        )
        return DiffusionDecoder(diffusion, stop_ids=(), mask_id=self.mask_id)

    def prepared(self, decoder: Any, batch: PromptBatch) -> tuple[Any, float]:
        """The loop of a shape, and the seconds that its compilation and capture took."""
        begun = time.perf_counter()
        loop = decoder.prepare(self.engine, batch)
        self.probe.synchronize()
        return loop, time.perf_counter() - begun

    def _run(self, decoder: Any, batch: PromptBatch) -> None:
        decoder.generate(self.engine, batch, seed=0, on_step=None)

    def _over_model(self, *parts: Callable[[], object]) -> int | None:
        """Most reserved while the parts run, minus the model alone; set-up is not part of it."""
        self.probe.clean()
        for part in parts:
            part()
        self.probe.synchronize()
        peak = self.probe.peak_reserved_bytes()
        return None if peak is None or self._model_reserved is None else peak - self._model_reserved

    def _ms(self, run: Callable[[], object]) -> float:
        return time_region(self.probe.clock(), lambda _: run())[0].e2e_ms

    def cleaned(self) -> "_Cleaned":
        """A context behind which nothing is left of what was captured or allocated in it."""
        return _Cleaned(self.engine, self.probe)


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
    names: set[str] | None,
    hardware: HardwareConfig,
    *,
    smoke: bool,
    compile: bool,
    say: Callable[[str], None],
    vllm: str | None = None,
) -> Iterator[Row]:
    """Measure the cases in turn, model by model; a case that fails gives a row that says why.

    Those beside vLLM come last of LLaMA's, when nothing else is measured, and only where `vllm` names an interpreter.
    """
    for model in models.SOURCES:
        wanted = [case for case in cases.ALL if case.model == model and (names is None or case.name in names)]
        chosen = [case for case in wanted if not isinstance(case, VllmCase)]
        beside = [case for case in wanted if isinstance(case, VllmCase)] if vllm is not None else []
        if not chosen and not beside:
            continue
        say(f"{model}: load")
        bench = Bench(model, hardware, smoke=smoke, compile=compile)
        for case in chosen:
            say(case.title)
            try:
                yield bench.step(case) if isinstance(case, StepCase) else bench.whole(case)
            except Exception as error:
                yield Row(name=case.name, failed=reason(error))
        if beside and vllm is not None:
            yield from vllm_rows.run(bench, beside, vllm, say)
        bench.close()


def _times(count: int, call: Callable[[], object]) -> None:
    for _ in range(count):
        call()
