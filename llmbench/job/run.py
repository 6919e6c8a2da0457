"""What happens in one job, in order: load, warm up, time, instrument, score, record.

`llmbench.job.prepare` has checked that it may run. `run` does the work and returns a `Record`; it knows neither MLflow
nor the sweep around it. The order inside `run` is part of the measurement: memory is read while exactly one model is on
the device (the judge and the BERTScore encoder are loaded only after generation, and dropped again), the timed pass
carries no instrument, and the texts that are scored are those of the timed pass.
"""

import datetime
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llmbench import decoding
from llmbench.checkpoints.load import Checkpoint, ValidText, load_beside, load_checkpoint, load_judge, make_room
from llmbench.config.decoders import Autoregressive, DecoderConfig, Diffusion
from llmbench.config.identity import identity
from llmbench.config.job import Job, to_dict
from llmbench.config.servers import ServerConfig
from llmbench.decoding.base import DecodedBatch, Decoder, OnStep, PromptBatch
from llmbench.decoding.drafts import DraftModel
from llmbench.errors import CheckpointError
from llmbench.job import drafts, generation_result, memory_estimate, server
from llmbench.job.generation_result import GenerationResult
from llmbench.job.prepare import conditions
from llmbench.job.prepared import Prepared
from llmbench.measure import device, passes, probes
from llmbench.metrics import bertscore, performance, quality, scoring
from llmbench.metrics.likelihood import model_likelihood
from llmbench.models import architecture
from llmbench.models.architecture import Architecture
from llmbench.record import DeviceUse, ForwardCost, ForwardShape, Likelihood, Output, PromptScore, Record, total

if TYPE_CHECKING:
    from llmbench.models.engine import EagerEngine
    from llmbench.models.fused import FusedEngine


Tick = Callable[[str, int, int], None]
"""Progress: phase, done, total."""


def run_job(prepared: Prepared, tick: Tick = lambda phase, done, total: None) -> Record:
    """Measure one job and return its Record, metrics included."""
    started, begun = datetime.datetime.now(datetime.UTC), time.monotonic()
    job = prepared.job
    environment = device.environment(job.hardware)
    made = (server.generate if isinstance(job.model.decoder, ServerConfig) else _generate)(prepared, tick)
    scores, notes = _scores(prepared, made.outputs, tick)
    record = Record(
        identity=prepared.identity,
        model=job.model.name,
        family=job.model.decoder.family,
        steps=job.model.decoder.steps,
        status="finished",
        reason=None,
        started_at=started.isoformat(timespec="milliseconds"),
        duration_s=round(time.monotonic() - begun, 3),
        config=to_dict(job),
        conditions=conditions(prepared, environment.device_name, environment.versions) | made.conditions,
        role=job.role,
        process=device.process(),
        signatures=prepared.signatures | made.signatures,
        environment=environment,
        partition=tuple(tuple(prepared.workload.prompts[i].id for i in batch) for batch in prepared.partition),
        outputs=made.outputs,
        timings=made.timings,
        stopping=made.stopping,
        marks=made.marks,
        tokenize_ms=made.tokenize_ms,
        setup_s=made.setup_s,
        canvas=job.model.decoder.canvas,
        block_length=getattr(job.model.decoder, "block_length", None),
        device_use=made.device_use,
        forward_costs=made.forward_costs,
        other_forward_costs=made.other_forward_costs,
        repeated_batches=made.repeated_batches,
        ceilings=made.ceilings,
        scores=scores,
        likelihood=made.likelihood,
        notes=(*prepared.notes, *made.notes, *notes),
    )
    return replace(record, metrics=performance.compute(record) | quality.compute(record))


def _generate(prepared: Prepared, tick: Tick) -> GenerationResult:
    """Load the model under test, measure it, and leave the device clean for those that score."""
    job = prepared.job
    probe = device.probe(job.hardware)

    tick("load", 0, 1)
    if prepared.encoder is not None:
        bertscore.preload()  # a sweep's first job would otherwise be lighter than the rest by these libraries
    probes.set_libraries_aside()
    checkpoint = load_checkpoint(prepared.checkpoint, job.hardware, job.weights)
    probe.clean()
    family = job.model.decoder.family
    engine = checkpoint.engine("fused" if job.hardware.engine == "fused" else "eager", family)
    drafting = _drafting(prepared, checkpoint)
    building_peak = probe.peak_reserved_bytes()
    batches, tokenize_ms = _encode(prepared, checkpoint)
    repeated = tuple(range(min(job.timing.batches, len(batches))))
    if job.role == "retimed":
        batches = batches[: len(repeated)]
    require_numbers(checkpoint, engine, batches[0], job.hardware.dtype)
    probe.clean()
    model_reserved = probe.reserved_bytes()
    decoder = decoding.build(
        job.model.decoder,
        stop_ids=checkpoint.stop_ids,
        pad_id=checkpoint.pad_id,
        mask_id=checkpoint.mask_id,
        mode=checkpoint.files.mode(family),
        draft=drafting,
    )
    bench = _Bench(checkpoint, decoder, engine, batches, job.seed, job.model.decoder)
    tick("set up", 0, 1)
    bench.prepare()
    if job.role == "curve":
        return _of_curve(prepared, bench, probe, tick)

    measured = passes.measure(
        bench.generate,
        batches=len(batches),
        repeated=repeated,
        plan=job.timing,
        probe=probe,
        marks_first=decoder.streams,
        valid=lambda batch, generation: _valid_size(checkpoint, batches[batch], generation),
        half_width=performance.relative_half_width,
        tick=tick,
        growing=bench.growing if _runs_eagerly(prepared) else None,
    )
    engine.close()
    if drafting is not None:
        drafting.engine.close()
    texts = zip(batches, measured.first_pass, strict=True) if job.role == "timed" else ()
    written = [checkpoint.texts(*pair) for pair in texts]
    made = [measured.first_pass[batch].forwards for batch in repeated]
    shapes = checkpoint.architecture_of(family)
    costs = tuple(_forward_costs(shapes, forwards) for forwards in made) if job.metric.roofline else ((),)
    likelihood = _likelihood(prepared, checkpoint, tick)
    ceilings = device.ceilings(job.hardware, checkpoint.weight_bytes) if job.metric.roofline else None

    setup_s = round(engine.setup_s, 3)
    del bench, engine, decoder, drafting
    probe.clean()
    return GenerationResult(
        outputs=_outputs(prepared, written) if written else (),
        timings=measured.timings,
        stopping=measured.stopping,
        marks=measured.marks,
        repeated_batches=repeated,
        device_use=_device_use(measured.device_use, model_reserved, building_peak),
        tokenize_ms=tokenize_ms,
        setup_s=setup_s,
        forward_costs=costs[0],
        other_forward_costs=costs[1:],
        likelihood=likelihood,
        ceilings=ceilings,
        notes=(*measured.notes, *_notes(job)),
    )


def _drafting(prepared: Prepared, checkpoint: Checkpoint) -> DraftModel | None:
    """The model that drafts, on the same device; None where none does."""
    job = prepared.job
    draft = getattr(job.model.decoder, "draft", None)
    if draft != "self" and prepared.draft is None:
        return None
    beside = checkpoint if prepared.draft is None else load_beside(prepared.draft, job.hardware, job.weights)
    family = drafts.family(draft)
    return DraftModel(
        engine=beside.engine("fused" if isinstance(job.model.decoder, Autoregressive) else "eager", family),
        vocabulary=beside.architecture.vocab,
        verified_vocabulary=checkpoint.architecture.vocab,
        mask_id=beside.mask_id,
        logit_shift=beside.files.mode(family).logit_shift,
    )


def _runs_eagerly(prepared: Prepared) -> bool:
    """Whether the eager engine decodes this job too: it neither verifies drafts nor writes in blocks."""
    decoder = prepared.job.model.decoder
    return not getattr(decoder, "draft", None) and not prepared.checkpoint.mode(decoder.family).in_blocks


def _of_curve(prepared: Prepared, bench: "_Bench", probe: probes.Probe, tick: Tick) -> GenerationResult:
    """The texts of every batch, and nothing else."""
    made = passes.write(bench.generate, batches=len(bench.batches), tick=tick)
    bench.engine.close()
    probe.clean()
    written = [bench.checkpoint.texts(*pair) for pair in zip(bench.batches, made.first_pass, strict=True)]
    return GenerationResult(
        outputs=_outputs(prepared, written), timings=(), marks=(), repeated_batches=(), notes=_notes(prepared.job)
    )


def _outputs(prepared: Prepared, written: Sequence[Sequence[ValidText]]) -> tuple[Output, ...]:
    return generation_result.outputs(prepared.workload.prompts, prepared.partition, written)


def _notes(job: Job) -> tuple[str, ...]:
    """What a reader must know of quantized weights, and of more steps than tokens."""
    hardware, notes = job.hardware, list[str]()
    if hardware.quantization is not None:
        notes.append(
            f"the blocks' matrices are stored as {hardware.quantization} and widened to {hardware.dtype} for each "
            "product: times are those of this storage, the roofline's bytes too, and quality is that of the weights as "
            "rounded"
        )
    if getattr(job.model.decoder, "draft", None) in ("model", "llada"):  # those of draft=self do
        notes.append("the draft's own forwards count neither in nfe nor in the roofline's limit")
    if isinstance(job.model.decoder, Diffusion) and job.model.decoder.idle_steps:
        notes.append(job.model.decoder.idle_phrase)
    return tuple(notes)


def _device_use(use: DeviceUse, model_reserved: int | None, building_peak: int | None) -> DeviceUse:
    """What the passes read, with the model alone, and with the peak of set-up over building and warming up."""
    peaks = [peak for peak in (building_peak, use.setup_peak_reserved_bytes) if peak is not None]
    return replace(use, model_reserved_bytes=model_reserved, setup_peak_reserved_bytes=max(peaks, default=None))


def failed_record(
    job: Job, prepared: Prepared | None, reason: str, started: datetime.datetime, traceback: str | None = None
) -> Record:
    """The Record of a job that died, with its reason in one line; `traceback`: of an error that nobody foresaw."""
    environment = device.environment(prepared.job.hardware if prepared else job.hardware)
    return Record(
        identity=prepared.identity if prepared else identity(job, {}),
        model=job.model.name,
        family=job.model.decoder.family,
        steps=job.model.decoder.steps,
        status="failed",
        reason=reason,
        traceback=traceback,
        started_at=started.isoformat(timespec="milliseconds"),
        duration_s=max(round((datetime.datetime.now(datetime.UTC) - started).total_seconds(), 3), 0.0),
        config=to_dict(prepared.job if prepared else job),
        conditions=conditions(prepared, environment.device_name, environment.versions) if prepared else {},
        role=job.role,
        process=device.process(),
        signatures=prepared.signatures if prepared else {},
        environment=environment,
    )


@dataclass
class _Bench:
    """Decoder, engine and prompts joined into the one call that the passes repeat."""

    checkpoint: Checkpoint
    decoder: Decoder
    engine: "EagerEngine | FusedEngine"
    batches: list[PromptBatch]
    seed: int
    settings: DecoderConfig

    def generate(self, batch: int, on_step: OnStep | None) -> DecodedBatch:
        """Generate one batch. The noise depends on seed and batch only, so repeats write the same text."""
        return self.decoder.generate(
            self.engine, self.batches[batch], seed=self.seed * 1_000_003 + batch, on_step=on_step
        )

    def growing(self) -> Callable[[int, OnStep | None], DecodedBatch]:
        """End the engine, captured graphs included, and go on with an eager one, whose cache grows."""
        self.engine.close()
        self.engine = self.checkpoint.engine("eager", self.settings.family)
        return self.generate

    def prepare(self) -> None:
        """Set the engine up for every shape there is, the largest first: its memory then serves the others."""
        shapes = {(*batch.ids.shape, batch.mask is not None): batch for batch in self.batches}
        for batch in sorted(shapes.values(), key=self._positions, reverse=True):
            self.decoder.prepare(self.engine, batch)

    def _positions(self, batch: PromptBatch) -> int:
        """Positions of a batch with its outputs."""
        rows, prompt = batch.ids.shape
        return rows * (prompt + self.settings.canvas)


def _encode(prepared: Prepared, checkpoint: Checkpoint) -> tuple[list[PromptBatch], float | None]:
    """Prompt ids of every batch, on the device, and the mean time of making a batch of them from text."""
    batches, spent = [], 0.0
    for members in prepared.partition:
        begun = time.perf_counter()
        ids = [prepared.prompt_ids(i) for i in members]
        spent += time.perf_counter() - begun
        batches.append(checkpoint.to_device(ids))
    return batches, None if prepared.job.workload.synthetic else spent * 1000 / len(batches)


def require_numbers(
    checkpoint: Checkpoint, engine: "EagerEngine | FusedEngine", batch: PromptBatch, dtype: str
) -> None:
    """Refuse weights that give NaN: argmax would turn it into text, and the job would finish with nonsense.

    Raises:
        CheckpointError: the logits behind the first prompt are not finite.
    """
    import torch

    mask = None if batch.mask is None else batch.mask[:1]
    last = torch.full((1, 1), batch.ids.shape[1] - 1, device=batch.ids.device)
    if not bool(engine.head(engine.denoise(batch.ids[:1], mask, last)).isfinite().all()):
        raise CheckpointError(
            f"checkpoint {checkpoint.files.name}: its logits are not finite numbers; the weights are damaged, "
            f"or too large for {dtype} (try hardware.dtype=float32)"
        )


def _valid_size(checkpoint: Checkpoint, batch: PromptBatch, generation: DecodedBatch) -> tuple[int, int | None]:
    """Valid tokens and UTF-8 bytes of a generated batch."""
    texts = checkpoint.texts(batch, generation)
    return sum(text.tokens for text in texts), total(text.utf8_bytes for text in texts)


def _forward_costs(model: Architecture, shapes: Sequence[ForwardShape]) -> tuple[ForwardCost, ...]:
    """Least work of every distinct forward of one generated batch."""
    return tuple(
        ForwardCost(
            shape=shape,
            count=count,
            flops=architecture.flops(model, shape),
            bytes=architecture.bytes_moved(model, shape),
        )
        for shape, count in Counter(shapes).items()
    )


def _likelihood(prepared: Prepared, checkpoint: Checkpoint, tick: Tick) -> Likelihood | None:
    held = prepared.heldout
    if held is None:
        return None
    files, hardware, family = prepared.checkpoint, prepared.job.hardware, prepared.job.model.decoder.family
    return model_likelihood(
        checkpoint.engine("eager", family),  # whatever was timed: the figure belongs to the weights
        checkpoint.tokenize(held.texts),
        held.texts,
        mode=files.mode(family),
        mask_id=checkpoint.mask_id,
        samples=prepared.job.metric.likelihood_samples,
        seed=0,  # not the job's: the figure belongs to the checkpoint, and all of its jobs show the same
        tick=tick,
        name=f"{files.name}@{files.digest} {hardware}",
    )


def _scores(
    prepared: Prepared, outputs: Sequence[Output], tick: Tick
) -> tuple[tuple[PromptScore, ...], tuple[str, ...]]:
    """Sums of every prompt for the outputs, the references and the floor texts, under judge and encoder; and notes.

    A job of the curve needs those of its outputs under the judge alone, one that is timed again needs none.
    """
    if prepared.job.role == "retimed":
        return (), ()
    checked = any(prompt.answer is not None for prompt in prepared.workload.prompts)
    if prepared.judge is None and prepared.encoder is None and not checked:
        return (), ()
    if prepared.job.weights == "dummy":
        return (), ("weights=dummy: answers are not checked",)
    items = scoring.items(outputs, prepared.workload)
    curve = prepared.job.role == "curve"
    if curve:
        items = tuple(item for item in items if item.subject == "output")
    most = max((sum(needed.values()) for needed in memory_estimate.scoring_bytes(prepared)), default=0)
    make_room(most, prepared.job.hardware)
    judge = load_judge(prepared.judge, prepared.job.hardware) if prepared.judge else None
    scorer = None if curve else prepared.encoder
    encoder = bertscore.load_encoder(scorer, prepared.job.hardware) if scorer else None
    notes: list[str] = []
    scores = scoring.score(
        items,
        judge,
        encoder,
        diversity_tokens=prepared.job.workload.diversity_tokens,
        canvas=prepared.job.model.decoder.canvas,
        tick=tick,
        note=notes.append,
    )
    if prepared.second_judge is not None:
        del judge, encoder
        device.probe(prepared.job.hardware).clean()
        second = load_judge(prepared.second_judge, prepared.job.hardware)
        scores = scoring.add_second(scores, items, second, tick=tick, note=notes.append)
    return scores, tuple(notes)
