"""The rows beside vLLM, with the real script in a real process; a stand-in has vLLM's name, classes and arguments."""

import json
import os
import shlex
import sys
import time
from pathlib import Path

import pytest

from benchmarks.engine import __main__ as command
from benchmarks.engine import cases, vllm_process, vllm_rows

STAND_IN = Path(__file__).parent / "stand_in"
OURS = f"STAND_IN_OF={os.getpid()}"  # tests of this file run in another process at the same time


def python(behaviour: str = "works") -> str:
    return shlex.join(["env", f"PYTHONPATH={STAND_IN}", f"STAND_IN={behaviour}", OURS, sys.executable])


def rows_of(folder: Path) -> dict[str, dict]:
    (file,) = folder.glob("*.json")
    return {row["name"]: row for row in json.loads(file.read_text())["rows"]}


def processes() -> set[int]:
    """Those of this process's tests that still have the stand-in in their environment; zombies have none."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if OURS.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.add(int(folder.name))
        except OSError:
            continue
    return found


@pytest.fixture
def model(tmp_path):
    (tmp_path / "config.json").write_text(
        '{"architectures": ["LlamaForCausalLM"], "dtype": "float32", "vocab_size": 8}'
    )
    return {
        "model": str(tmp_path),
        "load_format": "dummy",
        "skip_tokenizer_init": True,
        "dtype": "float32",
        "enable_prefix_caching": False,
        "max_model_len": 30_000,
        "gpu_memory_utilization": 0.5,
    }


@pytest.fixture(autouse=True)
def nothing_is_left():
    yield
    deadline = time.monotonic() + 10
    while processes() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not processes()


def test_every_batch_is_measured_in_pairs_and_has_a_page_of_its_own(monkeypatch, tmp_path, capfd):
    monkeypatch.setattr(vllm_rows, "PAUSE_S", 0.0)
    asked = ["--smoke", "--only", "vllm", "--vllm", python(), "--out", str(tmp_path)]
    assert command.main(asked) == 0
    rows = rows_of(tmp_path)
    assert list(rows) == ["vllm-1", "vllm-8", "vllm-32", "vllm-64", "vllm-128"]
    for row in rows.values():
        assert {name: len(samples) for name, samples in row["samples"].items()} == dict.fromkeys(
            (cases.VLLM, cases.OURS, cases.VLLM_ONE, cases.OURS_ONE), 9
        )
        assert row["engine"] == {"version": "0.24.0", "CUDA graphs": "FULL_AND_PIECEWISE"}
        assert (
            min(row["samples"][cases.VLLM]) >= 32 > 2 <= min(row["samples"][cases.VLLM_ONE])
        )  # it sleeps 2 ms a token
        assert row["value"]["ci_low"] <= row["value"]["median"] <= row["value"]["ci_high"]
    (page,) = tmp_path.glob("*-vllm.md")
    text = page.read_text()
    assert "vLLM 0.24.0, offline" in text
    assert "per step" not in text
    assert not list(tmp_path.glob("*.png"))
    page.unlink()
    assert command.main(["page", str(next(tmp_path.glob("*.json")))]) == 0
    assert page.read_text() == text
    printed = capfd.readouterr()
    assert "a line that is no answer" in printed.err
    assert "no answer" not in printed.out


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("dies", "VllmError: its process has ended, exit code 9"),
        ("refuses", "VllmError: ValueError: Free memory on device is less than desired"),
        ("dies later", "VllmError: its process has ended, exit code 7"),
    ],
)
def test_a_vllm_that_fails_costs_its_own_rows_alone(tmp_path, capfd, behaviour, reason):
    asked = ["--smoke", "--only", "ar-8,vllm-1,vllm-8", "--vllm", python(behaviour), "--out", str(tmp_path)]
    assert command.main(asked) == 4
    rows = rows_of(tmp_path)
    assert rows["ar-8"]["failed"] is None
    assert len(rows["ar-8"]["samples"][cases.OURS]) > 0
    assert rows["vllm-8"]["failed"] == reason
    assert rows["vllm-1"]["failed"] == (None if behaviour == "dies later" else reason)
    assert (
        capfd.readouterr()
        .err.splitlines()[-1]
        .endswith("cases failed: vllm-8" if behaviour == "dies later" else "2 cases failed: vllm-1, vllm-8")
    )
    (page,) = tmp_path.glob("*.md")
    assert f"- LLaMA beside vLLM, 256 tokens, B=8: {reason}" in page.read_text()


def test_rows_that_are_cut_short_are_no_times(model):
    with (
        vllm_process.started(python("stops early"), model) as vllm,
        pytest.raises(vllm_process.VllmError, match=r"2 x 4 tokens were asked for, and \[3, 3\] came"),
    ):
        vllm.generate([[1, 2], [3, 4]], 4)


def test_a_vllm_that_hangs_is_ended(monkeypatch, model):
    monkeypatch.setattr(vllm_process, "ANSWER_S", 1.0)
    with vllm_process.started(python("hangs"), model) as vllm:
        for reason in ("no answer within 1 s", "its process has ended, exit code -9"):
            with pytest.raises(vllm_process.VllmError, match=reason):
                vllm.generate([[1] * 20_000] * 2, 4)  # more than a pipe holds


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "vllm-8"], "vllm-8 needs --vllm PYTHON"),
        (["--only", "ar-1", "--vllm", sys.executable], "none of the cases in --only uses it"),
        (["--vllm", f"env -i {sys.executable}"], "it has no vLLM; where it is in a folder of its own"),
        (["--vllm", "no-such-python"], "it cannot be run: [Errno 2]"),
        (["--vllm", "env 'python"], "it cannot be run: No closing quotation"),
    ],
)
def test_an_interpreter_that_cannot_be_meant_is_refused_before_anything_is_measured(
    tmp_path, capsys, arguments, message
):
    with pytest.raises(SystemExit) as ended:
        command.main(["--smoke", "--out", str(tmp_path), *arguments])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())
