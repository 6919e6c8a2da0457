"""The pages that are kept, as rows; and the map that is made of them."""

import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmbench.analysis.bench_pages import Pages, read_pages
from llmbench.analysis.prediction import Model, Prediction, errors, predict
from llmbench.analysis.prediction_map import SpeedMap, speed_map
from llmbench.errors import RecordError, UsageError
from llmbench.record import Ceilings

RESULTS = Path(__file__).parents[2] / "docs" / "results"
H200, H100 = "NVIDIA H200", "NVIDIA H100 80GB HBM3"
ROOFLINE = Model(flops_efficiency=1.0, bytes_efficiency=1.0, forward_ms=0.0, overlap=64.0)


@pytest.fixture(scope="module")
def pages() -> Pages:
    return read_pages(RESULTS)


@pytest.fixture(scope="module")
def found(pages: Pages) -> Prediction:
    return predict(pages.rows, (1, 32))


def page(name: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return read


def samples(name: str, row: str, what: str = "llmbench") -> float:
    (found,) = [each for each in page(name)["rows"] if each["name"] == row]
    return statistics.median(found["samples"][what])


def test_rows_are_what_the_pages_say_and_no_forward_is_below_its_least_time(pages: Pages):
    rows = {(row.source, row.name): row for row in pages.rows}
    assert (pages.prompt, pages.canvas, pages.block, pages.steps, pages.notes) == (128, 256, 32, 64, ())
    step, whole = rows["nvidia-h200", "full-8"], rows["nvidia-h200", "dual-whole-1"]
    assert (step.forwards, step.batch, step.cache, whole.forwards, whole.cache) == (8, 8, "none", 64, "dual")
    assert step.ms / 8 == pytest.approx(samples("nvidia-h200", "full-8"))
    token = rows["nvidia-h100-80gb-hbm3", "ar-32"]
    assert (token.forwards, token.ms / 255) == (255, pytest.approx(samples("nvidia-h100-80gb-hbm3", "ar-32")))
    assert rows["nvidia-h200-vllm", "vllm-128, first token"].kind == "prefill"
    # per row 384 * (31 * 218103808 + 33554432) weights, and attention, the last block and the head at 32 positions
    assert step.costs[0].flops == pytest.approx(2 * 8 * (2.609e12 + 3.75e10 + 5.9e9 + 1.66e10), rel=1e-3)
    for row in pages.rows:
        assert ROOFLINE.ms(row.costs, row.ceilings) < row.ms * 1.02, row.name


def test_a_page_without_ceilings_has_those_of_the_same_card(pages: Pages):
    (verify,) = [row for row in pages.rows if row.name == "verify 16, B=32"]
    assert (verify.costs[0].shape.queries, verify.costs[0].shape.keys) == (16, 128 + 128 + 16)
    assert verify.ceilings.flops_per_s == page("nvidia-h200-vllm")["ceilings"]["flops_per_s"]
    assert page("nvidia-h200")["ceilings"]["flops_per_s"] == pages.ceilings[H200].flops_per_s
    assert not [row for row in pages.rows if row.name.startswith(("lookup", "model", "llada"))]


def test_the_kept_pages_are_predicted_within_the_bar(found: Prediction):
    assert {row.device for row in found.fitted} == {H200}
    assert {row.batch for row in found.fitted} == {1, 32}
    assert {(row.device, row.batch) for row in found.held_out} == {
        *((H200, batch) for batch in (8, 64, 128)), *((H100, batch) for batch in (1, 8, 32)),
    }  # fmt: skip
    for device in (H200, H100):
        left = errors(found.model, [row for row in found.held_out if row.device == device])
        assert left is not None
        assert left.median < 0.15
    assert 0.5 < found.model.flops_efficiency < 1
    assert 0.5 < found.model.bytes_efficiency < 1


def by_batch(made: SpeedMap, cache: str) -> dict[int, Any]:
    return {line.batch: line for line in made.lines if line.cache == cache}


def test_the_map_is_against_the_fastest_measured_baseline_and_says_what_is_extrapolated(
    pages: Pages, found: Prediction
):
    made = speed_map(found.model, pages, H200)
    plain, dual = by_batch(made, "none"), by_batch(made, "dual")
    assert made.place.steps == (8, 16, 32, 64, 128, 256)
    assert [batch for batch, line in plain.items() if line.extrapolated] == [64, 128, 256]
    assert [batch for batch, line in dual.items() if line.extrapolated] == [16, 32, 64, 128, 256]
    assert [batch for batch, line in plain.items() if line.implementation is None] == [2, 4, 16, 256]
    ours = min(samples("nvidia-h200-vllm", "vllm-8"), samples("nvidia-h200", "ar-whole-8"))
    assert (plain[8].baseline_ms, plain[8].implementation) == (ours, "llmbench")
    assert plain[8].speedups[16] == pytest.approx(ours / plain[8].diffusion_ms[16])
    assert (plain[1].most_steps, plain[64].most_steps) == (64, None)
    points = {(point.batch, point.cache): point for point in made.points}
    assert set(points) == {*((batch, "none") for batch in (1, 8, 32)), (1, "dual"), (8, "dual")}
    whole, summed = points[1, "none"], points[8, "dual"]
    assert whole.whole
    assert whole.speedup == pytest.approx(
        samples("nvidia-h200-vllm", "vllm-1") / samples("nvidia-h200", "full-whole-1")
    )
    assert whole.predicted == pytest.approx(plain[1].speedups[64])
    assert not summed.whole
    # 8 first steps read everything, 56 their block
    ms = 8 * samples("nvidia-h200", "full-8") + 56 * samples("nvidia-h200", "dual-8")
    assert summed.speedup == pytest.approx(ours / ms)


def test_another_device_and_other_lengths_have_no_measured_baseline(pages: Pages, found: Prediction):
    h100 = speed_map(found.model, pages, H100, batches=(8, 128), steps=(64,))
    assert [(line.batch, line.implementation, line.extrapolated) for line in h100.lines[:2]] == [
        (8, "llmbench", False), (128, None, True),
    ]  # fmt: skip
    alone = speed_map(found.model, replace(pages, baselines=()), H200, batches=(1, 8), steps=(64,))
    assert all(line.extrapolated for line in alone.lines)  # no generation of LLaMA was measured
    unknown = Ceilings(flops_per_s=1e15, bytes_per_s=8e12, last_level_cache_bytes=None, judged=True)
    for wanted in ({"ceilings": unknown}, {"canvas": 512}, {"prompt": 1024}, {"block": 64}):
        made = speed_map(found.model, pages, H200, batches=(8,), steps=(64,), **wanted)
        assert all(line.extrapolated and line.implementation is None for line in made.lines)
        assert made.points == ()
    with pytest.raises(UsageError, match="no page is of TPU"):
        speed_map(found.model, pages, "TPU")
    with pytest.raises(UsageError, match=r"k = 12, .* must be a multiple of the 8 blocks"):
        speed_map(found.model, pages, H200, steps=(12,))


def test_what_is_no_page_is_left_alone_and_what_cannot_be_read_together_is_refused(tmp_path: Path):
    (tmp_path / "other.json").write_text('{"rows": [], "of": "something else"}')
    (tmp_path / "text.md").write_text("no page")
    with pytest.raises(RecordError, match="no measured page with ceilings"):
        read_pages(tmp_path)
    drafts, whole = page("nvidia-h200-drafts"), page("nvidia-h100-80gb-hbm3")
    (tmp_path / "drafts.json").write_text(json.dumps(drafts))
    (tmp_path / "whole.json").write_text(json.dumps(whole))
    read = read_pages(tmp_path)  # an H200's drafts beside an H100's page
    assert {row.source for row in read.rows} == {"whole"}
    assert read.notes == ("drafts is left out: no page has ceilings of its device.",)
    (tmp_path / "a.json").write_text(json.dumps(whole | {"settings": whole["settings"] | {"prompt": 512}}))
    (tmp_path / "whole2.json").write_text(json.dumps(whole))
    read = read_pages(tmp_path)
    assert (read.prompt, {row.source for row in read.rows}) == (128, {"whole", "whole2"})
    assert {item.source for item in read.baselines} == {"whole", "whole2"}
    assert [note.split()[0] for note in read.notes] == ["a", "drafts"]
    (tmp_path / "whole.json").write_text(json.dumps(whole | {"smoke": True}))
    with pytest.raises(RecordError, match="is a trial"):
        read_pages(tmp_path / "whole.json")
    with pytest.raises(RecordError, match="cannot be read"):
        read_pages(tmp_path / "none.json")
