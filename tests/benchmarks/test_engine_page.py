"""A page says what its JSON says: medians, met and missed, failures, and nothing for what was not measured."""

import copy

import pytest

from benchmarks.engine import numbers, page

RESULTS = {
    "format": 1,
    "command": "python -m benchmarks.engine",
    "date": "2026-11-25T12:00:00+00:00",
    "smoke": False,
    "settings": {"prompt": 128, "canvas": 256, "block": 32, "steps": 64, "dtype": "bfloat16"},
    "environment": {
        "device_name": "Some GPU",
        "driver": None,
        "python": "3.12.3",
        "versions": {"torch": "2.11.0"},
        "git_commit": "0123456789abcdef",
        "git_dirty": False,
    },
    "ceilings": {"flops_per_s": 7.6e14, "bytes_per_s": 3.0e12},
    "sm_clock_mhz": [1980, None],
    "rows": [
        {
            "name": "ar-1",
            "samples": {
                "matmul floor": [5.0, 5.0, 5.0, 5.0, 5.0, 10.0],
                "llmbench": [5.5, 5.5, 5.5, 5.5, 5.6, 11.0],
                "Transformers eager": [35.0, 36.0],
            },
            "setup_s": 3.0,
            "over_model_bytes": None,
            "prefill_ms": [],
            "profile": [{"kernel": "_attend", "count": 32, "us": 160.0, "share": 0.25}],
            "failed": None,
            "missing": {"Transformers static + compile": "RuntimeError: no compiler"},
        },
        {
            "name": "full-32",
            "samples": {"matmul floor": [250.0], "llmbench": [300.0]},
            "setup_s": 11.0,
            "over_model_bytes": 2**30,
            "prefill_ms": [],
            "profile": [],
            "failed": None,
        },
        {
            "name": "dual-8",
            "samples": {},
            "setup_s": None,
            "over_model_bytes": None,
            "prefill_ms": [],
            "profile": [],
            "failed": "RuntimeError: out of memory",
        },
        {
            "name": "ar-whole-1",
            "samples": {"llmbench": [1580.0], "inter-token": [6.0]},
            "setup_s": None,
            "over_model_bytes": None,
            "prefill_ms": [10.0],
            "profile": [],
            "failed": None,
        },
        {
            "name": "full-whole-1",
            "samples": {"llmbench": [600.0, 600.0, 600.0], "official loop": [3000.0, 3000.0]},
            "setup_s": None,
            "over_model_bytes": None,
            "prefill_ms": [],
            "profile": [],
            "failed": None,
        },
    ],
}


def cells(text: str, title: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {title}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.fixture
def text() -> str:
    return page.markdown(RESULTS, "some-gpu.png")


def test_a_ratio_is_the_median_over_pairs_with_its_interval(text):
    row = cells(text, "LLaMA inter-token, B=1")
    assert row[1:4] == ["5", "5.5", "1.100 [1.100, 1.120]"]
    assert row[4:] == ["1.16 met", "1.09 **missed**", "-", "-", "Transformers eager 35.5 (6.5x)"]
    kept = numbers.kept(RESULTS["rows"][0], RESULTS["settings"])
    assert kept == pytest.approx({"median": 1.1, "ci_low": 1.1, "ci_high": 1.12})


def test_turns_of_one_step_stand_beside_bursts_with_their_own_ratio():
    results = copy.deepcopy(RESULTS) | {"format": 2}
    results["settings"]["settle_ms"] = 1000.0
    samples = results["rows"][0]["samples"]
    samples["matmul floor, in turns of one step"], samples["llmbench, in turns of one step"] = [4.0] * 3, [6.0] * 3
    results["rows"][0]["sm_clock_mhz"] = {"matmul floor": [1980, 1980], "llmbench": [1740, 1755, 1770]}
    text = page.markdown(results, "some-gpu.png")
    assert cells(text, "LLaMA inter-token, B=1")[6:] == ["4, 6: 1.500", "1980, 1755", "Transformers eager 35.5 (6.5x)"]
    assert "the first 1.0 s of each are not timed" in text


def test_a_missed_goal_names_the_kernels_and_a_failure_its_reason(text):
    assert "**LLaMA inter-token, B=1** misses its goal by 0.9 %" in text
    assert cells(text, "`_attend`")[1:] == ["32", "5.0", "25.0 %"]
    assert cells(text, "LLaDA dual cache, inner step, B=8")[1:4] == ["-", "-", "failed"]
    assert "- LLaDA dual cache, inner step, B=8: RuntimeError: out of memory" in text
    assert "- LLaMA inter-token, B=1, Transformers static + compile: RuntimeError: no compiler" in text


def test_a_row_without_a_goal_shows_its_kernels_where_its_bar_is_missed():
    results = copy.deepcopy(RESULTS)
    kernels = results["rows"][0]["profile"]
    blank = results["rows"][1] | {"profile": kernels}
    for name, ours in (("block-1", 5.5), ("block-8", 6.5), ("commit-8", 6.5)):
        results["rows"].append(blank | {"name": name, "samples": {"matmul floor": [5.0], "llmbench": [ours]}})
    results["rows"].append(blank | {"name": "commit-1", "samples": {}, "failed": "RuntimeError: no"})
    text = page.markdown(results, "x.png")
    assert cells(text, "Nemotron block step, B=1")[3:6] == ["1.100", "1.20 met", "-"]
    assert cells(text, "Nemotron block step, B=8")[3:6] == ["1.300", "1.20 **missed**", "-"]
    assert cells(text, "Nemotron commit, B=8")[3:6] == ["1.300", "-", "-"]
    assert cells(text, "Nemotron commit, B=1")[3:6] == ["failed", "-", "-"]
    missed = text.split("## What holds back")[1]
    assert "**Nemotron block step, B=8** misses its bar by 8.3 %." in missed
    assert "Nemotron block step, B=1" not in missed.split("## Failed")[0]
    assert "Nemotron commit" not in missed.split("## Failed")[0]
    assert text.startswith("# 8B models")
    results["rows"] = [row for row in results["rows"] if row["name"].startswith(("block", "commit"))]
    alone = page.markdown(results, "x.png")
    assert alone.startswith("# Block diffusion")
    assert cells(alone, "Nemotron block step, B=8") == cells(text, "Nemotron block step, B=8")
    assert "LLaDA" not in alone


def test_wholes_are_held_against_their_references(text):
    # 10 + 255 x 6 = 1540 ms
    assert cells(text, "LLaMA, 256 tokens, B=1")[1:] == ["1580 ms", "1540 ms", "1.026", "1.03 met", "1.01 **missed**"]
    assert cells(text, "LLaDA k=64, B=1")[3:] == ["5.000", "4.50 met", "5.00 met"]
    assert cells(text, "reserved over the model")[1] == "1.00 GiB"
    assert cells(text, "engine set-up per shape, the slowest (full-32)")[4] == "10.00 **missed**"


def test_a_missed_generation_says_what_its_floor_would_allow():
    results = copy.deepcopy(RESULTS)
    floors = {"full-1": [9.0], "dual-1": [6.0]}
    blank = results["rows"][1]
    results["rows"] += [blank | {"name": name, "samples": {"matmul floor": ms}} for name, ms in floors.items()]
    samples = {"llmbench": [600.0], "official loop": [1800.0]}
    results["rows"] = [row for row in results["rows"] if row["name"] != "full-whole-1"]
    results["rows"] += [blank | {"name": name, "samples": samples} for name in ("full-whole-1", "dual-whole-1")]
    text = page.markdown(results, "x.png")
    assert "take 576 ms: 3.12 times" in text  # 64 x 9
    assert "take 408 ms: 4.41 times" in text  # 8 x 9 + 56 x 6


def test_what_was_not_run_is_not_shown(text):
    assert "LLaDA full canvas step, B=8" not in text
    assert "commit 0123456789:" in text
    assert "driver -" in text
    assert "SM clock 1980 MHz then -" in text
    assert "copy 3.00 TB/s, matrix product 760 TFLOP/s" in text


def test_a_trial_says_that_it_means_nothing():
    trial = copy.deepcopy(RESULTS) | {"smoke": True}
    assert "none of these numbers means anything" in page.markdown(trial, "x.png")
    assert page.picture(trial).startswith(b"\x89PNG")


def test_a_missed_whole_generation_says_how_fast_this_host_is_beside_the_bars_host():
    slow = copy.deepcopy(RESULTS)
    row = next(row for row in slow["rows"] if row["name"] == "full-whole-1")
    row["samples"]["official loop"] = [1500.0, 1500.0]  # 2.5 times: the bar is 4.5
    slow["rows"].append(
        {**RESULTS["rows"][1], "name": "full-1", "samples": {"matmul floor": [9.0], "official loop": [22.0, 24.0]}}
    )
    text = page.markdown(slow, "picture.png")
    assert "at their floor, take 576 ms: 2.60 times is the most that could be had beside this loop" in text
    assert "35.1; here they take 23 and 35.5 ms." in text
    assert "here they take" not in page.markdown(RESULTS, "picture.png")


def beside_vllm(batch: int, vllm: float, ours: float) -> dict:
    """Pairs of which one is twice as slow on both sides; a first token in 30 and 20 ms."""
    samples = {"vLLM": vllm, "llmbench": ours, "vLLM, one token": 30.0, "llmbench, one token": 20.0}
    return {
        "name": f"vllm-{batch}",
        "samples": {name: [ms] * 8 + [2 * ms] for name, ms in samples.items()},
        "engine": {"version": "0.24.0", "torch": "2.11.0", "attention": "FLASH_ATTN 3"},
        "failed": None,
    }


def test_rows_beside_vllm_say_under_what_they_hold_and_where_the_bar_is_missed():
    results = copy.deepcopy(RESULTS)
    assert "vLLM / llmbench" not in page.markdown(results, "x.png")
    results["settings"]["warm_up_pairs"] = 2
    results["rows"] += [beside_vllm(1, 1305.0, 1172.5), beside_vllm(8, 1364.0, 1240.0), beside_vllm(32, 1560.0, 1530.0)]
    results["rows"].append({"name": "vllm-64", "samples": {}, "engine": None, "failed": "VllmError: it ended"})
    text = page.markdown(results, "x.png")
    # (1305 - 30) / 255 and (1172.5 - 20) / 255
    assert cells(text, "1 ")[1:] == ["1305", "1172", "1.113 [1.113, 1.113]", "1.05 met", "5", "4.52"]
    assert cells(text, "32 ")[3:] == ["1.020 [1.020, 1.020]", "1.05 **missed**", "6", "5.922"]
    assert cells(text, "64 ")[1:] == ["-", "-", "failed", "1.05", "-", "-"]
    assert "- LLaMA beside vLLM, 256 tokens, B=64: VllmError: it ended" in text
    said = text.replace("\n", " ")
    under = "vLLM 0.24.0 on torch 2.11.0 (offline with dummy weights, prompts of 128 tokens and 256 new ones)"
    assert f"llmbench is 1.10 to 1.11 times as fast as {under} at batch 1, 8." in said
    assert f"At batch 32 llmbench is 1.02 times as fast as {under}, below the bar of 1.05: one token alone" in said
    assert "takes vLLM 30 ms and llmbench 20, every later one 6 and 5.922. The reason is not known." in said
    assert "FLASH_ATTN 3" in said
    assert "vLLM and SGLang" not in said
