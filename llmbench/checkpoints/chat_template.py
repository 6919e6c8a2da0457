"""How is a question put to an instruction-tuned checkpoint? With its tokenizer's chat template.

A template is a Jinja program that came with the checkpoint. Transformers renders it in Jinja's
`ImmutableSandboxedEnvironment` (transformers/utils/chat_template_utils.py): it fills in text, reaches neither Python's
objects nor files, and cannot change its arguments. The sandbox does not stop a template that loops for ever.

A rendered chat holds its special tokens as text, the start token among them, so it is tokenized without adding any.
The template also shows which token ends a turn, and that token must end an output: early revisions of
LLaMA-3-Instruct name only the end of a text in their configuration files, and never stop.
"""

from typing import Any

from llmbench.errors import CheckpointError, EditableCheckpointError, one_line

_DATE = "26 Jul 2024"
"""Today's date for templates that write one (LLaMA-3.1 and later fall back to this one)."""

_FIXED_CLOCK = f"{{% macro strftime_now(format) %}}{_DATE}{{% endmacro %}}"
"""For templates that ignore `date_string` and call a clock (SmolLM3): prompts must not change from day to day."""

_ANSWER = "Answer."

_WITHOUT = "use model.chat=false, or leave out --apply_chat_template"


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
        answer: start the assistant's turn after the last one; False leaves the last turn open to be continued.

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


def turn_end(tokenizer: Any) -> int | None:
    """The special token that the template writes after an answer; None if it writes none or fails on answers."""
    if not has_template(tokenizer):
        return None
    chat = [*question("Question?"), {"role": "assistant", "content": _ANSWER}]
    try:
        text = _render(tokenizer, chat, add_generation_prompt=False)
    except Exception:  # a question does not need this turn; if the template fails there too, `render` raises
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
    """Special and added tokens, by id."""
    roles = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    return {int(i): str(token) for i, token in (roles | tokenizer.added_tokens_decoder).items()}


def stop_ids(tokenizer: Any, named: tuple[int, ...], vocabulary: int, name: str) -> tuple[int, ...]:
    """Tokens that end an output (end of text and end of turn): the configuration's, then the tokenizer's.

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
        raise EditableCheckpointError(
            f"checkpoint {name}: eos_token_id {ordinary[0]} of its configuration is ordinary text "
            f"({tokenizer.decode(ordinary[:1])!r}) in its tokenizer, which ends texts with {end} "
            f"({tokenizer.eos_token}); make them agree"
        )
    found = [i for i in (end, turn_end(tokenizer)) if i is not None]
    for i in found:
        if not 0 <= i < vocabulary:
            raise CheckpointError(
                f"checkpoint {name}: its tokenizer ends with id {i} ({special.get(i)}), its vocab_size is "
                f"{vocabulary}; use the tokenizer that it was trained with"
            )
    return tuple(dict.fromkeys((*named, *found)))


def require_agreement(tokenizer: Any, config: Any, name: str) -> None:
    """Refuse a tokenizer whose mask token, or a diffusion model's padding, is not the configuration's.

    What a causal model's prompts are padded with is never looked at.

    Raises:
        CheckpointError: naming both ids.
    """
    causal = getattr(config, "is_causal", True) is not False
    for role in ("mask_token_id",) if causal else ("pad_token_id", "mask_token_id"):
        ours, theirs = getattr(config, role, None), getattr(tokenizer, role, None)
        if ours not in (None, -1, theirs) and theirs is not None:
            raise EditableCheckpointError(
                f"checkpoint {name}: {role} is {ours} in its configuration, but {theirs} "
                f"({special_tokens(tokenizer).get(theirs)}) in its tokenizer; make them agree"
            )


def _render(tokenizer: Any, chat: list[dict[str, str]], **options: bool) -> str:
    template = tokenizer.get_chat_template()
    if "strftime_now" in template:
        template = _FIXED_CLOCK + template
    text: str = tokenizer.apply_chat_template(
        chat, chat_template=template, tokenize=False, date_string=_DATE, **options
    )
    return text
