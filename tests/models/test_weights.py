"""Weight files that are damaged, or that somebody made to do harm: each is one line, before any weight is read."""

import json
import os
import struct

import hub_checkpoints as hub
import pytest
import torch

from llmbench.checkpoints.load import load_checkpoint
from llmbench.checkpoints.resolve import resolve_checkpoint
from llmbench.errors import CheckpointError

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"
NAME = "model.transformer.blocks.0.attn_norm.weight"  # in the first shard


def cut(length):
    def damage(folder):
        path = folder / FIRST
        path.write_bytes(path.read_bytes()[:length])

    return damage


def starts_with(length, rest=b""):
    return lambda folder: (folder / FIRST).write_bytes(struct.pack("<Q", length) + rest)


def header(change):
    return lambda folder: hub.edit_header(folder / FIRST, change)


def entry(**values):
    return header(lambda entries: entries[NAME].update(values))


def moved(entries):
    """Two tensors that share bytes."""
    entries[NAME]["data_offsets"] = entries["model.transformer.blocks.0.ff_norm.weight"]["data_offsets"]


def gap(entries):
    begin, end = entries[NAME]["data_offsets"]
    entries[NAME] |= {"data_offsets": [begin, end - 4], "shape": [31]}


def renamed(entries):
    entries["model.transformer.blocks.0.attention_norm.weight"] = entries.pop(NAME)


def extra(entries):
    end = max(value["data_offsets"][1] for key, value in entries.items() if key != "__metadata__")
    entries["model.transformer.trojan"] = {"dtype": "F32", "shape": [0], "data_offsets": [end, end]}


def quantized(folder):
    from safetensors.torch import load_file, save_file

    state = load_file(folder / FIRST)
    state[NAME] = state[NAME].to(torch.int8)
    save_file(state, folder / FIRST)


def both(folder):
    from safetensors.torch import load_file, save_file

    state = load_file(folder / SECOND) | {NAME: load_file(folder / FIRST)[NAME]}
    save_file(state, folder / SECOND)


def index(target):
    """The index names another file than the first shard."""

    def damage(folder):
        values = json.loads((folder / INDEX).read_text())
        values["weight_map"][NAME] = target
        (folder / INDEX).write_text(json.dumps(values))

    return damage


def outside(folder):
    """A file that fits, but that lies elsewhere."""
    (folder / FIRST).rename(folder.parent / FIRST)
    index(f"../{FIRST}")(folder)


def pickles(folder):
    for path in folder.glob("model*"):
        path.unlink()
    torch.save({"a": torch.zeros(1)}, folder / "pytorch_model.bin")


def pipe(folder):
    (folder / FIRST).unlink()
    os.mkfifo(folder / FIRST)


def link(target):
    def damage(folder):
        (folder / FIRST).unlink()
        (folder / FIRST).symlink_to(target)

    return damage


DAMAGED = f"{FIRST} is truncated or damaged"
DAMAGES = {
    "truncated shard": (cut(-10), DAMAGED),
    "truncated header": (cut(40), DAMAGED),
    "truncated length": (cut(4), DAMAGED),
    "empty": (cut(0), DAMAGED),
    "longer than it says": (lambda folder: (folder / FIRST).open("ab").write(b"x"), DAMAGED),
    "header longer than the file": (starts_with(2**40), DAMAGED),
    "header of the longest length": (starts_with(2**64 - 1), DAMAGED),
    "header is no JSON": (starts_with(4, b"abcd"), DAMAGED),
    "header is no object": (starts_with(2, b"[]"), DAMAGED),
    "header is deep": (starts_with(200_000, b"[" * 200_000), DAMAGED),
    "overlapping tensors": (header(moved), DAMAGED),
    "a gap": (header(gap), DAMAGED),
    "offsets beyond the file": (entry(data_offsets=[0, 2**50]), DAMAGED),
    "offsets backwards": (entry(data_offsets=[128, 0]), DAMAGED),
    "negative offsets": (entry(data_offsets=[-128, 0]), DAMAGED),
    "offsets are no numbers": (entry(data_offsets=["0", "128"]), DAMAGED),
    "negative shape": (entry(shape=[-32]), DAMAGED),
    "shape larger than the bytes": (entry(shape=[2**40]), DAMAGED),
    "a shape whose product takes hours": (entry(shape=[2**62] * 10**6), DAMAGED),
    "a dtype on two lines": (entry(dtype="F\n32\x1b[2J"), DAMAGED),
    "unknown dtype": (entry(dtype="F4_SECRET"), DAMAGED),
    "8-bit integers": (quantized, f"{NAME} is stored as I8; weights must be F32, F16, BF16"),
    "renamed tensor": (header(renamed), f"its weights lack {NAME},"),
    "one tensor more": (header(extra), "its weights hold model.transformer.trojan,"),
    "one tensor in two shards": (both, f"{NAME} is in {FIRST} and in {SECOND}"),
    "shard missing": (lambda folder: (folder / FIRST).unlink(), f"names {FIRST}, which is missing"),
    "index names a missing shard": (index("model-3.safetensors"), "names model-3.safetensors, which is missing"),
    "index leaves the folder": (outside, f"names '../{FIRST}', which is no safetensors file in the checkpoint's"),
    "index names an absolute path": (index("/etc/passwd"), "names '/etc/passwd', which is no safetensors file"),
    "index names a pickle": (index("pytorch_model.bin"), "names 'pytorch_model.bin', which is no safetensors file"),
    "index names a number": (index(3), f"{INDEX} is damaged"),
    "index is a list": (lambda folder: (folder / INDEX).write_text("[]"), f"{INDEX} is damaged"),
    "index is empty": (lambda folder: (folder / INDEX).write_text('{"weight_map": {}}'), f"{INDEX} is damaged"),
    "pickle alone": (pickles, "pytorch_model.bin is a pickle, which can run code"),
    "a pipe that nobody writes to": (pipe, f"names {FIRST}, which is missing"),
    "a link to a device without end": (link("/dev/zero"), f"names {FIRST}, which is missing"),
    "a link to another file": (link("/etc/passwd"), DAMAGED),
    "a link to nothing": (link("nowhere"), f"names {FIRST}, which is missing"),
    "deep config": (lambda folder: (folder / "config.json").write_text('{"a":' * 10**5), "config.json is not JSON"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer in"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "llada"
    hub.write(folder, "llada")
    return folder


@pytest.mark.parametrize(("damage", "expected"), DAMAGES.values(), ids=DAMAGES)
def test_damage_is_one_line_and_runs_nothing(whole, tmp_path, damage, expected):
    import shutil

    folder = shutil.copytree(whole, tmp_path / "llada")
    damage(folder)
    with pytest.raises(CheckpointError) as caught:
        resolve_checkpoint(str(folder))
    assert expected in str(caught.value)
    assert str(caught.value).startswith("checkpoint llada: ")
    assert "\n" not in str(caught.value)
    assert not hub.ran(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", ["llada", "illada"])
def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path, kind, value):
    from safetensors.torch import load_file, save_file

    from llmbench.config.job import HardwareConfig

    hub.write(tmp_path / kind, kind)
    state = load_file(tmp_path / kind / SECOND)
    name = next(key for key in state if "k_proj" in key or "q_proj" in key)
    state[name][-1, -1] = value
    save_file(state, tmp_path / kind / SECOND)
    files = resolve_checkpoint(str(tmp_path / kind))
    with pytest.raises(CheckpointError, match=r"[kq]_proj.weight holds NaN or infinity in float32; fetch or write"):
        load_checkpoint(files, HardwareConfig(device="cpu", dtype="float32"), "real")


def test_what_old_files_hold_and_nobody_reads_is_let_pass(whole, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(whole, tmp_path / "llada")
    state = load_file(folder / FIRST) | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    save_file(state, folder / FIRST)
    assert resolve_checkpoint(str(folder)).digest != resolve_checkpoint(str(whole)).digest


def test_files_may_be_links(whole, tmp_path):
    """The hub's cache is made of them."""
    (tmp_path / "links").mkdir()
    for path in whole.iterdir():
        (tmp_path / "links" / path.name).symlink_to(path)
    assert resolve_checkpoint(str(tmp_path / "links")).digest == resolve_checkpoint(str(whole)).digest
