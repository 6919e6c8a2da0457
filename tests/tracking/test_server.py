"""A server behind a gate that asks for a password of odd characters, or loses an answer on its way."""

import base64
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from llmbench.analysis.parity.analyze import verdicts
from llmbench.config.job import TrackingConfig
from llmbench.errors import TrackingError
from llmbench.record import JobContext
from llmbench.sweeps.job_task import send_again, track
from llmbench.system.redact import VARIABLE
from llmbench.tracking import open_store
from llmbench.tracking.run_payload import metric_key
from records import make_sweep

PASSWORD = "pa/55 w@'rd"

lost: list[str] = []
"""Ends of paths: the next request for each is handed on, and its answer is lost."""


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_store, folder / "server.db")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        base = f"http://127.0.0.1:{free.getsockname()[1]}"
    options = ["--host", "127.0.0.1", "--port", base.rpartition(":")[2], "--workers", "1"]
    options += ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", str(folder / "a")]
    settings = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    process = subprocess.Popen([sys.executable, "-m", "mlflow", "server", *options], env=os.environ | settings, **quiet)
    try:
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{base}/health", timeout=2).close()
                break
            assert process.poll() is None, "the server ended"
            time.sleep(0.2)
        yield base, folder
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()


@pytest.fixture
def gate(mlflow_server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Host and port of a server that asks for user and password and hands on what is let in."""
    monkeypatch.setenv(VARIABLE, "")
    behind = mlflow_server[0]
    expected = "Basic " + base64.b64encode(f"ml:{PASSWORD}".encode()).decode()

    class Gate(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/health" and self.headers.get("Authorization") != expected:
                self.send_response(401)
                self.end_headers()
                self.wfile.write(b"You are not authenticated")
                return
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0)) or None
            kept = {key: self.headers[key] for key in ("Content-Type",) if key in self.headers}
            request = urllib.request.Request(behind + self.path, data=data, headers=kept, method=self.command)
            try:
                answer = urllib.request.urlopen(request, timeout=30)
            except urllib.error.HTTPError as error:
                answer = error
            body = answer.read()
            if ends := [end for end in lost if self.path.endswith(end)]:
                lost.remove(ends[0])
                self.close_connection = True
                return
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Gate)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("written", [PASSWORD, urllib.parse.quote(PASSWORD, safe="")], ids=["raw", "encoded"])
def test_a_sweep_is_logged_and_read_back_and_its_password_is_nowhere(
    written: str, gate: str, mlflow_server: tuple[str, Path]
) -> None:
    config = TrackingConfig(uri=f"http://ml:{written}@{gate}", experiment="x")
    store = open_store(config)
    assert store.uri == f"http://{gate}"
    assert open_store(TrackingConfig(uri=store.uri, experiment="x")).uri == store.uri, "as a worker opens it"
    records = make_sweep((8,))
    parent = store.start_sweep(name="s", command=f"llmbench -m tracking.uri={config.uri}", jobs=2)
    for record in records:
        store.log_job(record, parent=parent, steps_axis=[8], swept={})
    store.finish_sweep(parent, verdicts(records), records, note=f"see {config.uri}")
    assert store.records(parent) == records
    kept = [path for path in mlflow_server[1].rglob("*") if path.is_file()]
    assert len(kept) > 5
    for secret in (PASSWORD, urllib.parse.quote(PASSWORD, safe=""), "55 w@", "55%20w"):
        assert secret not in repr(store)
        assert [path for path in kept if secret.encode() in path.read_bytes()] == []


@pytest.mark.parametrize("written", ["ml:wr/ong", "ml:wrong", "ml"])
def test_a_wrong_password_is_one_line_that_says_so_and_does_not_show_it(written: str, gate: str) -> None:
    with pytest.raises(TrackingError) as caught:
        open_store(TrackingConfig(uri=f"http://{written}@{gate}", experiment="x"))
    message = str(caught.value)
    assert "the server does not let this user in (401); set MLFLOW_TRACKING_USERNAME" in message
    assert "ong" not in message
    assert "is this an MLflow server" not in message


def test_a_password_in_a_query_and_one_with_a_slash_reach_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        place = f"127.0.0.1:{listening.getsockname()[1]}/db"
        uris = [f"postgresql+nosuch://{place}?user=ml&password=pa55/word", f"postgresql+nosuch://ml:pa55/word@{place}"]
        for uri in uris:
            with pytest.raises(TrackingError, match="nosuch") as caught:
                open_store(TrackingConfig(uri=uri, experiment="x"))
            assert "pa55" not in str(caught.value)


def test_an_answer_that_is_lost_leaves_no_empty_run(gate: str, mlflow_server: tuple[str, Path]) -> None:
    store = open_store(TrackingConfig(uri=f"http://ml:{PASSWORD}@{gate}", experiment="lossy"))
    record = make_sweep((8,))[0]
    lost.append("runs/create")
    parent = store.start_sweep(name="s", command="", jobs=1, planned={record.identity: "llama"})
    assert [sweep.run_id for sweep in store.sweeps()] == [parent]
    for end in ("runs/create", "runs/log-batch", "runs/update"):
        assert store.logged() == {}
        lost.append(end)
        with pytest.raises(TrackingError, match="cannot log llama"):
            store.log_job(record, parent=parent, steps_axis=[8], swept={})
    run_id = store.log_job(record, parent=parent, steps_axis=[8], swept={})
    assert not lost
    (child,) = store.client.search_runs([store.experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'")
    metrics = {metric_key(key): value for key, value in record.metrics.items()}
    assert (child.info.run_id, child.info.status, child.data.metrics) == (run_id, "FINISHED", metrics)
    history = store.client.get_metric_history(run_id, "latency/e2e_ms")
    assert len(history) == 1
    assert store.records(parent) == [record]


def test_a_store_that_failed_once_is_left_alone_until_the_end_which_sends_everything(gate: str, tmp_path: Path) -> None:
    config = TrackingConfig(uri=f"http://ml:{PASSWORD}@{gate}", experiment="end")
    store = open_store(config)
    parent = store.start_sweep(name="s", command="", jobs=3)
    records = [replace(item, context=JobContext(parent=parent, steps_axis=(8, 16))) for item in make_sweep((8, 16))]
    lost.append("runs/create")
    done = []
    for record in records:
        record.save(tmp_path / record.identity)
        done.append(track(record, tmp_path / record.identity, record.label, config))
    assert not lost
    assert [item.status for item in done] == ["finished"] * 3
    assert all("cannot log llama" in str(item.tracked) for item in done), "the first failure is that of all"
    assert store.records(parent) == []
    again, away = send_again(done, config)
    assert ([item.tracked for item in again], away) == ([None] * 3, "")
    assert store.records(parent) == records
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nowhere = TrackingConfig(uri=f"http://127.0.0.1:{closed.getsockname()[1]}", experiment="end")
        left, away = send_again(done, nowhere)
    assert "does not answer" in away
    assert left == done
