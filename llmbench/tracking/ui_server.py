"""MLflow's own pages over a local store, on this machine only, opened where the runs are.

`serve` starts `mlflow server` on the loopback address over the store, waits until it answers, and says which addresses
show the last sweep and all of them: MLflow's front page is about traces and would look empty. Ends with Ctrl-C or
SIGTERM, and takes its workers along.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from typing import Any

from llmbench.errors import TrackingError
from llmbench.system.redact import full_uri
from llmbench.tracking import sqlite_store
from llmbench.tracking.store import Store
from llmbench.tracking.store_uri import artifact_folder, no_encoded_folder, sqlite_file
from llmbench.tracking.views import view_url

_START_SECONDS = 90.0
_LAST_PORT = 65535


def serve(store: Store, port: int, emit: Callable[[str], None] = print) -> None:
    """Show a store until interrupted. A store that is a server already is only pointed at.

    Args:
        store: to be shown.
        port: the first to try; the next free one is taken when it is in use.
        emit: prints a line.

    Raises:
        TrackingError: MLflow's server did not start.
    """
    if store.uri.startswith("http"):
        emit("The store is a server.")
        _emit_addresses(store, store.uri, emit)
        return
    if file := sqlite_file(store.uri):
        with contextlib.suppress(Exception):  # a store that cannot be written is shown as it is
            sqlite_store.adopt_artifacts(file, store.client.get_experiment(store.experiment_id))
    port = _free_port(port)
    base = f"http://127.0.0.1:{port}"
    emit(f"Starting MLflow over {store.uri} ...")
    signal.signal(signal.SIGTERM, _stop)
    process = subprocess.Popen(_command(store, port), env=_environment(store), start_new_session=True)
    try:
        with no_encoded_folder(store.uri):
            _wait(process, base)
        _emit_addresses(store, base, emit)
        emit("Ctrl-C ends it.")
        process.wait()
    except KeyboardInterrupt:
        pass
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def _emit_addresses(store: Store, base: str, emit: Callable[[str], None]) -> None:
    newest = store.newest_view()
    if newest is not None:
        emit(f"Last sweep ({newest[1]}), charts over k: {view_url(base, store.experiment_id, newest[0])}")
    emit(f"All sweeps, a table: {view_url(base, store.experiment_id)}")


def _command(store: Store, port: int) -> list[str]:
    options = {"--host": "127.0.0.1", "--port": str(port), "--workers": "1"}
    options["--artifacts-destination"] = str(artifact_folder(store.uri))
    return [sys.executable, "-m", "mlflow", "server", *(text for pair in options.items() for text in pair)]


def _environment(store: Store) -> dict[str, str]:
    """The store's URI travels here and not in the command line, which other users can read."""
    return os.environ | {
        "MLFLOW_BACKEND_STORE_URI": full_uri(store.uri),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # seven helper processes for what is not used here
    }


def _wait(process: "subprocess.Popen[bytes]", base: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise TrackingError(f"MLflow's server ended with code {process.returncode}; what it printed is above")
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{base}/health", timeout=2):
            return
        time.sleep(0.2)
    raise TrackingError(f"MLflow's server did not answer on {base} within {_START_SECONDS:.0f} s")


def _free_port(first: int) -> int:
    if not 1 <= first <= _LAST_PORT:
        raise TrackingError(f"--port {first}: a port is a number from 1 to {_LAST_PORT}")
    for port in range(first, min(first + 50, _LAST_PORT + 1)):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise TrackingError(f"no free port from {first} to {first + 49}; choose another with --port")


def _stop(number: int, frame: Any) -> None:
    sys.exit(128 + number)
