"""A diffusion model behind a real server that decodes: texts and forwards are the local ones, traps are named."""

import pytest

from llmbench.analysis.parity.analyze import verdicts
from llmbench.analysis.parity.verdict import NFE, Status
from llmbench.errors import ConfigError, ServerError
from llmbench.job import openai_client
from llmbench.job.forward_counter import ForwardCounter
from llmbench.job.prepare import prepare_job
from llmbench.job.run import run_job
from llmbench.job.server import require
from llmbench.record import parse
from llmbench.report.tables import parity_table
from serving import model_server

SMALL = [
    *("workload.prompts=5", "canvas=16", "batch=2", "timing.repeats=2", "timing.token_timing_repeats=0"),
    *("hardware=cpu", "temperature=0", "metric=speed", "metric.roofline=false"),
]
BLOCKS = ["model=llada", "block_length=8", *SMALL]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """LLaDA in blocks of 8, counting as vLLM does."""
    # requests of one batch come within 20 ms of each other on an idle machine alone
    options = ("--checkpoint", "bundled:llada", "--block-length", "8", "--window-ms", "100")
    with model_server(tmp_path_factory.mktemp("server"), *options) as url:
        yield url


@pytest.fixture
def served(load, server):
    def run(*overrides, url=server):
        asked = ["model=llada_server", f"diffusion_server.url={url}", *SMALL, *overrides]
        return parse(run_job(prepare_job(load(*asked))).to_json())

    return run


@pytest.fixture
def local(load):
    return lambda *overrides: run_job(prepare_job(load(*overrides)))


def texts(record):
    return [output.text for output in record.outputs]


@pytest.mark.parametrize("steps", [4, 8])
def test_tokens_and_forwards_are_those_of_the_local_job(served, local, steps):
    record = served("diffusion_server.engine=vllm", f"steps={steps}")
    here = local(*BLOCKS, f"steps={steps}")
    assert texts(record) == texts(here)
    assert [t.forwards for t in record.timings] == [t.forwards for t in here.timings] == [steps] * 4
    assert record.metrics["throughput/nfe"] == here.metrics["throughput/nfe"] == steps
    assert (record.label, record.steps, record.family) == (f"llada server k={steps}", steps, "diffusion")
    assert 0 < record.metrics["latency/first_text_ms"] < record.metrics["latency/e2e_ms"]  # its first block
    assert (
        not {"latency/prefill_ms", "latency/itl_ms", "latency/step_ms", "latency/token_gap_ms"} & record.metrics.keys()
    )


def test_the_share_that_is_drawn_from_goes_out_with_a_request(served):
    """At 0.000001 the most probable token alone is left."""
    engine = "diffusion_server.engine=vllm"
    drawn, greedy = served(engine, "steps=4", "temperature=0.7", "top_p=0.000001"), served(engine, "steps=4")
    assert texts(drawn) == texts(greedy)


def test_without_counters_forwards_are_absent(served):
    record = served("diffusion_server.engine=dlmserve", "steps=4")
    assert {t.forwards for t in record.timings} == {None}
    assert not {"throughput/nfe", "throughput/tokens_per_forward"} & record.metrics.keys()
    assert "throughput/nfe is absent: the server tells no forwards" in record.notes
    own = served("diffusion_server.steps_field=vllm_xargs.diffusion_max_steps", "steps=4")
    assert texts(own) == texts(record)


def test_counters_that_count_others_say_nothing(served, server, load):
    settings = load(
        "model=llada_server", "diffusion_server.engine=vllm", f"diffusion_server.url={server}"
    ).model.decoder
    with openai_client.Client(settings) as client:
        model = client.identify().model
        ask = {"model": model, "prompt": "Once", "max_tokens": 16, "vllm_xargs": {"diffusion_max_steps": 4}}
        counter = ForwardCounter(client, settings.preset.counters)
        counter.begin()
        assert counter.made(client.complete([ask, ask], None)) == 4
        counter.begin()
        client.complete([ask], None)  # another's
        assert counter.made(client.complete([ask, ask], None)) is None
        assert counter.notes() == [
            "throughput/nfe is absent: the server's counters do not fit these requests; others use it too"
        ]


def test_k_is_the_servers_where_the_engine_takes_it_at_its_start(tmp_path, load, local):
    with model_server(tmp_path, "--checkpoint", "bundled:llada", "--steps", "4", "--no-counters") as url:
        asked = ["model=llada_server", "diffusion_server.engine=sglang", *SMALL]
        urls = f'diffusion_server.urls={{4: {url}, 8: "http://127.0.0.1:9/v1"}}'
        record = run_job(prepare_job(load(*asked, urls, "steps=4")))
        assert texts(record) == texts(local("model=llada", "steps=4", *SMALL))
        assert record.config["model"]["decoder"]["urls"] == {4: url}
        with pytest.raises(ServerError, match=r"set diffusion_server\.url"):
            require(load(*asked, urls, "steps=8").model.decoder)
        with pytest.raises(ConfigError, match=r"steps 16 has no server: diffusion_server\.urls has 4, 8"):
            load(*asked, urls, "steps=16")
        with pytest.raises(ConfigError, match=r"sglang takes k when it starts .*diffusion_server\.urls='\{8: "):
            load(*asked, "steps=8")
        with pytest.raises(ConfigError, match=r"how is k set\? diffusion_server\.engine=vllm\|sglang"):
            load("model=llada_server", *SMALL)


def test_traps_are_named(tmp_path, served):
    options = ("--checkpoint", "bundled:llada", "--one-by-one", "--cached-tokens", "3", "--greedy", "--round-to", "12")
    with model_server(tmp_path, *options) as url:
        asked = ("diffusion_server.engine=sglang", f"diffusion_server.urls={{8: {url}}}", "steps=8", "temperature=0.7")
        record = served(*asked, url=url)
    (queue,) = (note for note in record.notes if "one after the other" in note)
    assert "--max-running-requests" in queue
    assert any("15 prompt tokens from its prefix cache" in note for note in record.notes)
    assert any("ignore the temperature" in note for note in record.notes)
    assert any("24 tokens where 16 were asked for" in note for note in record.notes)


def test_no_trap_no_note(served):
    record = served("diffusion_server.engine=vllm", "steps=8")
    traps = ("one after the other", "rounds the canvas", "prefix cache", "ignore the temperature")
    assert not [note for note in record.notes if any(trap in note for trap in traps)]


def test_a_trusted_server_is_a_candidate_and_another_a_column(served, local):
    llama = local("model=llama", *SMALL)
    here = [local(*BLOCKS, f"steps={k}") for k in (4, 8)]
    apart = [served("diffusion_server.engine=vllm", f"steps={k}") for k in (4, 8)]
    (verdict,) = verdicts([llama, *here, *apart])
    assert verdict.steps == (4, 8)
    assert [item.candidate_ms for item in verdict.speedups] == [r.metrics["latency/e2e_ms"] for r in here]
    (server,) = verdict.external_servers
    assert (server.label, server.candidate, [item.steps for item in server.speedups]) == ("llada server", True, [4, 8])
    ratio = llama.metrics["latency/e2e_wall_ms"] / apart[0].metrics["latency/e2e_ms"]
    assert server.speedup(4).ratio == pytest.approx(ratio)
    table = parity_table([llama, *here, *apart], verdict)
    shown = dict(zip(table.header, zip(*table.rows, strict=True), strict=True))
    own = shown["speedup of llada server, wall clock [95 %]"]
    assert [cell != "-" for cell in own[:5]] == [label.startswith("llada server") for label in shown[""][:5]]
    assert [cell != "-" for cell in shown["speedup [95 %]"][:5]] == [
        label in ("llada k=4", "llada k=8") for label in shown[""][:5]
    ]

    word = "diffusion_server.trust_same_hardware=true"
    trusted = [served("diffusion_server.engine=vllm", word, f"steps={k}") for k in (4, 8)]
    (only,) = verdicts([llama, *trusted])
    assert (only.status, only.steps, only.external_servers) == (Status.NO_QUALITY, (4, 8), ())
    assert [item.baseline_ms for item in only.speedups] == [llama.metrics["latency/e2e_wall_ms"]] * 2
    both = verdicts([llama, *here, *trusted])
    assert [item.names[1] for item in both] == ["LLaDA", "LLaDA (server)"]  # each against the one baseline
    alone = verdicts([llama, *apart])
    assert [item.status for item in alone] == [Status.MISSING_CANDIDATES]
    assert len(alone[0].external_servers[0].speedups) == 2


def test_forwards_stand_beside_k_where_they_are_not_k(local):
    llama = local("model=llama", *SMALL)
    quick = [local(*BLOCKS, "threshold=0.2", f"steps={k}") for k in (8, 16)]
    made = {record.steps: record.metrics["throughput/nfe"] for record in quick}
    assert made != {8: 8, 16: 16}
    (verdict,) = verdicts([llama, *quick])
    assert dict(verdict.forwards) == made
    assert {(k, value) for key, k, value in verdict.series() if key == "parity/llada_nfe"} == set(made.items())
    assert "forwards" in parity_table([llama, *quick], verdict).header
    (plain,) = verdicts([llama, local(*BLOCKS, "steps=8")])
    assert plain.curve(NFE) is None
