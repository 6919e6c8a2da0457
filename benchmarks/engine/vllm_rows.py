"""Is our LLaMA as fast as vLLM's? Whole generations of both in turn, on one card, by the host clock.

Both begin with the prompts as lists of token ids and end with lists of ids. Both models stay on the card; nothing runs
while the other one is timed. A generation of one token, also in turn, is what a prefill takes.
"""

import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.engine import vllm_process
from benchmarks.engine.cases import OURS, OURS_ONE, VLLM, VLLM_ONE, VllmCase
from benchmarks.engine.turns import Row, reason

PAIRS, WARM_UP = 9, 2
"""9 are the fewest whose 95 % interval leaves out the smallest and the largest."""

PAUSE_S = 0.05
"""Between two generations: an engine that queues steps ahead may still end the last one."""

MEMORY_SHARE = 0.5
"""Of the card's memory, for vLLM's weights and cache; our model and its cache need the other half."""


def run(bench: Any, chosen: Sequence[VllmCase], command: str, say: Callable[[str], None]) -> Iterator[Row]:
    """A row for every case; one that fails says why, and where vLLM does not start all of them do.

    Args:
        bench: LLaMA on the device (`measure.Bench`).
        chosen: the cases.
        command: an interpreter that has vLLM.
        say: is told what happens.
    """
    say("vLLM: start")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        try:
            other = stack.enter_context(vllm_process.started(command, _arguments(bench, folder)))
        except Exception as error:
            yield from (Row(name=case.name, failed=reason(error)) for case in chosen)
            return
        for case in chosen:
            say(case.title)
            try:
                yield _row(bench, case, other)
            except Exception as error:
                yield Row(name=case.name, failed=reason(error))


def _arguments(bench: Any, folder: Path) -> dict[str, Any]:
    """Of `LLM`: the shape, no weights, no prefix caching, room for both models; the rest are vLLM's defaults."""
    config = bench.model.config.to_dict() | {"architectures": ["LlamaForCausalLM"], "dtype": bench.dtype}
    (folder / "config.json").write_text(json.dumps(config))
    return {
        "model": str(folder),
        "load_format": "dummy",
        "skip_tokenizer_init": True,
        "dtype": bench.dtype,
        "enable_prefix_caching": False,
        "max_model_len": bench.prompt + bench.canvas + 16,
        "gpu_memory_utilization": MEMORY_SHARE,
    }


@torch.inference_mode()
def _row(bench: Any, case: VllmCase, other: vllm_process.Vllm) -> Row:
    """Samples of one batch size, in pairs."""
    row = Row(name=case.name, engine=other.about)
    with bench.cleaned():
        prompts = bench.prompts(case.batch)
        turns: dict[str, Callable[[], float]] = {
            VLLM: lambda: other.generate(prompts, bench.canvas),
            OURS: lambda: bench.host_ms(prompts, bench.canvas),
            VLLM_ONE: lambda: other.generate(prompts, 1),
            OURS_ONE: lambda: bench.host_ms(prompts, 1),
        }
        for number in range(WARM_UP + PAIRS):
            for name, turn in turns.items():
                ms = turn()
                if number >= WARM_UP:
                    row.samples.setdefault(name, []).append(ms)
                time.sleep(PAUSE_S)
    return row
