"""A job's identity changes with what it builds, and with nothing else."""

import dataclasses

import pytest

from llmbench.config.identity import identity
from llmbench.config.job import Job


def of(job: Job, checkpoint: str = "a") -> str:
    return identity(job, {"checkpoint": checkpoint, "workload": "b"})


def test_every_implementation_of_a_baseline_is_its_own_job(load):
    ways = [[], ["model=llama_generate"], ["model=llama_generate", "model.decoder.cache=static"]]
    assert len({of(load(*way)) for way in ways}) == 3


def test_llama_does_not_read_steps(load):
    assert of(load("steps=8")) == of(load("steps=64"))
    assert of(load("model=llada", "steps=8")) != of(load("model=llada", "steps=64"))


@pytest.mark.parametrize(
    "override",
    ["batch=2", "canvas=32", "temperature=1.0", "timing.repeats=7", "hardware=cpu", "workload.prompts=9"],
)
def test_what_changes_the_work_changes_the_identity(load, override):
    assert of(load(override)) != of(load())


@pytest.mark.parametrize(
    "override",
    [
        "tracking.experiment=other",
        "dry_run=true",
        "reuse=all",
        "sweep.order=random",
        "sweep.order_seed=2",
        "parity.margins.perplexity=0.2",
        "parity.planned_analyses=3",
        "parity.baseline_temperatures=[0,0.5]",
    ],
)
def test_what_does_not_change_the_work_does_not(load, override):
    assert of(load(override)) == of(load())


def test_what_a_job_is_for_is_a_part_of_it(load):
    job = load()
    roles = [("timed", None), ("curve", None), ("retimed", "before"), ("retimed", "after")]
    made = {of(dataclasses.replace(job, role=role, retiming=when)) for role, when in roles}
    again = dataclasses.replace(job, role="retimed", retiming="after")
    assert len(made | {of(dataclasses.replace(again, retiming_number=number)) for number in (1, 2)}) == 6


def test_only_llama_reads_whether_stop_tokens_are_ignored(load):
    ignoring = load("ignore_stop=true")
    assert ignoring.model.decoder.ignore_stop
    assert of(ignoring) != of(load())
    assert of(ignoring) == of(load("ignore_stop=true"))
    assert of(load("model=llada", "ignore_stop=true")) == of(load("model=llada"))


def test_other_weights_under_the_same_name_are_another_job(load):
    assert of(load()) != of(load(), "other")


@pytest.mark.parametrize("model", ["llama", "llada"])
def test_the_seed_counts_only_where_noise_is_drawn(load, model):
    greedy = [of(load(f"model={model}", "temperature=0", f"seed={seed}")) for seed in (1, 2)]
    sampled = [of(load(f"model={model}", "temperature=0.5", f"seed={seed}")) for seed in (1, 2)]
    assert greedy[0] == greedy[1]
    assert sampled[0] != sampled[1]


def test_random_remasking_draws_noise_at_temperature_zero(load):
    random = ["model=llada", "temperature=0", "remasking=random"]
    assert of(load(*random, "seed=1")) != of(load(*random, "seed=2"))
