"""LLaDA, Dream and iLLaDA from the files of the hub, through a layout each, compared with a plain model."""

from pathlib import Path

import hub_checkpoints as hub
import pytest
import torch
import torch.nn.functional as F
import yaml

from llmbench.checkpoints import layouts
from llmbench.checkpoints.load import load_checkpoint
from llmbench.checkpoints.resolve import resolve_checkpoint
from llmbench.config.decoders import Diffusion
from llmbench.config.job import HardwareConfig
from llmbench.config.modes import Mode
from llmbench.decoding.base import PromptBatch
from llmbench.decoding.diffusion import DiffusionDecoder
from llmbench.errors import CheckpointError

CPU = HardwareConfig(device="cpu", dtype="float32")
KINDS = ["dream", "illada", "llada"]  # that see everything both ways
LENGTHS = {"unpadded": [7, 7, 7], "padded": [7, 3, 5]}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    return {kind: (root / kind, hub.write(root / kind, kind)) for kind in KINDS}


def loaded(folder, **options):
    return load_checkpoint(resolve_checkpoint(str(folder), **options), CPU, "real")


def rows(lengths):
    """Random rows of text, left-padded: ids [B, S], mask [B, S] or None."""
    generator = torch.Generator().manual_seed(1)
    width = max(lengths)
    ids = torch.randint(0, hub.MASK, (len(lengths), width), generator=generator)
    mask = torch.tensor([[i >= width - n for i in range(width)] for n in lengths])
    return ids.masked_fill(~mask, hub.PAD), (None if mask.all() else mask)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_the_logits_are_those_of_a_plain_model(stored, kind, lengths):
    folder, plain = stored[kind]
    ids, mask = rows(lengths)
    found = loaded(folder).engine("eager").logits(ids, mask)
    for row, length in enumerate(lengths):
        expected = plain.logits(ids[row, -length:])
        assert torch.allclose(found[row, -length:], expected, atol=1e-5, rtol=0), (found - expected).abs().max()
    assert not hub.ran(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_the_fused_engine_reads_them_too(stored, kind):
    folder, plain = stored[kind]
    ids, mask = rows([7, 3])
    found = loaded(folder).engine("fused").logits(ids, mask)
    assert torch.allclose(found[1, -3:], plain.logits(ids[1, -3:]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("kind", "facts", "shift"),
    [
        ("llada", {"context": 128, "stop_ids": (hub.EOS,), "mask_id": hub.MASK}, 0),
        ("dream", {"context": 2048, "stop_ids": (hub.EOS,), "mask_id": hub.MASK}, 1),
        ("illada", {"context": 128, "stop_ids": (hub.EOS,), "mask_id": 5}, 0),
    ],
)
def test_a_layout_says_what_the_decoder_must_know(stored, kind, facts, shift):
    files = resolve_checkpoint(str(stored[kind][0]))
    assert {key: getattr(files, key) for key in facts} == facts
    assert files.modes == {"diffusion": Mode(attention="full", logit_shift=shift)}
    files.require_family("diffusion")
    assert files.tokenize("ABBA") == [32, 33, 33, 32]
    assert not hub.ran(files.path)


def test_stop_tokens_of_a_full_vocabulary(tmp_path):
    hub.write(tmp_path / "llada", "llada", embedding_size=126464, vocab_size=126464, mask_token_id=126336)
    hub.edit(tmp_path / "llada" / "config.json", eos_token_id=126081, pad_token_id=126081)
    files = resolve_checkpoint(str(tmp_path / "llada"), "dummy")
    assert (files.config.eos_token_id, files.config.bos_token_id) == ([126081, 126348], 126080)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_converted_on_the_way(stored, kind, tmp_path):
    hub.write(tmp_path / kind, kind, dtype=torch.bfloat16)
    wide = loaded(tmp_path / kind).model
    half = load_checkpoint(
        resolve_checkpoint(str(stored[kind][0])), HardwareConfig(device="cpu", dtype="bfloat16"), "real"
    ).model
    for (name, one), (_, other) in zip(wide.named_parameters(), half.named_parameters(), strict=True):
        assert (one.dtype, other.dtype) == (torch.float32, torch.bfloat16)
        assert torch.equal(one.bfloat16(), other), name


# ---- the rotation's precision


def half(plain, ids, rotation):
    """Logits [S, V] of ids [S] in bfloat16 as the authors' modules compute them, rotated in the dtype `rotation`."""
    weights = {name: value.bfloat16() for name, value in plain.state.items()}
    names, heads, size = plain.names, plain.heads, plain.size

    def linear(x, part, i):
        name = names[part].format(i=i)
        return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    def normed(x, name):
        x = x.float()
        return weights[name] * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + plain.eps)).bfloat16()

    def rotated(x):
        angles = torch.arange(len(ids))[:, None] / plain.theta ** (torch.arange(0, size, 2) / size)
        cos, sin = (f(torch.cat([angles, angles], -1))[:, None].to(rotation) for f in (torch.cos, torch.sin))
        x = x.to(rotation)
        first, second = x.chunk(2, -1)
        return (x * cos + torch.cat([-second, first], -1) * sin).bfloat16()

    x = weights[names["embed"]][ids]
    for i in range(plain.layers):
        n = normed(x, f"{names['norm1'].format(i=i)}.weight")
        q, k, v = (linear(n, part, i).view(len(ids), -1, size) for part in "qkv")
        q, k, v = (part.transpose(0, 1)[None] for part in (rotated(q), rotated(k), v))
        k, v = (part.repeat_interleave(heads // part.shape[1], 1) for part in (k, v))
        mixed = F.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1).reshape(len(ids), -1)
        x = x + linear(mixed, "o", i)
        n = normed(x, f"{names['norm2'].format(i=i)}.weight")
        x = x + linear(F.silu(linear(n, "gate", i)) * linear(n, "up", i), "down", i)
    return F.linear(normed(x, names["norm"]), weights[names["head"]])


@pytest.mark.parametrize("kind", KINDS)
def test_queries_and_keys_are_rotated_in_the_authors_precision(stored, kind):
    """LLaDA's code rotates in float32 whatever the dtype, Dream's and iLLaDA's in the model's."""
    folder, plain = stored[kind]
    files, ids = resolve_checkpoint(str(folder)), rows([100])[0]
    checkpoint = load_checkpoint(files, HardwareConfig(device="cpu", dtype="bfloat16"), "real")
    wide, narrow = (half(plain, ids[0], dtype) for dtype in (torch.float32, torch.bfloat16))
    right, wrong = (wide, narrow) if kind == "llada" else (narrow, wide)
    engine, where = checkpoint.engine("eager"), torch.arange(100)[None]
    cache = engine.new_cache(1, 100)
    whole = engine.logits(ids, None)[0]
    kept = engine.head(engine.denoise(ids, None, where, cache))[0]
    part = engine.head(engine.refine(ids[:, 60:], None, where[0, 60:], where[:, 60:], cache))[0]
    apart = (right - wrong).abs().max()
    for found, expected in ((whole, right), (kept, right), (part, right[60:])):
        assert (found - expected).abs().max() < apart / 8  # equal, where the kernels round alike


# ---- the shift


def predictions(plain, canvas, shift):
    """The likeliest token at every masked position of one row [S], from the hidden state `shift` before it."""
    logits = plain.logits(canvas)
    logits[:, hub.MASK] = float("-inf")
    return [logits[p - shift].argmax().item() for p in range(len(canvas)) if canvas[p] == hub.MASK]


def decode(checkpoint, engine, ids, mask, **changes):
    base = {"kind": "diffusion", "steps": 1, "canvas": 4, "block_length": 4, "temperature": 0.0}
    decoder = DiffusionDecoder(
        Diffusion(**(base | changes)),
        stop_ids=(),
        mask_id=hub.MASK,
        logit_shift=checkpoint.files.mode("diffusion").logit_shift,
    )
    batch = PromptBatch(ids=ids, mask=mask, padding=0 if mask is None else int((~mask).sum()))
    return decoder.generate(engine, batch, seed=0, on_step=None)


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("kind", ["llada", "dream"])
def test_a_masked_position_is_predicted_from_where_the_layout_says(stored, kind, lengths):
    folder, plain = stored[kind]
    ids, mask = rows(lengths)
    checkpoint = loaded(folder)
    found = decode(checkpoint, checkpoint.engine("eager"), ids, mask).tokens.tolist()
    for row, length in enumerate(lengths):
        canvas = torch.cat([ids[row, -length:], torch.full((4,), hub.MASK)])
        assert found[row] == predictions(plain, canvas, 1 if kind == "dream" else 0)


@pytest.mark.parametrize("cache", ["prefix", "dual"])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_a_cache_keeps_the_shift(stored, cache, lengths):
    """A cache is exact at the first step of a block; later steps read one position more than without a shift."""
    checkpoint = loaded(stored["dream"][0])
    ids, mask = rows(lengths)
    engine = checkpoint.engine("eager")
    plain = decode(checkpoint, engine, ids, mask, steps=2, block_length=2)
    kept = decode(checkpoint, engine, ids, mask, steps=2, block_length=2, cache=cache)
    assert torch.equal(kept.tokens, plain.tokens)
    longer = decode(checkpoint, engine, ids, mask, steps=4, cache=cache)
    assert [shape.queries for shape in longer.forwards] == [11, 5, 5, 5]


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_both_engines_shift_alike(tmp_path, cache, lengths):
    """Llama's blocks with Dream's convention, said in config.json itself."""
    hub.write(tmp_path / "illada", "illada")
    values = yaml.safe_load((layouts.FOLDER / "illada.yaml").read_text())
    values["modes"]["diffusion"]["logit_shift"] = 1
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(values))
    checkpoint = loaded(tmp_path / "illada", layout=str(tmp_path / "mine.yaml"))
    ids, mask = rows(lengths)
    made = [
        decode(checkpoint, checkpoint.engine(kind), ids, mask, canvas=8, steps=6, block_length=4, cache=cache).tokens
        for kind in ("eager", "fused")
    ]
    assert torch.equal(*made)


def test_the_first_tokens_of_a_part_read_anew_are_those_of_the_whole(stored):
    """`refine` at the positions before a block gives what `denoise` gives, while the canvas is the same."""
    checkpoint = loaded(stored["dream"][0])
    engine = checkpoint.engine("eager")
    ids, mask = rows([7, 3])
    cache = engine.new_cache(2, 7)
    positions = torch.tensor([[3, 4, 5], [3, 4, 5]]) + 1
    whole = engine.denoise(ids, mask, positions, cache)
    where = torch.arange(4, 7)
    part = engine.refine(ids.index_select(1, where), mask, where, positions, cache)
    assert torch.allclose(part, whole, atol=1e-5)


def test_held_out_likelihood_is_shifted_too(stored):
    from llmbench.metrics.likelihood import model_likelihood

    folder, plain = stored["dream"]
    checkpoint = loaded(folder)
    ids = rows([2])[0][0]  # one scored token: the mask is known
    found = model_likelihood(
        checkpoint.engine("eager"), [ids.tolist()], ["x"], mode=checkpoint.files.mode("diffusion"), mask_id=hub.MASK,
        samples=1, seed=0, tick=lambda *_: None,
    )  # fmt: skip
    expected = -plain.logits(torch.tensor([ids[0], hub.MASK]))[0].log_softmax(-1)[ids[1]]
    assert found.nll_nats == pytest.approx(expected.item(), abs=1e-5)


# ---- what a layout refuses


@pytest.mark.parametrize(
    ("kind", "change", "expected"),
    [
        ("llada", {"block_type": "sequential"}, "block_type is 'sequential' in config.json"),
        ("llada", {"include_bias": True}, "include_bias is True"),
        ("llada", {"rope": False}, "rope is False"),
        ("llada", {"alibi": True}, "alibi is True"),
        ("llada", {"attention_layer_norm": True}, "attention_layer_norm is True"),
        ("llada", {"scale_logits": True}, "scale_logits is True"),
        ("llada", {"weight_tying": True}, "weight_tying is True"),
        ("llada", {"weight_tying": ...}, "weight_tying is missing"),
        ("llada", {"layer_norm_type": "default"}, "layer_norm_type is 'default'"),
        ("llada", {"activation_type": "swiglu"}, "activation_type is 'swiglu'"),
        ("llada", {"rope_full_precision": 1}, "rope_full_precision is 1"),  # 1 == True in Python
        ("llada", {"mlp_hidden_size": None, "mlp_ratio": None}, "config.json has no mlp_hidden_size"),
        ("llada", {"mlp_hidden_size": None, "mlp_ratio": 1.5}, "config.json has no mlp_hidden_size"),
        ("llada", {"mlp_hidden_size": None}, "has shape"),  # 4 * 32 instead of 48
        ("llada", {"multi_query_attention": True, "n_kv_heads": 1}, "has shape"),
        ("llada", {"rms_norm_eps": ...}, "config.json has no rms_norm_eps"),
        ("llada", {"rope_theta": ...}, "config.json has no rope_theta"),
        ("llada", {"mask_token_id": ...}, "config.json has no mask_token_id"),
        ("llada", {"mask_token_id": hub.VOCAB}, f"mask_token_id {hub.VOCAB} is outside its vocabulary"),
        ("llada", {"mask_token_id": hub.EOS}, f"mask_token_id {hub.EOS} is its pad_token_id too"),
        ("llada", {"n_layers": 3}, "lack model.transformer.blocks.2.attn_norm.weight and 8 more"),
        ("llada", {"n_layers": 10**9}, "num_hidden_layers is 1000000000 in config.json; it must be in 1..1000"),
        ("llada", {"n_layers": 1}, "hold model.transformer.blocks.1.attn_norm.weight and 8 more"),
        ("llada", {"d_model": 64}, "has shape"),
        ("llada", {"quantization_config": {"bits": 4}}, "quantized"),
        ("dream", {"use_mrope": True}, "use_mrope is True"),
        ("dream", {"use_sliding_window": True}, "use_sliding_window is True"),
        ("dream", {"rope_scaling": {"type": "yarn"}}, "rope_scaling is {'type': 'yarn'}"),
        ("illada", {"layer_norm_eps": 1e-5}, "layer_norm_eps is 1e-05"),
        ("illada", {"attention_bias": True}, "attention_bias is True"),
        ("illada", {"tie_word_embeddings": ...}, "config.json has no tie_word_embeddings"),
        ("illada", {"vocab_size": 4}, "is outside its vocabulary of 4"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_what_the_blocks_do_not_compute_is_named(tmp_path, kind, change, expected):
    hub.write(tmp_path / kind, kind)
    hub.edit(tmp_path / kind / "config.json", **change)
    with pytest.raises(CheckpointError) as caught:
        resolve_checkpoint(str(tmp_path / kind))
    assert expected in str(caught.value)
    assert str(caught.value).startswith(f"checkpoint {kind}: ")
    assert "\n" not in str(caught.value)
    assert not hub.ran(tmp_path)


def test_sizes_that_llada_states_in_another_way(tmp_path):
    """LLaDA's own defaults: the feed-forward's width as a ratio, and one head of keys as a switch."""
    hub.write(tmp_path / "llada", "llada")
    changes = {"mlp_hidden_size": None, "multi_query_attention": True, "n_kv_heads": 1, "block_group_size": 2}
    hub.edit(tmp_path / "llada" / "config.json", **changes)
    config = resolve_checkpoint(str(tmp_path / "llada"), "dummy").config
    assert (config.intermediate_size, config.num_key_value_heads) == (4 * 32, 1)


def test_groups_of_blocks_are_told_by_the_names_of_the_tensors(tmp_path):
    """The authors' code computes the same in groups, and calls the tensors of one `block_groups.0.1.ff_proj.weight`."""
    from safetensors.torch import load_file, save_file

    hub.write(tmp_path / "llada", "llada")
    alone = resolve_checkpoint(str(tmp_path / "llada"))
    hub.edit(tmp_path / "llada" / "config.json", block_group_size=2)
    assert resolve_checkpoint(str(tmp_path / "llada")).config.to_dict() == alone.config.to_dict()
    index = tmp_path / "llada" / "model.safetensors.index.json"
    renamed = {}
    for path in (tmp_path / "llada").glob("*.safetensors"):
        renamed |= {name.replace(".blocks.", ".block_groups.0."): tensor for name, tensor in load_file(path).items()}
        path.unlink()
    index.unlink()
    save_file(renamed, tmp_path / "llada" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lack model\.transformer\.blocks\.0\.attn_norm\.weight and 17 more"):
        resolve_checkpoint(str(tmp_path / "llada"))


def test_biases_where_none_may_be(tmp_path):
    plain = hub.write(tmp_path / "dream", "dream")
    hub.edit(tmp_path / "dream" / "config.json", model_type="illada", tie_word_embeddings=False)
    with pytest.raises(CheckpointError, match=r"hold model.layers.0.self_attn.k_proj.bias and 5 more"):
        resolve_checkpoint(str(tmp_path / "dream"))
    assert any("bias" in name for name in plain.state)


def test_a_head_that_is_not_the_embedding_it_should_be(tmp_path):
    from safetensors.torch import load_file, save_file

    hub.write(tmp_path / "illada", "illada")
    for path in (tmp_path / "illada").glob("*.safetensors"):
        state = load_file(path)
        if "lm_head.weight" in state:
            state["lm_head.weight"][0, 0] += 1
            save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lm_head.weight differs from model.embed_tokens.weight"):
        loaded(tmp_path / "illada")


# ---- a layout of one's own


def test_a_layout_of_ones_own(stored, tmp_path):
    other = hub.write(tmp_path / "other", "llada", model_type="unheard")
    values = yaml.safe_load((layouts.FOLDER / "llada.yaml").read_text())
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(values))
    mine = str(tmp_path / "mine.yaml")
    with pytest.raises(CheckpointError, match="model_type 'unheard'"):
        resolve_checkpoint(str(tmp_path / "other"))
    ids, _ = rows([5])
    found = loaded(tmp_path / "other", layout=mine).engine("eager").logits(ids, None)[0]
    assert torch.allclose(found, other.logits(ids[0]), atol=1e-5)
    before = resolve_checkpoint(str(tmp_path / "other"), layout=mine).digest
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**values, "stop_ids": [3]}))
    changed = resolve_checkpoint(str(tmp_path / "other"), layout=mine)
    assert changed.stop_ids == (hub.EOS, 3)
    assert changed.digest != before


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[", "cannot be read"),
        ("- a", "no layout"),
        ("[" * 10**5, "cannot be read"),
        ("blocks: llama\nfields: {}\npath: /etc/passwd", "no layout"),
        ("blocks: llama", "fields: "),
        ("blocks: llama\nfields: {a: b,\n a: c}", "'a' stands twice in \"<unicode string>\", line 2"),
        ("blocks: llama\nfields: {}\nblock: llama", "block: "),
        ("blocks: llama\nfields: {vocab_size: 3}", "fields"),
        ("blocks: t5\nfields: {}", "model_type 't5'"),
        ("blocks: !!python/object/apply:os.system [touch it-ran]\nfields: {}", "cannot be read"),
    ],
)
def test_a_wrong_layout_is_named(stored, tmp_path, text, expected):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(CheckpointError) as caught:
        resolve_checkpoint(str(stored["llada"][0]), layout=str(tmp_path / "mine.yaml"))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_field_that_the_blocks_do_not_have_is_named_whatever_its_default(stored, tmp_path):
    text = (layouts.FOLDER / "llada.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(text.replace("intermediate_size: [mlp", "intermediate_sise: [mlp"))
    with pytest.raises(CheckpointError, match=r"mine.yaml sets intermediate_sise, which llama does not have"):
        resolve_checkpoint(str(stored["llada"][0]), layout=str(tmp_path / "mine.yaml"))


def test_every_bundled_layout_names_fields_that_transformers_has():
    from transformers import CONFIG_MAPPING

    own = {"mask_token_id", "rope_full_precision"}
    for path in layouts.FOLDER.glob("*.yaml"):
        layout = layouts.read(path)
        known = vars(CONFIG_MAPPING[layout.blocks]()).keys() | own | {"rope_theta"}
        assert layout.fields.keys() | layout.constants.keys() <= known, path.name


def test_the_layout_in_the_documentation_is_one(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text()
    (tmp_path / "docs.yaml").write_text(page[page.index("```yaml\n") + 8 :].partition("```")[0])
    layout = layouts.read(tmp_path / "docs.yaml")
    said = {"vocab": 60, "dim": 32, "ffn": 48, "depth": 2, "heads": 4, "length": 64, "eps": 1e-5, "theta": 1e4,
            "mask_id": 1, "eos_id": 2, "pad_id": 2, "activation": "swiglu"}  # fmt: skip
    assert layouts.translate(layout, said, "x")["num_key_value_heads"] == 4
    assert layout.stored_name("model.layers.11.self_attn.q_proj.weight") == "blocks.11.q.weight"
    assert layout.stored_name("model.layers.11.mlp.up_proj.weight") == "model.layers.11.mlp.up_proj.weight"
    assert layout.stored_name("model.norm.weight") == "model.norm.weight"
