"""`prepare` refuses what cannot run, in one line and without weights; a Record holds what a job did."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from composition import composed

from llmbench.checkpoints.resolve import BUNDLED
from llmbench.config.build import build_job
from llmbench.errors import UsageError
from llmbench.job.prepare import conditions, prepare_job, prepared_as
from llmbench.job.prepared import Prepared
from llmbench.job.run import run_job
from llmbench.metrics import bertscore
from llmbench.record import DeviceUse, parse

SMALL = [
    "workload.prompts=4",
    "canvas=8",
    "workload.prompt_words=8",
    "workload.reference_words=8",
    "batch=2",
    "timing.repeats=2",
    "hardware=cpu",
    "metric=speed",
]


@pytest.fixture
def prepare() -> Callable[..., Prepared]:
    def build(*overrides: str) -> Prepared:
        return prepare_job(build_job(composed(*overrides)))

    return build


def lines(path: Path, *rows: object) -> str:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return f"workload=jsonl workload.prompts=1 batch=1 workload.source={path}"


def written(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


def short(folder: Path) -> Path:
    """The bundled LLaMA, saying that it reads no more than 100 tokens: enough for a prompt and its canvas."""
    copied = folder / "short"
    shutil.copytree(BUNDLED / "llama", copied)
    settings = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(settings | {"max_position_embeddings": 100}))
    return copied


def test_a_default_encoder_that_is_not_installed_is_left_out(prepare, monkeypatch):
    chosen = prepare(*SMALL, "metric=default", "metric.bertscore=null")
    monkeypatch.setattr(bertscore, "_package", lambda source: None)
    left_out = prepare(*SMALL, "metric=default")
    assert left_out.identity == chosen.identity
    assert left_out.job == chosen.job
    assert left_out.encoder is None
    assert [bertscore.INSTALL in note for note in left_out.notes] == [True]
    assert not chosen.notes
    with pytest.raises(UsageError, match="not installed"):
        prepare(*SMALL, "metric=default", "metric.bertscore=package:another_encoder")


def test_bad_input_is_refused_before_weights_load(prepare, tmp_path):
    good = {"id": "a", "task": "t", "prompt": "Once upon a time", "reference": "there was"}
    empty_folder = tmp_path / "empty"
    empty_folder.mkdir()
    wrong = {
        lines(tmp_path / "malformed.jsonl", good, "{not json"): "malformed.jsonl, line 2",
        lines(tmp_path / "empty.jsonl"): "empty.jsonl",
        lines(tmp_path / "lonely.jsonl", {"id": "a", "prompt": "Once upon a time"}): "reference",
        lines(tmp_path / "promptless.jsonl", {"id": "a"}): "prompt",
        lines(tmp_path / "twice.jsonl", good, good): "twice.jsonl, line 2",
        f"workload=jsonl workload.source={tmp_path}/none.jsonl": "none.jsonl",
        "workload.source=bundled:poems": "continuation",
        "workload.prompts=9999": "406",
        "batch=53": "batch 53 exceeds the 52 prompts",
        "canvas=4096": "exceed the context",
        "checkpoint=local model.checkpoint=/no/such/folder": "/no/such/folder",
        f"checkpoint=local model.checkpoint={empty_folder}": "config.json",
        "model.checkpoint=bundled:lama": "llama",
        "model.checkpoint=package:no_such_package": "no_such_package",
        "model.checkpoint=bundled:llada": "diffusion",
        "model=llada model.checkpoint=bundled:llama": "autoregressive",
        "metric.perplexity.judge=bundled:llama": "cannot judge itself",
        "metric.perplexity.second_judge=bundled:llama": "second_judge bundled:llama is the model under test",
        f"metric.perplexity.second_judge={BUNDLED / 'judge'}": "is the judge too; name another one",
        "metric.perplexity.second_judge=/no/such/judge": "second_judge: checkpoint /no/such/judge: no such folder",
        "metric.perplexity.judge=/no/such/judge": "metric.perplexity.judge: checkpoint /no/such/judge: no such folder",
        "metric.perplexity.judge=bundled:llada": "metric.perplexity.judge: checkpoint bundled:llada is diffusion",
        "workload.prompts=1": "batch 4 exceeds the 1 prompt;",
        "metric.bertscore_layer=99": "layer",
        "metric.bertscore=/no/such/encoder": "/no/such/encoder",
        "hardware.dtype=float16": "float16",
        "metric.likelihood_texts=25": "24 held-out texts",
        f"checkpoint=local model.checkpoint={short(tmp_path)}": "set metric.likelihood=false",
        "metric.likelihood_source=/no/such.txt": "/no/such.txt does not exist",
        f"metric.likelihood_source={written(tmp_path / 'long.txt', 'Two words. ' * 900)}": "divide it by a blank line",
        f"metric.likelihood_source={written(tmp_path / 'one.txt', 'a')}": "no text of one.txt has a second token",
    }
    import torch

    if not torch.cuda.is_available():
        wrong["hardware=cuda"] = "CUDA"
    for overrides, expected in wrong.items():
        with pytest.raises(UsageError) as caught:
            prepare("hardware=cpu", *overrides.split())
        assert expected in str(caught.value), (overrides, str(caught.value))
        assert "\n" not in str(caught.value)


def test_a_second_judge_scores_every_text_and_belongs_to_the_job(prepare):
    small = (*SMALL, "metric=default", "metric.bertscore=null", "metric.likelihood=false", "model=llada", "steps=4")
    alone, both = prepare(*small), prepare(*small, "metric.perplexity.second_judge=bundled:llama")
    assert alone.identity != both.identity
    assert both.signatures["second_judge"] == f"bundled:llama@{both.second_judge.digest}"
    assert conditions(alone, "", {})["second_judge"] == "none"
    assert conditions(both, "", {})["second_judge"] == both.second_judge.digest
    record, plain = run_job(both), run_job(alone)
    assert [score.second_nll_nats for score in plain.scores] == [None] * len(plain.scores)
    for score in record.scores:  # both judges have one tokenizer
        assert score.second_judged_tokens == score.judged_tokens
        assert score.second_nll_nats != score.nll_nats
        assert score.second_nll_nats > 0
    for key in ("perplexity", "bits_per_byte"):
        assert {f"quality/{key}_second", f"quality/{key}_second_human"} < record.metrics.keys()
    assert [output.document for output in record.outputs] == [prompt.document for prompt in both.workload.prompts]
    assert [m for m, _ in record.scores[0].entropy_prefixes] == [8]
    assert "quality/relevance" in record.metrics
    assert "quality/relevance_floor" not in record.metrics


def test_the_texts_of_the_likelihood_belong_to_a_job_by_their_content(prepare, tmp_path):
    def jobs(*overrides: str) -> Prepared:
        return prepare("hardware=cpu", "metric=speed", "metric.likelihood=true", *overrides)

    here, there = tmp_path / "here.txt", tmp_path / "here.jsonl"
    first = jobs(f"metric.likelihood_source={written(here, 'A king.')}")
    assert first.signatures["likelihood"].startswith("here.txt@")
    changed = jobs(f"metric.likelihood_source={written(here, 'A queen.')}")
    assert changed.identity != first.identity
    assert changed.signatures["likelihood"] != first.signatures["likelihood"]
    same = jobs(f"metric.likelihood_source={written(there, json.dumps({'text': 'A king.'}))}")
    assert same.signatures["likelihood"].partition("@")[2] == first.signatures["likelihood"].partition("@")[2]
    assert jobs().signatures["likelihood"].startswith("heldout@")
    assert "likelihood" not in prepare("hardware=cpu", "metric=speed").signatures


def test_a_file_of_ones_own_is_scored_whole(prepare, tmp_path):
    source = written(tmp_path / "own.txt", "There was a king.\n\nHe had three sons, and a horse.\n")
    own = ["metric.likelihood=true", f"metric.likelihood_source={source}", "metric.likelihood_samples=2"]
    for model, bound in (("llama", False), ("llada", True)):
        prepared = prepare(*SMALL, *own, f"model={model}", "steps=4", "workload.prompts=2")
        found = run_job(prepared).likelihood
        tokens = sum(len(prepared.checkpoint.tokenize(text)) - 1 for text in prepared.heldout.texts)
        assert (found.texts, found.scored_tokens, found.utf8_bytes) == (2, tokens, 48)
        assert found.bound is bound
        assert 0 < found.nll_nats < 10 * tokens


@pytest.fixture(scope="module")
def records():
    """The same small job of each family, on the bundled models."""

    def run(*overrides: str):
        return run_job(prepare_job(build_job(composed(*SMALL, *overrides))))

    return {"llama": run("model=llama"), "llada": run("model=llada", "steps=4")}


@pytest.mark.parametrize("model", ["llama", "llada"])
def test_the_partition_is_kept_with_every_batchs_times(records, model):
    record = records[model]
    assert [len(batch) for batch in record.partition] == [2, 2]
    assert [(timing.repeat, timing.batch) for timing in record.timings] == [(0, 0), (0, 1), (1, 0)]
    assert record.repeated_batches == (0,)
    assert [output.prompt_id for output in record.outputs] == [prompt for batch in record.partition for prompt in batch]


def test_the_texts_that_are_kept_are_those_that_were_timed(records):
    for record in records.values():
        for timing in record.timings:
            batch = [output for output in record.outputs if output.batch == timing.batch]
            assert timing.tokens == sum(output.tokens for output in batch)
            assert timing.utf8_bytes == sum(output.utf8_bytes for output in batch)


def test_marks_are_one_per_forward(records):
    for record in records.values():
        assert [len(marks.at_ms) for marks in record.marks] == [record.timings[0].forwards]
        assert list(record.marks[0].at_ms) == sorted(record.marks[0].at_ms)


@pytest.mark.parametrize("overrides", [["model=llama"], ["model=llada", "steps=4"]])
def test_every_repeated_batch_has_its_own_forwards(prepare, overrides):
    small = [key for key in SMALL if "workload.prompts" not in key]
    record = run_job(prepare(*small, "workload.prompts=5", "timing.batches=3", "ignore_stop=true", *overrides))
    costs = (record.forward_costs, *record.other_forward_costs)
    assert [{cost.shape.rows for cost in own} for own in costs] == [{2}, {2}, {1}]
    documents = [output.document for output in record.outputs]
    assert (len(set(documents)), documents[0]) == (5, "Austen, Pride and Prejudice")
    forwards = [timing.forwards for timing in record.timings if timing.repeat == 0]
    assert [sum(cost.count for cost in own) for own in costs] == forwards
    assert record.metrics["roofline/efficiency"] == pytest.approx(
        record.metrics["roofline/limit_ms"] / record.metrics["latency/e2e_ms"]
    )


JUDGED = ["model=llama", "metric=default", "metric.bertscore=null", "metric.likelihood=false", "timing.batches=1"]


def in_role(prepared: Prepared, role: str, retiming: str | None = None) -> Prepared:
    return prepared_as(prepared, dataclasses.replace(prepared.job, role=role, retiming=retiming))


def test_a_point_of_a_curve_has_texts_and_scores_and_no_times(prepare):
    full = prepare(*SMALL, *JUDGED)
    whole, point = run_job(full), run_job(in_role(full, "curve"))
    assert (whole.role, point.role) == ("timed", "curve")
    assert point.outputs == whole.outputs
    assert (point.timings, point.marks, point.repeated_batches) == ((), (), ())
    assert (point.ceilings, point.tokenize_ms) == (None, None)
    assert point.device_use == DeviceUse()
    of_outputs = [score for score in whole.scores if score.subject == "output"]
    # references and floors are the full job's; the judge reads other batches
    without = [
        [dataclasses.replace(score, nll_nats=None, other_nll_nats=None) for score in scores]
        for scores in (point.scores, of_outputs)
    ]
    assert without[0] == without[1]
    judged = [[(s.nll_nats, *(s.other_nll_nats or ())) for s in scores] for scores in (point.scores, of_outputs)]
    assert np.array(judged[0]) == pytest.approx(np.array(judged[1]))
    assert {key.partition("/")[0] for key in point.metrics} == {"quality"}
    assert point.metrics["quality/perplexity"] == pytest.approx(whole.metrics["quality/perplexity"])
    assert point.conditions == whole.conditions
    assert point.process == whole.process != ""
    assert parse(point.to_json()).role == "curve"


def test_a_baseline_that_is_timed_again_has_the_times_of_the_repeated_batches_alone(prepare):
    full = prepare(*SMALL, *JUDGED)
    again = run_job(in_role(full, "retimed", "after"))
    assert again.role == "retimed"
    assert [(timing.repeat, timing.batch) for timing in again.timings] == [(0, 0), (1, 0)]
    assert (again.outputs, again.scores, again.repeated_batches) == ((), (), (0,))
    assert again.metrics["latency/e2e_ms"] > 0
    assert not [key for key in again.metrics if key.startswith("quality/")]
    assert [len(batch) for batch in again.partition] == [2, 2]  # the conditions of the full job


def test_a_job_as_it_is_prepared_anew_has_the_identity_that_was_planned_for_it(prepare):
    full = prepare(*SMALL, "model=llama", "metric=default")
    for role, when in (("curve", None), ("retimed", "before"), ("retimed", "after")):
        planned = in_role(full, role, when)
        assert prepare_job(planned.job).identity == planned.identity
    without = dataclasses.replace(full.job, metric=dataclasses.replace(full.job.metric, likelihood=False))
    assert prepared_as(full, without).identity == prepare_job(without).identity


def test_both_sides_agree_on_the_conditions_that_must_agree(records):
    shared = [
        {key: value for key, value in record.conditions.items() if not key.startswith("decoding.")}
        for record in records.values()
    ]
    assert shared[0] == shared[1]
    assert records["llama"].steps is None
    assert records["llada"].steps == 4


def test_the_same_job_writes_the_same_text(records):
    again = run_job(prepare_job(build_job(composed(*SMALL, "model=llada", "steps=4"))))
    assert [output.text for output in again.outputs] == [output.text for output in records["llada"].outputs]
    assert again.identity == records["llada"].identity


def test_a_record_says_that_steps_beyond_the_canvas_made_nothing_final(records, prepare):
    more = run_job(prepare(*SMALL, "model=llada", "steps=16", "metric=speed"))
    assert [note for note in more.notes if note.startswith("steps 16 exceed the canvas of 8 tokens: 8 of the steps")]
    assert not [note for note in records["llada"].notes if "exceed the canvas" in note]


SILENT = ["weights=dummy", "workload=synthetic", "workload.prompt_tokens=12", "workload.prompts=4"]


@pytest.mark.parametrize("overrides", [["model=llama"], ["model=llama_generate"], ["model=llada", "steps=4"]])
def test_dummy_weights_measure_speed_and_say_nothing_about_text(prepare, overrides):
    small = [key for key in SMALL if "words" not in key and "prompts" not in key]
    record = run_job(prepare(*small, *SILENT, *overrides))
    assert [output.tokens for output in record.outputs] == [8] * 4  # nothing stops: N_i = G
    assert {(output.prompt, output.text, output.utf8_bytes, output.stopped) for output in record.outputs} == {
        (None, None, None, False)
    }
    assert {timing.tokens for timing in record.timings} == {16}
    assert record.scores == ()
    assert {"latency/e2e_ms", "throughput/tokens_per_s", "roofline/limit_ms"} <= record.metrics.keys()
    absent = ("quality/", "throughput/bytes_per_s", "energy/joules_per_byte", "latency/tokenize_ms")
    assert not [key for key in record.metrics if key.startswith(absent)]
    assert record.signatures["workload"].startswith("synthetic@")


def test_dummy_weights_answer_nothing_that_could_be_checked(prepare):
    overrides = ["weights=dummy", "workload=math", "workload.prompt_words=null", "workload.reference_words=null"]
    record = run_job(prepare(*SMALL, *overrides, "model=llada", "steps=4"))
    assert record.scores == ()
    assert not [key for key in record.metrics if key.startswith("quality/")]
    assert "weights=dummy: answers are not checked" in record.notes


def test_real_weights_answer_synthetic_prompts_in_text(prepare):
    small = [key for key in SMALL if "words" not in key]
    record = run_job(prepare(*small, "workload=synthetic", "workload.prompt_tokens=12", "model=llama"))
    for output in record.outputs:
        assert output.prompt is None
        assert output.utf8_bytes == len(output.text.encode())
    assert "throughput/bytes_per_s" in record.metrics


def test_the_8b_shapes_can_be_planned_without_any_download(prepare):
    both = ["pair=8b", "weights=dummy", "workload=synthetic", "metric=speed", "batch=8", "dry_run=true"]
    llama, llada = (prepare("hardware=cpu", *both, f"model={model}") for model in ("llama", "llada"))
    assert llama.workload.digest == llada.workload.digest
    assert (llama.longest_prompt, len(llama.workload.prompts)) == (128, 8)
    with pytest.raises(UsageError, match="shapes only; add weights=dummy"):
        prepare("hardware=cpu", "model.checkpoint=shape:llama-3-8b")
    with pytest.raises(UsageError, match="no tokenizer; add workload=synthetic"):
        prepare("hardware=cpu", "pair=8b", "weights=dummy", "metric=speed")


def test_a_second_baseline_agrees_in_everything_but_its_implementation(prepare):
    from llmbench.analysis.implementations import IMPLEMENTATION

    small = [key for key in SMALL if "words" not in key]
    ours, theirs = (run_job(prepare(*small, "temperature=0", f"model={way}")) for way in ("llama", "llama_generate"))
    assert [output.text for output in theirs.outputs] == [output.text for output in ours.outputs]
    assert (ours.family, theirs.family) == ("autoregressive", "autoregressive")
    assert (ours.label, theirs.label) == ("llama", "llama transformers")
    differing = {
        key for key in {*ours.conditions, *theirs.conditions} if ours.conditions.get(key) != theirs.conditions.get(key)
    }
    assert differing <= set(IMPLEMENTATION)
    assert "decoding.kind" in differing


@pytest.fixture
def instructed(tmp_path):
    """The bundled LLaMA with a chat template, and generation settings that would change every text."""
    folder = tmp_path / "instructed"
    shutil.copytree(BUNDLED / "llama", folder)
    (folder / "chat_template.jinja").write_text("{% for m in messages %}Q: {{ m.content }}\n{% endfor %}A:")
    own = {"do_sample": True, "temperature": 5.0, "top_p": 0.5, "top_k": 2, "repetition_penalty": 9.0, "max_length": 3}
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 0, "pad_token_id": 1} | own))
    return folder


@pytest.mark.parametrize(
    ("overrides", "chat"),
    [
        ("workload=math", True),
        ("workload=instruct", True),
        ("workload=continuation", False),  # texts to go on with
        ("workload=continuation model.chat=true", True),
        ("workload=math model.chat=false", False),
        ("workload=synthetic", False),
    ],
)
def test_instructions_stand_in_the_template_and_openings_do_not(prepare, instructed, overrides, chat):
    own = [f"model.checkpoint={instructed}", *SMALL, *overrides.split(), "workload.prompt_words=null"]
    own += ["workload.reference_words=null"]
    prepared = prepare(*own)
    assert prepared.job.model.chat is chat
    assert conditions(prepared, "cpu", {}).get("decoding.chat") == ("True" if chat else None)
    text = prepared.checkpoint.tokenizer.decode(prepared.prompt_ids(0))
    assert text.startswith("Q: ") is chat
    assert text.endswith("A:") is chat
    plain = prepare(*SMALL, *overrides.replace("model.chat=true", "").split(), *own[-2:])  # the bundled: a base model
    assert plain.job.model.chat is False


def test_a_template_that_is_not_there_is_no_template(prepare):
    with pytest.raises(UsageError, match="tokenizer of checkpoint bundled:llama has no chat template"):
        prepare(*SMALL, "model.chat=true")
    with pytest.raises(UsageError, match="synthetic is random tokens and no chat"):
        prepare("workload=synthetic", "metric=speed", "model.chat=true")


def test_a_server_is_asked_in_the_role_of_the_other_sides(prepare, instructed):
    own = [*SMALL, f"model.checkpoint={instructed}", "model=llama_server", "workload.prompt_words=null"]
    own += ["workload.reference_words=null"]
    with pytest.raises(UsageError, match=r"add server.api=chat, or model.chat=false"):
        prepare(*own, "workload=math")
    assert prepare(*own, "workload=math", "server.api=chat").job.model.chat is True
    assert prepare(*own, "workload=math", "model.chat=false").job.model.chat is False
    assert prepare(*own, "workload=continuation").job.model.chat is False
    with pytest.raises(UsageError, match=r"server.api=chat: the server applies its template"):
        prepare(*own, "workload=math", "server.api=chat", "model.chat=false")
    with pytest.raises(UsageError, match=r"^model.chat=true; add server.api=chat"):
        prepare(*SMALL, "model=llama_server", "model.chat=true")  # whose checkpoint has no template to speak of


@pytest.mark.parametrize("model", ["llama", "llama_generate"])
def test_a_checkpoints_own_generation_settings_change_nothing(prepare, instructed, model):
    texts = []
    for folder in (BUNDLED / "llama", instructed):
        record = run_job(prepare(*SMALL, f"model={model}", f"model.checkpoint={folder}", "temperature=0"))
        texts.append([output.text for output in record.outputs])
    assert texts[0] == texts[1]


@pytest.mark.parametrize("engine", ["fused", "auto"])
def test_the_fused_engine_refuses_quantized_weights(prepare, engine):
    overrides = ["hardware.quantization=int8", f"hardware.engine={engine}", "hardware.device=cuda"]
    said = (
        "engine=fused joins plain matrices" if engine == "fused" else "built without CUDA|no CUDA device|bitsandbytes"
    )
    with pytest.raises(UsageError, match=said) as caught:
        prepare(*SMALL, *overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("kind", "model"), [("int8", "llama"), ("nf4", "llada")])
def test_a_job_with_quantized_weights(prepare, kind, model):
    pytest.importorskip("bitsandbytes")
    from llmbench.analysis.parity.grouping import comparison_groups
    from llmbench.report.cells import provenance

    plain, narrow = (
        run_job(prepare(*SMALL, f"model={model}", "steps=4", f"hardware.quantization={quantized}"))
        for quantized in ("null", kind)
    )
    assert narrow.conditions["quantization"].startswith(f"{kind} by bitsandbytes 0.")
    assert plain.conditions["quantization"] == "none"
    assert plain.identity != narrow.identity
    assert len(list(comparison_groups([plain, narrow]))) == 2
    assert any(kind in note and "widened to float32" in note for note in narrow.notes)
    assert narrow.environment.versions["bitsandbytes"]
    assert "bitsandbytes" not in plain.environment.versions
    assert kind in provenance([narrow])
    assert "none" not in provenance([plain])
    assert all(output.text for output in narrow.outputs)
    pairs = zip(plain.forward_costs, narrow.forward_costs, strict=True)
    assert all(a.flops == b.flops and a.bytes > 2 * b.bytes for a, b in pairs)
