"""Calls llmbench's command line in the test's own process, which has torch already: a child imports it for seconds."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from child import without_signs
from hydra.core.global_hydra import GlobalHydra

from llmbench.cli.main import main


def called(capfd: pytest.CaptureFixture[str], *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """What a child process with this working directory would print, and how it would end; `without_signs`."""
    environment = dict(os.environ)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    capfd.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["llmbench", *arguments])
        try:
            main()
            code: object = 0
        except SystemExit as stop:
            code = stop.code or 0
        finally:
            GlobalHydra.instance().clear()
            os.environ.clear()
            os.environ.update(environment)
            for number, handler in handlers.items():
                signal.signal(number, handler)
    assert isinstance(code, int), "Python itself would print it"
    printed = capfd.readouterr()
    return subprocess.CompletedProcess(arguments, code, printed.out, without_signs(printed.err))
