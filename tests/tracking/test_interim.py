"""Analyses that earlier sweeps left in a real store count for later verdicts, and a table made again says the same."""

import itertools
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from llmbench.analysis.parity.analyze import verdicts
from llmbench.analysis.parity.interim import AnalysisPlan
from llmbench.analysis.parity.parity import Parity
from llmbench.cli.report import main
from llmbench.config.job import TrackingConfig
from llmbench.config.parity import MarginsConfig, ParityConfig, ThresholdsConfig
from llmbench.record import Record
from llmbench.tracking import Store, open_store
from records import make_sweep

AXIS = (8, 16, 32, 64)
COUNT = itertools.count()


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> str:
    return f"sqlite:///{shutil.copy(empty_store, tmp_path_factory.mktemp('store'))}"


@pytest.fixture
def store(uri: str) -> Store:
    """An experiment of its own; making a store takes seconds."""
    return open_store(TrackingConfig(uri=uri, experiment=f"llmbench {next(COUNT)}"))


def swept(store: Store, records: Sequence[Record], options: ParityConfig | None = None) -> tuple[str, list[Parity]]:
    """What a sweep does with the store around its jobs: registers, logs, counts earlier analyses, ends."""
    options = options or ParityConfig()
    plan = AnalysisPlan(options=options, steps=AXIS).to_json()
    parent = store.start_sweep(name="sweep", command="", jobs=len(records), recipe="parity", registered=plan)
    for record in records:
        store.log_job(record, parent=parent, steps_axis=AXIS, swept={})
    found = list(verdicts(records, options=options, history=store.past_analyses(parent)))
    store.finish_sweep(parent, found, records)
    return parent, found


def test_a_second_sweep_counts_the_first_and_a_repeat_does_not(store: Store) -> None:
    stricter = ParityConfig(thresholds=ThresholdsConfig(length_share=0.95))
    sweeps = [swept(store, make_sweep()), swept(store, make_sweep()), swept(store, make_sweep(), stricter)]
    assert [found[0].analyses for _, found in sweeps] == [1, 1, 2]
    assert [found[0].unplanned for _, found in sweeps] == [(), (), ("parity.thresholds.length_share",)]


def test_margins_changed_over_data_that_is_measured_anew(store: Store) -> None:
    swept(store, make_sweep())
    _, (second,) = swept(store, make_sweep(), ParityConfig(margins=MarginsConfig(perplexity=0.3)))
    assert (second.metrics[0].margin, second.analyses) == (0.3, 2)


def test_more_prompts_measured_anew_into_the_same_experiment(store: Store) -> None:
    swept(store, make_sweep())
    _, (second,) = swept(store, make_sweep(prompts=16, conditions={"workload": "w16"}))
    assert (second.analyses, second.unplanned) == (2, ("prompts",))


def test_a_table_made_again_counts_what_had_been_seen_when_its_sweep_ended(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wider = ParityConfig(margins=MarginsConfig(perplexity=0.3))
    first, (one,) = swept(store, make_sweep())
    second, (two,) = swept(store, make_sweep(), wider)
    for parent, verdict in ((first, one), (second, two)):
        where = ["--uri", store.uri, "--experiment", store.experiment]
        assert main(["parity", *where, "--sweep", parent, "--out", str(tmp_path / "paper")]) == 0
        assert str(verdict) in capsys.readouterr().out


def test_a_deleted_sweep_was_seen_all_the_same_and_one_without_a_verdict_was_not(store: Store) -> None:
    aborted = store.start_sweep(name="aborted", command="", jobs=2)
    store.abort_sweep(aborted)
    parent, (first,) = swept(store, make_sweep())
    assert first.analyses == 1
    store.client.delete_run(parent)
    again = [replace(r, outputs=tuple(replace(o, text=f"{o.text}!") for o in r.outputs)) for r in make_sweep()]
    assert swept(store, again)[1][0].analyses == 2


def test_another_experiment_knows_nothing(store: Store) -> None:
    swept(store, make_sweep())
    other = open_store(TrackingConfig(uri=store.uri, experiment=f"other than {store.experiment}"))
    assert swept(other, make_sweep(), ParityConfig(planned_analyses=2))[1][0].analyses == 1


def test_many_verdicts_of_one_sweep_are_all_remembered(store: Store) -> None:
    """More tags than MLflow takes in one request."""
    records = [r for i in range(60) for r in make_sweep((8, 16), temperature=float(i), prompts=4, repeats=1)]
    distinct = [replace(r, identity=f"{i:012d}") for i, r in enumerate(records)]
    found = verdicts(distinct, options=ParityConfig())
    parent = store.start_sweep(name="wide", command="", jobs=len(distinct))
    store.finish_sweep(parent, found, distinct)
    after = store.start_sweep(name="next", command="", jobs=1)
    assert len(store.past_analyses(after)) == 60


def test_a_sweep_registers_thresholds_and_margins_before_its_jobs(store: Store) -> None:
    parent = store.start_sweep(
        name="s", command="", jobs=1, registered=AnalysisPlan(options=ParityConfig(), steps=AXIS).to_json()
    )
    said = json.loads(store.sweep(parent).registered or "")
    assert said["steps"] == list(AXIS)
    assert said["margins"]["perplexity"] == 0.1
    assert said["thresholds"].items() >= {"empty_share": 0.02, "length_share": 0.9, "roofline_share": 0.5}.items()


def test_analyses_of_version_0_2_are_counted(store: Store) -> None:
    """It called them looks, in the tag and in the terms."""
    parent, _ = swept(store, make_sweep())
    said = store.client.get_run(parent).data.tags["analysis.0"]
    store.client.delete_tag(parent, "analysis.0")
    store.client.set_tag(parent, "look.0", said.replace("planned_analyses", "looks"))
    assert swept(store, make_sweep())[1][0].analyses == 1
    assert swept(store, make_sweep(), ParityConfig(margins=MarginsConfig(perplexity=0.3)))[1][0].analyses == 2
