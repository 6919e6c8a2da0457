"""A process that runs planned jobs for another one: `python -m llmbench.sweeps.worker FOLDER ... [--process ID]`.

For each job it prints a line of JSON on its standard output: why no Record could be written, "" where one was. What
libraries print goes to the standard error stream. Behind each line it waits for a byte on its standard input, so that
what is done with the Record disturbs no job. It ends when that is closed, and so with the process that started it.
"""

import argparse
import contextlib
import json
import os
import sys
import threading
from pathlib import Path

from llmbench.system import signals
from llmbench.system.output import own_process
from llmbench.system.terminal import doing


def main() -> None:
    """Run the jobs of the folders in turn."""
    parser = argparse.ArgumentParser(prog="python -m llmbench.sweeps.worker")
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--process", default="", help="what Record.process is to say")
    parser.add_argument("--died", default="", help="write the failed Record of a job that ended so")
    parser.add_argument("--quiet", action="store_true")
    given = parser.parse_args()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    asked = threading.Semaphore(0)
    threading.Thread(target=_listen, args=(asked,), daemon=True).start()
    signals.install_signal_handlers()
    own_process()
    with contextlib.nullcontext() if given.quiet else doing("starting a process"):
        from llmbench.sweeps.job_task import run_planned
    for place, folder in enumerate(given.folders):
        if place:
            asked.acquire()
        result = run_planned(folder, not given.quiet, process=given.process, died=given.died, log=False)
        unsaved = "" if (folder / "record.json").is_file() else result.reason
        print(json.dumps({"unsaved": unsaved or ""}), file=answers, flush=True)


def _listen(asked: threading.Semaphore) -> None:
    """Count what is asked for, until nobody holds the other end of the standard input; then end without ado."""
    while os.read(sys.stdin.fileno(), 1):
        asked.release()
    os._exit(1)


if __name__ == "__main__":
    main()
