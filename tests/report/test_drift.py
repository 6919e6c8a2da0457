"""The times over a sweep: what is drawn, worked out by hand."""

from dataclasses import replace

import pytest

from llmbench.record import Record, Timing
from llmbench.report.drift import caption_of, drift_figure, drift_table, job_times
from records import make_record


def timed_at(record: Record, clock: str, times: list[tuple[int, float]], **changes: object) -> Record:
    """A Record that began at this time of day, with (batch, ms) as its times."""
    timings = tuple(
        Timing(
            batch=batch, repeat=i, e2e_ms=ms, e2e_wall_ms=ms, prefill_ms=None, forwards=4, tokens=8, utf8_bytes=None,
            throttled=changes.get("throttled"),  # type: ignore[arg-type]
        )
        for i, (batch, ms) in enumerate(times)
    )  # fmt: skip
    environment = replace(record.environment, device_uuid=str(changes.get("card", "GPU-a")))
    started_at = f"2026-11-23T{clock}+00:00"
    return replace(record, started_at=started_at, timings=timings, environment=environment)


LLAMA, LLADA = make_record("llama"), make_record("llada", 8)
SWEEP = [
    replace(timed_at(LLAMA, "10:15:00", [(0, 11.0), (0, 11.0)], throttled=True), role="retimed", identity="again"),
    timed_at(LLAMA, "10:00:00", [(0, 10.0), (0, 10.0), (1, 40.0)]),  # batch 1 once: nothing to compare it with
    replace(timed_at(LLAMA, "09:58:30", []), role="curve", identity="curve", timings=()),
    timed_at(LLADA, "10:05:00", [(0, 99.0), (0, 100.0), (0, 104.0)], card="GPU-b"),
]


def test_times_are_shares_of_the_median_of_their_batch_over_all_jobs_of_the_setting() -> None:
    first, second, third = job_times(SWEEP)
    assert [item.label for item in (first, second, third)] == ["llama", "llada k=8", "llama (timed again)"]
    assert [item.minutes for item in (first, second, third)] == [1.5, 6.5, 16.5]
    assert first.shares == pytest.approx((10 / 10.5, 10 / 10.5))
    assert second.shares == pytest.approx((0.99, 1.0, 1.04))
    assert third.shares == pytest.approx((11 / 10.5, 11 / 10.5))
    assert (first.throttled, third.throttled) == ((False, False), (True, True))
    other = replace(SWEEP[1], conditions=SWEEP[1].conditions | {"batch": "1"}, identity="other")
    assert job_times([*SWEEP, other])[0].shares == first.shares, "another setting has a median of its own"
    assert job_times([]) == job_times([SWEEP[2]]) == ()


def test_the_table_has_a_row_per_job_and_counts_those_beyond_the_band() -> None:
    table = drift_table(SWEEP, job_times(SWEEP), "as typed", "sweep s")
    assert table.rows[1] == ("llada k=8", "6.5", "process 1, card 2", "3", "1.000", "0.990", "1.040", "0")
    assert table.rows[2][-1] == "2"
    assert "2 of 3 jobs with a median beyond 3%" in table.notes[1]


def test_the_figure_joins_the_baseline_and_tells_cards_and_throttled_times_apart() -> None:
    figure = drift_figure(job_times(SWEEP), caption_of(SWEEP, "sweep s"))
    (axes,) = figure.axes
    assert axes.get_title().startswith("sweep s; ")
    joined = [line for line in axes.lines if line.get_linestyle() == "-" and len(line.get_xdata()) == 2]
    assert [list(line.get_xdata()) for line in joined if line.get_marker() == "None"][-1] == [1.5, 16.5]
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["±3%", "llama, process 1, card 1", "llada, process 1, card 2", "throttled"]
    by_name = dict(zip(names, legend.legend_handles, strict=True))
    assert by_name[names[1]].get_marker() != by_name[names[2]].get_marker()
    assert by_name[names[1]].get_color() != by_name[names[2]].get_color()
