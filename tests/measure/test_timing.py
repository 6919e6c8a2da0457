"""Timed regions and their marks, against a clock that the test turns by hand."""

from collections.abc import Callable

from llmbench.measure.timing import HostClock, OnStep, time_region
from llmbench.metrics.performance import gaps
from llmbench.record import Marks

PREFILL_MS, DECODE_MS, BETWEEN_MS = 200, 10, 1000


class FakeTime:
    """Monotonic nanoseconds that move only when told."""

    def __init__(self) -> None:
        self.ns = 5_000_000_000

    def now(self) -> int:
        return self.ns

    def pass_ms(self, ms: int) -> None:
        self.ns += ms * 1_000_000


def generation(fake: FakeTime, tokens: int = 4) -> Callable[[OnStep | None], str]:
    """A decoder whose first token takes 200 ms and every other 10 ms."""

    def run(on_step: OnStep | None) -> str:
        for i in range(tokens):
            fake.pass_ms(DECODE_MS if i else PREFILL_MS)
            if on_step is not None:
                on_step(i)
        return "text"

    return run


def test_a_region_runs_from_before_the_prefill_to_after_the_last_token() -> None:
    fake = FakeTime()
    reading, text = time_region(HostClock(fake.now), generation(fake))
    assert text == "text"
    assert reading.e2e_ms == reading.wall_ms == 230
    assert reading.marks_ms == ()


def test_the_first_mark_is_the_prefill_and_stays_the_only_one() -> None:
    fake = FakeTime()
    reading, _ = time_region(HostClock(fake.now), generation(fake), marks="first")
    assert reading.marks_ms == (200,)


def test_every_token_is_marked_since_the_start() -> None:
    fake = FakeTime()
    reading, _ = time_region(HostClock(fake.now), generation(fake), marks="every")
    assert reading.marks_ms == (200, 210, 220, 230)


def test_five_repeats_of_four_tokens_give_exactly_fifteen_gaps_and_no_prefill_is_one() -> None:
    # optimum-benchmark at b263af4 finds 55 samples here, mean 46.6 ms, because its lists outlive a repeat
    fake = FakeTime()
    clock, marks = HostClock(fake.now), []
    for repeat in range(5):
        reading, _ = time_region(clock, generation(fake), marks="every")
        marks.append(Marks(batch=0, repeat=repeat, at_ms=reading.marks_ms))
        fake.pass_ms(BETWEEN_MS)
    samples = gaps(marks)
    assert len(samples) == 15
    assert set(samples) == {10.0}


def test_the_host_clock_is_monotonic_and_agrees_with_itself() -> None:
    reading, total = time_region(HostClock(), lambda on_step: sum(range(1000)))
    assert total == 499500
    assert reading.e2e_ms > 0
    assert reading.e2e_ms == reading.wall_ms
