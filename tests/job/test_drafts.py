"""Which drafts may run: refused before weights load; what a drafted job leaves in its Record."""

import json
import shutil

import pytest
import tiny_models
from composition import composed

from llmbench.checkpoints.resolve import BUNDLED
from llmbench.config.build import build_job
from llmbench.errors import UsageError
from llmbench.job import memory_estimate
from llmbench.job.prepare import prepare_job
from llmbench.job.run import run_job

SMALL = ["hardware=cpu", "metric=speed", "workload.prompts=3", "batch=3", "canvas=12", "timing.repeats=2"]


def prepare(*overrides):
    return prepare_job(build_job(composed(*SMALL, *overrides)))


def other_tokenizer(folder):
    shutil.copytree(BUNDLED / "llama", folder / "other")
    (folder / "other" / "tokenizer.json").unlink()
    tiny_models.write_tokenizer(folder / "other")
    return folder / "other"


DUMMY = ["weights=dummy", "workload=synthetic", "workload.prompt_tokens=8"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["draft=model"], "draft=model needs a checkpoint"),
        (["draft=lookup", "hardware.engine=eager"], "fused engine"),
        (["draft=lookup", "draft_tokens=32"], "draft_tokens"),
        (["draft=llada", "draft_steps=9"], "draft_steps 9 exceeds draft_tokens 7"),
        (["draft=model", "draft_checkpoint=bundled:llada"], "draft_checkpoint: .* is diffusion"),
        (["draft=llada", "draft_checkpoint=bundled:llama"], "draft_checkpoint: .* is autoregressive"),
        (["draft=lookup", "fixed_accepted_tokens=3"], "for weights=dummy"),
        (["draft=lookup", *DUMMY], "add fixed_accepted_tokens=N"),
        (["draft=lookup", *DUMMY, "fixed_accepted_tokens=8"], "fixed_accepted_tokens 8 exceeds draft_tokens 7"),
        (["model=llama_generate", "draft=lookup"], "batch=1"),
        (["model=llama_generate", "draft=llada", "batch=1"], "use model=llama"),
        (["draft=lookup", "canvas=490"], r"draft_tokens 7 \+ 1"),
    ],
)
def test_what_cannot_be_drafted_is_refused(overrides, said):
    with pytest.raises(UsageError, match=said):
        prepare(*overrides)


def test_a_draft_with_another_tokenizer_is_refused(tmp_path):
    with pytest.raises(UsageError, match="another tokenizer"):
        prepare("draft=model", f"draft_checkpoint={other_tokenizer(tmp_path)}")


def test_a_draft_that_reads_too_few_tokens_is_refused(tmp_path):
    """Its table of rotations would end before the canvas does."""
    shutil.copytree(BUNDLED / "llama", tmp_path / "short")
    settings = json.loads((tmp_path / "short" / "config.json").read_text())
    (tmp_path / "short" / "config.json").write_text(json.dumps(settings | {"max_position_embeddings": 16}))
    with pytest.raises(UsageError, match=r"draft_checkpoint: .* reads 16 tokens"):
        prepare("draft=model", f"draft_checkpoint={tmp_path / 'short'}")


def test_options_that_a_draft_does_not_read_make_no_other_job():
    plain = prepare("draft=null")
    assert prepare("draft=null", "draft_tokens=3", "draft_checkpoint=nowhere").identity == plain.identity
    lookup = prepare("draft=lookup")
    assert prepare("draft=lookup", "draft_steps=2").identity == lookup.identity != plain.identity
    assert prepare("draft=lookup", "draft_tokens=3").identity != lookup.identity


def test_the_drafting_model_counts_in_identity_and_memory():
    plain, drafted = prepare("draft=null"), prepare("draft=llada")
    assert drafted.signatures["draft"] == f"bundled:llada@{drafted.draft.digest}"
    one, both = memory_estimate.need(plain), memory_estimate.need(drafted)
    assert both.weights > 1.9 * one.weights
    width = (plain.longest_prompt + 12 + 8) / (plain.longest_prompt + 12)
    assert both.cache == pytest.approx(2 * width * one.cache)


def test_a_drafted_job_writes_the_plain_text_in_fewer_forwards():
    plain, drafted = (run_job(prepare("temperature=0", f"draft={draft}")) for draft in ("null", "llada"))
    assert [output.text for output in drafted.outputs] == [output.text for output in plain.outputs]
    assert drafted.metrics["throughput/nfe"] < plain.metrics["throughput/nfe"]
    assert (plain.draft, drafted.draft, drafted.label) == (None, "llada", "llama draft=llada")
    assert "latency/step_ms" in drafted.metrics
    assert "latency/itl_ms" not in drafted.metrics
    assert any("the draft's own forwards" in note for note in drafted.notes)
    json.loads(drafted.to_json())
