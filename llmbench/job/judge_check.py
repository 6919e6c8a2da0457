"""Is a judge the model under test under another name? By what it says, where digests differ.

A copy of the weights in another dtype, or cut into other files, has another digest. It gives the same
log-probabilities: within 0.01 nats a token, on average, on the beginnings of 16 held-out texts. Only checkpoints with
equal tensors can, so nothing is loaded for others: the bundled pair and its judge cost nothing.
"""

import functools
from dataclasses import replace

from llmbench.checkpoints.files import CheckpointFiles
from llmbench.checkpoints.load import load_judge, make_room
from llmbench.checkpoints.resolve import shapes_of
from llmbench.config.job import HardwareConfig
from llmbench.config.servers import ServerConfig
from llmbench.data import heldout
from llmbench.errors import ConfigError
from llmbench.job import memory_estimate
from llmbench.job.prepared import Prepared
from llmbench.metrics.judging import token_nll

TEXTS, TOKENS = 16, 32
NATS = 0.01


def require_third_parties(prepared: Prepared) -> None:
    """Refuse judges that are a copy of the model under test, or of each other.

    The model under test must be autoregressive and run here: a diffusion model's weights judge nothing, and a server's
    are not there.

    Raises:
        ConfigError: one line that names the judge.
    """
    job = prepared.job
    first, second = prepared.judge, prepared.second_judge
    here = job.model.decoder.family == "autoregressive" and not isinstance(job.model.decoder, ServerConfig)
    for key, source, judge in (
        ("judge", job.metric.perplexity.judge, first),
        ("second_judge", job.metric.perplexity.second_judge, second),
    ):
        if judge is not None and here and is_copy(judge, prepared.checkpoint, job.hardware):
            raise ConfigError(
                f"metric.perplexity.{key} {source} gives the same log-probabilities as {prepared.checkpoint.name}, the "
                "model under test: a copy of its weights cannot judge it; name another judge"
            )
    if first is not None and second is not None and is_copy(first, second, job.hardware):
        raise ConfigError(
            f"metric.perplexity.second_judge {job.metric.perplexity.second_judge} gives the same log-probabilities as "
            f"the judge {first.name}; name another one, or null"
        )


@functools.lru_cache(maxsize=64)
def is_copy(judge: CheckpointFiles, other: CheckpointFiles, hardware: HardwareConfig) -> bool:
    """Whether two causal checkpoints give the same log-probabilities. Loads one after the other, in float32.

    Args:
        judge: with a tokenizer; its ids are read by both.
        other: with real weights.
        hardware: resolved.
    """
    if _tensors(judge) is None or _tensors(judge) != _tensors(other):
        return False
    pairs = zip(_nll(judge, judge, hardware), _nll(other, judge, hardware), strict=True)
    differences = [abs(one - two) for one, two in pairs]
    return sum(differences) / len(differences) <= NATS


def _tensors(files: CheckpointFiles) -> dict[str, tuple[int, ...]] | None:
    """Names and shapes, but for the head, which may be stored beside the embedding that it equals; None: not known."""
    shapes = shapes_of(files.config, files.name)
    return {name: shape for name, shape in shapes.items() if not name.startswith("lm_head")} or None


def _nll(files: CheckpointFiles, judge: CheckpointFiles, hardware: HardwareConfig) -> list[float]:
    """NLL of every token but the first of each fixed text, in nats."""
    make_room(memory_estimate.judge_bytes(files), hardware)
    model = load_judge(replace(files, stop_ids=judge.stop_ids), hardware)  # one that stops nowhere can be a copy too
    ids = [judge.tokenizer(text, add_special_tokens=False)["input_ids"] for text in heldout.heldout(TEXTS)]
    rows = [(row[:TOKENS], 1) for row in ids]
    return [nll for row in token_nll(model, rows) for nll in row]
