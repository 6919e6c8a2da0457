"""Jobs of a checkpoint that is decoded in more ways than one: what they are refused, and what their Records hold."""

import json
import shutil

import pytest
from composition import composed

from llmbench.checkpoints import load
from llmbench.checkpoints.resolve import BUNDLED, resolve_checkpoint
from llmbench.config.build import build_job
from llmbench.errors import CheckpointError, UsageError
from llmbench.job import memory_estimate
from llmbench.job.prepare import prepare_job
from llmbench.job.run import run_job

SMALL = ["hardware=cpu", "metric=speed", "workload.prompts=3", "batch=3", "canvas=16", "timing.repeats=2"]
BOTH = {
    "autoregressive": {"attention": "causal"},
    "diffusion": {"attention": "causal_context", "block_length": 8, "seeded": True},
}


def checkpoint(folder, modes):
    """The bundled LLaMA's weights under other modes: what it writes in blocks is nonsense, and text all the same."""
    shutil.copytree(BUNDLED / "llama", folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"modes": modes, "mask_token_id": 2}))
    return folder


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("modes") / "both", BOTH)


def prepare(folder, *overrides):
    return prepare_job(build_job(composed(*SMALL, f"model.checkpoint={folder}", *overrides)))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model=llada", "hardware.engine=eager"], "the fused engine alone does"),
        (["model=llada", "cache=dual"], "use cache=none"),
        (["model=llada", "cfg_scale=1.0"], "use cfg_scale=0"),
        (["model=llada", "tokens_per_step=timesteps"], "use tokens_per_step=even"),
        (["model=llada", "steps=3"], r"steps 3 must be a multiple of the 2 blocks .* \(both has blocks of 8\)"),
        (["model=llada", "canvas=12"], r"block_length 8 must divide canvas 12 \(both has blocks of 8\)"),
        (["model=llama", "draft=self", "draft_tokens=8"], r"draft_tokens 8 \+ 1 exceed the block of 8 .* at most 7"),
        (["model=llama_generate", "draft=self", "batch=1"], "for draft=self use model=llama"),
    ],
)
def test_what_a_model_in_blocks_is_not_asked_for_is_refused(both, overrides, said):
    with pytest.raises(UsageError, match=said):
        prepare(both, *overrides)


def test_a_model_of_one_mode_does_not_draft_for_itself():
    with pytest.raises(UsageError, match=r"draft=self needs a checkpoint .* bundled:llama is not"):
        prepare("bundled:llama", "model=llama", "draft=self")


@pytest.mark.parametrize(
    ("modes", "said"),
    [
        ({"diffusion": {"attention": "block_causal"}}, "modes.diffusion: attention block_causal needs a block_length"),
        ({"autoregressive": {"attention": "full"}}, "attention full does not belong to this family"),
        ({"diffusion": {"attention": "full", "block": 8}}, "modes.diffusion.block: unexpected keyword argument"),
        ({}, "modes: name one at least"),
    ],
)
def test_modes_that_mean_nothing_are_named(tmp_path, modes, said):
    with pytest.raises(CheckpointError, match=said):
        resolve_checkpoint(str(checkpoint(tmp_path / "wrong", modes)))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["block_length=12", "canvas=24", "steps=24"], "in parts of 8; use a block_length that is a multiple of 8"),
        (["canvas=32", "steps=2"], "in 2 parts each, and steps 2 leave 1 to a block; use a multiple of 4"),
    ],
)
def test_the_parts_of_a_block_fill_it_and_share_its_steps(tmp_path, overrides, said):
    """Else tokens behind the last whole part would stay masks."""
    modes = {"diffusion": {"attention": "block_causal", "block_length": 16, "sub_block_length": 8, "logit_shift": 1}}
    with pytest.raises(UsageError, match=said):
        prepare(checkpoint(tmp_path / "parts", modes), "model=llada", *overrides)


def test_the_context_holds_the_rest_of_a_last_block(tmp_path):
    """Blocks that are counted from the text's beginning may reach beyond the canvas."""
    modes = {"diffusion": {"attention": "block_causal", "block_length": 8}}
    folder = checkpoint(tmp_path / "aligned", modes)
    fits = prepare(folder, "model=llada", "canvas=480", "steps=480")
    assert fits.longest_prompt + 480 + 8 <= 512
    with pytest.raises(UsageError, match=r"canvas 504 \+ a block of 8 \+ longest prompt"):
        prepare(folder, "model=llada", "canvas=504", "steps=504")


def test_one_loaded_checkpoint_serves_every_mode_and_each_leaves_its_forwards(both):
    plain, drafted, blocks = (
        run_job(prepare(both, *overrides))
        for overrides in (["model=llama"], ["model=llama", "draft=self"], ["model=llada", "steps=4"])
    )
    kept = load._loaded[1]
    assert kept is load.load_checkpoint(kept.files, prepare(both, "model=llada", "steps=4").job.hardware, "real")
    assert plain.signatures["checkpoint"] == drafted.signatures["checkpoint"] == blocks.signatures["checkpoint"]
    assert (plain.block_length, blocks.block_length) == (None, 8)  # its own, since none was asked for
    assert blocks.metrics["throughput/nfe"] == 1 + 2 * 2 + 1  # the prompt, two steps a block, one commit between
    assert [output.tokens for output in drafted.outputs]
    assert drafted.draft == "self"
    assert drafted.metrics["throughput/nfe"] % 2 == 1
    [commit] = [cost for cost in blocks.forward_costs if cost.shape.causal and cost.shape.queries == 8]
    assert (commit.count, commit.shape.logits) == (1, 1)


def test_drafted_text_is_the_plain_text_at_temperature_0(both):
    texts = [
        [output.text for output in run_job(prepare(both, "model=llama", "temperature=0.0", *more)).outputs]
        for more in ([], ["draft=self"])
    ]
    assert texts[0] == texts[1]


def test_a_cache_is_foreseen(both):
    needs = [memory_estimate.need(prepare(both, f"model={model}", "steps=4")) for model in ("llama", "llada")]
    assert needs[0].cache == needs[1].cache > 0


def test_the_bundled_checkpoint_was_trained_for_all_of_its_ways():
    """What its card says, within what other prompts change; an untrained mode would be nats away."""
    small = ("workload.prompts=4", "batch=1", "canvas=32", "temperature=0.0", "pair=tiny_trimode", *SMALL[:2])
    scored = ("metric.likelihood=true", "metric.likelihood_texts=4", "metric.likelihood_samples=4")
    plain, drafted, blocks = (
        run_job(prepare_job(build_job(composed(*small, "timing.repeats=1", *overrides))))
        for overrides in (("model=llama", *scored), ("model=llama", "draft=self"), ("model=llada", "steps=32", *scored))
    )
    assert [output.text for output in plain.outputs] == [output.text for output in drafted.outputs]
    assert drafted.metrics["throughput/tokens_per_forward"] > 0.75  # 0.5 where no draft is accepted, 1.1 by the card
    assert blocks.metrics["throughput/nfe"] == 1 + 31  # the first token of a block comes from the forward before it
    nats = [record.likelihood.nll_nats / record.likelihood.scored_tokens for record in (plain, blocks)]
    assert nats == pytest.approx([3.8, 4.1], abs=0.5)
    assert nats[0] < nats[1]
