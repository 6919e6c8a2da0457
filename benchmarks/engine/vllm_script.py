"""vLLM in a process of its own: `LLM` is built once, and generates for every line that comes in.

Run as a file by an interpreter that has vLLM; nothing of this project is imported. Every line is JSON. In: the
arguments of `LLM`, then {"prompts": [[id, ...], ...], "new_tokens": n} any number of times; the end of the input ends
it. Out: {"about": {...}}, then {"ms": ..., "tokens": [tokens of each row]} for every request; or {"failed": "..."},
and the process ends. What vLLM prints goes to standard error.
"""

import json
import os
import sys
import time
from typing import Any


def main() -> int:
    """Answer until the input ends; the exit code is 1 when something failed."""
    channel = os.dup(1)
    os.dup2(2, 1)
    os.register_at_fork(after_in_child=lambda: os.close(channel))  # the pipe ends with this process
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != here]  # its numbers.py is not Python's

    def answer(found: dict[str, Any]) -> None:
        left = (json.dumps(found) + "\n").encode()
        while left:
            left = left[os.write(channel, left) :]

    try:
        from vllm import LLM

        llm = LLM(**json.loads(sys.stdin.readline()))
        answer({"about": about(llm)})
        for line in sys.stdin:
            answer(generate(llm, **json.loads(line)))
    except Exception as error:
        answer({"failed": f"{type(error).__name__}: {error}"})
        raise
    return 0


def generate(llm: Any, prompts: list[list[int]], new_tokens: int) -> dict[str, Any]:
    """Greedy, exactly so many new tokens a row: milliseconds by the host clock, and how many tokens came."""
    from vllm import SamplingParams

    settings = SamplingParams(temperature=0.0, max_tokens=new_tokens, ignore_eos=True, detokenize=False)
    asked = [{"prompt_token_ids": ids} for ids in prompts]
    begun = time.perf_counter()
    outputs = llm.generate(asked, settings, use_tqdm=False)
    tokens = [list(output.outputs[0].token_ids) for output in outputs]
    ms = (time.perf_counter() - begun) * 1000
    return {"ms": ms, "tokens": [len(row) for row in tokens]}


def about(llm: Any) -> dict[str, str]:
    """What this vLLM is and how it is configured; what a version does not tell is left out."""
    import vllm

    config = getattr(llm.llm_engine, "vllm_config", None)
    found = {
        "version": vllm.__version__,
        "torch": getattr(sys.modules.get("torch"), "__version__", None),
        "attention": attention(config),
        "compilation": setting(config, "compilation_config", "mode"),
        "CUDA graphs": setting(config, "compilation_config", "cudagraph_mode"),
        "asynchronous scheduling": setting(config, "scheduler_config", "async_scheduling"),
        "prefix caching": setting(config, "cache_config", "enable_prefix_caching"),
        "tokens a step": setting(config, "scheduler_config", "max_num_batched_tokens"),
    }
    return {name: str(value) for name, value in found.items() if value is not None}


def setting(config: Any, part: str, name: str) -> Any:
    """A value of vLLM's configuration, an enumeration's by its name; None where there is none."""
    value = getattr(getattr(config, part, None), name, None)
    return getattr(value, "name", value)


def attention(config: Any) -> str | None:
    """The attention that vLLM chooses for this model here, as `LLM` chose it; None where this version does not tell."""
    try:
        from vllm.config import set_current_vllm_config
        from vllm.v1.attention.backends.fa_utils import get_flash_attn_version
        from vllm.v1.attention.selector import get_attn_backend

        size = config.model_config.get_head_size()
        with set_current_vllm_config(config):
            chosen = get_attn_backend(size, config.model_config.dtype, config.cache_config.cache_dtype)
            name = str(chosen.get_name())
            return f"{name} {get_flash_attn_version(head_size=size)}" if name == "FLASH_ATTN" else name
    except Exception as error:
        print(f"which attention runs is not known: {type(error).__name__}: {error}", file=sys.stderr)
        return None


if __name__ == "__main__":
    sys.exit(main())
