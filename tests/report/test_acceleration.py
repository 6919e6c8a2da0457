"""Table 5: every way of decoding in a row, with the speedup of its own comparison."""

from dataclasses import replace

from llmbench.analysis.parity.analyze import verdicts
from llmbench.record import Record
from llmbench.report import print_figures
from llmbench.report.acceleration import acceleration_table
from llmbench.report.assemble import recipe_tables
from llmbench.report.latex import pieces
from records import implementation, make_record


def decoded(e2e_ms: float, **own: str) -> Record:
    """LLaDA at k = 64, decoded in a way of its own."""
    conditions = {f"decoding.{key}": value for key, value in own.items()}
    made = make_record("llada", 64, e2e_ms=e2e_ms, conditions=conditions, perplexity=50.0)
    config = made.config | {"model": made.config["model"] | {"decoder": made.config["model"]["decoder"] | own}}
    return replace(made, identity="-".join(["llada", *own.values()]), config=config)


PLAIN = implementation("autoregressive", 200.0)
DRAFTED = implementation("autoregressive", 100.0, draft="lookup")
SWEEP = [
    PLAIN,
    DRAFTED,
    *(decoded(ms, cache=cache, block_length=block) for ms, cache, block in (
        (640.0, "none", "16"), (320.0, "dual", "16"), (160.0, "dual", "32"),
    )),
]  # fmt: skip


def test_each_way_has_a_row_whose_speedup_is_over_the_fastest_llama() -> None:
    table = acceleration_table(SWEEP, verdicts(SWEEP))
    rows = {row[0]: dict(zip(table.header, row, strict=True)) for row in table.rows}
    assert {name: row["speedup [95 %]"].partition(" ")[0] for name, row in rows.items()} == {
        "llama": "0.500x",
        "llama draft=lookup": "baseline",
        "llada k=64 block=16": "0.156x",
        "llada dual k=64 block=16": "0.312x",
        "llada dual k=64 block=32": "0.625x",
    }
    assert list(rows) == ["llama", "llama draft=lookup", *sorted(name for name in rows if name.startswith("llada"))]
    assert rows["llada dual k=64 block=32"]["perplexity"] == "50.0"
    assert rows["llada k=64 block=16"]["forwards"] == "64"


def test_the_recipe_makes_this_table_and_says_no_verdict_for_each_setting() -> None:
    (table,) = recipe_tables(SWEEP, verdicts(SWEEP), "acceleration", "as typed")
    assert (table.lead, table.provenance.endswith("as typed")) == ((), True)
    main, _ = pieces(table)
    assert all(name in main for name in ("forwards", "speedup", "perplexity", "entropy"))


def test_the_figure_shows_also_a_side_of_which_an_output_is_empty() -> None:
    records = [implementation("autoregressive", 200.0, empty=1), *SWEEP[2:]]
    figure = print_figures._acceleration(records, ())
    assert figure is not None
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == [
        "LLaMA",
        *(f"LLaDA {way}" for way in ("dual k = 64 block=16", "dual k = 64 block=32", "k = 64 block=16")),
    ]
