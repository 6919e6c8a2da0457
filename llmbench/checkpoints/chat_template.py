"""How is a question put to an instruction-tuned checkpoint? In the words of its tokenizer's own chat template.

A template is a Jinja program that came with the checkpoint. Transformers renders it in Jinja's
`ImmutableSandboxedEnvironment` (transformers/utils/chat_template_utils.py): it can fill in text, but reaches neither
Python's objects nor files, and cannot change what it is given. So nothing that came with a checkpoint is run. What a
sandbox does not refuse is a template without end: `rehearse` tries it in a process that may be killed.

A rendered chat holds its special tokens as text, the beginning of the text among them: it is tokenized without adding
any (`CheckpointFiles.prompt_ids`). The template says too which token ends a turn, and that token must end an output:
early revisions of LLaMA-3-Instruct name the end of a text alone, in every configuration file, and never stop.
"""

from collections.abc import Callable, Sequence
from typing import Any

from llmbench.checkpoints import sandbox
from llmbench.errors import CheckpointError, one_line

_DATE = "26 Jul 2024"
"""What templates that write a date (LLaMA-3.1 and later) take for today; it is the one that they fall back to."""

_ITS_CLOCK = f"{{% macro strftime_now(format) %}}{_DATE}{{% endmacro %}}"
"""For templates that ask a clock whatever they are told (SmolLM3): prompts would be others on another day."""

_ANSWER = "Answer."

_CHARACTERS_PER_SECOND = 20_000
"""What the slowest tokenizer reads in any case: large workloads get the time that they need."""

_WITHOUT = "model.chat=false does without it, as does the harness without --apply_chat_template"


def has_template(tokenizer: Any) -> bool:
    """Whether a tokenizer came with a chat template."""
    return bool(getattr(tokenizer, "chat_template", None))


def question(text: str) -> list[dict[str, str]]:
    """The chat that a prompt is: one user's turn."""
    return [{"role": "user", "content": text}]


def render(tokenizer: Any, chat: list[dict[str, str]], name: str, *, answer: bool = True) -> str:
    """The text that a model reads for a chat.

    Args:
        tokenizer: with a template.
        chat: role and content of every turn.
        name: of the checkpoint, for messages.
        answer: the answer's turn begins behind it; else its last turn is left open, to be gone on with.

    Raises:
        CheckpointError: the template fails, writes nothing, or leaves the question out.
    """
    try:
        text = _render(tokenizer, chat, add_generation_prompt=answer, continue_final_message=not answer)
    except Exception as error:  # a template may raise whatever it likes
        raise CheckpointError(f"checkpoint {name}: its chat template fails: {one_line(error)}; {_WITHOUT}") from error
    if not text.strip():
        raise CheckpointError(f"checkpoint {name}: its chat template writes nothing; {_WITHOUT}")
    if not all(word in text for word in chat[-1]["content"].split()[:1]):
        raise CheckpointError(f"checkpoint {name}: its chat template leaves the question out; {_WITHOUT}")
    return text


def rehearse(read: Callable[[str], list[int]], prompts: Sequence[str], name: str) -> None:
    """Refuse a template or a tokenizer that does not come to an end with one of the prompts.

    Args:
        read: the ids of a prompt.
        prompts: everything that will be read.
        name: of the checkpoint, for messages.

    Raises:
        CheckpointError: it does not end; what else may be wrong is said where it is read.
    """

    def all_of_them() -> str:
        for prompt in prompts:
            read(prompt)
        return "read"

    try:
        sandbox.run(all_of_them, sum(map(len, prompts)) // _CHARACTERS_PER_SECOND)
    except sandbox.Unbounded as error:
        raise CheckpointError(f"checkpoint {name}: its tokenizer cannot be used: {error}; {_WITHOUT}") from error
    except ValueError:
        pass


def turn_end(tokenizer: Any, name: str) -> int | None:
    """The special token that the template writes behind an answer; None where it writes none or takes no answers.

    Raises:
        CheckpointError: the template does not end.
    """
    if not has_template(tokenizer):
        return None
    chat = [*question("Question?"), {"role": "assistant", "content": _ANSWER}]
    try:
        text = sandbox.run(lambda: _render(tokenizer, chat, add_generation_prompt=False))
    except sandbox.Unbounded as error:
        raise CheckpointError(f"checkpoint {name}: its chat template fails: {error}; take it out") from error
    except ValueError:  # it is not needed for a question; if it fails there as well, `render` says so
        return None
    _, found, rest = text.rpartition(_ANSWER)
    special = special_tokens(tokenizer)
    ids = tokenizer(rest, add_special_tokens=False)["input_ids"] if found else []
    for token in ids:
        if token in special:
            return int(token)
        if tokenizer.decode([token]).strip():
            return None
    return None


def special_tokens(tokenizer: Any) -> dict[int, str]:
    """Every token that is more than a piece of text, by id: those with a role, and those that were added."""
    roles = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    return {int(i): str(token) for i, token in (roles | tokenizer.added_tokens_decoder).items()}


def stop_ids(tokenizer: Any, named: tuple[int, ...], vocabulary: int, name: str) -> tuple[int, ...]:
    """Tokens of both kinds that end an output, of a text and of a turn: the configuration's, then the tokenizer's.

    Args:
        tokenizer: of the checkpoint.
        named: by config.json and generation_config.json.
        vocabulary: of the model.
        name: of the checkpoint, for messages.

    Raises:
        CheckpointError: the configuration's tokens are ordinary text in this tokenizer, or the tokenizer's are outside
            the model's vocabulary.
    """
    end, special = tokenizer.eos_token_id, special_tokens(tokenizer)
    ordinary = [i for i in named if i not in special]
    if ordinary and end is not None and end not in named:
        raise CheckpointError(
            f"checkpoint {name}: eos_token_id {ordinary[0]} of its configuration is ordinary text "
            f"({tokenizer.decode(ordinary[:1])!r}) in its tokenizer, which ends texts with {end} "
            f"({tokenizer.eos_token}); make them agree"
        )
    found = [i for i in (end, turn_end(tokenizer, name)) if i is not None]
    for i in found:
        if not 0 <= i < vocabulary:
            raise CheckpointError(
                f"checkpoint {name}: its tokenizer ends with id {i} ({special.get(i)}), its vocab_size is "
                f"{vocabulary}; use the tokenizer that it was trained with"
            )
    return tuple(dict.fromkeys((*named, *found)))


def require_agreement(tokenizer: Any, config: Any, name: str) -> None:
    """Refuse a tokenizer whose padding or mask token is not the configuration's.

    Raises:
        CheckpointError: naming both ids.
    """
    for role in ("pad_token_id", "mask_token_id"):
        ours, theirs = getattr(config, role, None), getattr(tokenizer, role, None)
        if ours not in (None, -1, theirs) and theirs is not None:
            raise CheckpointError(
                f"checkpoint {name}: {role} is {ours} in its configuration, but {theirs} "
                f"({special_tokens(tokenizer).get(theirs)}) in its tokenizer; make them agree"
            )


def _render(tokenizer: Any, chat: list[dict[str, str]], **how: bool) -> str:
    template = tokenizer.get_chat_template()
    if "strftime_now" in template:
        template = _ITS_CLOCK + template
    text: str = tokenizer.apply_chat_template(chat, chat_template=template, tokenize=False, date_string=_DATE, **how)
    return text
