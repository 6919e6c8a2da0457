"""The tracking service of `deploy/` on a real PostgreSQL: a sweep goes in under a user's password and comes out again.

The containers of compose.yaml are not run here; they start the same script.
"""

import contextlib
import glob
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from child import without_signs

from llmbench.analysis.parity.analyze import verdicts
from llmbench.config.job import TrackingConfig
from llmbench.errors import TrackingError
from llmbench.tracking import open_store
from records import make_sweep

REPOSITORY = Path(__file__).parents[2]
DEPLOY = REPOSITORY / "deploy"
BINARIES = next(
    (
        str(Path(found).parent)
        for found in [shutil.which("initdb"), *glob.glob("/usr/lib/postgresql/*/bin/initdb")]
        if found
    ),
    "",
)
SECRETS = {"database": "of the/data base", "admin": "of-the %administrator", "ada": "a-password of ada"}
SWEEP = [
    *(
        "-m",
        "model=llama,llada",
        "steps=4",
        "metric=speed",
        "metric.roofline=false",
        "workload.prompts=4",
        "batch=2",
        "canvas=8",
    )
]
SWEEP += ["timing.repeats=2", "hardware=cpu", "tracking.experiment=team"]

needs_postgres = pytest.mark.skipif(
    not BINARIES or not importlib.util.find_spec("psycopg"),
    reason="needs PostgreSQL's initdb (apt-get install postgresql) and psycopg",
)
needs_users = pytest.mark.skipif(not importlib.util.find_spec("flask_wtf"), reason='needs pip install "mlflow[auth]"')


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """Host and port of a cluster of our own with two empty databases; it asks the user `mlflow` for a password."""
    user = "postgres" if os.getuid() == 0 else None  # PostgreSQL does not run as root
    folder, port = Path(tempfile.mkdtemp(prefix="llmbench-postgres-")), free_port()
    (folder / "password").write_text(SECRETS["database"])
    if user:
        shutil.chown(folder, user)
        shutil.chown(folder / "password", user)
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "user": user, "cwd": folder}
    data, password = folder / "data", f"--pwfile={folder}/password"
    made = [f"{BINARIES}/initdb", "-D", str(data), "-U", "mlflow", "--auth=scram-sha-256", "--no-sync", password]
    subprocess.run(made, check=True, **quiet)
    options = [f"port={port}", "listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off"]
    command = [f"{BINARIES}/postgres", "-D", str(data), *(text for option in options for text in ("-c", option))]
    server = subprocess.Popen(command, **quiet)
    try:
        import psycopg

        while True:
            with contextlib.suppress(psycopg.OperationalError):
                where = {"host": "127.0.0.1", "port": port, "user": "mlflow", "password": SECRETS["database"]}
                with psycopg.connect(**where, dbname="postgres", autocommit=True) as connection:
                    connection.execute("create database team")
                    connection.execute("create database direct")
                break
            assert server.poll() is None, "PostgreSQL ended"
            time.sleep(0.1)
        yield f"127.0.0.1:{port}"
    finally:
        server.send_signal(signal.SIGINT)  # does not wait for clients
        server.wait()
        shutil.rmtree(folder)


def url(place: str, password: str, database: str) -> str:
    return f"postgresql://mlflow:{urllib.parse.quote(password, safe='')}@{place}/{database}"


def service(**settings: str) -> dict[str, str]:
    """The environment of the start script: nothing of the caller's that it reads."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PG", "MLFLOW", "DATABASE_URL"))}
    return kept | {"MLFLOW_AUTH_ADMIN_PASSWORD": SECRETS["admin"], "MLFLOW_WORKERS": "1"} | settings


def python(folder: Path, user: str, password: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    settings = {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    settings |= {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password}
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=folder, env=os.environ | settings, capture_output=True, text=True, timeout=240)


@needs_postgres
@needs_users
def test_a_sweep_of_a_user_is_kept_in_postgresql_and_under_the_artifact_root(
    postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient
    from mlflow.server import get_app_client

    port = free_port()
    base = f"http://127.0.0.1:{port}"
    settings = {"DATABASE_URL": url(postgres, SECRETS["database"], "team"), "MLFLOW_PORT": str(port)}
    settings["MLFLOW_ARTIFACTS_DESTINATION"] = str(tmp_path / "files")
    log = tmp_path / "log"
    with log.open("wb") as file:
        server = subprocess.Popen(
            [sys.executable, str(DEPLOY / "mlflow-server")], env=service(**settings), stdout=file, stderr=file
        )
    try:
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{base}/health", timeout=2).close()
                break
            assert server.poll() is None, log.read_text()
            time.sleep(0.2)
        shown = [
            " ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])
        ]  # a zombie: none
        assert any("mlflow server" in line for line in shown)
        assert not [line for line in shown if any(secret in line for secret in (SECRETS["database"], SECRETS["admin"]))]

        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRETS["admin"])
        get_app_client("basic-auth", base).create_user("ada", SECRETS["ada"])
        MlflowClient(base).create_experiment("team")  # another user's, which ada may log to
        sweep = ["llmbench", *SWEEP, f"tracking.uri={base}"]
        refused = python(tmp_path, "ada", "not that one", *sweep)
        assert refused.returncode == 2
        said = without_signs(refused.stderr)
        assert said.count("\n") == 1, said
        assert "the server does not let this user in (401)" in said
        assert not list(tmp_path.glob("multirun/*/*")), "nothing may run"

        result = python(tmp_path, "ada", SECRETS["ada"], *sweep)
        assert result.returncode == 0, result.stderr
        shutil.rmtree(tmp_path / "multirun")
        line = next(line for line in result.stdout.splitlines() if line.startswith("This table again: "))
        report = line.partition("This table again: ")[2].split()
        assert base in report
        again = python(tmp_path, "ada", SECRETS["ada"], *report)
        assert again.returncode == 0, again.stderr
        rows = [line for line in result.stdout.splitlines() if line.startswith(("llama ", "llada k="))]
        assert len(rows) == 2
        assert all(row in again.stdout for row in rows)
        assert len(list((tmp_path / "files").rglob("record.json"))) == 3
        assert not any(secret in log.read_text() for secret in SECRETS.values())
    finally:
        for process in [*psutil.Process(server.pid).children(recursive=True), server]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        server.wait()


WITHOUT = "postgresql://mlflow:secret@127.0.0.1:9/team"  # nobody answers on this port


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({}, "DATABASE_URL"),
        ({"DATABASE_URL": "postgresql://mlflow:secret@[/team"}, "DATABASE_URL cannot be read"),
        ({"DATABASE_URL": WITHOUT, "MLFLOW_AUTH_ADMIN_PASSWORD": ""}, "MLFLOW_AUTH_ADMIN_PASSWORD"),
        ({"DATABASE_URL": WITHOUT, "MLFLOW_AUTH_ADMIN_PASSWORD": "password1234"}, "MLFLOW_AUTH_ADMIN_PASSWORD"),
        ({"DATABASE_URL": WITHOUT}, "MLFLOW_ARTIFACTS_DESTINATION"),
        ({"DATABASE_URL": WITHOUT, "MLFLOW_ARTIFACTS_DESTINATION": "{folder}/files"}, "Connection refused"),
    ],
)
@needs_postgres
@needs_users
def test_what_is_missing_is_one_line(settings: dict[str, str], named: str, tmp_path: Path) -> None:
    filled = {key: value.format(folder=tmp_path) for key, value in settings.items()}
    command = [sys.executable, str(DEPLOY / "mlflow-server")]
    refused = subprocess.run(command, env=service(**filled), capture_output=True, text=True, timeout=60)
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
    assert named in refused.stderr
    assert "secret" not in refused.stderr


@needs_postgres
def test_a_database_is_a_store_without_a_server(postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMBENCH_RESULTS", str(tmp_path))
    with pytest.raises(TrackingError, match="password authentication failed") as caught:
        open_store(TrackingConfig(uri=url(postgres, "not that one", "direct"), experiment="x"))
    assert "that one" not in str(caught.value)
    store = open_store(TrackingConfig(uri=url(postgres, SECRETS["database"], "direct"), experiment="x"))
    assert store.uri == f"postgresql://{postgres}/direct"
    records = make_sweep((8,))
    parent = store.start_sweep(name="s", command="as typed", jobs=2)
    for record in records:
        store.log_job(record, parent=parent, steps_axis=[8], swept={})
    store.finish_sweep(parent, verdicts(records), records)
    assert store.records(parent) == records
    assert [sweep.status for sweep in store.sweeps()] == ["FINISHED"]
    assert len(list((tmp_path / "artifacts").rglob("record.json"))) == len(records)


def test_the_containers_are_pinned_stay_on_this_machine_and_read_what_the_example_names() -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    services = yaml.safe_load(text)["services"]
    assert re.fullmatch(r"postgres:\d+\.\d+-\w+", services["postgres"]["image"])
    assert "ports" not in services["postgres"]
    assert services["mlflow"]["ports"] == ["${MLFLOW_BIND:-127.0.0.1}:${MLFLOW_PORT:-5000}:5000"]
    assert all("healthcheck" in service for service in services.values())
    example = (DEPLOY / ".env.example").read_text()
    taken = set(re.findall(r"\$\{(\w+)", text)) | {k for k, v in services["mlflow"]["environment"].items() if v is None}
    assert taken == set(re.findall(r"^(?:# )?([A-Z]\w+)=", example, flags=re.MULTILINE))
    image = (DEPLOY / "Dockerfile").read_text()
    assert re.search(r"^FROM python:3\.\d+\.\d+-", image, flags=re.MULTILINE)
    assert "mlflow[auth]==" in image
