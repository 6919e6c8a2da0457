"""A whole sweep with a server as one of its baselines: while it answers, when it is not there, when it dies."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
from child import Child

from llmbench.analysis.parity.analyze import verdicts
from llmbench.checkpoints.resolve import BUNDLED
from llmbench.record import Record, parse
from serving import model_server, text_server

REPOSITORY = Path(__file__).parents[2]
KEY = "sk-very-secret-0123456789"
SWEEP = [
    "-m",
    "model=llama,llama_server,llada",
    "steps=2,4",
    "metric=speed",
    "metric.roofline=false",
    "workload.prompts=4",
    "batch=2",
    "canvas=8",
    "temperature=0",
    "timing.repeats=2",
    "hardware=cpu",
]


def llmbench(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    settings = {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    return Child(folder, arguments, os.environ | settings | {"OPENAI_API_KEY": KEY}).communicate()


def test_a_server_is_one_more_row_and_its_key_is_nowhere(tmp_path):
    with text_server(tmp_path / "server", f"key={KEY}") as server:
        planned = llmbench(tmp_path, *SWEEP, "server.url=http://127.0.0.1:9/v1", "dry_run=true")
        result = llmbench(tmp_path, *SWEEP, f"server.url={server.url}")
    assert planned.returncode == 0, planned.stderr
    (row,) = (line for line in planned.stdout.splitlines() if "llama server" in line)
    assert "on the server" in row
    assert result.returncode == 0, result.stderr
    rows = [line for line in result.stdout.splitlines() if line.startswith(("llama  ", "llama server  ", "llada k="))]
    assert [row.partition("  ")[0] for row in rows] == ["llama", "llama server", "llada k=2", "llada k=4"]
    assert "vs llama server, wall clock" in result.stdout
    assert result.stdout.count("Steps to quality parity") == 1
    for path in (tmp_path / "multirun").rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path
    assert KEY not in result.stdout + result.stderr


def test_a_server_that_is_not_there_is_refused_before_anything_runs(tmp_path):
    result = llmbench(tmp_path, *SWEEP, "server.url=http://127.0.0.1:9/v1")
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert "server http://127.0.0.1:9 cannot be reached" in line
    assert not list(tmp_path.rglob("record.json"))
    assert not list(tmp_path.rglob("mlflow.db"))


def test_a_server_that_dies_costs_its_own_job_only(tmp_path):
    with text_server(tmp_path / "server", "dies-at=6") as server:
        result = llmbench(tmp_path, *SWEEP, f"server.url={server.url}")
    assert result.returncode == 4
    assert "Traceback" not in result.stderr
    records = [json.loads(path.read_text()) for path in tmp_path.glob("multirun/*/*/record.json")]
    assert sorted(record["status"] for record in records) == ["failed", *["finished"] * 4]
    (failed,) = (record for record in records if record["status"] == "failed")
    assert failed["reason"].startswith("ServerError: server http://127.0.0.1:")
    assert "broke the connection after" in failed["reason"]
    assert "FAILED llama server: ServerError" in result.stdout


def test_a_verdict_beside_a_server_that_writes_real_text(tmp_path):
    """By the user's word it is one more implementation of the baseline."""
    quality = ["metric=default", "metric.bertscore=null", "metric.likelihood=false"]
    grid = [item for item in SWEEP if item not in ("metric=speed", "temperature=0", "canvas=8")]
    settings = [*quality, "canvas=12", "parity.baseline_temperatures=[0]", "server.trust_same_hardware=true"]
    with model_server(tmp_path / "server") as url:
        result = llmbench(tmp_path, *grid, *settings, f"server.url={url}")
    assert result.returncode == 0, result.stderr
    assert "No verdict" not in result.stdout
    records = recorded(tmp_path)
    assert Counter(record.role for record in records) == {"timed": 4, "retimed": 1, "curve": 1}
    (verdict,) = verdicts(records)
    assert verdict.headline == "quality/perplexity"
    assert {item.label for item in verdict.implementations} == {"llama", "llama server"}
    assert not verdict.external_servers
    assert len(verdict.speedups) == 2
    for side in ("llama", "llama server", "llada k=2", "llada k=4"):
        assert any(line.startswith(f"{side}  ") for line in result.stdout.splitlines()), side
    points = [point.temperature for point in verdict.points]
    assert points == [0.0, 0.7]


@pytest.mark.skipif(find_spec("openai") is None, reason="transformers serve needs: pip install fastapi uvicorn openai")
def test_a_verdict_beside_transformers_serve(tmp_path):
    """A server that others wrote: greedy texts are the local ones, and by the user's word it may be the baseline."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["serve", str(BUNDLED / "llama"), "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    with (tmp_path / "serve.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-c", "from transformers.cli.transformers import main; main()", *options],
            stdout=log,
            stderr=log,
        )
        try:
            wait_for(f"http://127.0.0.1:{port}/v1/models", server)
            grid = [item for item in SWEEP if item != "canvas=8"]
            settings = ["canvas=12", "server.trust_same_hardware=true", f"server.url=http://127.0.0.1:{port}/v1"]
            result = llmbench(tmp_path, *grid, *settings)
        finally:
            server.kill()
            server.wait()
    assert result.returncode == 0, result.stderr
    assert "No verdict" not in result.stdout
    records = {record.label: record for record in recorded(tmp_path) if record.role == "timed"}
    texts = {label: [output.text for output in record.outputs] for label, record in records.items()}
    assert texts["llama server"] == texts["llama"]
    (verdict,) = verdicts(list(records.values()))
    assert {item.label for item in verdict.implementations} == {"llama", "llama server"}
    assert len(verdict.speedups) == 2


def wait_for(url: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 120
    while True:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(url, timeout=2).close()
            return
        assert process.poll() is None, "the server ended"
        assert time.monotonic() < deadline, "the server does not answer"
        time.sleep(0.2)


def recorded(folder: Path) -> list[Record]:
    return [parse(path.read_bytes()) for path in folder.glob("multirun/*/*/record.json")]
