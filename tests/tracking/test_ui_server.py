"""MLflow's own server over a store, started and ended for real; and a store that is a server."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from llmbench.analysis.parity.analyze import verdicts
from llmbench.config.job import TrackingConfig
from llmbench.tracking import open_store
from llmbench.tracking.store_uri import sqlite_uri
from records import make_sweep

ROOT = Path(__file__).parents[2]


def test_ui_serves_the_runs_and_takes_its_server_along_when_it_ends(tmp_path: Path, empty_store: Path) -> None:
    (tmp_path / "a%20b?").mkdir()
    uri = sqlite_uri(Path(shutil.copy(empty_store, tmp_path / "a%20b?")))
    store = open_store(TrackingConfig(uri=uri, experiment="llmbench"))
    records = make_sweep((8,))
    parent = store.start_sweep(name="sweep", command="", jobs=2)
    for record in records:
        store.log_job(record, parent=parent, steps_axis=[8], swept={})
    store.finish_sweep(parent, verdicts(records), records)
    command = [sys.executable, "-u", "-m", "llmbench", "ui", "--uri", uri, "--port", "5951"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    try:
        pages = []
        while len(pages) < 2:
            line = next(process.stdout)
            pages += re.findall(r"(http://127\.0\.0\.1:\d+)/#/experiments/(\d+)/runs\?viewStateShareKey=(\w+)", line)
        base = pages[0][0]
        assert pages == [(base, store.experiment_id, view) for view in (parent, "llmbench")]
        assert [path.name for path in tmp_path.iterdir()] == ["a%20b?"]
        with urllib.request.urlopen(base, timeout=20) as answer:
            assert b"<html" in answer.read().lower()
        # the same store through its server: what a team does
        served = open_store(TrackingConfig(uri=base, experiment="llmbench"))
        assert served.records(parent) == records
        run = served.client.get_run(served.log_job(records[0], parent=parent, steps_axis=[8], swept={}))
        assert run.info.status == "FINISHED"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(base, timeout=1).close()
        except OSError:
            return
        time.sleep(0.2)
    raise AssertionError("the server outlived the command")
