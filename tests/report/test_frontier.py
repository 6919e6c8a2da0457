"""The frontier as people see it: what is drawn, numbered and listed."""

from dataclasses import replace

import pytest

from llmbench.analysis.frontier import frontiers
from llmbench.analysis.parity.analyze import parity, verdicts
from llmbench.analysis.parity.verdict import CheckName
from llmbench.config.parity import ParityConfig, ThresholdsConfig
from llmbench.record import Record
from llmbench.report.assemble import frontier_files, sweep_report
from llmbench.report.frontier import FEW, frontier_figure, frontier_tables
from records import make_record, make_sweep


def many() -> list[Record]:
    """5 temperatures x 4 k x 2 caches, and LLaMA at each temperature."""
    records = []
    for i, heat in enumerate((0.0, 0.4, 0.7, 1.0, 1.3)):
        records.append(
            make_record("llama", e2e_ms=200 + i, perplexity=20 + 15 * i, entropy=2.6 + i / 5, temperature=heat)
        )
        for cache in ("none", "dual"):
            for k in (8, 16, 32, 64):
                made = make_record(
                    "llada",
                    k,
                    e2e_ms=10 * k * (0.5 if cache == "dual" else 1.0),
                    perplexity=30 + 400 / k + 20 * i,
                    entropy=2.5 + i / 5,
                    temperature=heat,
                    conditions={"decoding.cache": cache},
                )
                decoder = made.config["model"]["decoder"] | {"cache": cache}
                records.append(
                    replace(made, config=made.config | {"model": made.config["model"] | {"decoder": decoder}})
                )
    return [replace(record, identity=f"{i:012d}") for i, record in enumerate(records)]


def texts(axes: object) -> list[str]:
    return [text.get_text() for text in axes.texts]  # type: ignore[attr-defined]


def test_each_metric_has_a_row_with_time_and_entropy_that_share_its_axis() -> None:
    (found,) = frontiers(make_sweep())
    figure = frontier_figure(found)
    left, right, listed = figure.axes[:3]
    assert len(figure.axes) == 6  # perplexity and BERTScore; bits per byte is perplexity again
    assert left.get_xlabel() == "end-to-end latency (ms per batch)"
    assert left.get_ylabel() == "perplexity (lower is better)"
    assert right.get_xlabel().startswith("entropy (nats")
    assert right.get_ylim() == left.get_ylim()
    assert sorted(texts(left)) == sorted(texts(right)) == ["1", "2", "3", "4", "5"]
    assert texts(listed)[1:3] == ["1  llada k=8", "80.0 ms, 80.0, H 3.24"]


def test_with_many_settings_only_the_frontier_is_numbered() -> None:
    (found,) = frontiers(many())
    assert len(found.settings) == 45 > FEW
    front = found.fronts[0]
    figure = frontier_figure(found)
    assert len(texts(figure.axes[0])) == len(front.on) < 10
    names = {text.get_text() for text in figure.legends[0].get_texts()}
    assert {"LLaMA", "LLaDA", "LLaDA dual", "darker: higher temperature", "frontier"} <= names


def test_a_figure_names_its_sweep_where_it_is_told() -> None:
    found = frontiers(make_sweep())[0]
    assert frontier_figure(found).axes[0].get_title(loc="left") == found.where
    assert (
        frontier_figure(found, "From sweep a (1)").axes[0].get_title(loc="left") == f"From sweep a (1)\n{found.where}"
    )


def test_no_two_lines_of_the_list_and_no_two_panels_lie_on_each_other() -> None:
    figure = frontier_figure(frontiers(many())[0])
    figure.canvas.draw()
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    for i, one in enumerate(boxes):
        for other in boxes[i + 1 :]:
            assert not one.padded(-2).overlaps(other.padded(-2))
    for axes in figure.axes[2::3]:
        names = [text.get_window_extent() for text in axes.texts]
        for i, one in enumerate(names):
            for other in names[i + 1 :]:
                assert not one.overlaps(other)


def test_the_table_lists_what_nothing_dominates() -> None:
    records = many()
    (table,) = frontier_tables(records, frontiers(records), "as typed")
    rows = {row[0]: row for row in table.rows}
    assert next(iter(rows)) == "llada dual k=8 T=0.0"
    assert rows["llada dual k=8 T=0.0"][-1] == "perplexity, bits per byte, BERTScore F1"
    assert rows["llama T=0.0"][-1] == "perplexity, bits per byte"
    assert rows["llama T=1.3"][-1] == "perplexity*, bits per byte*"  # beaten by colder text, which is less varied
    assert "llada k=8 T=0.0" not in rows  # the same text as with the cache, at twice the time
    assert rows["llama T=0.0"][1] == "200 [198, 202]"
    assert table.notes[0].startswith(f"{len(rows)} of 45 settings; batch 4, canvas 64")
    assert table.provenance.endswith("as typed")


@pytest.mark.parametrize("records", [make_sweep((8,)), make_sweep()[:1], make_sweep(entropy=3.0), many()])
def test_files_hold_the_table_and_a_picture(records: list[Record]) -> None:
    _, files = frontier_files(records, "")
    assert list(files) == ["frontier.md", "frontier.png"]
    assert bytes(files["frontier.png"]).startswith(b"\x89PNG")  # type: ignore[arg-type]


def test_a_setting_that_the_plans_stricter_gate_refuses_is_not_on_the_frontier() -> None:
    """1 % of the outputs are empty: fewer than the 2 % of docs/metrics.md, more than the half percent of this plan."""
    strict = {"thresholds": {"empty_share": 0.005}}
    silent = make_record("llada", 16, prompts=100, empty=1, e2e_ms=1.0)
    records = [make_record("llama", prompts=100), make_record("llada", 8, prompts=100), silent]
    planned = [replace(record, config=record.config | {"parity": strict}) for record in records]
    (empty,) = (check for check in parity(planned).failed_checks if check.name is CheckName.EMPTY)
    assert (empty.steps, empty.values["share"], empty.values["limit"]) == (16, 0.01, 0.005)
    refused = "llada k=16 (1 % of its outputs are empty)"
    for text in (
        frontier_files(planned, "")[1]["frontier.md"],
        frontier_files(records, "", options=ParityConfig(thresholds=ThresholdsConfig(empty_share=0.005)))[1][
            "frontier.md"
        ],
        sweep_report(planned, [parity(planned)]).files["frontier.md"],
    ):
        assert refused in str(text)
    assert refused not in str(frontier_files(records, "")[1]["frontier.md"])


def test_several_grounds_have_a_picture_each_and_one_file_of_tables() -> None:
    _, files = frontier_files([*make_sweep(batch=4), *make_sweep(batch=8)], "")
    assert list(files) == ["frontier.md", "frontier_1.png", "frontier_2.png"]
    assert str(files["frontier.md"]).count("Settings that nothing dominates") == 2
    assert frontier_files(make_sweep(perplexity=None), "") == ([], {})


def test_a_sweep_leaves_its_frontier_on_the_parent_run() -> None:
    records = make_sweep()
    assert {"frontier.md", "frontier.png"} <= sweep_report(records, verdicts(records)).files.keys()
