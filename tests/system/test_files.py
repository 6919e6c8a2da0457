"""Files that are whole or not there, and locks that a dead process lets go: with real processes."""

import select
import subprocess
import sys
from pathlib import Path

import pytest

from llmbench.system.files import lock, write_atomic

ROOT = Path(__file__).parents[2]


def test_a_writer_killed_at_any_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    target = tmp_path / "state.json"
    program = (
        "import sys; from pathlib import Path; from llmbench.system.files import write_atomic\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    for letter in 'ab': write_atomic(Path(sys.argv[1]), letter * 1_000_000)\n"
    )
    for _ in range(5):
        command = [sys.executable, "-c", program, str(target)]
        writer = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        while not target.exists():
            assert writer.poll() is None
        for _ in range(20):
            text = target.read_text()
            assert (len(text), len(set(text))) == (1_000_000, 1)
        writer.kill()
        writer.wait()
        text = target.read_text()
        assert (len(text), len(set(text))) == (1_000_000, 1)


def test_what_cannot_be_written_leaves_the_earlier_file_and_nothing_beside_it(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("")
    with pytest.raises(OSError):
        write_atomic(tmp_path / "taken", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_lock_is_held_by_one_process_and_let_go_when_it_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from llmbench.system.files import lock\n"
        "print('asks', flush=True)\n"
        "with lock(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "lock")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    first = subprocess.Popen(command, cwd=ROOT, **pipes)
    assert [first.stdout.readline() for _ in range(2)] == ["asks\n", "held\n"]
    second = subprocess.Popen(command, cwd=ROOT, **pipes)
    assert second.stdout.readline() == "asks\n"
    assert select.select([second.stdout], [], [], 1) == ([], [], []), "it waits"
    first.kill()
    assert second.stdout.readline() == "held\n"
    second.communicate()
    first.communicate()
    with lock(tmp_path / "lock"):
        pass
