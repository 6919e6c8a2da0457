"""Files that are whole or not there, on full disks, too, and locks that a dead process lets go: with real processes."""

import contextlib
import os
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from child import Child

from llmbench import record
from llmbench.cli.sync import main as sync
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


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4000k", "tmpfs", str(folder)]
    with contextlib.suppress(FileNotFoundError):
        if subprocess.run(command, capture_output=True).returncode == 0:
            yield folder
            subprocess.run(["umount", "--lazy", str(folder)], check=True)  # this process has the store open
            return
    pytest.skip("only root can mount a small disk")


def fill(disk: Path) -> Path:
    """Fill a disk to its last byte with one file."""
    path = disk / "full"
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return path


def test_a_disk_that_is_full_costs_what_comes_after_and_is_told_in_a_line_for_each_job(
    small_disk: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(empty_store, small_disk)
    settings = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "LLMBENCH_RESULTS": str(small_disk)}
    small = ["workload.prompts=4", "batch=2", "canvas=8", "timing.repeats=2", "metric=speed", "metric.roofline=false"]
    small += ["hardware=cpu", "hardware.threads=1"]
    sweep = Child(small_disk.parent, ("-m", "model=llama,llada", "steps=2,4", *small), os.environ | settings)
    deadline = time.monotonic() + 120
    while not list(small_disk.glob("*/llama-*/record.json")):
        assert sweep.poll() is None, "the sweep ended before the disk was full"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    filling = fill(small_disk)
    ended = sweep.communicate(timeout=120)
    shown, said = ended.stdout, ended.stderr
    assert ended.returncode == 4, said
    assert "Traceback" not in said
    kept = list(small_disk.glob("*/*/record.json"))
    assert 1 <= len(kept) < 4
    assert all(record.load(path).status == "finished" for path in kept)
    assert f"\n{len(kept)} of 4 jobs finished in " in shown
    failed = re.findall("^FAILED (.*): cannot write .*record.json: No space left on device$", shown, re.MULTILINE)
    assert len(failed) == 4 - len(kept)
    assert f"llmbench: {len(failed)} of 4 jobs failed: " in said
    (folder,) = small_disk.glob("*/sweep.json")
    assert f"llmbench sync {folder.parent} sends what is missing" in said.splitlines()[-1]

    filling.unlink()
    monkeypatch.setenv("LLMBENCH_RESULTS", str(small_disk))
    assert sync([str(folder.parent)]) == 0
    assert ", killed; the sweep was interrupted; missing: " in capsys.readouterr().out
