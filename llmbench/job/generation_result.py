"""What does the model under test leave behind, wherever it ran: on this device, or on a server?

The part of a Record that generation fills; scores, metrics and the Record itself are made of it in the same way for
both. What one of them cannot know is absent.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from llmbench.checkpoints.load import ValidText
from llmbench.data.workloads import Prompt
from llmbench.record import Ceilings, DeviceUse, ForwardCost, Likelihood, Marks, Output, Stopping, Timing


@dataclass(frozen=True, kw_only=True)
class GenerationResult:
    """Fields as in `record.Record`, but for the two that say more about where it ran."""

    outputs: tuple[Output, ...]
    timings: tuple[Timing, ...]
    marks: tuple[Marks, ...]
    repeated_batches: tuple[int, ...]
    stopping: Stopping | None = None
    device_use: DeviceUse = field(default_factory=DeviceUse)
    tokenize_ms: float | None = None
    setup_s: float | None = None
    forward_costs: tuple[ForwardCost, ...] = ()
    other_forward_costs: tuple[tuple[ForwardCost, ...], ...] = ()
    likelihood: Likelihood | None = None
    ceilings: Ceilings | None = None
    notes: tuple[str, ...] = ()
    conditions: dict[str, str] = field(default_factory=dict)  # known only after it ran
    signatures: dict[str, str] = field(default_factory=dict)


def outputs(
    prompts: Sequence[Prompt], partition: Sequence[Sequence[int]], texts: Sequence[Sequence[ValidText]]
) -> tuple[Output, ...]:
    """The output of every prompt.

    Args:
        prompts: of the workload.
        partition: their indices, batch by batch.
        texts: the valid text of every row, batch by batch.
    """
    made = []
    for batch, (members, rows) in enumerate(zip(partition, texts, strict=True)):
        for index, text in zip(members, rows, strict=True):
            prompt = prompts[index]
            made.append(
                Output(
                    prompt_id=prompt.id,
                    task=prompt.task,
                    document=prompt.document,
                    prompt=prompt.text if prompt.draws is None else None,
                    text=text.text,
                    batch=batch,
                    tokens=text.tokens,
                    utf8_bytes=text.utf8_bytes,
                    stopped=text.stopped,
                )
            )
    return tuple(made)
