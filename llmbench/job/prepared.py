"""A job that may run: everything about it that can be known without loading weights."""

from dataclasses import dataclass
from typing import Any

from llmbench.checkpoints.files import CheckpointFiles
from llmbench.config.job import Job
from llmbench.data.heldout import Texts
from llmbench.data.workloads import Prompt, Workload
from llmbench.metrics.bertscore import EncoderFiles


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A job that may run: everything about it that can be known without loading weights."""

    job: Job  # hardware, number of prompts and chat resolved
    workload: Workload
    checkpoint: CheckpointFiles
    judge: CheckpointFiles | None
    second_judge: CheckpointFiles | None
    draft: CheckpointFiles | None = None  # the model that drafts
    encoder: EncoderFiles | None
    heldout: Texts | None  # for the likelihood under the model itself
    partition: tuple[tuple[int, ...], ...]  # indices into workload.prompts, batch by batch
    longest_prompt: int  # tokens
    identity: str
    notes: tuple[str, ...] = ()  # what was left out, and how to get it

    def prompt_ids(self, index: int) -> list[int]:
        """Ids that the model reads for prompt `index` of the workload."""
        return prompt_ids(self.job, self.checkpoint, self.workload.prompts[index])

    @property
    def signatures(self) -> dict[str, str]:
        """Name and content hash of everything that was read."""
        return {key: f"{part.name}@{part.digest}" for key, part in self._parts.items()}

    @property
    def digests(self) -> dict[str, str]:
        """Content hash of everything that was read."""
        return {key: part.digest for key, part in self._parts.items()}

    @property
    def _parts(self) -> dict[str, Any]:
        parts = {
            "checkpoint": self.checkpoint,
            "workload": self.workload,
            "judge": self.judge,
            "second_judge": self.second_judge,
            "draft": self.draft,
            "encoder": self.encoder,
            "likelihood": self.heldout,
        }
        return {key: part for key, part in parts.items() if part is not None}


def prompt_ids(job: Job, files: CheckpointFiles, prompt: Prompt) -> list[int]:
    """Ids that the model reads; a server's own template is not known where the checkpoint has none."""
    return files.prompt_ids(prompt, chat=bool(job.model.chat) and files.has_chat_template)
