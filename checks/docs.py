"""Do the commands of the documentation run?

    python checks/docs.py

In an empty folder, with the results of `make run`: every shell block of docs/start.md in its order, the Python of
docs/own-metric.md, and the five examples. Prints each command with its time; the first that fails is shown with its
output and ends this with 1.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = ("make run", ". .venv/bin/activate")
"""Has been run, or says nothing here."""

SERVER = ("-m", "benchmarks.openai_server", "--checkpoint", "bundled:llama", "--device", "cpu", "--port", "0")


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)


def run(command: list[str], folder: Path, allowed: tuple[int, ...] = (0,)) -> None:
    """Run a command of the documentation in this folder.

    Args:
        command: and its arguments.
        folder: where.
        allowed: exit codes that are an answer.
    """
    begin = time.monotonic()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    shown = " ".join(command)[:100].replace("\n", " ")
    print(f"{time.monotonic() - begin:5.1f} s  {done.returncode}  {shown}", flush=True)
    if done.returncode not in allowed:
        sys.exit(f"{done.stdout}\n{done.stderr}\n{' '.join(command)}\nended with {done.returncode}")


def newest(folder: Path) -> str:
    """The newest sweep in a folder of results."""
    return str(max(path.parent for path in folder.glob("multirun/*/sweep.json")))


def main() -> None:
    """Run everything."""
    if not list(ROOT.glob("multirun/*/sweep.json")):
        sys.exit("no sweep in multirun/: type make run first")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "multirun").symlink_to(ROOT / "multirun")
        for block in blocks("docs/start.md", "bash"):
            if block.strip() not in LEFT_OUT:
                run(["bash", "-euc", block], folder)
        (script,) = blocks("docs/own-metric.md", "python")
        run([sys.executable, "-c", script.replace("multirun/2026-...", newest(ROOT))], folder)
    with tempfile.TemporaryDirectory() as name:
        folder, examples = Path(name), ROOT / "examples"
        (folder / "multirun").mkdir()
        run([sys.executable, str(examples / "first_sweep.py")], folder)
        run([sys.executable, str(examples / "own_metric.py"), newest(folder)], folder)
        run([str(examples / "own_prompts.sh")], folder)
        port = folder / "port"
        server = subprocess.Popen([sys.executable, *SERVER, "--port-file", str(port)], cwd=ROOT)
        try:
            while not port.exists() and server.poll() is None:
                time.sleep(0.1)
            run([str(examples / "beside_a_server.sh"), f"http://127.0.0.1:{port.read_text()}/v1"], folder)
        finally:
            server.kill()
        # 1 and 3 are answers of a gate on a machine with other work; the exit code 2 is a mistake
        run([str(examples / "regression_gate.sh"), newest(folder)], folder, allowed=(0, 1, 3))


if __name__ == "__main__":
    main()
