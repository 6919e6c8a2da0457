"""Which store is meant, and what is refused in one line before any job."""

import os
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from child import Child

from llmbench.config.job import TrackingConfig
from llmbench.errors import TrackingError
from llmbench.tracking import open_store, refusal, resolve_uri

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_the_default_is_an_absolute_file_under_multirun(tmp_path: Path) -> None:
    assert resolve_uri(None) == f"sqlite:///{tmp_path}/multirun/mlflow.db"


def test_a_notebook_folder_finds_the_multirun_above_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "multirun").mkdir()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    assert resolve_uri(None) == f"sqlite:///{tmp_path}/multirun/mlflow.db"


def test_mlflow_s_own_variable_is_the_default_where_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker:5000")
    assert resolve_uri(None) == "http://tracker:5000"
    assert resolve_uri("http://other:5000") == "http://other:5000"


def test_a_relative_sqlite_file_becomes_absolute(tmp_path: Path) -> None:
    assert resolve_uri("sqlite:///runs/a.db") == f"sqlite:///{tmp_path}/runs/a.db"
    assert resolve_uri("sqlite:////srv/a.db") == "sqlite:////srv/a.db"


@pytest.mark.parametrize(
    "uri", ["http://h:5000/", "https://h", "postgresql://u:p@h/db", "mysql+pymysql://h/db", "databricks"]
)
def test_servers_and_databases_pass(uri: str) -> None:
    assert resolve_uri(uri) == uri.rstrip("/").replace("u:p@", "")


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("mlruns", "no longer writes to folders or bare paths; use tracking.uri=sqlite:///"),
        ("./mlruns", "mlruns/mlflow.db"),
        ("file:///tmp/mlruns", "use tracking.uri=sqlite:////tmp/mlruns/mlflow.db"),
        ("file:/tmp/mlruns", "use tracking.uri=sqlite:////tmp/mlruns/mlflow.db"),
        ("/tmp/a.db", "use tracking.uri=sqlite:////tmp/a.db"),
        ("/tmp/a b;c$/a.db", "use 'tracking.uri='\"'\"'sqlite:////tmp/a b;c$/a.db'\"'\"''"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("ftp://u:secret@h/x", "ftp://h/x: unknown scheme ftp"),
    ],
)
def test_what_cannot_keep_a_sweep_is_refused_with_what_to_write_instead(uri: str, said: str) -> None:
    with pytest.raises(TrackingError) as caught:
        resolve_uri(uri)
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_a_server_that_does_not_answer_is_refused_at_once_without_its_password(scheme: str) -> None:
    begun = time.monotonic()
    with pytest.raises(TrackingError) as caught:
        open_store(TrackingConfig(uri=f"{scheme}://user:secret@127.0.0.1:{closed_port()}", experiment="x"))
    assert time.monotonic() - begun < 30  # MLflow's own retries take minutes
    assert "does not answer" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("healthy", ["silent", "hangs", "fails"])
def test_a_server_that_hangs_or_fails_is_refused_in_seconds(healthy: str) -> None:
    """It accepts and answers nothing; answers /health and hangs; or answers 500 to everything else."""
    end = threading.Event()

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/health" and healthy != "silent":
                self.send_response(200)
            elif healthy == "fails":
                self.send_response(500)
            else:
                end.wait(120)
                return
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    begun = time.monotonic()
    with pytest.raises(TrackingError) as caught:
        open_store(TrackingConfig(uri=f"http://127.0.0.1:{server.server_port}", experiment="x"))
    assert time.monotonic() - begun < 60  # with MLflow's own retries: 134
    assert "\n" not in str(caught.value)
    end.set()
    server.shutdown()
    server.server_close()


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_text("shopping list, and other things")
    with pytest.raises(TrackingError, match=r"notes\.db: the file is no SQLite database"):
        open_store(TrackingConfig(uri="sqlite:///notes.db", experiment="x"))


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrackingError, match=r"tracking\.uri=sqlite:///.*Not a directory|File exists"):
        open_store(TrackingConfig(uri="sqlite:///file/inside/a.db", experiment="x"))


def test_a_reader_makes_no_store(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match=r"there is no MLflow store .*experiment=parity"):
        open_store(TrackingConfig(uri=None, experiment="x"), create=False)
    assert list(tmp_path.iterdir()) == []


def test_a_database_driver_that_is_missing_is_named_at_once_and_without_the_password() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        address = f"127.0.0.1:{listening.getsockname()[1]}/mlflow"
        for scheme in ("postgresql+nosuchdriver", "mysql+nosuchdriver"):
            with pytest.raises(TrackingError, match="nosuchdriver") as caught:
                open_store(TrackingConfig(uri=f"{scheme}://user:pa55@{address}", experiment="x"))
            assert "pa55" not in str(caught.value)
            assert "\n" not in str(caught.value)


def test_readers_are_told_only_of_a_store_that_they_would_not_find_by_themselves(tmp_path: Path) -> None:
    assert open_store(TrackingConfig(uri=None, experiment="llmbench")).options == ""
    other = open_store(TrackingConfig(uri=f"sqlite:///{tmp_path}/other.db", experiment="mine"))
    assert other.options == f" --uri sqlite:///{tmp_path}/other.db --experiment mine"


def test_telemetry_is_off_unless_the_user_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    from llmbench.tracking import store_uri

    for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        monkeypatch.delenv(name, raising=False)
    store_uri.client("sqlite:///a.db")
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == os.environ["DO_NOT_TRACK"] == "true"
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "false")
    monkeypatch.delenv("DO_NOT_TRACK")
    store_uri.client("sqlite:///a.db")
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "false"
    assert "DO_NOT_TRACK" not in os.environ


def test_a_damaged_store_is_refused_with_a_way_on_that_measures_nothing(tmp_path: Path) -> None:
    program = (
        "from llmbench.config.job import TrackingConfig\nfrom llmbench.tracking import open_store\n"
        f"open_store(TrackingConfig(uri='sqlite:///{tmp_path}/a.db', experiment='x'))"
    )  # in processes of their own: MLflow keeps what it has opened
    made = Child(ROOT, ("-c", program), os.environ).communicate()
    assert made.returncode == 0, made.stderr
    data = bytearray((tmp_path / "a.db").read_bytes())
    data[200:60000] = b"U" * 59800
    (tmp_path / "a.db").write_bytes(data)
    said = Child(ROOT, ("-c", program), os.environ).communicate().stderr
    assert "database disk image is malformed; if the file is damaged, move it away" in said, said
    assert "`llmbench sync FOLDER` sends them into a new one" in said


def test_processes_that_make_a_store_at_once_all_find_it(tmp_path: Path) -> None:
    program = (
        "from llmbench.config.job import TrackingConfig\nfrom llmbench.tracking import open_store\n"
        f"print(open_store(TrackingConfig(uri='sqlite:///{tmp_path}/a.db', experiment='x')).experiment_id)"
    )
    together = [Child(ROOT, ("-c", program), os.environ) for _ in range(3)]
    ended = [child.communicate() for child in together]
    assert [done.returncode for done in ended] == [0, 0, 0]
    assert len({done.stdout.strip() for done in ended}) == 1


def test_what_a_sweep_would_be_refused_for_is_known_without_making_anything(tmp_path: Path) -> None:
    assert refusal(TrackingConfig(uri=None, experiment="x")) is None
    assert list(tmp_path.iterdir()) == []
    said = refusal(TrackingConfig(uri=f"http://127.0.0.1:{closed_port()}", experiment="x"))
    assert said is not None
    assert "does not answer" in said
    (tmp_path / "file").write_text("")
    said = refusal(TrackingConfig(uri="sqlite:///file/inside/a.db", experiment="x"))
    assert said is not None
    assert "file is not writable" in said or "Not a directory" in said
    open_store(TrackingConfig(uri="sqlite:///b.db", experiment="x"))
    assert refusal(TrackingConfig(uri="sqlite:///b.db", experiment="another")) is None
