"""Which jobs share a process and a card, and which may go to other workers?"""

import dataclasses

from composition import composed
from hydra.core.override_parser.overrides_parser import OverridesParser

from llmbench.job.prepare import prepare_job
from llmbench.sweeps import baseline_jobs, plan
from llmbench.sweeps.blocks import blocks
from records import make_record

SMALL = ["hardware=cpu", "canvas=8", "workload.prompts=4", "batch=2", "metric.likelihood=false"]
CURVE = "parity.baseline_temperatures=[0]"


def build(*overrides: str) -> list[plan.Cell]:
    grid = plan.expand(OverridesParser.create().parse_overrides([*SMALL, "model=llama,llada", *overrides]))
    return plan.build(grid, lambda cell: composed(*cell))


def cut(*overrides: str) -> list[list[str]]:
    cells = baseline_jobs.with_retimed(baseline_jobs.with_curves(build(*overrides)))
    return [[cell.title for cell in block] for block in blocks(cells)]


def test_both_sides_of_a_ratio_share_a_block_and_seeds_do_not():
    assert cut("steps=4,8", "seed=0,1", CURVE) == [
        ["llama seed=0", "llada k=4 seed=0", "llada k=8 seed=0", "llama seed=0 (timed again)"],
        ["llama seed=1", "llada k=4 seed=1", "llada k=8 seed=1", "llama seed=1 (timed again)"],
        ["llama temperature=0 (curve)"],
    ]


def test_temperatures_batches_and_workloads_make_blocks():
    assert [block[0] for block in cut("steps=4", "temperature=0.5,0.9", "parity.baseline_temperatures=[]")] == [
        "llama temperature=0.5",
        "llama temperature=0.9",
    ]
    assert len(cut("steps=4,8", "batch=1,2", "canvas=8,16", "parity.baseline_temperatures=[]")) == 4


def test_one_baseline_for_several_candidates_keeps_them_together():
    """A greedy baseline reads no seed, and the implementations of one baseline are chosen among by their times."""
    greedy = cut("steps=4", "seed=0,1", "temperature=0", "diffusion_temperature=0.7", "parity.baseline_temperatures=[]")
    assert [len(block) for block in greedy] == [4]
    several = cut("model=llama,llama_generate,llada", "steps=4", "parity.baseline_temperatures=[]")[0]
    assert [title.partition(" k=")[0] for title in several[:3]] == ["llama", "llama transformers", "llada"]


def test_what_is_left_of_a_block_stays_together():
    """The baseline was measured by an earlier process: it is timed again on the candidates' card, on both sides."""
    cells = build("steps=4,8")
    cells[0] = dataclasses.replace(cells[0], reused=make_record())
    left = [
        [cell.title for cell in block if cell.reused is None] for block in blocks(baseline_jobs.with_retimed(cells))
    ]
    assert left == [["llama (timed again first)", "llada k=4", "llada k=8", "llama (timed again)"]]


def test_jobs_for_a_gpu_are_planned_on_a_machine_without_one():
    """What `auto` means there is decided there; it does not change which job it is."""
    from llmbench.config.build import build_job

    job = build_job(composed("model=llama", "hardware=cuda"))
    prepared = prepare_job(job, here=False)
    assert prepared.job.hardware == job.hardware
    assert prepared.job.workload.prompts == 400
