"""A process that runs planned jobs for another one: `python -m llmbench.sweeps.worker FOLDER ... [--process ID]`.

For each job it prints a line of JSON on its standard output: why no Record could be written, "" where one was. What
libraries print goes to the standard error stream. It ends as soon as its standard input is closed, and so with the
process that started it.
"""

import argparse
import json
import os
import sys
import threading
from pathlib import Path

from llmbench.sweeps.job_task import run_planned
from llmbench.system import signals


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
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signals.install_signal_handlers()
    for folder in given.folders:
        result = run_planned(folder, not given.quiet, process=given.process, died=given.died, log=False)
        unsaved = "" if (folder / "record.json").is_file() else result.reason
        print(json.dumps({"unsaved": unsaved or ""}), file=answers, flush=True)


def _end_with_parent() -> None:
    """Wait until nobody holds the other end of the standard input, then end without ado."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
