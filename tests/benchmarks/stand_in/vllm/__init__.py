"""Stands in for vLLM 0.24 where none can be installed: the names and arguments of its `LLM` that the bench uses.

STAND_IN says how it behaves: "works", "dies" while it starts, "refuses" to start, "hangs" over a request, "dies later"
over a request of two rows, "stops early" one token before the end.
"""

import json
import numbers  # as vLLM's own imports do: must be Python's, not a file that lies beside the script
import os
import time
from pathlib import Path
from types import SimpleNamespace

__version__ = "0.24.0"
BEHAVIOUR = os.environ.get("STAND_IN", "works")
assert numbers.Number


class SamplingParams:
    def __init__(self, *, temperature: float, max_tokens: int, ignore_eos: bool, detokenize: bool) -> None:
        assert (temperature, ignore_eos, detokenize) == (0.0, True, False)
        self.max_tokens = max_tokens


class LLM:
    def __init__(
        self,
        model: str,
        *,
        load_format: str,
        skip_tokenizer_init: bool,
        dtype: str,
        enable_prefix_caching: bool,
        max_model_len: int,
        gpu_memory_utilization: float,
    ) -> None:
        print("INFO: a line that is no answer")
        os.system("echo another one, of a process below")
        if BEHAVIOUR == "dies":
            os._exit(9)
        if BEHAVIOUR == "refuses":
            raise ValueError("Free memory on device\n is less than desired")
        assert (load_format, skip_tokenizer_init, enable_prefix_caching) == ("dummy", True, False)
        assert gpu_memory_utilization < 1
        self._config = json.loads((Path(model) / "config.json").read_text())
        assert (self._config["architectures"], self._config["dtype"]) == (["LlamaForCausalLM"], dtype)
        self._longest = max_model_len
        graphs = SimpleNamespace(name="FULL_AND_PIECEWISE")
        config = SimpleNamespace(compilation_config=SimpleNamespace(cudagraph_mode=graphs))
        self.llm_engine = SimpleNamespace(vllm_config=config)
        self._child = os.fork()  # as vLLM's engine: outlives its parent unless somebody ends it
        if not self._child:
            time.sleep(600)
            os._exit(0)

    def generate(
        self, prompts: list[dict[str, list[int]]], sampling_params: SamplingParams, *, use_tqdm: bool
    ) -> list[SimpleNamespace]:
        print("INFO: generating")
        if BEHAVIOUR == "hangs":
            time.sleep(600)
        if BEHAVIOUR == "dies later" and len(prompts) > 1:
            os._exit(7)
        count = sampling_params.max_tokens - (BEHAVIOUR == "stops early")
        for prompt in prompts:
            ids = prompt["prompt_token_ids"]
            assert all(0 <= token < self._config["vocab_size"] for token in ids)
            assert len(ids) + sampling_params.max_tokens <= self._longest
        time.sleep(0.002 * sampling_params.max_tokens)
        return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=(0,) * count)]) for _ in prompts]
