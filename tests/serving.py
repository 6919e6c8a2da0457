"""Starts a server for a test, and ends it: `text_server.py`, or one of this project's decoders behind HTTP."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from child import Child

SCRIPT = Path(__file__).with_name("text_server.py")

LLAMA = Path(__file__).parents[1] / "llmbench" / "bundled" / "llama" / "tokenizer.json"
TEXT = (
    " the old house stood alone on the hill, and nobody had lived there for years.\n\n"
    '"Who goes there?" said a voice (a caf\u00e9 owner\'s, perhaps). There was no answer but the wind, which came and '
    "went as it had always done, and the children ran home before it was dark."
)


@dataclass(frozen=True)
class Running:
    """A server that listens."""

    url: str
    folder: Path
    process: "subprocess.Popen[bytes]"

    @property
    def requests(self) -> list[dict[str, Any]]:
        """Every POST that it got, in order of arrival."""
        path = self.folder / "requests.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@contextlib.contextmanager
def model_server(folder: Path, *options: str) -> Iterator[str]:
    """`benchmarks.openai_server` in float32 on one thread, in a process of its own; its url.

    Args:
        folder: gets its port, and is where it runs.
        options: of its command line.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = folder / "port"
    program = "import sys\nfrom benchmarks.openai_server import main\nmain(sys.argv[1:])"
    own = ("--device", "cpu", "--threads", "1", "--port", "0", "--port-file", str(port))
    process = Child(folder, ("-c", program, *own, *options), os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        deadline = time.monotonic() + 120
        while not port.exists():
            assert process.poll() is None, process.said()
            assert time.monotonic() < deadline, "the server does not listen"
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port.read_text()}/v1"
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.communicate()


@contextlib.contextmanager
def text_server(folder: Path, mode: str = "ok") -> Iterator[Running]:
    """A server in this mode, with its port and what it was asked in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen([sys.executable, str(SCRIPT), str(folder), mode])
    try:
        deadline = time.monotonic() + 60
        while not (folder / "port").exists():
            assert process.poll() is None, "the server ended"
            assert time.monotonic() < deadline, "the server does not listen"
            time.sleep(0.02)
        yield Running(f"http://127.0.0.1:{(folder / 'port').read_text()}/v1", folder, process)
    finally:
        process.kill()
        process.wait()
