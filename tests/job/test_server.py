"""A job behind a real server: what its Record says, what it leaves out, and what it says of a server that differs."""

import dataclasses
import json
import shutil
from collections.abc import Callable

import pytest
from hydra import compose, initialize_config_dir
from tokenizers import Tokenizer

from llmbench.checkpoints.resolve import BUNDLED, resolve_checkpoint
from llmbench.config.build import build_job
from llmbench.config.conf_files import conf_folder
from llmbench.config.identity import identity
from llmbench.errors import CheckpointError, ConfigError, ServerError
from llmbench.job import openai_client
from llmbench.job import prepare as prepare_room
from llmbench.job import server as server_room
from llmbench.job.prepare import prepare_job, prepared_as
from llmbench.job.prepared import Prepared
from llmbench.job.run import run_job
from llmbench.metrics.keys import METRICS
from llmbench.record import Record, parse
from serving import LLAMA, TEXT, text_server

KEY = "sk-very-secret-0123456789"

SMALL = [
    "model=llama_server",
    "workload.prompts=5",
    "canvas=12",
    "batch=2",
    "timing.repeats=2",
    "hardware=cpu",
    "temperature=0",
    "metric=speed",
]


@pytest.fixture
def prepare() -> Callable[..., Prepared]:
    def build(*overrides: str) -> Prepared:
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            return prepare_job(build_job(compose("config", overrides=[*SMALL, *overrides])))

    return build


@pytest.fixture
def measure(tmp_path, prepare) -> Callable[..., tuple[Record, list]]:
    """A Record from a server in a mode, and what the server was asked."""

    def run(mode: str, *overrides: str) -> tuple[Record, list]:
        with text_server(tmp_path / mode.partition("=")[0], mode) as server:
            record = run_job(prepare(f"server.url={server.url}", *overrides))
            return record, server.requests

    return run


def test_a_record_holds_the_texts_as_received_and_counts_them_in_the_checkpoints_tokens(measure):
    record, requests = measure("ok")
    tokenizer = Tokenizer.from_file(str(LLAMA))
    expected = tokenizer.decode(tokenizer.encode(TEXT, add_special_tokens=False).ids[:12])
    assert [output.text for output in record.outputs] == [expected] * 5
    assert {output.tokens for output in record.outputs} == {12}
    assert {output.utf8_bytes for output in record.outputs} == {len(expected.encode())}
    assert not any(output.stopped for output in record.outputs)
    assert [len(batch) for batch in record.partition] == [2, 2, 1]
    assert {t.forwards for t in record.timings} == {None}
    assert [(t.batch, t.repeat, t.tokens, t.longest_row) for t in record.timings] == [
        (0, 0, 24, 12),
        (1, 0, 24, 12),
        (2, 0, 12, 12),
        (0, 1, 24, 12),
    ]
    assert all(0 < t.prefill_ms <= t.e2e_ms == t.e2e_wall_ms for t in record.timings)
    assert [(m.batch, len(m.at_ms)) for m in record.marks] == [(0, 12), (0, 12)]  # each stream by itself
    assert {output.prompt for output in record.outputs} == {request["body"]["prompt"] for request in requests}
    assert parse(record.to_json()) == record


def test_a_point_of_a_curve_is_asked_for_once_and_has_no_times(tmp_path, prepare):
    with text_server(tmp_path / "ok", "ok") as server:
        full = prepare(f"server.url={server.url}")
        whole = run_job(full)
        asked = len(server.requests)
        point = run_job(prepared_as(full, dataclasses.replace(full.job, role="curve")))
        assert len(server.requests) - asked == 5  # one for each prompt
    assert (point.role, point.outputs) == ("curve", whole.outputs)
    assert (point.timings, point.marks, point.repeated_batches) == ((), (), ())
    assert not [key for key in point.metrics if key.startswith(("latency/", "throughput/"))]


def test_every_row_has_a_seed_of_its_own_and_keeps_it(measure):
    _, requests = measure("ok", "seed=3")
    by_prompt: dict[str, set[int]] = {}
    for request in requests:
        by_prompt.setdefault(request["body"]["prompt"], set()).add(request["body"]["seed"])
    assert [len(seeds) for seeds in by_prompt.values()] == [1] * 5
    assert len(set.union(*by_prompt.values())) == 5
    (body,) = {json.dumps(r["body"] | {"prompt": "", "seed": 0}, sort_keys=True) for r in requests}
    assert json.loads(body) | {"prompt": "", "seed": 0} == json.loads(body)
    assert {k: v for k, v in json.loads(body).items() if k in ("max_tokens", "temperature", "top_p", "model")} == {
        "max_tokens": 12,
        "temperature": 0,
        "top_p": 1.0,
        "model": "tiny",
    }


def test_what_cannot_be_measured_over_the_wire_is_absent(measure):
    record, _ = measure("vllm", "metric.roofline=true")
    assert set(record.metrics) - {key for key in record.metrics if key not in METRICS} == {
        "latency/e2e_ms",
        "latency/e2e_wall_ms",
        "latency/prefill_ms",
        "latency/itl_ms",
        "latency/token_gap_ms",
        "latency/first_text_ms",
        "throughput/tokens_per_s",
        "throughput/bytes_per_s",
        "throughput/tokens_per_s_per_user",
        "throughput/bytes_per_s_per_user",
        "throughput/canvas_tokens_per_s",
        "quality/empty_share",
        "quality/length_bytes",
    }
    assert (record.tokenize_ms, record.setup_s, record.ceilings, record.likelihood) == (None, None, None, None)
    assert record.forward_costs == ()
    said = record.conditions
    assert (said["engine"], said["clock"], said["decoding.served_model"]) == ("server", "wall", "tiny")
    assert said["device_name"].startswith("vllm 0.11.2 at http://127.0.0.1:")
    assert not {"device", "dtype", "torch", "transformers"} & said.keys()
    assert record.signatures["server"] == f"tiny by {said['device_name']}"
    assert record.label == "llama server"
    (note,) = record.notes
    assert "by wall clock over HTTP" in note
    assert "no verdict uses it" in note


def test_pieces_of_many_tokens_say_nothing_about_token_gaps(measure):
    record, _ = measure("clumps")
    assert record.marks == ()
    assert "latency/token_gap_ms" not in record.metrics
    assert "latency/token_gap_ms is absent: 24 tokens came in 4 pieces" in record.notes
    assert "latency/prefill_ms" in record.metrics


def test_a_count_that_is_not_ours_is_said(measure):
    record, _ = measure("miscounts")
    ours = sum(len(Tokenizer.from_file(str(LLAMA)).encode(output.prompt).ids) for output in record.outputs)
    outputs, prompts = record.notes[-2:]
    assert "latency/itl_ms" not in record.metrics  # half of what it counts may be hidden
    assert "the server counts 120 output tokens, the checkpoint's tokenizer makes 60 of the text" in outputs
    assert prompts == f"the server reads {ours + 15} prompt tokens, the checkpoint's tokenizer makes {ours}"
    assert sum(output.tokens for output in record.outputs) == 60


TOKEN_TIMES = {"latency/prefill_ms", "latency/first_text_ms", "latency/itl_ms", "latency/token_gap_ms"}


@pytest.mark.parametrize(
    ("mode", "said", "tokens"),
    [
        ("thinks=9", "45 pieces of reasoning", 15),
        ("thinks=12", "60 pieces of reasoning", 0),
        ("calls", "30 pieces of tool call", 30),
        ("vllm=hides", "60 tokens by the server's count", 30),
    ],
)
def test_where_tokens_are_no_text_nothing_is_said_of_single_ones(measure, mode, said, tokens):
    chat = () if mode.startswith("vllm") else ("server.api=chat", "workload.instructions=true")
    record, _ = measure(mode, *chat)
    assert TOKEN_TIMES.isdisjoint(record.metrics)
    assert record.metrics["latency/e2e_ms"] > 0
    assert sum(output.tokens for output in record.outputs) == pytest.approx(tokens, abs=5)  # texts are read anew
    (note,) = (note for note in record.notes if "not all that the server wrote is text" in note)
    assert said in note


def test_drafts_give_a_mean_and_no_gaps(measure):
    record, _ = measure("vllm=drafts")
    assert TOKEN_TIMES - set(record.metrics) == {"latency/token_gap_ms"}
    assert record.marks == ()
    assert "latency/token_gap_ms is absent: 24 tokens came in 12 pieces" in record.notes


def test_a_prefix_cache_is_said(measure):
    record, _ = measure("caches")
    assert record.notes[-1] == "the server took 25 prompt tokens from its prefix cache: its times are too short"


def test_sampling_that_is_not_sampling_is_said(measure):
    greedy, _ = measure("ok", "temperature=0.7")
    assert [note for note in greedy.notes if "ignore the temperature" in note]
    sampled, requests = measure("sampled", "temperature=0.7")
    assert not [note for note in sampled.notes if "ignore the temperature" in note]
    assert not [note for note in sampled.notes if "other tokens than repeat 0" in note]
    assert {request["body"]["temperature"] for request in requests} == {0.7}


def test_outputs_that_stop_at_once_are_empty_and_not_fast(measure):
    record, _ = measure("silent")
    assert {(o.text, o.tokens, o.stopped) for o in record.outputs} == {("", 0, True)}
    assert record.marks == ()
    assert record.metrics["quality/empty_share"] == 1
    assert record.metrics["throughput/tokens_per_s"] == 0
    assert all(0 < t.prefill_ms <= t.e2e_ms for t in record.timings)
    assert "latency/itl_ms" not in record.metrics  # one token, the stop token: no gap


def test_quality_is_scored_as_for_any_other_job(measure):
    record, _ = measure("ok", "metric=default", "metric.bertscore=null", "canvas=24", "timing.repeats=1")
    assert {score.subject for score in record.scores} >= {"output", "human", "shuffled"}
    assert record.metrics["quality/perplexity"] > 1
    assert record.likelihood is None


def test_a_tokenizer_is_all_that_is_needed_of_the_checkpoint(tmp_path, prepare, measure):
    shutil.copytree(BUNDLED / "llama", tmp_path / "words", ignore=shutil.ignore_patterns("*.safetensors", "README*"))
    record, _ = measure("ok", f"model.checkpoint={tmp_path}/words")
    assert {output.tokens for output in record.outputs} == {12}
    settings = json.loads((tmp_path / "words" / "config.json").read_text())
    (tmp_path / "words" / "config.json").write_text(json.dumps(settings | {"model_type": "qwen2"}))
    assert prepare(f"model.checkpoint={tmp_path}/words").checkpoint.config.model_type == "qwen2"  # a server may run it
    (tmp_path / "words" / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="no tokenizer"):
        prepare(f"model.checkpoint={tmp_path}/words")
    with pytest.raises(CheckpointError, match="is diffusion"):
        prepare("model.checkpoint=bundled:llada")


def test_weights_that_are_half_there_are_no_weights_to_a_server(tmp_path, prepare):
    folder = tmp_path / "words"
    shutil.copytree(BUNDLED / "llama", folder, ignore=shutil.ignore_patterns("*.safetensors", "README*"))
    shard = "model-0000{}-of-00002.safetensors"
    index = {"weight_map": {"model.norm.weight": shard.format(1), "lm_head.weight": shard.format(2)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / shard.format(1)).write_bytes(b"the other one is still to come")
    assert prepare(f"model.checkpoint={folder}").checkpoint.families == "autoregressive"


def test_a_model_that_is_served_is_no_judge_of_itself_before_its_weights_are_here(tmp_path, prepare, monkeypatch):
    folder, fetched = tmp_path / "words", BUNDLED / "llama" / "model.safetensors"
    shutil.copytree(BUNDLED / "llama", folder, ignore=shutil.ignore_patterns("*.safetensors"))
    resolve = resolve_checkpoint

    def fetching(source, *more, **settings):  # as the hub's files come when a judge is resolved
        if not more:
            shutil.copy(fetched, folder)
        return resolve(source, *more, **settings)

    monkeypatch.setattr(prepare_room, "resolve_checkpoint", fetching)
    with pytest.raises(ConfigError, match="cannot judge itself"):
        prepare(f"model.checkpoint={folder}", f"metric.perplexity.judge={folder}")


def test_a_key_is_nowhere_in_a_record(measure, monkeypatch):
    monkeypatch.setenv(openai_client.KEY, KEY)
    record, requests = measure(f"key={KEY}")
    assert {request["headers"]["Authorization"] for request in requests} == {f"Bearer {KEY}"}
    assert KEY.encode() not in record.to_json()


def test_a_server_is_tried_before_anything_runs(tmp_path, prepare):
    with text_server(tmp_path / "ok") as server:
        server_room.require(prepare(f"server.url={server.url}").job.model.decoder)
        assert [request["body"]["max_tokens"] for request in server.requests] == [1]
        with pytest.raises(ServerError, match="The model `none` does not exist"):
            server_room.require(prepare(f"server.url={server.url}", "server.served_model=none").job.model.decoder)
        with pytest.raises(ServerError, match="answers 404 to /v1/chat/completions"):
            server_room.require(prepare(f"server.url={server.url}", "server.api=chat").job.model.decoder)


def test_a_server_is_described_by_dials_and_bad_ones_are_refused(prepare):
    wrong = {
        "server.url=localhost:8000": "like http://localhost:8000/v1",
        "server.url=http://me:pw-123@host/v1": "OPENAI_API_KEY",
        "server.url='http://host/v1?key=pw-123'": "OPENAI_API_KEY",
        "server.api=responses": "server.api",
        "server.timeout_s=0": "server.timeout_s",
        "+server.extra.temperature=1.0": "extra.temperature is not for extra; set temperature",
        "+server.extra.n=2": "extra.n is not for extra; leave it out",
        "+server.extra.api_key=pw-123": "OPENAI_API_KEY",
        "ignore_stop=true": "ignore_stop",
        "weights=dummy": "weights=real",
        "workload=synthetic": "prompts of text",
    }
    for override, expected in wrong.items():
        with pytest.raises(ConfigError) as caught:
            prepare(override)
        assert expected in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "pw-123" not in str(caught.value)
    extra = prepare("+server.extra.top_k=-1")
    assert extra.job.model.decoder.extra == {"top_k": -1}
    assert extra.identity != prepare().identity
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        there = [
            build_job(compose("config", overrides=["model=llada", *more])) for more in ([], ["server.url=http://h"])
        ]
    assert len({identity(job, {}) for job in there}) == 1, "a model without a server does not read its dials"
