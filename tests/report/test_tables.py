"""The tables of the paper, cell by cell."""

import math
from dataclasses import replace

import pytest

from llmbench.analysis.formats import TITLES, number, signed
from llmbench.analysis.parity.analyze import verdicts
from llmbench.analysis.parity.parity import Parity
from llmbench.analysis.parity.verdict import Check, CheckName
from llmbench.record import Likelihood, Record
from llmbench.report.assemble import recipe_tables, sweep_report
from llmbench.report.cells import provenance
from llmbench.report.details import details_tables
from llmbench.report.latex import latex
from llmbench.report.layout import Table
from llmbench.report.model_tables import likelihood_table, model_properties
from llmbench.report.tables import latency_table, memory_table, parity_table, throughput_table
from records import implementation, make_record, make_sweep, server_record, with_baseline_jobs


def cells(table: Table) -> dict[str, dict[str, str]]:
    """Row name to header to cell."""
    return {row[0]: dict(zip(table.header, row, strict=True)) for row in table.rows}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234.4, "1234"),
        (99.96, "100"),
        (34.14, "34.1"),
        (1.0, "1.00"),
        (0.6, "0.600"),
        (0.0512, "0.0512"),
        (0, "0"),
        (-2.5, "-2.50"),
    ],
)
def test_numbers_have_three_significant_digits_and_whole_ones_in_full(value: float, text: str) -> None:
    assert number(value) == text


def test_the_parity_table_has_both_sides_the_human_reference_and_the_floor() -> None:
    records = make_sweep()
    table = cells(parity_table(records, verdicts(records)[0]))
    assert list(table) == ["llama", "llada k=8", "llada k=16", "llada k=32", "llada k=64", "human reference", "floor"]
    assert table["llama"]["L_e2e ms [95 %]"] == "200 [198, 202]"
    assert table["llama"]["speedup [95 %]"] == "-"
    assert table["llada k=32"]["speedup [95 %]"].startswith("0.625x [0.6")
    assert table["llada k=8"]["perplexity"] == "80.0"
    assert table["llada k=8"]["entropy"] == "3.24"
    assert table["llada k=8"]["tokens/s"] == "999"  # 2 x 4 x 20 tokens in 80 and 80 x 1.01 x (1 - 0.05 / 6) ms
    assert table["llada k=8"]["bytes/s"] == "4996"
    assert table["llada k=8"]["RSS MiB"] == "900"
    assert (table["human reference"]["perplexity"], table["floor"]["perplexity"]) == ("25.0", "400")
    assert (table["human reference"]["BERTScore F1"], table["floor"]["BERTScore F1"]) == ("-", "0.100")
    assert table["floor"]["tokens/s"] == "-"


def test_the_parity_table_holds_its_verdict_what_failed_and_where_it_comes_from() -> None:
    records = make_sweep(empty=1)
    (verdict,) = verdicts(records)
    table = parity_table(records, verdict, "python -m llmbench -m steps=8")
    assert table.lead == tuple(str(verdict).splitlines())
    assert table.provenance == (
        "Test CPU (cpu, float32, eager, 1 thread); llmbench 0.1.0, torch 2.13.0, transformers 5.23.0; "
        "commit 0123456789; 8 prompts, 6 repeats of 1 batch; 2026-11-23; python -m llmbench -m steps=8"
    )
    empty = [note for note in table.notes if note.startswith(f"Check: {CheckName.EMPTY.value}: 12.5 %")]
    (own,) = [note for note in empty if "llada k=" in note]  # all that failed alike are one line
    assert own.endswith("k = 16, 32 and 64.")


def test_every_check_that_failed_is_under_the_table() -> None:
    records = make_sweep((8, 16))
    (verdict,) = verdicts(records)

    def mixed(steps: int, key: str) -> Check:
        values: dict[str, float | str] = {"key": key, "value": "1", "other_value": "2"}
        names: dict[str, float | str] = {"label": f"llada k={steps}", "other_label": "llama"}
        return Check(name=CheckName.MIXED, passed=False, blocks="verdict", steps=steps, values=values | names)

    def points(temperature: float) -> Check:
        values: dict[str, float | str] = {"label": f"T={temperature}", "reason": "out of memory"}
        return Check(name=CheckName.CURVE, passed=False, blocks="note", values=values)

    passed = replace(mixed(8, "dtype"), passed=True)
    every = replace(mixed(8, "canvas"), steps=None)
    checks = (mixed(8, "canvas"), mixed(16, "canvas"), mixed(32, "batch"), points(0.2), points(0.4), every, passed)
    notes = [n for n in parity_table(records, replace(verdict, checks=checks)).notes if n.startswith("Check: ")]
    wanted = [("canvas", "k = 16."), ("batch", "k = 32."), ("T=0.2", "noted."), ("T=0.4", "noted."), ("canvas", "ed.")]
    assert all(name in note and note.endswith(end) for note, (name, end) in zip(notes, wanted, strict=True)), notes


@pytest.mark.parametrize(("human", "place"), [(True, "better"), (False, "worse")])
def test_the_notes_say_which_text_the_floor_is_and_where_human_text_stands(human: bool, place: str) -> None:
    """Human text has perplexity 25; LLaMA 45 or 20."""
    records = make_sweep(reached=human)
    (verdict,) = verdicts(records)
    notes = parity_table(records, verdict).notes
    (floor,) = (note for note in notes if note.startswith("Floor: "))
    assert {curve.floor_text for item in verdict.metrics if (curve := item.curve).floor is not None} == {"shuffled"}
    assert floor.count("references of other prompts") == len(verdict.metrics)
    (said,) = (note for note in notes if note.startswith("Human text has perplexity 25.0"))
    assert place in said
    assert number(verdict.metrics[0].curve.baseline or 0) in said
    alone = make_sweep(perplexity=None)
    assert not [n for n in parity_table(alone, verdicts(alone)[0]).notes if n.startswith(("Floor: ", "Human"))]


def test_what_must_be_known_to_read_the_columns_is_under_them() -> None:
    records = [*make_sweep(), server_record(150.0)]
    (verdict,) = verdicts(records)
    notes = parity_table(records, verdict).notes
    for beginning in ("Warning: 8 prompts", "speedup = L_e2e of", "vs ", "RSS: ", "Roofline not judged: "):
        assert len([note for note in notes if note.startswith(beginning)]) == 1, beginning


def test_on_a_gpu_memory_is_m_peak() -> None:
    records = make_sweep(device="cuda")
    table = parity_table(records, verdicts(records)[0])
    assert not [note for note in table.notes if note.startswith("RSS: ")]
    assert "RSS MiB" not in table.header
    assert cells(table)["llama"]["M_peak MiB"] == "160"


def test_what_was_not_measured_has_no_column_and_too_few_repeats_no_interval() -> None:
    records = make_sweep(perplexity=None, repeats=3)
    table = parity_table(records, verdicts(records)[0])
    assert "perplexity" not in table.header
    assert cells(table)["llama"]["L_e2e ms [95 %]"] == "200"
    assert cells(table)["llada k=8"]["speedup [95 %]"] == "2.50x"
    assert "human reference" not in cells(table)


def test_a_table_of_one_verdict_leaves_other_records_out() -> None:
    records = [record for batch in (2, 4) for record in make_sweep((8,), batch=batch)]
    tables = [parity_table(records, verdict) for verdict in verdicts(records)]
    assert [len(table.rows) for table in tables] == [4, 4]


def test_provenance_names_every_value_where_records_differ() -> None:
    first, second = make_record("llama"), make_record("llada", 8)
    changed = replace(second.environment, git_commit="ffff" * 10, git_dirty=True, versions={"torch": "2.11.0"})
    line = provenance([first, replace(second, environment=changed)])
    assert "commit 0123456789 / commit ffffffffff (changed)" in line
    assert "torch 2.13.0, transformers 5.23.0 / torch 2.11.0" in line


def test_the_latency_table_shows_each_side_at_its_own_granularity() -> None:
    table = cells(latency_table(make_sweep((8,), perplexity=None)))
    assert (table["llama"]["prefill ms"], table["llama"]["step ms"]) == ("20.0", "-")
    assert table["llama"]["L_itl ms"] == number(180 / 63)
    assert (table["llada k=8"]["prefill ms"], table["llada k=8"]["step ms"]) == ("-", "10.0")
    assert (table["llama"]["first text ms"], table["llada k=8"]["first text ms"]) == ("20.0", "80.0")
    assert (table["llama"]["forwards"], table["llada k=8"]["forwards"]) == ("64", "8")


def test_the_throughput_table_gives_r_of_b_in_bytes_per_second() -> None:
    sweep = [
        record
        for batch, ms in ((1, 400.0), (4, 50.0))
        for record in (
            make_record("llama", batch=batch, prompts=batch, e2e_ms=100.0, perplexity=None),
            make_record("llada", 16, batch=batch, prompts=batch, e2e_ms=ms, perplexity=None),
        )
    ]
    rows = [dict(zip(throughput_table(sweep).header, row, strict=True)) for row in throughput_table(sweep).rows]
    assert [(row[""], row["batch"], row["bytes/s"], row["R(B)"]) for row in rows] == [
        ("llama", "1", "1000", "-"),
        ("llama", "4", "4000", "-"),
        ("llada k=16", "1", "250", "0.250"),
        ("llada k=16", "4", "8000", "2.00"),
    ]
    silent = make_record("llada", 16, batch=4, prompts=4, tokens=0, perplexity=None)
    assert cells(throughput_table([sweep[2], silent]))["llada k=16"]["R(B)"] == "0"


def test_there_is_no_r_of_b_across_machines() -> None:
    sweep = [make_record("llama"), make_record("llada", 8, conditions={"device_name": "another"})]
    assert "R(B)" not in cells(throughput_table(sweep))["llada k=8"]


def test_the_memory_table_goes_over_the_canvas_and_says_which_memory_it_is() -> None:
    for device, column, said in (
        ("cpu", "RSS MiB", "M_peak needs a GPU"),
        ("cuda", "over model MiB", "cache or activations"),
    ):
        sweep = [
            make_record(model, 32, canvas=canvas, device=device, perplexity=None)
            for canvas in (64, 32)
            for model in ("llada", "llama")
        ]
        table = memory_table(sweep)
        assert [row[:2] for row in table.rows] == [
            ("llama", "32"),
            ("llama", "64"),
            ("llada k=32", "32"),
            ("llada k=32", "64"),
        ]
        assert column in table.header
        assert said in table.notes[0]


def test_a_note_of_a_record_stands_under_its_table() -> None:
    noted = make_record("llama", notes=("the machine was busy",))
    assert "llama: the machine was busy" in latency_table([noted]).notes


def test_failed_records_are_in_no_table() -> None:
    failed = make_record("llada", 8, status="failed", reason="OOM")
    assert latency_table([failed]).rows == ()
    assert sweep_report([failed], verdicts([failed])).text == ""


@pytest.mark.parametrize("recipe", ["latency", "throughput", "memory", "parity", "likelihood"])
def test_points_of_a_curve_and_baselines_timed_again_are_in_no_table(recipe: str) -> None:
    likelihood = Likelihood(nll_nats=10.0, utf8_bytes=10, bound=False, standard_error_nats=None)
    plain = [replace(record, likelihood=likelihood) for record in make_sweep()]
    more = [replace(record, likelihood=likelihood) for record in with_baseline_jobs(make_sweep())]
    found = verdicts(more)
    assert recipe_tables(more, found, recipe, "") == recipe_tables(plain, found, recipe, "")
    assert model_properties(more) == model_properties(plain)


def test_a_recipe_chooses_its_table() -> None:
    records = make_sweep()
    titles = [
        recipe_tables(records, verdicts(records), recipe, "")[0].title
        for recipe in ("latency", "throughput", "memory", "parity", "", "my own")
    ]
    assert titles == [
        "Latency",
        "Throughput over the batch",
        "Memory over the canvas",
        *["Steps to quality parity"] * 3,
    ]


def held(record: Record, bits: float, error: float | None) -> Record:
    """The Record with a likelihood of so many bits per byte, over 1000 bytes."""
    scale = math.log(2) * 1000
    found = Likelihood(
        nll_nats=bits * scale,
        utf8_bytes=1000,
        bound=record.steps is not None,
        standard_error_nats=None if error is None else error * scale,
    )
    return replace(record, likelihood=found, metrics=record.metrics | {"likelihood/bits_per_byte": bits})


def test_likelihood_is_one_line_per_model_beside_the_table_and_no_column_over_k() -> None:
    records = make_sweep()
    assert model_properties(records) == ""
    records = [held(record, 1.41, None) if record.steps is None else held(record, 1.54, 0.024) for record in records]
    assert model_properties(records) == (
        "Bits per byte of held-out text, a property of the model and not of k: "
        "llama (bundled:llama@llama0) 1.4100, exact; "
        "llada (bundled:llada@llada0) at most 1.5400 ± 0.0240 (standard error)."
    )
    shown = sweep_report(records, ())
    assert model_properties(records) in shown.text
    assert model_properties(records) in shown.note
    assert "1.54" not in parity_table(records, verdicts(records)[0]).text()


def test_likelihood_has_a_table_of_its_own_with_one_row_per_model_and_text() -> None:
    records = [
        held(record, 1.41, None) if record.steps is None else held(record, 1.54, 0.024) for record in make_sweep()
    ]
    named = [
        replace(
            record,
            likelihood=replace(record.likelihood, texts=3, scored_tokens=200),
            signatures=record.signatures | {"likelihood": "own.txt@t0"},
        )
        for record in records
    ]
    table = likelihood_table([*named, make_record("llada", 8, status="failed")], "as typed")
    assert table.header == ("model", "texts", "bits per byte", "standard error", "exact or bound", "nats per token")
    # 1.41 bits per byte over 1000 bytes and 200 tokens: 1.41 * ln 2 * 1000 / 200 nats per token
    assert table.rows == (
        ("llama (bundled:llama@llama0)", "own.txt@t0 (3)", "1.4100", "-", "exact", "4.8867"),
        ("llada (bundled:llada@llada0)", "own.txt@t0 (3)", "1.5400", "0.0240", "bound", "5.3372"),
    )
    assert any("no worse" in note for note in table.notes)
    assert "repeats" not in table.provenance  # nothing here rests on generated text
    assert likelihood_table(records).rows[0][1::4] == ("held-out", "-")  # a Record from before these fields
    assert likelihood_table(make_sweep()).rows == ()
    assert "Bits per byte of own.txt@t0," in model_properties(named)
    assert sweep_report(named, (), command="as typed").files["likelihood.md"] == table.markdown()
    alone = sweep_report(named, verdicts(named), recipe="likelihood", command="as typed")
    assert (alone.text, set(alone.files)) == (table.text(), {"likelihood.md"})


def test_every_implementation_of_the_baseline_stands_in_the_table_and_the_fastest_is_compared_with() -> None:
    slow, fast = implementation("transformers", 400.0, "static"), implementation("autoregressive", 200.0)
    records = [slow, fast, *make_sweep()[1:]]
    (verdict,) = verdicts(records)
    table = parity_table(records, verdict)
    speedup = table.header.index("speedup [95 %]")
    cells = {row[0]: row[speedup].partition(" ")[0] for row in table.rows}
    assert (cells["llama"], cells["llama transformers static"], cells["llada k=8"]) == ("baseline", "0.500x", "2.50x")
    without = [slow, fast]  # no candidate: what their speedup is, is said all the same
    assert any(note.startswith("speedup = ") for note in parity_table(without, verdicts(without)[0]).notes)
    ratios = throughput_table(records)
    column = ratios.header.index("R(B)")
    cells = {row[0]: row[column] for row in ratios.rows}
    assert (cells["llama"], cells["llama transformers static"], cells["llada k=8"]) == ("baseline", "-", "2.50")


def test_every_table_has_a_row_for_each_implementation_size_and_seed() -> None:
    """Lookup is the fastest at batch 4 and the slowest at batch 8."""
    records = [
        replace(made, identity=f"{made.label} {batch} {seed}")
        for batch, lookup_ms in ((4, 90.0), (8, 400.0))
        for seed in ("2", "1")
        for made in (
            implementation("transformers", 300.0, "static", batch=batch, conditions={"seed": seed}),
            implementation("autoregressive", lookup_ms, draft="lookup", batch=batch, conditions={"seed": seed}),
            implementation("autoregressive", 200.0, batch=batch, conditions={"seed": seed}),
            make_record("llada", 8, e2e_ms=100.0, batch=batch, conditions={"seed": seed}),
        )
    ]
    sides = ("llama", "llama draft=lookup", "llama transformers static", "llada k=8")
    for table in (latency_table(records), throughput_table(records), memory_table(records)):
        at = [table.header.index(name) for name in ("", "batch", "seed")]
        rows = [tuple(row[i] for i in at) for row in table.rows]
        assert rows == [(side, batch, seed) for side in sides for batch in ("4", "8") for seed in ("1", "2")]
        assert "temperature" not in table.header
    capacity = throughput_table(records)
    marked = [row[0] for row in capacity.rows if row[capacity.header.index("R(B)")] == "baseline"]
    assert marked == ["llama"] * 2 + ["llama draft=lookup"] * 2
    small, large = verdicts(records)
    for verdict, chosen in ((small, "llama draft=lookup"), (large, "llama")):
        table = parity_table(records, verdict)
        assert [row[:2] for row in table.rows][:8] == [(side, seed) for side in sides for seed in ("1", "2")]
        speedup = table.header.index("speedup [95 %]")
        assert {row[0] for row in table.rows if row[speedup] == "baseline"} == {chosen}
    few, many = (
        implementation("autoregressive", 90.0, draft="lookup", conditions={"decoding.draft_tokens": n}) for n in "37"
    )
    assert [row[0] for row in latency_table([few, replace(many, identity="many")]).rows] == [
        "llama draft=lookup draft_tokens=3", "llama draft=lookup draft_tokens=7",
    ]  # fmt: skip


@pytest.mark.parametrize(("device", "mark"), [("cuda", ""), ("cpu", " (not judged)")])
def test_the_roofline_stands_beside_every_speedup_and_is_marked_where_it_cannot_judge(device: str, mark: str) -> None:
    records = make_sweep(device=device)
    table = parity_table(records, verdicts(records)[0])
    at = table.header.index("speedup [95 %]") + 1
    assert table.header[at] == "roofline"
    assert [row[at] for row in table.rows[:2]] == [f"0.0600{mark}", f"0.150{mark}"]
    assert cells(latency_table(records))["llama"]["roofline"] == f"0.0600{mark}"
    for shown in (table, latency_table(records)):
        assert any("Roofline not judged" in note for note in shown.notes) is bool(mark)
    unknown = [replace(record, metrics={**record.metrics, "roofline/efficiency": 0.5}) for record in records[:1]]
    unknown += [make_record("llada", 8, metrics={"latency/e2e_ms": 1.0}, device=device)]
    assert cells(latency_table(unknown))["llada k=8"]["roofline"] == "-"


def test_the_tests_behind_a_verdict_stand_k_by_k(studied: tuple[list[Record], Parity]) -> None:
    _, verdict = studied
    (table,) = details_tables(verdict)
    shown = cells(table)
    assert verdict.head is not None
    places = dict(zip((8, 16, 32, 64), ("dominated", "on the curve", "on the curve", "more varied"), strict=True))
    for test in verdict.head.tests:
        row = shown[str(test.steps)]
        assert row[table.header[1]] == f"{signed(test.delta)} [{signed(test.low)}, {signed(test.high)}]"
        assert (row["lower"], row["upper"]) == (signed(test.lower), signed(test.upper))
        assert (row["entropy"], row["LLaMA at"]) == (f"{test.entropy:.2f}", f"T = {test.temperature:.2f}")
        assert row["place"] == places[test.steps]
        values = verdict.check(CheckName.RELEVANCE, test.steps).values  # type: ignore[union-attr]
        texts = f"{number(values['value'])} ({number(values['reference'])}), {signed(values['lower'])}"  # type: ignore[arg-type]
        assert row["relevance, bound"] == texts
        assert row["shared 4-grams"] == "0.0500 (0.0500)"
        assert row["length"].endswith("%")
        assert row["passes"].startswith("no: ")
        assert "quality" in row["passes"]
    assert CheckName.RELEVANCE_ASSAY.value in shown["64"]["passes"]
    assert CheckName.RELEVANCE_ASSAY.value not in shown["32"]["passes"]
    for wanted in (
        "margin 0.1 nats per token; 60 prompts in 60 documents",
        "first 32 judge tokens",
        "enough (more than 0.2",
    ):
        assert len([note for note in table.notes if wanted in note]) == 1
    also = [note for note in table.notes if note.startswith("Also: ")]
    assert [TITLES[item.curve.metric] in note for item, note in zip(verdict.metrics[1:], also, strict=True)] == [True]
    assert any(note.startswith("S_all (perplexity, bits per byte)") for note in table.notes)
    assert details_tables(verdicts(make_sweep(perplexity=None))[0]) == []


def test_a_k_that_passes_says_so_and_one_below_the_first_failure_was_not_tested(
    studied: tuple[list[Record], Parity],
) -> None:
    _, verdict = studied
    head = verdict.head
    assert head is not None
    tests = tuple(replace(test, passes=test.steps != 16) for test in head.tests)
    passing = replace(head, tests=tests, passing=(32, 64), stopped_at=16)
    second = replace(head, curve=replace(head.curve, metric="quality/perplexity_second"), second=None)
    changed = replace(verdict, metrics=(replace(passing, second=second),), checks=())
    table, other = details_tables(changed)
    assert {k: row["passes"] for k, row in cells(table).items()} == {
        "8": "not tested",
        "16": "no: quality",
        "32": "yes",
        "64": "yes",
    }
    assert any(note.startswith("Flag: ") and "k = 16" in note for note in table.notes)
    assert other.title != table.title
    assert [row[1] for row in other.rows] == [row[1] for row in table.rows]
    few = replace(head, tests=tuple(replace(test, enough=False) for test in head.tests))
    (table,) = details_tables(replace(verdict, metrics=(few,), checks=()))
    assert cells(table)["64"]["passes"] == "no: too few prompts"
    blind = replace(head, tests=tuple(replace(test, passes=True, assay=None) for test in head.tests))
    (table,) = details_tables(replace(verdict, metrics=(blind,), checks=()))
    assert cells(table)["64"]["passes"] == "no: insensitive"


def test_several_seeds_have_a_row_each_and_one_verdict() -> None:
    records = [
        replace(record, identity=f"{record.identity}-{seed}", conditions=record.conditions | {"seed": seed})
        for record in make_sweep((8,))
        for seed in ("1", "2")
    ]
    (verdict,) = verdicts(records)
    table = parity_table(records, verdict)
    assert [row[:2] for row in table.rows[:4]] == [
        ("llama", "1"),
        ("llama", "2"),
        ("llada k=8", "1"),
        ("llada k=8", "2"),
    ]


def test_the_verdict_stands_above_the_numbers_in_every_place() -> None:
    records = make_sweep()
    (verdict,) = verdicts(records)
    table = parity_table(records, verdict)
    for text in (table.text(), table.markdown()):
        places = [text.index(line) for line in str(verdict).splitlines()]
        assert places == sorted(places)
        assert places[-1] < text.index("| llada k=8" if "| llada" in text else "\nllada k=8")
    assert f"{verdict.status.value.upper()}. " in latex(table)


def test_each_recipe_ends_with_the_hypotheses_it_speaks_to() -> None:
    records = [r for batch in (1, 2, 4) for r in make_sweep((16,), batch=batch, perplexity=None)]
    numbers = {
        recipe: [t.title[11] for t in recipe_tables(records, (), recipe, "") if t.title.startswith("Hypothesis ")]
        for recipe in ("latency", "throughput", "memory", "parity")
    }
    assert numbers == {"latency": ["4"], "throughput": ["1"], "memory": ["2", "3"], "parity": []}
    table = recipe_tables(records, (), "throughput", "as typed")[1]
    assert table.lead[0].startswith("Undecided: LLaDA's throughput is superior at high batch")
    assert "llmbench -m experiment=throughput" in table.lead[1]
    assert [row[1] for row in table.rows] == ["R(1)", "R(2)", "R(4)"]
    assert table.provenance.endswith("as typed")


def test_tables_of_several_checkpoints_say_which_one_each_is_about() -> None:
    def text(records: list[Record]) -> str:
        return "\n".join(table.text() for table in recipe_tables(records, verdicts(records), "", ""))

    other = {"signatures": {"checkpoint": "LLaDA-1.5@ffff"}, "conditions": {"decoding.checkpoint": "ffff"}}
    records = [make_record("llama"), make_record("llada", 8), make_record("llada", 8, identity="f" * 12, **other)]
    shown = text(records)
    assert shown.count("Of llama (bundled:llama@llama0), llada (") == 2
    assert "llada (LLaDA-1.5@ffff).\n" in shown
    assert "Of llama" not in text(records[:2])
