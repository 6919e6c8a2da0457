"""Where `hardware.engine=auto` ends in a sweep: both sides run on one engine, or they could not be compared."""

from collections.abc import Sequence
from dataclasses import replace

from llmbench.config.job import HardwareConfig
from llmbench.config.servers import ServerDecoder
from llmbench.job import drafts
from llmbench.job.prepare import prepared_as
from llmbench.job.prepared import Prepared


def on_one(jobs: Sequence[Prepared], left_open: Sequence[bool]) -> list[Prepared]:
    """The jobs; eager are those that leave the engine open while another one that does, on their hardware, must be.

    Args:
        jobs: of a sweep, prepared each by itself.
        left_open: of each, whether it asked for "auto".
    """
    eager: dict[HardwareConfig, str] = {}  # by hardware with its engine open: the checkpoint that needs it
    for prepared, is_open in zip(jobs, left_open, strict=True):
        runs_here = not isinstance(prepared.job.model.decoder, ServerDecoder)
        if is_open and runs_here and prepared.job.hardware.engine == "eager":
            eager.setdefault(_open(prepared), prepared.checkpoint.name)
    return [
        _eager(prepared, eager[_open(prepared)])
        if is_open and prepared.job.hardware.engine != "eager" and _open(prepared) in eager
        else prepared
        for prepared, is_open in zip(jobs, left_open, strict=True)
    ]


def _open(prepared: Prepared) -> HardwareConfig:
    return replace(prepared.job.hardware, engine="auto")


def _eager(prepared: Prepared, because: str) -> Prepared:
    """The same job on the eager engine, because of a checkpoint of that name."""
    job = replace(prepared.job, hardware=replace(prepared.job.hardware, engine="eager"))
    drafts.require_engine(job)
    note = f"hardware.engine=auto is eager for all sides here, because the fused engine does not compute {because}"
    return replace(prepared_as(prepared, job), notes=(*prepared.notes, note))
