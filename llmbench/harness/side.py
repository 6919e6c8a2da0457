"""A checkpoint with its decoder, as a harness asks for it: texts for prompts, log-likelihoods for continuations.

Arguments are llmbench's own keys (`model=llada steps=64 canvas=256 block_length=32 cache=dual checkpoint=local
model.checkpoint=/path hardware.dtype=bfloat16 seed=1`), composed and checked as the sweep composes them, so a setting
means here what it means in a table. What differs from a job:

- A task says at which temperature it is answered (greedily, for nearly all of them) and what ends an answer.
- `canvas` is the most tokens that are generated, for both families, whatever a task allows: the canvas of a diffusion
  model is a decoding setting. Where a task allows fewer, the rest is cut off.
- Modules run eagerly: prompts have many lengths, and an engine of captured graphs would capture each.

Log-likelihoods are exact for an autoregressive side. For a diffusion side they are minus the Monte-Carlo upper bound of
`llmbench.metrics.likelihood`, the context given and never masked (Nie et al. 2025, arXiv:2502.09992): a continuation's
masks are drawn from the seed and its own tokens, so they depend neither on the order of requests nor on each other.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from llmbench.errors import ConfigError

if TYPE_CHECKING:
    from llmbench.checkpoints.load import Checkpoint
    from llmbench.config.decoders import DecoderConfig
    from llmbench.config.job import Job
    from llmbench.decoding.base import Decoder

SAMPLES = 128
"""Monte-Carlo samples per continuation, as in LLaDA's own evaluation (ML-GSAI/LLaDA eval_llada.py)."""

_NEEDLESS_WHEN_GREEDY = frozenset({"top_p", "top_k", "min_p", "typical_p"})

Done = Callable[[int], Any]
"""Progress: so many more requests are done."""


class Chat(str):
    """A rendered chat, special tokens included: tokenized without adding any, as in a job.

    A subclass of `str`, because lm-eval makes prompts first (or reads them from its cache) and hands them back later
    without their origin.
    """

    __slots__ = ()


@dataclass(frozen=True, kw_only=True)
class Answering:
    """How a task wants its answers."""

    until: tuple[str, ...] = ()  # texts that end an answer and are not part of it
    most_tokens: int | None = None
    temperature: float = 0.0
    others: tuple[tuple[str, Any], ...] = ()  # what else the task says of generation


@dataclass(frozen=True, kw_only=True, eq=False)
class Side:
    """A checkpoint on a device with its decoder's settings."""

    job: "Job"  # hardware resolved
    checkpoint: "Checkpoint"
    samples: int
    greedy: bool  # also say whether a continuation is what greedy decoding writes

    # ------------------------------------------------------------------------------------------------------------
    # Tokens

    @property
    def context(self) -> int:
        """Tokens, prompt and answer together."""
        return self.checkpoint.files.context

    @property
    def end_id(self) -> int:
        """The token that ends a text."""
        return self.checkpoint.stop_ids[0] if self.checkpoint.stop_ids else self.checkpoint.pad_id

    @property
    def start_id(self) -> int:
        """What stands before a text without a context: the tokenizer's start token, or else the end token."""
        start = self.checkpoint.files.tokenizer.bos_token_id
        return self.end_id if start is None else int(start)

    def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        """Ids of a text; `special`: with what the tokenizer adds to a prompt, which to a `Chat` is nothing."""
        if not text:
            return []
        if special:
            return self.checkpoint.files.tokenize(text, rendered=isinstance(text, Chat))
        ids: list[int] = self.checkpoint.files.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    @property
    def family(self) -> Literal["autoregressive", "diffusion"]:
        """Of the decoder, and so of the checkpoint's mode."""
        return self.job.model.decoder.family

    # ------------------------------------------------------------------------------------------------------------
    # Texts

    def write(self, prompts: Sequence[str], how: Answering, done: Done = lambda count: None) -> list[str]:
        """Answer prompts, in batches of the longest first.

        Args:
            prompts: texts, each of at least one token.
            how: what the task asks for.
            done: progress.

        Raises:
            ConfigError: a prompt does not fit into the context with the canvas, or the decoder cannot do what is
                asked for; nothing has been generated then.
            HardwareError: the longest prompt and its canvas do not fit into memory, as in a job; likewise.
        """
        from llmbench.job import memory_estimate

        settings = decoder_settings(self.job.model.decoder, how)
        ids = [self.tokenize(prompt) for prompt in prompts]
        self._require_room([len(row) + settings.canvas for row in ids], "lower canvas or --num_fewshot")
        rows = replace(self.job, batch=max(1, min(self.job.batch, len(ids))))
        memory_estimate.require_model(rows, self.checkpoint.files, max(map(len, ids), default=0))
        decoder, engine = self._decoder(settings), self.checkpoint.engine("eager", self.family)
        answers = [""] * len(prompts)
        order = sorted(range(len(prompts)), key=lambda i: -len(ids[i]))
        for number, start in enumerate(range(0, len(order), self.job.batch)):
            members = order[start : start + self.job.batch]
            batch = self.checkpoint.to_device([ids[i] for i in members])
            made = decoder.generate(engine, batch, seed=self.job.seed * 1_000_003 + number, on_step=None)
            made = replace(made, tokens=made.tokens[:, : how.most_tokens])
            for i, text in zip(members, self.checkpoint.texts(batch, made), strict=True):
                answers[i] = before(text.text or "", how.until)
            done(len(members))
        return answers

    # ------------------------------------------------------------------------------------------------------------
    # Log-likelihoods

    def score(
        self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], done: Done = lambda count: None
    ) -> list[tuple[float, bool]]:
        """Log-likelihood in nats of each continuation given its context, and whether greedy decoding writes it.

        A diffusion side gives minus its upper bound; greedy is then one token per step over exactly the continuation.

        Args:
            pairs: ids of context and continuation. An empty context stands for the start token.
            done: progress.

        Raises:
            ConfigError: a pair does not fit into the context.
        """
        read = [(list(context) or [self.start_id], list(rest)) for context, rest in pairs]
        self._require_room([len(context) + len(rest) for context, rest in read], "lower --num_fewshot")
        scores: list[tuple[float, bool]] = [(0.0, True)] * len(read)  # of nothing: certain
        todo = [i for i, (_, rest) in enumerate(read) if rest]
        exact = self.family == "autoregressive"
        for i, score in self._exact(read, todo) if exact else self._bound(read, todo):
            scores[i] = score
            done(1)
        done(len(pairs) - len(todo))
        return scores

    def _exact(
        self, pairs: Sequence[tuple[list[int], list[int]]], todo: Sequence[int]
    ) -> Iterator[tuple[int, tuple[float, bool]]]:
        """Equal lengths together, so that nothing is padded."""
        import torch

        from llmbench.metrics.likelihood import BATCH_TOKENS, exact

        def length(i: int) -> int:
            return sum(map(len, pairs[i]))

        engine = self.checkpoint.engine("eager", self.family)
        for size, group in itertools.groupby(sorted(todo, key=length, reverse=True), length):
            members = list(group)
            rows = max(1, min(self.job.batch, BATCH_TOKENS // size))
            for start in range(0, len(members), rows):
                part = members[start : start + rows]
                ids = torch.tensor([[*pairs[i][0], *pairs[i][1]] for i in part], device=engine.device)
                with torch.inference_mode():
                    logs, greedy = exact(engine, ids, [len(pairs[i][0]) for i in part])
                for i, value, same in zip(part, logs.tolist(), greedy.tolist(), strict=True):
                    yield i, (value, same)

    def _bound(
        self, pairs: Sequence[tuple[list[int], list[int]]], todo: Sequence[int]
    ) -> Iterator[tuple[int, tuple[float, bool]]]:
        import torch

        from llmbench.metrics.likelihood import bound

        engine, mask_id = self.checkpoint.engine("eager", self.family), self.checkpoint.mask_id
        shift = self.checkpoint.files.mode(self.family).logit_shift
        assert mask_id is not None
        for i in todo:
            context, rest = pairs[i]
            ids = torch.tensor([context + rest], device=engine.device)
            draws = torch.Generator().manual_seed(_own_seed(self.job.seed, context, rest))
            samples = self.samples if len(rest) > 1 else 1  # one token can be masked in one way
            with torch.inference_mode():
                nll = bound(engine, ids, len(context), mask_id, samples, draws, shift)
            yield i, (-nll, self.greedy and self._greedy(engine, context, rest))

    def _greedy(self, engine: Any, context: list[int], rest: list[int]) -> bool:
        from llmbench.config.decoders import Diffusion

        size = len(rest)
        plain = Diffusion(kind="diffusion", steps=size, canvas=size, block_length=size, temperature=0.0)
        batch = self.checkpoint.to_device([context])
        made = self._decoder(plain).generate(engine, batch, seed=0, on_step=None)
        return bool(made.tokens[0].tolist() == rest)

    def _decoder(self, settings: "DecoderConfig") -> "Decoder":
        from llmbench import decoding

        files = self.checkpoint.files
        return decoding.build(
            settings,
            stop_ids=files.stop_ids,
            pad_id=files.pad_id,
            mask_id=files.mask_id,
            mode=files.mode(self.family),
        )

    def _require_room(self, lengths: Sequence[int], change: str) -> None:
        if lengths and max(lengths) > self.context:
            over = sum(length > self.context for length in lengths)
            raise ConfigError(
                f"{over} of {len(lengths)} requests exceed the context {self.context} of {self.checkpoint.files.name} "
                f"(the longest has {max(lengths)} tokens); {change}"
            )

    # ------------------------------------------------------------------------------------------------------------

    def about(self) -> dict[str, Any]:
        """The provenance of every result."""
        files = self.checkpoint.files
        bound = f"Monte-Carlo upper bound of -log p, {self.samples} samples"
        return {
            "llmbench_checkpoint": f"{files.name}@{files.digest}",
            "llmbench_decoder": asdict(self.job.model.decoder) | {"temperature": "the task's"},
            "llmbench_hardware": asdict(self.job.hardware),
            "llmbench_seed": self.job.seed,
            "llmbench_likelihood": bound if self.family == "diffusion" else "exact",
        }


def build(settings: Mapping[str, Any], *, samples: int = SAMPLES, greedy: bool = True) -> Side:
    """Load the side that `settings` describe.

    Args:
        settings: llmbench's keys and values; see the module docstring.
        samples: Monte-Carlo samples per continuation; diffusion.
        greedy: also look whether continuations are what greedy decoding writes: one forward per token; diffusion.

    Raises:
        UsageError: a setting is wrong, the checkpoint cannot be used, or there is no memory for its weights.
    """
    from llmbench.checkpoints.load import load_checkpoint
    from llmbench.checkpoints.resolve import resolve_checkpoint
    from llmbench.config.servers import ServerConfig
    from llmbench.job import memory_estimate
    from llmbench.job.run import require_numbers
    from llmbench.measure import device

    if "temperature" in settings:
        raise ConfigError("temperature belongs to the task here; say --gen_kwargs do_sample=true,temperature=0.7")
    if type(samples) is not int or samples < 1:
        raise ConfigError(f"samples: give a whole number of at least 1 (got {samples!r})")
    made = _compose({"hardware.engine": "eager", "metric": "speed", "temperature": 0.0} | dict(settings))
    if isinstance(made.model.decoder, ServerConfig):
        raise ConfigError(
            f"model={made.model.name}_server is a server, which lm-eval asks itself; say --model local-completions"
        )
    if made.hardware.engine != "eager":
        raise ConfigError("hardware.engine must be eager here: prompts of every length would each be captured")
    if made.model.chat is not None:
        raise ConfigError("model.chat belongs to the task here; say --apply_chat_template")
    made = replace(made, hardware=device.resolve(made.hardware))
    if made.weights != "real":
        raise ConfigError("weights=dummy writes no text; leave it out")
    files = resolve_checkpoint(made.model.checkpoint, layout=made.model.layout, family=made.model.decoder.family)
    family = made.model.decoder.family
    if files.mode(family).in_blocks:
        raise ConfigError(
            f"checkpoint {files.name} writes block after block, which is not answered to lm-eval; use model=llama for "
            "its autoregressive mode, or another checkpoint"
        )
    memory_estimate.require_model(made, files)
    checkpoint = load_checkpoint(files, made.hardware, "real")
    side = Side(job=made, checkpoint=checkpoint, samples=samples, greedy=greedy)
    require_numbers(
        checkpoint, checkpoint.engine("eager", family), checkpoint.to_device([[side.start_id]]), made.hardware.dtype
    )
    return side


def decoder_settings(settings: "DecoderConfig", how: Answering) -> "DecoderConfig":
    """The decoder's settings with what a task asks for.

    Raises:
        ConfigError: it asks for what this decoder has not.
    """
    changes: dict[str, Any] = {"temperature": how.temperature}
    for key, value in how.others:
        if value is None or (how.temperature == 0 and key in _NEEDLESS_WHEN_GREEDY):
            continue
        if key != "top_p" or not hasattr(settings, key):
            raise ConfigError(
                f"the task generates with {key}={value}, which the {settings.family} decoder has not; "
                f"say --gen_kwargs {key}=None to do without"
            )
        changes[key] = value
    try:
        return replace(settings, **changes)
    except ValueError as error:
        raise ConfigError(f"the task's generation settings {changes}: {' '.join(str(error).split())}") from error


def before(text: str, until: Sequence[str]) -> str:
    """A text up to the first of several endings; an empty ending ends nothing."""
    ends = [at for ending in until if ending and (at := text.find(ending)) >= 0]
    return text[: min(ends, default=len(text))]


def _own_seed(seed: int, context: Sequence[int], rest: Sequence[int]) -> int:
    """A seed of 63 bits for one request: the same wherever it stands among others."""
    named = f"{seed}/{list(context)}/{list(rest)}".encode()
    return int.from_bytes(hashlib.sha256(named).digest()[:8], "big") >> 1


def _compose(settings: Mapping[str, Any]) -> "Job":
    """A job's configuration from llmbench's keys, as the command line composes it."""
    from llmbench.config.build import build_job
    from llmbench.config.compose import composing
    from llmbench.config.conf_files import override

    with composing() as compose:
        return build_job(compose([override(key, value) for key, value in settings.items()]))
