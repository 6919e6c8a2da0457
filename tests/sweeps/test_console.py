"""The endings of a job and of a sweep: readable numbers, where things lie, and outputs that the canvas cut off."""

from dataclasses import replace
from pathlib import Path

from llmbench.sweeps import console
from records import make_record

PATH = Path("multirun/now/record.json")


def test_a_single_job_ends_in_numbers_with_units_and_where_to_look():
    record = make_record("llada", 8, e2e_ms=100.0, perplexity=40.0)
    said = console.job_ending(record, PATH, ["Its run: `make ui`"], "python -m llmbench model=llada")
    cells = {tuple(line.split("  ")[0::1]) for line in said.splitlines()}
    rows = {parts[0].strip(): parts[-1].strip() for parts in cells}
    assert rows["RSS MiB"] == "900"  # 900 * 2**20 bytes
    assert rows["perplexity"] == "40.0 (human 25.0, floor 400)"
    assert rows["forwards"] == "8"
    assert "L_itl ms" not in said  # no such time in a diffusion model
    assert "Test CPU (cpu, float32, eager, 1 thread)" in said
    assert "python -m llmbench model=llada" in said
    assert said.endswith(f"Record: {PATH}\nIts run: `make ui`")


def test_a_failed_job_shows_no_table():
    said = console.job_ending(make_record(status="failed", reason="too hot"), PATH, [], "")
    assert said == f"\nRecord: {PATH}"


def test_outputs_that_fill_the_canvas_are_said_and_those_that_were_told_to_are_not():
    record = make_record("llada", 8, prompts=8, canvas=64)  # every second output stopped
    assert console.cut_off([("llada k=8", record)]) == [
        "4 of 8 outputs fill the canvas of 64 tokens: cut off there, not ended by the model"
    ]
    ended = replace(record, outputs=tuple(replace(output, stopped=True) for output in record.outputs))
    dummy = make_record("llada", 8, conditions={"weights": "dummy"})
    llama = make_record("llama")
    decoder = llama.config["model"]["decoder"] | {"ignore_stop": True}
    endless = replace(llama, config=llama.config | {"model": llama.config["model"] | {"decoder": decoder}})
    for other in (ended, dummy, endless):
        assert console.cut_off([("it", other)]) == []
    said = console.ending("TABLE", [("a", record), ("b", ended)], [("c", "too hot")], Path("here"), ["there"], 3.0)
    assert "TABLE\nOutputs: a 4 of 8 fill the canvas of 64 tokens" in said
    assert said.endswith("FAILED c: too hot\n2 of 2 jobs finished in 3 s. Records: here\nthere")
