"""How numbers, models and metrics are written for people."""

from collections.abc import Sequence

from llmbench.record import Record

NAMES: dict[str, str] = {"llama": "LLaMA", "llada": "LLaDA"}
"""How models are called in prose; a name that is not listed stands as it is."""

TITLES: dict[str, str] = {
    "quality/perplexity": "perplexity",
    "quality/perplexity_second": "perplexity, second judge",
    "quality/bits_per_byte": "bits per byte",
    "quality/bits_per_byte_second": "bits per byte, second judge",
    "quality/bertscore_f1": "BERTScore F1",
    "quality/accuracy": "accuracy",
    "quality/entropy": "entropy",
    "quality/distinct_2": "distinct-2",
    "quality/relevance": "relevance",
    "quality/shared_4grams": "shared 4-grams",
    "quality/repetition": "repetition",
}

UNITS: dict[str, str] = {"quality/perplexity": "nats per token", "quality/bits_per_byte": "bits per byte"}
"""The unit of a metric's difference, where it has one."""


def called(model: str) -> str:
    """A model in prose."""
    return NAMES.get(model, model)


def named(record: Record) -> str:
    """A side in prose, with its decoder where that is not its family's own: `LLaDA (dual)`."""
    way = record.side.removeprefix(record.model).strip()
    name = called(record.model)
    return f"{name} ({way})" if way else name


def number(value: float, digits: int = 3) -> str:
    """A value to `digits` significant digits, whole numbers in full: 1234, 34.1, 0.600."""
    if value == 0 or abs(value) >= 10 ** (digits - 1):
        return f"{value:.0f}"
    return f"{value:#.{digits}g}".rstrip(".")


def signed(value: float, digits: int = 3) -> str:
    """A difference, with its sign."""
    return f"{'-' if value < 0 else '+'}{number(abs(value), digits)}"


def with_interval(value: float, low: float | None, high: float | None, unit: str = "") -> str:
    """`12.3 ms [95 % 11.9 to 12.8]`; the value alone where it has no interval."""
    interval = f" [95 % {number(low)} to {number(high)}]" if low is not None and high is not None else ""
    return f"{number(value)}{unit}{interval}"


def listed(items: Sequence[object]) -> str:
    """`8`, `8 and 16`, `8, 16 and 32`."""
    words = [str(item) for item in items]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def counted(count: int, noun: str, plural: str = "") -> str:
    """`1 prompt`, `2 prompts`, `2 batches`."""
    return f"{count} {noun if count == 1 else plural or f'{noun}s'}"


def quantization(record: Record) -> tuple[str, ...]:
    """How quantized weights are stored; () where they are not quantized."""
    kind = record.conditions.get("quantization", "none")
    return () if kind == "none" else (kind,)
