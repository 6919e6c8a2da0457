"""What the harness for faults draws and finds, without a sweep."""

import json
import random
import subprocess
import sys
from pathlib import Path

from benchmarks.faults import Course, Moment, draw, kill_at, measured_twice, processes_of, results_of

COURSE = Course(records=(9.0, 12.0, 15.0), end=20.0)


def test_moments_come_from_the_seed_and_reach_every_part_of_a_sweep() -> None:
    moments = [draw(random.Random(f"0-{i}"), COURSE) for i in range(200)]
    assert moments == [draw(random.Random(f"0-{i}"), COURSE) for i in range(200)]
    assert {moment.after for moment in moments} == {"start", "store", "records"}
    assert {moment.records for moment in moments} == {0, 1, 2, 3}
    assert all(0 <= moment.delay_s <= COURSE.end for moment in moments)


def test_a_job_with_two_measurements_is_found_and_a_copy_or_a_second_timing_is_none(tmp_path: Path) -> None:
    for name, identity, role, began in [
        ("a/llama-1", "1", "timed", "10:00"),
        ("b/llama-1", "1", "timed", "10:00"),
        ("a/retimed-2", "2", "retimed", "10:01"),
        ("b/retimed-2", "2", "retimed", "10:09"),
        ("a/llada-3", "3", "timed", "10:02"),
        ("b/llada-3", "3", "timed", "10:05"),
    ]:
        folder = results_of(tmp_path) / name
        folder.mkdir(parents=True)
        (folder / "record.json").write_text(json.dumps({"identity": identity, "role": role, "started_at": began}))
    assert measured_twice(tmp_path) == ["llada-3 was measured 2 times"]


def test_the_main_process_alone_is_killed_and_its_orphan_is_found(tmp_path: Path) -> None:
    sleep = f"import time; time.sleep(60) # {tmp_path}"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {sleep!r}])"
    process = subprocess.Popen([sys.executable, "-c", program])
    while len(processes_of(tmp_path)) < 2:
        assert process.poll() is None
    assert kill_at(process, tmp_path, Moment(after="start", delay_s=0))
    (orphan,) = processes_of(tmp_path)
    orphan.kill()
