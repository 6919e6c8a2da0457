"""What is known of a checkpoint without its weights: its roles, its special tokens, how text becomes ids."""

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmbench.config.modes import Mode, Modes
from llmbench.errors import CheckpointError, EditableCheckpointError, one_line
from llmbench.record import Family
from llmbench.system.quiet import quiet_transformers

if TYPE_CHECKING:
    from llmbench.checkpoints.layouts import Layout
    from llmbench.data.workloads import Prompt


@dataclass(frozen=True, kw_only=True)
class CheckpointFiles:
    """A checkpoint that can be loaded: everything that is known without its weights."""

    name: str
    path: Path  # folder
    gguf: str | None  # the file in that folder that holds everything, or None for a Hugging Face folder
    digest: str  # sha256 over configuration, tokenizer and the weights that are read; 12 hexadecimal digits
    without_weights: str  # the same over configuration and tokenizer alone: all that is known of a served checkpoint
    context: int  # tokens, prompt and output together
    stop_ids: tuple[int, ...]  # that end an output; none with dummy weights
    special_ids: frozenset[int]  # that the configuration gives a role: stop, padding, mask, beginning of text
    pad_id: int
    mask_id: int | None  # diffusion
    has_tokenizer: bool
    writes_text: bool  # False with dummy weights
    modes: Modes = field(compare=False)  # the ways in which it can be decoded
    config: Any = field(repr=False, compare=False)  # Transformers' configuration
    layout: "Layout | None" = field(repr=False, compare=False)  # how its files say what Transformers says otherwise

    @property
    def location(self) -> tuple[Path, str | None]:
        """Folder and GGUF file. Digests do not replace it: that of a server's checkpoint leaves the weights out."""
        return self.path.resolve(), self.gguf

    @property
    def families(self) -> str:
        """The families of decoders that it has a mode for, in words."""
        return " and ".join(self.modes)

    def mode(self, family: Family) -> Mode:
        """How a family of decoders sees it; `require_family` says whether it can."""
        return self.modes[family]

    def require_family(self, kind: Family, *, here: bool = True) -> None:
        """Check that a model under test can be decoded as asked.

        Args:
            kind: of the decoder.
            here: it is run by this project, not by a server.

        Raises:
            CheckpointError: its attention is of the other kind, or its blocks are not of the Llama kind.
        """
        from llmbench.models import llama

        if kind not in self.modes:
            side = "llada" if "diffusion" in self.modes else "llama"
            raise CheckpointError(f"checkpoint {self.name} is {self.families}, the decoder is {kind}; use model={side}")
        if here and self.config.model_type not in llama.BLOCKS:
            raise CheckpointError(
                f"checkpoint {self.name}: model_type {self.config.model_type} can judge but not be measured; "
                f"a model under test must be {' or '.join(llama.BLOCKS)}"
            )

    def require_judge(self) -> None:
        """Check that this checkpoint can score other models' texts.

        Raises:
            CheckpointError: it is not causal, or has no token for the end of a text.
        """
        if "autoregressive" not in self.modes:
            raise CheckpointError(f"checkpoint {self.name} is {self.families}; a judge must be autoregressive")
        if not self.stop_ids:
            raise CheckpointError(
                f"checkpoint {self.name} has no eos_token_id, which a judge needs; set it in config.json"
            )

    def prompt_ids(self, prompt: "Prompt", *, chat: bool = False) -> list[int]:
        """Ids that the model reads for a prompt: its text's, or ordinary tokens chosen by a synthetic prompt's draws.

        Args:
            prompt: of the workload.
            chat: its text stands in the tokenizer's chat template, as a question that awaits an answer.

        Raises:
            CheckpointError: as `tokenize`, or the template cannot be used.
        """
        from llmbench.checkpoints import chat_template

        if prompt.draws is None:
            if not chat:
                return self.tokenize(prompt.text)
            text = chat_template.render(self.tokenizer, chat_template.question(prompt.text), self.name)
            return self.tokenize(text, rendered=True)
        ordinary = self.ordinary_ids
        return [ordinary[draw % len(ordinary)] for draw in prompt.draws]

    @functools.cached_property
    def ordinary_ids(self) -> tuple[int, ...]:
        """Every id without a role: neither special nor added in the tokenizer, nor beyond its vocabulary."""
        special, size = set(self.special_ids), self.config.vocab_size
        if self.has_tokenizer:
            special |= {*self.tokenizer.all_special_ids, *self.tokenizer.added_tokens_decoder}
            size = min(size, len(self.tokenizer))
        return tuple(i for i in range(size) if i not in special)

    @functools.cached_property
    def start_ids(self) -> tuple[int, ...]:
        """What the tokenizer puts before every text: a start token, or nothing."""
        whole, own = (self.tokenizer("a", add_special_tokens=added)["input_ids"] for added in (True, False))
        before = next((i for i in range(len(whole)) if whole[i : i + len(own)] == own), 0)
        return tuple(whole[:before])

    def tokenize(self, text: str, *, rendered: bool = False) -> list[int]:
        """Ids of a prompt, behind the special tokens that the tokenizer adds; a BOS in the text is not doubled.

        Stop tokens behind the prompt go, such as those of `add_eos_token`: it is to be continued.

        Args:
            text: of the prompt.
            rendered: a chat template wrote it, its special tokens too, so none are added.

        Raises:
            CheckpointError: there is no token, or one that the model does not have.
        """
        ids: list[int] = self.tokenizer(text, add_special_tokens=not rendered)["input_ids"]
        bos = self.tokenizer.bos_token_id
        if bos is not None and ids[:2] == [bos, bos]:
            ids = ids[1:]
        stop = {*self.stop_ids, self.tokenizer.eos_token_id}
        while not rendered and ids and ids[-1] in stop:
            ids = ids[:-1]
        if not set(ids) - {bos}:
            raise CheckpointError(f"checkpoint {self.name}: the prompt {text[:80]!r} has no token; leave it out")
        if self.mask_id in ids:
            raise CheckpointError(
                f"checkpoint {self.name}: the prompt {text[:80]!r} holds the mask token {self.mask_id} "
                f"({self.tokenizer.decode([self.mask_id])!r}), which would be filled in; leave it out"
            )
        if max(ids) >= self.config.vocab_size:
            raise CheckpointError(
                f"checkpoint {self.name}: its tokenizer makes id {max(ids)}, its vocab_size is "
                f"{self.config.vocab_size}; use the tokenizer that it was trained with"
            )
        return ids

    def text_behind(self, prompt: list[int], output: list[int]) -> str:
        """What an output adds to the text of its prompt; special tokens are no text.

        A decoder of SentencePiece's kind strips the first blank of all that it is given, and an output alone would
        lose the one before its first word. Where the two meet inside a character, or in bytes that are no text, the
        end of the prompt reads differently with the output: it is then decoded alone, and begins with no blank.
        """
        before, whole = self._decode(prompt), self._decode(prompt + output)
        return whole[len(before) :] if whole.startswith(before) else self._decode(output)

    def _decode(self, ids: list[int]) -> str:
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    @property
    def has_chat_template(self) -> bool:
        """Whether the tokenizer came with a chat template, as those of instruction-tuned checkpoints do."""
        from llmbench.checkpoints import chat_template

        return self.has_tokenizer and chat_template.has_template(self.tokenizer)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, read once per process.

        Raises:
            CheckpointError: there is none, or it cannot be read.
        """
        if not self.has_tokenizer:
            raise CheckpointError(f"checkpoint {self.name} has no tokenizer; add workload=synthetic")
        return _tokenizer(
            self.path, self.gguf, self.layout is not None, self.layout and self.layout.tokenizer, self.name, self.digest
        )


@functools.lru_cache(maxsize=8)
def _tokenizer(folder: Path, gguf: str | None, laid_out: bool, kind: str | None, name: str, digest: str) -> Any:
    """Read a tokenizer; `digest` makes the cache forget when the files change.

    Args:
        folder: of the checkpoint.
        gguf: the file in it that holds everything, if there is one.
        laid_out: Transformers does not know config.json, and must not look at it.
        kind: the model type whose tokenizer class reads it; None: tokenizer_config.json says it.
        name: of the checkpoint.
        digest: of the checkpoint.
    """
    from transformers import AutoTokenizer, PreTrainedConfig

    source: dict[str, Any] = {"gguf_file": gguf} if gguf else {}
    source |= {"config": PreTrainedConfig()} if laid_out else {}
    source |= {"tokenizer_type": kind} if kind else {}
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **source)
    except Exception as error:  # each kind of tokenizer raises its own
        raise CheckpointError(f"checkpoint {name}: its tokenizer cannot be read: {one_line(error)}") from error
    if getattr(tokenizer, "split_special_tokens", False):
        raise EditableCheckpointError(
            f"checkpoint {name}: its tokenizer reads special tokens letter by letter; set split_special_tokens to "
            "false in tokenizer_config.json"
        )
    return tokenizer
