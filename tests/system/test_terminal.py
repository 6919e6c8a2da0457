"""What a person sees: a sweep in a terminal, and what the same command says in a pipe, quietly, and to a program.

One sweep is measured. Every other command takes its Records over.
"""

import contextlib
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import termios
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from child import Child

from llmbench.system import terminal

REPOSITORY = Path(__file__).parents[2]
COLUMNS = 90
SMALL = [
    "-m",
    "model=llama,llada",
    "steps=4",
    "hardware=cpu",
    "canvas=16",
    "workload.prompts=4",
    "timing.repeats=2",
    "metric.roofline=false",
]
SMALL += ["metric.likelihood_texts=1", "metric.likelihood_samples=1", "parity.baseline_temperatures=[0]"]
AGAIN = [*SMALL, "reuse=all"]
LINES = ["Verdict", "Speed", "Estimate", "For", "Next"]


def environment(**more: str) -> dict[str, str]:
    clean = "0123456789abcdef0123456789abcdef01234567"  # as in a copy without changes: what is recorded can be reused
    plain = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    own = {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "LLMBENCH_COMMIT": clean, "TERM": "xterm-256color"}
    return plain | own | more


@dataclass(frozen=True)
class Seen:
    """What came to a terminal."""

    code: int
    text: str

    @property
    def ending(self) -> list[str]:
        """The lines behind the last that was drawn and taken away, without colours."""
        return re.sub(r"\x1b\[[0-9;]*m", "", self.text.rpartition("\x1b[?25h")[2]).splitlines()


def in_terminal(folder: Path, *arguments: str, **more: str) -> Seen:
    """Run a command whose standard output and error are a terminal of `COLUMNS` columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
    came: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # EIO: nobody holds the other end
            while data := os.read(ours, 65536):
                came.append(data)

    reader = threading.Thread(target=read)
    reader.start()
    name = Path(os.ttyname(theirs))
    child = Child(folder, arguments, environment(**more), stdout=name, stderr=name)
    ended = child.communicate()
    os.close(theirs)
    reader.join()
    os.close(ours)
    return Seen(ended.returncode, b"".join(came).decode().replace("\r\n", "\n"))


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Seen]:
    folder = tmp_path_factory.mktemp("terminal")
    return folder, in_terminal(folder, *SMALL)


def again(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The same sweep in pipes, over the same Records."""
    return Child(folder, (*AGAIN, *arguments), environment()).communicate()


def test_a_terminal_shows_the_plan_two_lines_of_progress_and_five_lines_of_verdict(swept):
    _, seen = swept
    assert seen.code == 0, seen.text
    assert "Expected time: about" in seen.text.partition("job 1 of 4")[0]
    for number in range(1, 5):  # llama, its curve, llada, llama timed again
        assert re.search(rf"job {number} of 4: .*, about .* left", seen.text)
    drawn = re.split(r"[\r\n]", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen.text))
    assert any(re.match(r"timed +━+ +\d/2", line) for line in drawn)  # how often it is drawn, the clock decides
    card = [line for line in seen.ending if line.split(" ")[0] in LINES]
    assert [line.split()[0] for line in card] == LINES
    assert "4 of 4 jobs finished" in seen.ending[-4]


def test_what_stays_on_the_screen_is_no_wider_than_the_terminal(swept):
    folder, seen = swept
    long = [line for line in seen.ending if len(line) > COLUMNS]
    copied = (str(folder), "llmbench report", "llmbench ui")  # to be copied whole
    assert all(any(part in line for part in copied) for line in long), long
    assert any(line.startswith("llada k=4 ") for line in seen.ending)


def test_the_log_has_the_plan_every_phase_and_all_tables(swept):
    folder, _ = swept
    log = next(folder.glob("multirun/*/llmbench.log")).read_text()
    assert "\x1b" not in log
    for text in ("Expected time: about", "llama: timed", "llada k=4: score", "The tests behind the verdict", "4 of 4"):
        assert text in log


def test_colours_stop_where_they_are_not_wanted_and_drawing_where_it_is_not_possible(swept):
    folder, seen = swept
    colour = re.compile(r"\x1b\[[0-9;]*3\d[;m]")
    assert colour.search(seen.text)
    plain = in_terminal(folder, *AGAIN, NO_COLOR="1")
    assert plain.code == 0
    assert not colour.search(plain.text)
    dumb = in_terminal(folder, *AGAIN, TERM="dumb")
    assert "\x1b" not in dumb.text
    assert "3 of 3 jobs finished" in dumb.text  # nothing is timed again


def test_quiet_prints_the_verdict_alone(swept):
    result = again(swept[0], "-q")
    assert (result.returncode, result.stderr) == (0, "")
    assert [line.split()[0] for line in result.stdout.splitlines()] == LINES


def test_verbose_adds_the_tests_behind_the_verdict(swept):
    plain, more = again(swept[0]), again(swept[0], "--verbose")
    assert "\x1b" not in plain.stdout + plain.stderr
    for text in ("The tests behind the verdict", "speedup = L_e2e of the autoregressive side"):
        assert text not in plain.stdout
        assert text in more.stdout


def test_json_is_the_only_thing_on_standard_output(swept):
    folder, _ = swept
    result = again(folder, "--json")
    found = json.loads(result.stdout)
    assert (result.returncode, found["status"]) == (0, "finished")
    assert [item["title"] for item in found["jobs"] if item["role"] == "timed"] == ["llama", "llada k=4"]
    assert all("latency/e2e_ms" in item["metrics"] for item in found["jobs"] if item["role"] == "timed")
    assert found["verdicts"][0]["steps"] == [4]
    assert Path(found["folder"]).is_dir()
    assert "Verdict" in result.stderr
    planned = json.loads(again(folder, "--json", "dry_run=true").stdout)
    assert [item["recorded"] for item in planned["jobs"]] == [True] * 3


def test_what_libraries_say_goes_to_the_log_also_when_python_ends(swept):
    folder, _ = swept
    program = (
        "import atexit, logging, os, sys, warnings\n"
        "atexit.register(os.write, 2, b'nanobind: leaked 25 instances!\\n')\n"
        "from llmbench.sweeps import conclusion\n"
        "real = conclusion.conclude\n"
        "def loud(*given, **named):\n"
        "    os.write(2, b'[W] from C\\n'); warnings.warn('from Python')\n"
        "    logging.getLogger('mlflow').warning('of MLflow')\n"
        "    return real(*given, **named)\n"
        "conclusion.conclude = loud\n"
        f"sys.argv = ['llmbench', *{AGAIN!r}, 'hydra.sweep.dir=multirun/loud']\n"
        "from llmbench.cli.main import main; main()"
    )
    result = Child(folder, ("-c", program), environment()).communicate()
    assert result.returncode == 0, result.stderr
    log = (folder / "multirun" / "loud" / "llmbench.log").read_text()
    for text in ("nanobind: leaked 25", "[W] from C", "from Python", "of MLflow"):
        assert text in log
        assert text not in result.stderr + result.stdout


def test_what_takes_long_gives_a_sign_in_a_pipe_but_not_while_another_process_has_the_terminal(capfd, monkeypatch):
    monkeypatch.setattr(terminal, "SILENT_S", 0.05)
    with terminal.doing("load", "llada k=4") as activity:
        terminal.tick(activity, "timed", 0, 9)
        terminal.tick(activity, "timed", 4, 9)
        said, until = "", time.monotonic() + 30
        while not re.search(r"llada k=4: timed 4/9, \d+ s\n", said):
            assert time.monotonic() < until, said
            time.sleep(0.25)  # pytest drops what is written while it reads
            said += capfd.readouterr().err
        with terminal.lent():
            capfd.readouterr()
            time.sleep(0.3)
            assert capfd.readouterr() == ("", "")


def test_a_job_alone_has_a_log_and_a_document_too(swept):
    folder, _ = swept
    alone = ["model=llada", "steps=2", "metric=speed", *SMALL[3:7], "hydra.run.dir=multirun/alone", "--json"]
    result = Child(folder, tuple(alone), environment()).communicate()
    found = json.loads(result.stdout)
    assert (found["title"], found["status"], found["steps"]) == ("llada k=2", "finished", 2)
    assert Path(found["record"]).is_file()
    assert "Expected time: about" in result.stderr
    assert "llada k=2: done in" in (folder / "multirun" / "alone" / "llmbench.log").read_text()
