"""May a job run, and what is known of it without its weights? Everything here is cheap and refuses in one line.

`prepare_job` reads prompts, tokenizer and the checkpoint's configuration, and builds the job's identity; a sweep does
it for every cell before the first job. `conditions` says what must agree before two Records are compared.
"""

from dataclasses import fields, replace

from pydantic import ValidationError

from llmbench.checkpoints.files import CheckpointFiles
from llmbench.checkpoints.resolve import resolve_checkpoint
from llmbench.config.decoders import SERVERS, Autoregressive, DecoderConfig, Diffusion
from llmbench.config.identity import identity
from llmbench.config.job import HardwareConfig, Job, to_dict
from llmbench.config.modes import Mode
from llmbench.config.servers import ServerConfig
from llmbench.data import heldout, workloads
from llmbench.errors import CheckpointError, ConfigError, JudgeError
from llmbench.job import drafts, judge_check, memory_estimate, server
from llmbench.job.prepared import Prepared, prompt_ids
from llmbench.measure import device
from llmbench.metrics import bertscore
from llmbench.models import blocks, quantization


def prepare_job(job: Job, *, here: bool = True) -> Prepared:
    """Check a job against the device, the prompts and the checkpoint, without loading weights.

    Args:
        job: as it was asked for.
        here: it runs on this machine; else a CUDA device that is not here is not asked for, nor its memory.

    Raises:
        UsageError: one line that says what to change.
    """
    hardware = device.resolve(job.hardware) if here or device.is_here(job.hardware) else job.hardware
    job, notes = _without_missing_encoder(replace(job, hardware=hardware).with_prompts())
    workload = workloads.load(job.workload)
    if job.batch > len(workload.prompts):
        raise ConfigError(
            f"batch {job.batch} exceeds the {len(workload.prompts)} prompt{'s' if len(workload.prompts) != 1 else ''}; "
            "lower batch or raise workload.prompts"
        )
    here = not isinstance(job.model.decoder, ServerConfig)
    files = resolve_checkpoint(
        job.model.checkpoint,
        job.weights if here else "server",
        layout=job.model.layout,
        family=job.model.decoder.family,
        require=lambda described: _require_fit(job, workload, described),
    )
    judge, second_judge = _judges(job, files)
    encoder = (
        bertscore.resolve_encoder(job.metric.bertscore, job.metric.bertscore_layer) if job.metric.bertscore else None
    )
    if encoder is not None:
        workload.require_references("bertscore")
    job, longest = _require_fit(job, workload, files)
    draft = drafts.resolve(job, files, longest)
    if here and hardware.engine == "auto" and job.hardware.engine == "eager":
        form = blocks.not_fused(files.config)
        notes += (f"hardware.engine=auto is eager for {files.name}: the fused engine does not compute {form}",)
    wanted = here and job.metric.likelihood
    held = heldout.load(job.metric.likelihood_source, job.metric.likelihood_texts) if wanted else None
    if held is not None:
        _require_readable(files, held)
    indices = range(len(workload.prompts))
    prepared = Prepared(
        job=job,
        workload=workload,
        checkpoint=files,
        judge=judge,
        second_judge=second_judge,
        draft=draft,
        encoder=encoder,
        heldout=held,
        partition=tuple(tuple(indices[i : i + job.batch]) for i in range(0, len(indices), job.batch)),
        longest_prompt=longest,
        identity="",
        notes=notes,
    )
    prepared = replace(prepared, identity=identity(job, prepared.digests))
    if not job.dry_run and device.is_here(job.hardware):
        memory_estimate.require(prepared)
        judge_check.require_third_parties(prepared)
    return prepared


def prepared_as(prepared: Prepared, job: Job) -> Prepared:
    """What a prepared job is as another one that reads the same prompts and files: nothing is read again.

    Args:
        prepared: the job.
        job: the other, which may differ in its role, timing, seed and temperature, and may leave the likelihood and the
            draft out.
    """
    drafted = getattr(job.model.decoder, "draft", None) is not None
    made = replace(
        prepared,
        job=job,
        draft=prepared.draft if drafted else None,
        heldout=prepared.heldout if job.metric.likelihood else None,
        notes=(),
    )
    return replace(made, identity=identity(job, made.digests))


def _without_missing_encoder(job: Job) -> tuple[Job, tuple[str, ...]]:
    """The same job with `metric.bertscore=null` and a note, where the default encoder's package is not installed."""
    if not bertscore.default_is_missing(job.metric.bertscore):
        return job, ()
    note = f"BERTScore is left out: its encoder is not installed; to add it: {bertscore.INSTALL}"
    return replace(job, metric=replace(job.metric, bertscore=None)), (note,)


def _judges(job: Job, files: CheckpointFiles) -> tuple[CheckpointFiles | None, CheckpointFiles | None]:
    """Files of the judge and of the second one.

    Raises:
        JudgeError: they cannot be used.
        ConfigError: one of them is the model under test, or both are the same.
    """
    asked = job.metric.perplexity
    judge = _judge(asked.judge, "judge") if asked.judge else None
    second = _judge(asked.second_judge, "second_judge") if asked.second_judge else None
    for key, source, found in (("judge", asked.judge, judge), ("second_judge", asked.second_judge, second)):
        if found is not None and _same(found, files):
            raise ConfigError(f"metric.perplexity.{key} {source} is the model under test; a model cannot judge itself")
    if judge is not None and second is not None and _same(judge, second):
        raise ConfigError(f"metric.perplexity.second_judge {asked.second_judge} is the judge too; name another one")
    return judge, second


def _same(one: CheckpointFiles, other: CheckpointFiles) -> bool:
    return one.digest == other.digest or one.location == other.location


def _judge(source: str, key: str) -> CheckpointFiles:
    """Files of one judge.

    Raises:
        JudgeError: they cannot be used.
    """
    try:
        files = resolve_checkpoint(source, require=CheckpointFiles.require_judge)
        files.require_judge()
    except CheckpointError as error:
        raise JudgeError(f"metric.perplexity.{key}: {error}") from error
    return files


def _require_fit(job: Job, workload: workloads.Workload, files: CheckpointFiles) -> tuple[Job, int]:
    """The job with its engine and chat resolved, and tokens of the longest prompt. Reads no weights.

    Raises:
        UsageError: engine, chat template or context do not go with the checkpoint.
    """
    here = not isinstance(job.model.decoder, ServerConfig)
    job = replace(job, hardware=_with_engine(job.hardware, files))
    if here and job.hardware.engine == "fused":
        blocks.require_fused(files.config)
    if here and job.hardware.quantization is not None:
        quantization.require_whole_blocks(files.config)
    job = replace(job, model=replace(job.model, chat=_chat(job, files), decoder=_in_blocks(job, files)))
    longest = max(len(prompt_ids(job, files, prompt)) for prompt in workload.prompts)
    canvas = job.model.decoder.canvas
    decoder = job.model.decoder
    beyond = memory_estimate.beyond_canvas(decoder, files.mode(decoder.family))  # the last forward may look so far
    if longest + canvas + beyond > files.context:
        drafted = isinstance(decoder, Autoregressive)
        more = "" if not beyond else f" + draft_tokens {beyond - 1} + 1" if drafted else f" + a block of {beyond}"
        raise ConfigError(
            f"canvas {canvas}{more} + longest prompt {longest} tokens exceed the context {files.context} of "
            f"{files.name}; lower canvas or workload.{'prompt_tokens' if job.workload.synthetic else 'prompt_words'}"
        )
    return job, longest


def _in_blocks(job: Job, files: CheckpointFiles) -> DecoderConfig:
    """The decoder with the length of its blocks: the null of `block_length` ends here.

    Raises:
        ConfigError: the settings do not go with a model that writes in blocks.
    """
    decoder = job.model.decoder
    if not isinstance(decoder, Diffusion):
        return decoder
    mode = files.mode("diffusion")
    own = mode.block_length or decoder.canvas
    if decoder.block_length is None:
        try:
            decoder = replace(decoder, block_length=own)
        except ValidationError as error:
            said = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise ConfigError(f"{said} ({files.name} has blocks of {own})" if mode.in_blocks else said) from error
    if mode.in_blocks:
        _require_in_blocks(decoder, mode, f"checkpoint {files.name} writes block after block", job.hardware)
    return decoder


def _require_in_blocks(decoder: Diffusion, mode: Mode, why: str, hardware: HardwareConfig) -> None:
    """Refuse what a model that writes in blocks does not do; `why` begins the message.

    Raises:
        ConfigError: an engine, a cache, guidance, a schedule, or parts of a block that do not fit.
    """
    if hardware.engine == "eager":
        raise ConfigError(f"{why}, which the fused engine alone does; use hardware.engine=fused without quantization")
    if decoder.cache != "none":
        raise ConfigError(f"{why} from an exact cache; use cache=none")
    if decoder.cfg_scale:
        raise ConfigError(f"{why}, which is not guided here; use cfg_scale=0")
    if decoder.tokens_per_step != "even":
        raise ConfigError(f"{why} on a schedule of its own; use tokens_per_step=even")
    part = min(mode.sub_block_length or decoder.block, decoder.block)
    if decoder.block % part:
        raise ConfigError(f"{why} in parts of {part}; use a block_length that is a multiple of {part}")
    parts = decoder.block // part
    if decoder.steps_of_a_block % parts:
        least = parts * decoder.canvas // decoder.block
        raise ConfigError(
            f"{why} in {parts} parts each, and steps {decoder.steps} leave {decoder.steps_of_a_block} to a block; use "
            f"a multiple of {least}"
        )


def _with_engine(hardware: HardwareConfig, files: CheckpointFiles) -> HardwareConfig:
    """The engine "auto", where the device leaves it open: fused where the fused blocks compute the checkpoint's.

    For a device that is not here it stays open, unless no device could.
    """
    if hardware.engine != "auto":
        return hardware
    if blocks.not_fused(files.config) is not None:
        return replace(hardware, engine="eager")
    return replace(hardware, engine="fused") if device.is_here(hardware) else hardware


def _chat(job: Job, files: CheckpointFiles) -> bool:
    """Whether prompts are put to the model in its tokenizer's chat template; the null of `model.chat` ends here.

    Raises:
        ConfigError: the checkpoint has none, or a server is asked in another way.
    """
    wanted, fitting = job.model.chat, job.workload.instructions and files.has_chat_template
    if isinstance(job.model.decoder, ServerConfig):
        group = job.model.decoder.group
        if job.model.decoder.api == "chat":
            if wanted is False:
                raise ConfigError(f"model.chat=false, but {group}.api=chat: the server applies its template")
            return True
        if fitting if wanted is None else wanted:
            why = (
                "model.chat=true"
                if wanted
                else f"the prompts are instructions, and {files.name} has a chat template, which other sides get"
            )
            raise ConfigError(f"{why}; add {group}.api=chat, or model.chat=false for plain prompts on every side")
        return False
    if wanted and not files.has_chat_template:
        raise ConfigError(f"model.chat=true, but the tokenizer of checkpoint {files.name} has no chat template")
    return fitting if wanted is None else wanted


def _require_readable(files: CheckpointFiles, held: heldout.Texts) -> None:
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
        "second_judge": prepared.second_judge.digest if prepared.second_judge else "none",
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
    settings, left_out = to_dict(job)["model"]["decoder"], {"steps"}
    if isinstance(job.model.decoder, ServerConfig):
        described = SERVERS[job.model.decoder.group][0]
        where, left_out = server.conditions(job.model.decoder), {"steps", *(item.name for item in fields(described))}
    own = {f"decoding.{key}": value for key, value in settings.items() if key not in left_out}
    own |= {"decoding.chat": True} if job.model.chat else {}  # absent is plain, as in Records older than it
    files = prepared.checkpoint
    own["decoding.checkpoint_without_weights"] = files.without_weights
    if not isinstance(job.model.decoder, ServerConfig):  # nobody sees the weights of a server
        own["decoding.checkpoint"] = files.digest
    whole = shared | own | where
    return {key: str(value) for key, value in whole.items()}


def _stored_by(hardware: HardwareConfig, versions: dict[str, str]) -> str | None:
    """How matrices are stored narrowly, and by which library; None where they are not."""
    return (
        hardware.quantization and f"{hardware.quantization} by bitsandbytes {versions.get('bitsandbytes', '')}".strip()
    )
