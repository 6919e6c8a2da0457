"""Tiny random checkpoints with the special tokens, tokenizer layout and chat templates of the Instruct models."""

import json

import tiny_models

HEADERS = ("<|start_header_id|>", "<|end_header_id|>")
LLAMA = ("<|begin_of_text|>", "<|end_of_text|>", *HEADERS, "<|eot_id|>")
LLADA = ("<|startoftext|>", "<|endoftext|>", *HEADERS, "<|eot_id|>", "<|mdm_mask|>")
BEGIN, END, TURN, MASK = 256, 257, 260, 261  # ids: 256 bytes come first, then the tokens above
VOCAB = 264

_TURNS = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
    "message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
)
_ANSWER = "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
ALWAYS = _TURNS + _ANSWER  # LLaMA-3-Instruct's early revisions, and LLaDA-Instruct: also behind an answer
ASKED = _TURNS + "{% if add_generation_prompt %}" + _ANSWER + "{% endif %}"


def write(folder, *, causal=True, template=ALWAYS, eos=None, adds_bos=True, as_file=False, **configuration):
    """A checkpoint; LLaMA's tokens if it is causal, else LLaDA's.

    Args:
        folder: where.
        causal: the kind.
        template: None for a base model.
        eos: the tokenizer's end token; by default the end of a text, not of a turn.
        adds_bos: the tokenizer puts a BOS before a plain text.
        as_file: the template in chat_template.jinja, not in tokenizer_config.json.
        configuration: changes to config.json; `...` removes a key.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    special = list(LLAMA if causal else LLADA)
    tiny_models.model(causal=causal, vocab=VOCAB).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    values = json.loads((folder / "config.json").read_text()) | {"bos_token_id": BEGIN, "eos_token_id": END}
    values |= {"pad_token_id": ...} if causal else {"pad_token_id": END, "mask_token_id": MASK}
    values = {key: value for key, value in (values | configuration).items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(values))
    tokenizer = Tokenizer(
        models.BPE(vocab={c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, merges=[])
    )
    tokenizer.add_special_tokens(special)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{special[0]} $A", special_tokens=[(special[0], BEGIN)]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    said = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": special[0], "eos_token": eos or special[1]}
    said |= {} if causal else {"pad_token": special[1]}
    if as_file and template:
        (folder / "chat_template.jinja").write_text(template)
    elif template:
        said["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    return folder
