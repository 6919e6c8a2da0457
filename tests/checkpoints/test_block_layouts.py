"""Models that write in blocks, from the files of the hub, in every mode, compared with a plain model."""

from pathlib import Path

import block_references as plain
import hub_checkpoints as hub
import pytest
import torch

from llmbench.checkpoints import layouts
from llmbench.checkpoints.load import load_checkpoint
from llmbench.checkpoints.resolve import resolve_checkpoint
from llmbench.config.job import HardwareConfig
from llmbench.config.modes import Mode
from llmbench.errors import CheckpointError

CPU = HardwareConfig(device="cpu", dtype="float32")
MODES = {
    "nemotron_labs_diffusion": {
        "autoregressive": Mode(attention="causal"),
        "diffusion": Mode(attention="causal_context", block_length=32, seeded=True, minimum="remaining"),
    },
    "sdar": {"diffusion": Mode(attention="block_causal", block_length=4)},
    "fast_dllm_qwen": {"diffusion": Mode(attention="block_causal", block_length=32, sub_block_length=8, logit_shift=1)},
    "a2d-qwen3": {
        "diffusion": Mode(attention="block_causal", block_length=32, blocks_from="prompt_end", minimum="rounded")
    },
}
EVERY = [(kind, family) for kind, families in MODES.items() for family in families]
PROMPTS = {"unpadded": [21, 21], "padded": [21, 6, 17]}  # beyond the 16 positions from which on queries are scaled


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    return {kind: (root / kind, hub.write(root / kind, kind)) for kind in MODES}


def loaded(folder):
    return load_checkpoint(resolve_checkpoint(str(folder)), CPU, "real")


def rows(lengths):
    """Random rows of text, left-padded: ids [B, S], mask [B, S] or None."""
    generator, width = torch.Generator().manual_seed(1), max(lengths)
    ids = torch.randint(0, hub.MASK, (len(lengths), width), generator=generator)
    mask = torch.tensor([[i >= width - n for i in range(width)] for n in lengths])
    return ids.masked_fill(~mask, hub.PAD), (None if mask.all() else mask)


def near(found, expected):
    return torch.allclose(found, expected, atol=1e-5, rtol=0)


def sees(mode, prompt, start, end):
    """What each position up to `end` sees while a block that begins at `start` is written; no block: start == end."""
    if mode.attention == "block_causal":
        first = prompt % mode.block_length if mode.blocks_from == "prompt_end" else 0
        return plain.block_causal(end, mode.block_length, first)
    return plain.causal_context(end, start)


@pytest.mark.parametrize("engine", ["eager", "fused"])
@pytest.mark.parametrize("lengths", PROMPTS.values(), ids=PROMPTS)
@pytest.mark.parametrize(("kind", "family"), EVERY)
def test_a_prompt_is_read_as_its_mode_says(stored, kind, family, lengths, engine):
    folder, model = stored[kind]
    checkpoint = loaded(folder)
    ids, mask = rows(lengths)
    found = checkpoint.engine(engine, family).logits(ids, mask)
    for row, length in enumerate(lengths):
        visible = sees(checkpoint.files.mode(family), length, length, length)
        assert near(found[row, -length:], model.logits(ids[row, -length:], visible))
    assert not hub.ran(folder)


@pytest.mark.parametrize("lengths", PROMPTS.values(), ids=PROMPTS)
@pytest.mark.parametrize("kind", MODES)
def test_two_blocks_behind_a_prompt_and_the_cache_between_them(stored, kind, lengths):
    """Steps and commits give the logits of whole sequences: the cache is exact where a block ends."""
    folder, model = stored[kind]
    checkpoint = loaded(folder)
    mode, engine = checkpoint.files.mode("diffusion"), checkpoint.engine("fused", "diffusion")
    ids, mask = rows(lengths)
    size, width = mode.block_length, ids.shape[1]
    begin = [n - n % size if mode.aligned else n for n in lengths]  # where each row's first block begins
    filled, _ = rows([width + 2 * size] * len(lengths))
    texts = [[*ids[row, -n:].tolist(), *filled[row].tolist()] for row, n in enumerate(lengths)]
    cache = engine.new_cache(len(lengths), width + 2 * size)
    engine.denoise(ids, mask, ids[:, :0], cache)
    for _ in range(2):
        final = torch.tensor([text[at : at + size] for text, at in zip(texts, begin, strict=True)])
        noisy = final.clone()
        noisy[:, 1::2] = hub.MASK
        start = torch.tensor([width - n + at for n, at in zip(lengths, begin, strict=True)])
        step = engine.head(engine.extend(noisy, start, cache, causal=False))
        commit = engine.head(engine.extend(final, start, cache, causal=mode.causal_prompt))
        for row, (text, at, length) in enumerate(zip(texts, begin, lengths, strict=True)):
            end = at + size
            written = model.logits([*text[:at], *noisy[row].tolist()], sees(mode, length, at, end))
            assert near(step[row], written[at:])
            assert near(commit[row], model.logits(text[:end], sees(mode, length, end, end))[at:])
        begin = [at + size for at in begin]


@pytest.mark.parametrize("kind", MODES)
def test_a_layout_says_what_the_decoders_must_know(stored, kind):
    files = resolve_checkpoint(str(stored[kind][0]))
    assert files.modes == MODES[kind]
    assert (files.stop_ids, files.mask_id, files.pad_id) == ((hub.EOS,), hub.MASK, hub.PAD)
    assert files.tokenize("ABBA") == [32, 33, 33, 32]
    assert not hub.ran(files.path)


def test_a_rotation_whose_attention_factor_is_not_one(tmp_path):
    """The ratio of 0.1 m ln(factor) + 1 for both numbers; the hub's are equal."""
    rope = hub.NEMOTRON["rope_parameters"] | {"mscale_all_dim": 0.5}
    hub.write(tmp_path / "nemotron", "nemotron_labs_diffusion", rope_parameters=rope)
    model = hub.Plain("nemotron_labs_diffusion", yarn=rope)
    ids, _ = rows([21])
    assert model.frequencies()[1] == pytest.approx(1.27726 / 1.13863, abs=1e-5)
    found = loaded(tmp_path / "nemotron").engine("eager", "autoregressive").logits(ids, None)[0]
    assert near(found, model.logits(ids[0], plain.causal(21)))


@pytest.mark.parametrize(
    ("kind", "mask", "stop", "pad"),
    [
        ("sdar", 151669, [151643, 151645], 151643),
        ("fast_dllm_qwen", 151665, [151645, 151643], 151645),
        ("a2d-qwen3", 151669, [151645, 151643], 151643),
    ],
)
def test_tokens_that_config_json_does_not_name(tmp_path, kind, mask, stop, pad):
    hub.write(tmp_path / kind, kind)
    hub.edit(
        tmp_path / kind / "config.json", vocab_size=151936, mask_token_id=..., pad_token_id=..., eos_token_id=stop[0]
    )
    files = resolve_checkpoint(str(tmp_path / kind), "dummy")
    assert (files.mask_id, files.config.eos_token_id, files.pad_id) == (mask, stop, pad)


ROPE = hub.NEMOTRON["rope_parameters"]


@pytest.mark.parametrize(
    ("kind", "change", "expected"),
    [
        ("nemotron_labs_diffusion", {"dlm_paradigm": "autoregressive"}, "dlm_paradigm is 'autoregressive'"),
        ("nemotron_labs_diffusion", {"block_size": 16}, "block_size is 16"),
        ("nemotron_labs_diffusion", {"attention_bias": True}, "attention_bias is True"),
        ("nemotron_labs_diffusion", {"sliding_window": 4096}, "sliding_window is 4096"),
        ("nemotron_labs_diffusion", {"rope_parameters": ...}, "rope_parameters.rope_type is missing"),
        ("nemotron_labs_diffusion", {"rope_parameters": ROPE | {"rope_type": "default"}}, "rope_type is 'default'"),
        ("nemotron_labs_diffusion", {"rope_parameters": ROPE | {"llama_4_scaling_beta": None}}, "beta is None"),
        ("nemotron_labs_diffusion", {"head_dim": 8}, "has shape"),
        ("nemotron_labs_diffusion", {"mask_token_id": ...}, "config.json has no mask_token_id"),
        ("nemotron_labs_diffusion", {"tie_word_embeddings": True}, "set it to false"),
        ("sdar", {"block_size": 32}, "block_size is 32"),
        ("sdar", {"model_type": "sdar_moe"}, "model_type 'sdar_moe'"),
        ("sdar", {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ("sdar", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_scaling is {"),
        ("fast_dllm_qwen", {"bd_size": ...}, "bd_size is missing"),
        ("fast_dllm_qwen", {"use_sliding_window": True}, "use_sliding_window is True"),
        ("a2d-qwen3", {"attention_bias": True}, "attention_bias is True"),
        ("a2d-qwen3", {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "rope_type is 'linear'"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_what_the_blocks_do_not_compute_is_named(tmp_path, kind, change, expected):
    hub.write(tmp_path / kind, kind)
    hub.edit(tmp_path / kind / "config.json", **change)
    with pytest.raises(CheckpointError) as caught:
        loaded(tmp_path / kind)
    assert expected in str(caught.value)
    assert str(caught.value).startswith(f"checkpoint {kind}: ")
    assert "\n" not in str(caught.value)
    assert not hub.ran(tmp_path)


@pytest.mark.parametrize(
    ("shape", "kind", "said"),
    [
        ("nemotron-labs-diffusion-8b", "nemotron_labs_diffusion",
         {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 34, "num_attention_heads": 32,
          "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 131072, "max_position_embeddings": 262144,
          "mask_token_id": 100, "eos_token_id": 11,
          "rope_parameters": ROPE | {"rope_theta": 1e6, "original_max_position_embeddings": 16384}}),
        ("sdar-8b", "sdar",
         {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32,
          "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "max_position_embeddings": 32768,
          "mask_token_id": ..., "eos_token_id": 151643}),
        ("fast-dllm-v2-1.5b", "fast_dllm_qwen",
         {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
          "num_key_value_heads": 2, "vocab_size": 151936, "max_position_embeddings": 32768,
          "mask_token_id": ..., "eos_token_id": 151645, "pad_token_id": 151645}),
        ("qwen3-0.6b-bd3lm", "a2d-qwen3",
         {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
          "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "max_position_embeddings": 40960,
          "mask_token_id": ..., "eos_token_id": 151645, "pad_token_id": 151643}),
    ],
)  # fmt: skip
def test_a_shape_is_what_the_layout_makes_of_the_hubs_configuration(tmp_path, shape, kind, said):
    hub.write(tmp_path / kind, kind)
    hub.edit(tmp_path / kind / "config.json", **said)
    made, bundled = resolve_checkpoint(str(tmp_path / kind), "dummy"), resolve_checkpoint(f"shape:{shape}", "dummy")
    keys = (*said, "rms_norm_eps", "tie_word_embeddings", "rope_parameters", "model_type")
    assert {key: getattr(made.config, key) for key in keys} == {key: getattr(bundled.config, key) for key in keys}
    assert (made.modes, made.pad_id, made.context) == (bundled.modes, bundled.pad_id, bundled.context)


def test_the_layout_in_blocks_in_the_documentation_reads_sdar(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text()
    (tmp_path / "docs.yaml").write_text(page[page.rindex("```yaml\n") + 8 :].partition("```")[0])
    hub.write(tmp_path / "sdar", "sdar")
    files = resolve_checkpoint(str(tmp_path / "sdar"), layout=str(tmp_path / "docs.yaml"))
    assert files.mode("diffusion").block_length == 32
    assert layouts.read(tmp_path / "docs.yaml").blocks == "qwen3"
