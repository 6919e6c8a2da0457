"""Every kind of model that may be measured: forward, decoding, sizes and files, compared with Transformers' own."""

import pytest
import tiny_models
import torch
from tiny_models import write_tokenizer

from llmbench import decoding
from llmbench.checkpoints.load import load_checkpoint
from llmbench.checkpoints.resolve import resolve_checkpoint
from llmbench.config.decoders import Autoregressive
from llmbench.config.job import HardwareConfig
from llmbench.decoding.base import PromptBatch
from llmbench.errors import CheckpointError, ConfigError
from llmbench.models import architecture, blocks, llama
from llmbench.models.engine import EagerEngine
from llmbench.models.fused import FusedEngine

CPU = HardwareConfig(device="cpu", dtype="float32")
CAUSAL = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": 1}


def yarn(**changes):
    """A rotation of 4 positions stretched to 64, and queries scaled from the fourth position on, as Ministral3's."""
    values = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 16.0, "original_max_position_embeddings": 4,
              "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1}  # fmt: skip
    return {"rope_parameters": values | changes}


def build(kind, **changes):
    from transformers import CONFIG_MAPPING

    if kind == "ministral3":
        changes = yarn() | changes

    values = {"vocab_size": 259, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8,
              "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
              "rms_norm_eps": 1e-5, "tie_word_embeddings": False}  # fmt: skip
    config = CONFIG_MAPPING[kind].from_dict(values | CAUSAL | changes)
    made = llama.dummy(config, torch.float32, "cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in made.parameters():
            weight.normal_(0 if weight.dim() > 1 else 1, 0.3, generator=generator)
    return made


ENGINES = [(kind, EagerEngine) for kind in llama.BLOCKS] + [(kind, FusedEngine) for kind in blocks.FUSED]


@pytest.mark.parametrize(("kind", "make"), ENGINES)
def test_forward_and_decoding_are_transformers_own(kind, make):
    model = build(kind)
    engine = make(model)
    ids, mask = tiny_models.prompts([7, 4], vocab=259)
    with torch.inference_mode():
        whole = model(ids[:1]).logits
        alone = model(ids[1:, -4:]).logits
    assert torch.allclose(engine.logits(ids[:1], None), whole, atol=1e-5)
    assert torch.allclose(engine.logits(ids, mask)[1, -4:], alone[0], atol=1e-4)
    settings = Autoregressive(kind="autoregressive", max_new_tokens=8, temperature=0.0, ignore_stop=True)
    decoder = decoding.build(settings, stop_ids=(), pad_id=1, mask_id=None)
    batch = PromptBatch(ids=ids, mask=mask, padding=3)
    made = decoder.generate(engine, batch, seed=0, on_step=None).tokens
    expected = model.generate(
        ids, attention_mask=mask.long(), max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=1
    )
    assert torch.equal(made, expected[:, 7:])


@pytest.mark.parametrize("kind", llama.BLOCKS)
def test_without_a_causal_mask_every_position_sees_the_last(kind):
    engine = EagerEngine(build(kind, is_causal=False, mask_token_id=2))
    for lengths in ([7, 7], [7, 4]):
        ids, mask = tiny_models.prompts(lengths, vocab=259)
        changed = ids.clone()
        changed[:, -1] = (ids[:, -1] + 1) % 259
        moved = (engine.logits(ids, mask) - engine.logits(changed, mask)).abs().amax(-1)
        assert min(moved[0, 0], moved[1, 7 - lengths[1]]) > 1e-3


@pytest.mark.parametrize("kind", llama.BLOCKS)
@pytest.mark.parametrize("changes", [{}, {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}])
def test_the_sizes_are_those_of_the_model(kind, changes):
    if kind in ("mistral", "ministral3") and changes:
        changes = {"tie_word_embeddings": True}  # they have no biases, whatever is said
    if kind == "qwen3":
        changes = {key: value for key, value in changes.items() if key != "mlp_bias"}
    if kind == "qwen2":
        changes = {key: value for key, value in changes.items() if "bias" not in key}
    model = build(kind, **changes)
    counted = sum(weight.numel() for weight in model.parameters())
    assert architecture.from_config(model.config, 4).parameters == counted


@pytest.mark.parametrize("kind", llama.BLOCKS)
def test_stored_and_loaded_it_is_the_same(kind, tmp_path):
    model = build(kind)
    model.save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    loaded = load_checkpoint(resolve_checkpoint(str(tmp_path), family="autoregressive"), CPU, "real")
    ids, _ = tiny_models.prompts([7], vocab=259)
    with torch.inference_mode():
        assert torch.equal(loaded.model(ids).logits, model(ids).logits)


def test_the_fused_engine_refuses_layers_without_rotation():
    with pytest.raises(ConfigError, match="does not compute the blocks of model_type smollm3"):
        blocks.require_fused(build("smollm3").config)


@pytest.mark.parametrize(
    ("kind", "window", "context"),
    [
        ("mistral", {"sliding_window": 16}, 16),
        ("mistral", {"sliding_window": None}, 64),
        ("mistral", {"sliding_window": 4096}, 64),
        ("qwen2", {"sliding_window": 16, "use_sliding_window": False}, 64),
        ("qwen2", {"sliding_window": 16, "use_sliding_window": True, "max_window_layers": 1}, 16),
    ],
)
def test_a_sliding_window_bounds_the_context(kind, window, context, tmp_path):
    build(kind, **window).save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    assert resolve_checkpoint(str(tmp_path)).context == context


@pytest.mark.parametrize("missing", ["llama_4_scaling_beta", "original_max_position_embeddings"])
def test_ministral3s_scale_is_not_guessed(missing, tmp_path):
    import hub_checkpoints as hub

    build("ministral3").save_pretrained(tmp_path)
    hub.edit(tmp_path / "config.json", rope_parameters=yarn()["rope_parameters"] | {missing: None})
    with pytest.raises(CheckpointError, match=f"config.json has no {missing} in rope_parameters"):
        resolve_checkpoint(str(tmp_path))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain") / "llama"
    build("llama").save_pretrained(folder)
    write_tokenizer(folder)
    return folder


@pytest.mark.parametrize("scaling", [None, {"type": "linear", "factor": 4.0}, {"type": "dynamic", "factor": 2.0}])
def test_llama_2s_config_json_does_not_say_rope_theta(plain, tmp_path, scaling):
    import shutil

    import hub_checkpoints as hub

    folder = shutil.copytree(plain, tmp_path / "llama")
    hub.edit(folder / "config.json", rope_parameters=..., rope_scaling=scaling)
    rope = resolve_checkpoint(str(folder)).config.rope_parameters
    assert rope["rope_theta"] == 10000.0
    assert (rope["rope_type"], rope.get("factor")) == (
        ("default", None) if scaling is None else (scaling["type"], scaling["factor"])
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"rms_norm_eps": ...}, "config.json has no rms_norm_eps"),
        ({"rope_parameters": ..., "is_causal": False}, "config.json has no rope_theta"),
        ({"rope_parameters": ..., "model_type": "mistral"}, "config.json has no rope_theta"),
        ({"rope_parameters": ..., "rope_thetta": 1e6}, "config.json has no rope_theta"),
        (
            {"rope_parameters": ..., "rope_scaling": {"rope_type": "yarn", "factor": 2.0}},
            "config.json has no rope_theta",
        ),
        (
            {"rope_parameters": ..., "rope_scaling": {"type": "linear", "factor": 2.0}, "model_type": "qwen2"},
            "no rope_theta",
        ),
        ({"rope_parameters": {"rope_type": "default"}}, "config.json has no rope_theta"),
        ({"rope_parameters": "x"}, "config.json has no rope_theta"),
        ({"is_causal": "false"}, "is_causal is 'false' in config.json; it must be true or false"),
        ({"is_causal": 0}, "is_causal is 0"),
        ({"logit_shift": 1}, "logit_shift 1 is for a diffusion mode"),
        ({"rms_norm_eps": 0}, "rms_norm_eps is 0 in config.json; it must be a positive number"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
        ({"rope_theta": -1.0, "rope_parameters": ...}, "rope_theta is -1.0"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000 in config.json; it must be in 1..1000"),
        ({"num_key_value_heads": 0}, "num_key_value_heads is 0"),
        ({"num_attention_heads": True}, "num_attention_heads is True"),
        ({"hidden_size": 10**30}, "hidden_size is 1000000000000000000000000000000"),
        ({"intermediate_size": -1}, "intermediate_size is -1"),
        ({"head_dim": 0}, "head_dim is 0"),
        ({"vocab_size": 1.5}, "vocab_size is 1.5"),
        ({"hidden_act": "x"}, "config.json describes no model: "),
        ({"eos_token_id": True}, "eos_token_id"),
    ],
    ids=str,
)
def test_numbers_that_would_be_guessed_or_drowned_in(plain, tmp_path, change, expected):
    import shutil

    import hub_checkpoints as hub

    folder = shutil.copytree(plain, tmp_path / "llama")
    hub.edit(folder / "config.json", **change)
    with pytest.raises(CheckpointError) as caught:
        resolve_checkpoint(str(folder))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
