"""What happens in one job, in order: prepare, load, warm up, time, instrument, score, record.

`prepare` is cheap and refuses bad input: it reads prompts, tokenizer and the checkpoint's configuration, never
weights. `run` does the work and returns a `Record`; it knows neither MLflow nor the sweep around it. The order inside
`run` is part of the measurement: memory is read while exactly one model is on the device (the judge and the BERTScore
encoder are loaded only after generation, and dropped again), the timed pass carries no instrument, and the texts that
are scored are those of the timed pass.
"""

import datetime
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from llmbench import checkpoints, config, decoding, generated, memory, served, texts, workloads
from llmbench.config import Endpoint, JobConfig
from llmbench.decoding.base import Decoder, Generation, OnStep, PromptBatch
from llmbench.errors import CheckpointError, ConfigError
from llmbench.generated import Generated
from llmbench.measure import device, passes, probes
from llmbench.metrics import bertscore, heldout, performance, quality, scoring
from llmbench.models import architecture, blocks, quantization
from llmbench.record import DeviceUse, ForwardCost, Likelihood, Output, PromptScore, Record, total

if TYPE_CHECKING:
    from llmbench.models.engine import EagerEngine
    from llmbench.models.fused import FusedEngine

Tick = Callable[[str, int, int], None]
"""Progress: phase, done, total."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A job that may run: everything about it that can be known without loading weights."""

    job: JobConfig  # hardware and chat resolved
    workload: workloads.Workload
    checkpoint: checkpoints.CheckpointFiles
    judge: checkpoints.CheckpointFiles | None
    encoder: bertscore.EncoderFiles | None
    heldout: texts.Texts | None  # for the likelihood under the model itself
    partition: tuple[tuple[int, ...], ...]  # indices into workload.prompts, batch by batch
    longest_prompt: int  # tokens
    identity: str

    def prompt_ids(self, index: int) -> list[int]:
        """Ids that the model reads for prompt `index` of the workload."""
        return _prompt_ids(self.job, self.checkpoint, self.workload.prompts[index])

    @property
    def signatures(self) -> dict[str, str]:
        """Name and content hash of everything that was read."""
        parts = (
            ("checkpoint", self.checkpoint),
            ("workload", self.workload),
            ("judge", self.judge),
            ("encoder", self.encoder),
            ("likelihood", self.heldout),
        )
        return {key: f"{part.name}@{part.digest}" for key, part in parts if part is not None}


def prepare(job: JobConfig) -> Prepared:
    """Check a job against the device, the prompts and the checkpoint, without loading weights.

    Raises:
        UsageError: one line that says what to change.
    """
    job = replace(job, hardware=device.resolve(job.hardware))
    workload = workloads.load(job.workload)
    if job.batch > len(workload.prompts):
        raise ConfigError(
            f"batch {job.batch} exceeds the {len(workload.prompts)} prompts; lower batch or raise workload.prompts"
        )
    here = not isinstance(job.model.decoder, Endpoint)
    files = checkpoints.resolve(
        job.model.checkpoint,
        job.weights if here else "served",
        layout=job.model.layout,
        family=job.model.decoder.family,
        require=lambda described: _require_fit(job, workload, described),
    )
    judge = (
        checkpoints.resolve(job.metric.judge, require=checkpoints.CheckpointFiles.require_judge)
        if job.metric.judge
        else None
    )
    if judge is not None:
        judge.require_judge()
    if judge is not None and (judge.digest == files.digest or judge.place == files.place):
        raise ConfigError(f"metric.judge {job.metric.judge} is the model under test; a model cannot judge itself")
    encoder = (
        bertscore.resolve_encoder(job.metric.bertscore, job.metric.bertscore_layer) if job.metric.bertscore else None
    )
    if encoder is not None:
        workload.require_references("bertscore")
    job, longest = _require_fit(job, workload, files)
    wanted = here and job.metric.likelihood
    held = texts.load(job.metric.likelihood_source, job.metric.likelihood_texts) if wanted else None
    if held is not None:
        _require_readable(files, held)
    digests = {"checkpoint": files.digest, "workload": workload.digest}
    digests |= {"judge": judge.digest} if judge else {}
    digests |= {"encoder": encoder.digest} if encoder else {}
    digests |= {"likelihood": held.digest} if held else {}
    indices = range(len(workload.prompts))
    prepared = Prepared(
        job=job,
        workload=workload,
        checkpoint=files,
        judge=judge,
        encoder=encoder,
        heldout=held,
        partition=tuple(tuple(indices[i : i + job.batch]) for i in range(0, len(indices), job.batch)),
        longest_prompt=longest,
        identity=config.identity(job, digests),
    )
    if not job.dry_run:
        memory.require(prepared)
    return prepared


def _require_fit(
    job: JobConfig, workload: workloads.Workload, files: checkpoints.CheckpointFiles
) -> tuple[JobConfig, int]:
    """The job with its chat resolved, and tokens of the longest prompt. Reads no weights.

    Raises:
        UsageError: engine, chat template or context do not go with the checkpoint.
    """
    here = not isinstance(job.model.decoder, Endpoint)
    if here and job.hardware.engine == "graph":
        blocks.require_plain(files.config)
    if here and job.hardware.quantization is not None:
        quantization.require_whole_blocks(files.config)
    job = replace(job, model=replace(job.model, chat=_chat(job, files)))
    longest = max(len(_prompt_ids(job, files, prompt)) for prompt in workload.prompts)
    canvas = job.model.decoder.canvas
    if longest + canvas > files.context:
        raise ConfigError(
            f"canvas {canvas} + longest prompt {longest} tokens exceed the context {files.context} of {files.name}; "
            f"lower canvas or workload.{'prompt_tokens' if job.workload.synthetic else 'prompt_words'}"
        )
    return job, longest


def _prompt_ids(job: JobConfig, files: checkpoints.CheckpointFiles, prompt: workloads.Prompt) -> list[int]:
    """Ids that the model reads; a server's own template is not known where the checkpoint has none."""
    return files.prompt_ids(prompt, chat=bool(job.model.chat) and files.has_chat_template)


def _chat(job: JobConfig, files: checkpoints.CheckpointFiles) -> bool:
    """Whether prompts are put to the model in its tokenizer's chat template; the null of `model.chat` ends here.

    Raises:
        ConfigError: the checkpoint has none, or a server is asked in another way.
    """
    wanted, fitting = job.model.chat, job.workload.instructions and files.has_chat_template
    if isinstance(job.model.decoder, Endpoint):
        if job.model.decoder.api == "chat":
            if wanted is False:
                raise ConfigError("model.chat=false, but endpoint.api=chat: the server applies its template")
            return True
        if fitting if wanted is None else wanted:
            why = (
                "model.chat=true"
                if wanted
                else f"the prompts are instructions, and {files.name} has a chat template, which other sides get"
            )
            raise ConfigError(f"{why}; add endpoint.api=chat, or model.chat=false for plain prompts on every side")
        return False
    if wanted and not files.has_chat_template:
        raise ConfigError(f"model.chat=true, but the tokenizer of checkpoint {files.name} has no chat template")
    return fitting if wanted is None else wanted


def _require_readable(files: checkpoints.CheckpointFiles, held: texts.Texts) -> None:
    """Refuse held-out texts that the model under test cannot read whole, or that leave it nothing to predict."""
    lengths = [len(files.tokenize(text)) for text in held.texts]
    longest = max(lengths)
    if longest > files.context:
        raise ConfigError(
            f"metric.likelihood: text {lengths.index(longest) + 1} of {held.name} has {longest} tokens, which exceeds "
            f"the context {files.context} of {files.name}; {held.shorten}, or set metric.likelihood=false"
        )
    if longest < 2:
        raise ConfigError(
            f"metric.likelihood: no text of {held.name} has a second token under the tokenizer of {files.name}, and "
            "the first one is given; use longer texts"
        )


def run(prepared: Prepared, tick: Tick = lambda phase, done, total: None) -> Record:
    """Measure one job and return its Record, metrics included."""
    started, begun = datetime.datetime.now(datetime.UTC), time.monotonic()
    job = prepared.job
    environment = device.environment(job.hardware)
    made = (served.generate if isinstance(job.model.decoder, Endpoint) else _generate)(prepared, tick)
    scores, notes = _scores(prepared, made.outputs, tick)
    record = Record(
        identity=prepared.identity,
        model=job.model.name,
        family=job.model.decoder.family,
        steps=job.model.decoder.steps,
        status="finished",
        reason=None,
        started_at=started.isoformat(timespec="seconds"),
        duration_s=round(time.monotonic() - begun, 3),
        config=config.to_dict(job),
        conditions=conditions(prepared, environment.device_name, environment.versions) | made.conditions,
        signatures=prepared.signatures | made.signatures,
        environment=environment,
        partition=tuple(tuple(prepared.workload.prompts[i].id for i in batch) for batch in prepared.partition),
        outputs=made.outputs,
        timings=made.timings,
        marks=made.marks,
        tokenize_ms=made.tokenize_ms,
        setup_s=made.setup_s,
        canvas=job.model.decoder.canvas,
        block_length=getattr(job.model.decoder, "block_length", None),
        device_use=made.device_use,
        forward_costs=made.forward_costs,
        repeated_batches=made.repeated_batches,
        ceilings=made.ceilings,
        scores=scores,
        likelihood=made.likelihood,
        notes=(*made.notes, *notes),
    )
    return replace(record, metrics=performance.compute(record) | quality.compute(record))


def _generate(prepared: Prepared, tick: Tick) -> Generated:
    """Load the model under test, measure it, and leave the device clean for those that score."""
    job = prepared.job
    probe = device.probe(job.hardware)

    tick("load", 0, 1)
    if prepared.encoder is not None:
        bertscore.preload()  # a sweep's first job would otherwise be lighter than the rest by these libraries
    probes.set_libraries_aside()
    checkpoint = checkpoints.load(prepared.checkpoint, job.hardware, job.weights)
    probe.clean()
    engine = checkpoint.engine("graph" if job.hardware.engine == "graph" else "eager")
    building_peak = probe.peak_reserved_bytes()
    batches, tokenize_ms = _encode(prepared, checkpoint)
    require_numbers(checkpoint, engine, batches[0], job.hardware.dtype)
    probe.clean()
    model_reserved = probe.reserved_bytes()
    decoder = decoding.build(
        job.model.decoder,
        stop_ids=checkpoint.stop_ids,
        pad_id=checkpoint.pad_id,
        mask_id=checkpoint.mask_id,
        logit_shift=checkpoint.files.logit_shift,
    )
    bench = _Bench(checkpoint, decoder, engine, batches, job.seed, job.model.decoder.canvas)
    tick("set up", 0, 1)
    bench.prepare()
    repeated = tuple(range(min(job.timing.batches, len(batches))))

    measured = passes.measure(
        bench.generate,
        batches=len(batches),
        repeated=repeated,
        plan=job.timing,
        probe=probe,
        marks_first=decoder.streams,
        valid=lambda generation: _valid_size(checkpoint, generation),
        tick=tick,
        growing=bench.growing,
    )
    engine.close()
    written = [checkpoint.texts(generation) for generation in measured.first_pass]
    costs = _forward_costs(checkpoint, measured.first_pass[repeated[0]].forwards) if job.metric.roofline else ()
    likelihood = _likelihood(prepared, checkpoint, tick)
    ceilings = device.ceilings(job.hardware, checkpoint.weight_bytes) if job.metric.roofline else None

    setup_s = round(engine.setup_s, 3)
    del bench, engine
    probe.clean()
    return Generated(
        outputs=generated.outputs(prepared.workload.prompts, prepared.partition, written),
        timings=measured.timings,
        marks=measured.marks,
        repeated_batches=repeated,
        device_use=_device_use(measured.device_use, model_reserved, building_peak),
        tokenize_ms=tokenize_ms,
        setup_s=setup_s,
        forward_costs=costs,
        likelihood=likelihood,
        ceilings=ceilings,
        notes=(*measured.notes, *_notes(job.hardware)),
    )


def _notes(hardware: config.HardwareConfig) -> tuple[str, ...]:
    """What a reader must know of quantized weights."""
    if hardware.quantization is None:
        return ()
    return (
        f"the blocks' matrices are stored as {hardware.quantization} and widened to {hardware.dtype} for each product: "
        "times are those of this storage, the roofline's bytes too, and quality is that of the weights as rounded",
    )


def _device_use(use: DeviceUse, model_reserved: int | None, building_peak: int | None) -> DeviceUse:
    """What the passes read, with the model alone, and with the peak of set-up over building and warming up."""
    peaks = [peak for peak in (building_peak, use.setup_peak_reserved_bytes) if peak is not None]
    return replace(use, model_reserved_bytes=model_reserved, setup_peak_reserved_bytes=max(peaks, default=None))


def failed(job: JobConfig, prepared: Prepared | None, reason: str, started: datetime.datetime) -> Record:
    """The Record of a job that died, with its reason in one line."""
    environment = device.environment(prepared.job.hardware if prepared else job.hardware)
    return Record(
        identity=prepared.identity if prepared else config.identity(job, {}),
        model=job.model.name,
        family=job.model.decoder.family,
        steps=job.model.decoder.steps,
        status="failed",
        reason=reason,
        started_at=started.isoformat(timespec="seconds"),
        duration_s=round((datetime.datetime.now(datetime.UTC) - started).total_seconds(), 3),
        config=config.to_dict(prepared.job if prepared else job),
        conditions=conditions(prepared, environment.device_name, environment.versions) if prepared else {},
        signatures=prepared.signatures if prepared else {},
        environment=environment,
    )


def conditions(prepared: Prepared, device_name: str, versions: dict[str, str]) -> dict[str, str]:
    """What must agree before two Records are compared.

    Keys that begin with `decoding.` must agree within one model's Records only; all others across models too.
    """
    job = prepared.job
    shared = {
        "weights": job.weights,
        "canvas": job.model.decoder.canvas,
        "batch": job.batch,
        "seed": job.seed,
        "workload": prepared.workload.digest,
        "judge": prepared.judge.digest if prepared.judge else "none",
        "encoder": prepared.encoder.digest if prepared.encoder else "none",
    }
    where = {
        "device_name": device_name,
        "device": job.hardware.device,
        "dtype": job.hardware.dtype,
        "engine": job.hardware.engine,
        "quantization": _stored_by(job.hardware, versions) or "none",
        "torch": versions.get("torch", ""),
        "transformers": versions.get("transformers", ""),
    }
    settings, left_out = config.to_dict(job)["model"]["decoder"], {"steps"}
    if isinstance(job.model.decoder, Endpoint):
        where, left_out = served.conditions(job.model.decoder), {field.name for field in fields(config.Server)}
    own = {f"decoding.{key}": value for key, value in settings.items() if key not in left_out}
    own |= {"decoding.chat": True} if job.model.chat else {}  # absent is plain, as in Records older than it
    whole = shared | own | where | {"decoding.checkpoint": prepared.checkpoint.digest}
    return {key: str(value) for key, value in whole.items()}


def _stored_by(hardware: config.HardwareConfig, versions: dict[str, str]) -> str | None:
    """How matrices are stored narrowly, and by which library; None where they are not."""
    return (
        hardware.quantization and f"{hardware.quantization} by bitsandbytes {versions.get('bitsandbytes', '')}".strip()
    )


@dataclass
class _Bench:
    """Decoder, engine and prompts joined into the one call that the passes repeat."""

    checkpoint: checkpoints.Checkpoint
    decoder: Decoder
    engine: "EagerEngine | FusedEngine"
    batches: list[PromptBatch]
    seed: int
    canvas: int

    def generate(self, batch: int, on_step: OnStep | None) -> Generation:
        """Generate one batch. The noise depends on seed and batch only, so repeats write the same text."""
        return self.decoder.generate(
            self.engine, self.batches[batch], seed=self.seed * 1_000_003 + batch, on_step=on_step
        )

    def growing(self) -> Callable[[int, OnStep | None], Generation]:
        """End the engine, captured graphs included, and go on with an eager one, whose cache grows."""
        self.engine.close()
        self.engine = self.checkpoint.engine("eager")
        return self.generate

    def prepare(self) -> None:
        """Set the engine up for every shape there is, the largest first: its memory then serves the others."""
        shapes = {(*batch.ids.shape, batch.mask is not None): batch for batch in self.batches}
        for batch in sorted(shapes.values(), key=self._positions, reverse=True):
            self.decoder.prepare(self.engine, batch)

    def _positions(self, batch: PromptBatch) -> int:
        """Positions of a batch with its outputs."""
        rows, prompt = batch.ids.shape
        return rows * (prompt + self.canvas)


def _encode(prepared: Prepared, checkpoint: checkpoints.Checkpoint) -> tuple[list[PromptBatch], float | None]:
    """Prompt ids of every batch, on the device, and the mean time of making a batch of them from text."""
    batches, spent = [], 0.0
    for members in prepared.partition:
        begun = time.perf_counter()
        ids = [prepared.prompt_ids(i) for i in members]
        spent += time.perf_counter() - begun
        batches.append(checkpoint.to_device(ids))
    return batches, None if prepared.job.workload.synthetic else spent * 1000 / len(batches)


def require_numbers(
    checkpoint: checkpoints.Checkpoint, engine: "EagerEngine | FusedEngine", batch: PromptBatch, dtype: str
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


def _valid_size(checkpoint: checkpoints.Checkpoint, generation: Generation) -> tuple[int, int | None]:
    """Valid tokens and UTF-8 bytes of a generated batch."""
    texts = checkpoint.texts(generation)
    return sum(text.tokens for text in texts), total(text.utf8_bytes for text in texts)


def _forward_costs(checkpoint: checkpoints.Checkpoint, shapes: Sequence) -> tuple[ForwardCost, ...]:  # type: ignore[type-arg]
    """Least work of every distinct forward of one generated batch."""
    return tuple(
        ForwardCost(
            shape=shape,
            count=count,
            flops=architecture.flops(checkpoint.architecture, shape),
            bytes=architecture.bytes_moved(checkpoint.architecture, shape),
        )
        for shape, count in Counter(shapes).items()
    )


def _likelihood(prepared: Prepared, checkpoint: checkpoints.Checkpoint, tick: Tick) -> Likelihood | None:
    held = prepared.heldout
    if held is None:
        return None
    files, hardware = prepared.checkpoint, prepared.job.hardware
    return heldout.likelihood(
        checkpoint.engine("eager"),  # whatever was timed: the figure belongs to the weights
        checkpoint.tokenize(held.texts),
        held.texts,
        family=prepared.job.model.decoder.family,
        mask_id=checkpoint.mask_id,
        logit_shift=files.logit_shift,
        samples=prepared.job.metric.likelihood_samples,
        seed=0,  # not the job's: the figure belongs to the checkpoint, and all of its jobs show the same
        tick=tick,
        name=f"{files.name}@{files.digest} {hardware}",
    )


def _scores(
    prepared: Prepared, outputs: Sequence[Output], tick: Tick
) -> tuple[tuple[PromptScore, ...], tuple[str, ...]]:
    """Sums of every prompt for the outputs, the references and the floor texts, under judge and encoder; and notes."""
    checked = any(prompt.answer is not None for prompt in prepared.workload.prompts)
    if prepared.judge is None and prepared.encoder is None and not checked:
        return (), ()
    items = scoring.items(outputs, prepared.workload)
    checkpoints.make_room(sum(memory.scoring_bytes(prepared).values()), prepared.job.hardware)
    judge = checkpoints.load_judge(prepared.judge, prepared.job.hardware) if prepared.judge else None
    encoder = bertscore.load_encoder(prepared.encoder, prepared.job.hardware) if prepared.encoder else None
    notes: list[str] = []
    m = prepared.job.workload.diversity_tokens
    scores = scoring.score(items, judge, encoder, diversity_tokens=m, tick=tick, note=notes.append)
    return scores, tuple(notes)
