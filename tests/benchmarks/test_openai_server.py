"""The server over this project's decoders: it writes what a local job writes, and refuses what it does not know."""

import pytest

from llmbench.config.servers import ServerConfig
from llmbench.errors import ServerError
from llmbench.job import openai_client
from llmbench.job.prepare import prepare_job
from llmbench.job.run import run_job
from serving import model_server

SMALL = [
    *("workload.prompts=5", "canvas=12", "batch=2", "timing.repeats=1", "timing.token_timing_repeats=1"),
    *("hardware=cpu", "temperature=0", "metric=speed", "metric.roofline=false"),
]


def test_greedy_tokens_are_those_of_the_local_job_and_each_is_timed(tmp_path, load):
    with model_server(tmp_path) as url:
        served = run_job(prepare_job(load("model=llama_server", f"server.url={url}", *SMALL)))
        ask = {"model": "bundled:llama", "prompt": "Once", "max_tokens": 4}
        with openai_client.Client(ServerConfig(url=url)) as client, pytest.raises(ServerError) as caught:
            client.complete([ask | {"num_denoising_steps": 4}], None)
        assert "an autoregressive model has no denoising steps" in str(caught.value)
        with openai_client.Client(ServerConfig(url=url)) as client, pytest.raises(ServerError) as caught:
            client.complete([ask | {"min_p": 0.1}], None)
        assert "not permitted: min_p" in str(caught.value)
    local = run_job(prepare_job(load("model=llama", *SMALL)))
    assert [output.text for output in served.outputs] == [output.text for output in local.outputs]
    assert served.conditions["device_name"].startswith("vllm 0 at http://127.0.0.1:")
    assert [len(marks.at_ms) for marks in served.marks] == [12, 12]
    assert "latency/itl_ms" in served.metrics
    assert "throughput/nfe" not in served.metrics
