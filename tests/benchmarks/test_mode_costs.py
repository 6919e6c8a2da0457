"""What three modes of one set of weights cost: the break-even points, and the command on a tiny model."""

import json

import pytest
import torch

from benchmarks import mode_costs, mode_page
from benchmarks.mode_page import Costs

COSTS = Costs(size=32, step=4.0, block=5.0, commit=8.0, cycle=10.0)
MODES = {
    "autoregressive": {"attention": "causal"},
    "diffusion": {"attention": "causal_context", "block_length": 4, "seeded": True, "minimum": "remaining"},
}


def test_diffusion_breaks_even_where_its_steps_and_a_commit_take_as_long_as_the_tokens_one_by_one():
    assert COSTS.steps_per_block() == 24  # 24 x 5 + 8 = 128 = 32 x 4
    assert COSTS.tokens_per_step() == pytest.approx(32 / 24)
    assert COSTS.tokens_per_forward() == pytest.approx(32 / 25)
    assert COSTS.steps_per_block(4.0) == pytest.approx(4.8)  # 4.8 x 5 + 8 = 32 = 128 / 4
    assert COSTS.tokens_per_forward(4.0) == pytest.approx(32 / 5.8)
    assert COSTS.steps_per_block(16.0) is None  # a commit alone takes as long
    assert COSTS.tokens_per_forward(10.0) is None  # 12.8 ms: less than one step and a commit


def test_self_speculation_breaks_even_at_the_tokens_that_are_written_one_by_one_during_a_cycle():
    assert COSTS.tokens_per_cycle() == 2.5
    assert COSTS.tokens_per_cycle(4.0) == 10
    assert COSTS.tokens_per_cycle(13.0) is None  # 32.5: more than a cycle can write
    assert COSTS.self_speed(7.5) == 3


def test_claimed_tokens_become_a_speed():
    assert COSTS.diffusion_speed(4.0) == pytest.approx(128 / 43)  # 8 forwards: 7 steps and a commit
    assert COSTS.diffusion_speed(32 / 25) == pytest.approx(1)  # its break-even
    assert COSTS.self_speed(2.5) == 1


def samples(**changes: list[float]) -> dict[str, list[float]]:
    """Of six rounds, the device twice as slow in the last: ratios and tokens stay."""
    costs = {mode_page.STEP: 4.0, mode_page.FULL: 5.5, mode_page.HALF: 5.0, mode_page.COMMIT: 8.0,
             mode_page.verify(7): 4.1, mode_page.verify(15): 4.2, mode_page.verify(31): 4.4,
             mode_page.cycle(7): 8.8, mode_page.cycle(15): 9.2, mode_page.cycle(31): 10.0}  # fmt: skip
    return {name: [ms] * 5 + [2 * ms] for name, ms in costs.items()} | changes


def table(text: str, title: str) -> list[list[str]]:
    """The rows of the table behind a heading."""
    lines = text.partition(f"## {title}")[2].partition("\n## ")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return rows[2:]


def test_the_page_takes_ratios_by_round_and_says_where_no_number_suffices():
    slow = samples(**{mode_page.HALF: [200.0] * 6, mode_page.cycle(31): [400.0] * 6, mode_page.verify(31): [5.0] * 6,
                      mode_page.cycle(7): [33.0] * 6})  # fmt: skip
    environment = {"device_name": "X", "versions": {}, "git_commit": None, "git_dirty": None, "driver": None,
                   "python": "3"}  # fmt: skip
    results = {"environment": environment, "rows": {"1": samples(), "128": slow}, "failed": {"256": "no memory"},
               "checkpoint": "c", "dtype": "bfloat16", "prompt": 512, "block": 32, "command": "c",
               "date": "2026-11-30T00:00:00"}  # fmt: skip
    text = mode_page.markdown(results)
    assert table(text, "Costs")[3] == ["1", "commit", "8.000", "2.000 [2.000, 2.000]"]
    assert "/ AR step with 31 drafted tokens is met at batch 1, **missed** at batch 128." in text
    assert "/ AR step with 7 drafted tokens is met at batch 1, 128." in text
    even, claims = (table(text, title) for title in ("Break-even", "What the maker's claims"))
    assert even[0] == ["1", "24.000 [24.000, 24.000]", "1.333 [1.333, 1.333]", "1.280 [1.280, 1.280]",
                       "2.200 [2.200, 2.200]", "2.300 [2.300, 2.300]", "2.500 [2.500, 2.500]"]  # fmt: skip
    # 33 ms are the time of 8.25 tokens, and 7 drafted ones make 8
    assert even[1][:5] == ["128", "below 1", "more than 32", "more than 16", "more than 8"]
    assert even[1][6] == "more than 32"
    # 6, 12 and 6.82 tokens of 4 ms in 10 ms; 32 / 5.8 and 10 tokens for four times the speed
    assert [cell.split()[0] for cell in claims[0][2:]] == ["2.400", "4.800", "2.728", "5.517", "10.000"]
    assert "- Batch 256: no memory" in text


@pytest.fixture
def checkpoint(tmp_path):
    def write(**changes):
        config = {
            "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 40, "hidden_size": 32,
            "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "head_dim": 8, "max_position_embeddings": 32, "eos_token_id": 0, "pad_token_id": 1, "mask_token_id": 2,
            "bos_token_id": None, "tie_word_embeddings": False, "rms_norm_eps": 1e-5, "hidden_act": "silu",
            "rope_theta": 10000.0, "modes": MODES,
        }  # fmt: skip
        folder = tmp_path / "tiny"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config | changes))
        return str(folder)

    return write


def run(checkpoint, out, *more):
    return mode_costs.run_or_explain(["--device", "cpu", "--checkpoint", checkpoint, "--out", str(out), *more])


def test_the_command_writes_samples_and_the_page_of_them(checkpoint, tmp_path):
    assert run(checkpoint(), tmp_path / "out", "--batches", "1,3", "--prompt", "6", "--rounds", "2") == 0
    (found,) = (tmp_path / "out").glob("tri-mode-*.json")
    results = json.loads(found.read_text())
    assert results["block"] == 4
    assert not results["failed"]
    assert [*results["rows"]] == ["1", "3"]
    assert all(len(own) == 2 and min(own) > 0 for row in results["rows"].values() for own in row.values())
    assert len(results["rows"]["3"]) == 10  # a draft of 3 tokens alone: shorter ones are not
    page = found.with_suffix(".md").read_text()
    assert page == mode_page.markdown(results, f"{found.stem}.png")
    drawn = found.with_suffix(".png").read_bytes()
    for made in (found.with_suffix(".md"), found.with_suffix(".png")):
        made.unlink()
    assert mode_costs.run_or_explain(["--page", str(found)]) == 0
    assert (found.with_suffix(".md").read_text(), found.with_suffix(".png").read_bytes()) == (page, drawn)
    assert "--batches 1,3 --prompt 6 --rounds 2 --checkpoint tiny`" in mode_page.markdown(results)


def test_a_batch_that_fails_leaves_the_others_their_rows(checkpoint, tmp_path, monkeypatch):
    real = mode_costs.Bench.row

    def row(self, batch, rounds):
        if batch == 2:
            raise torch.OutOfMemoryError("too large")
        (page,) = (tmp_path / "out").glob("*.md")  # without a batch yet
        assert "3 drafted: tokens per cycle" in page.read_text()
        return real(self, batch, rounds)

    monkeypatch.setattr(mode_costs.Bench, "row", row)
    assert run(checkpoint(), tmp_path / "out", "--batches", "2,1", "--prompt", "6", "--rounds", "1") == 4
    (found,) = (tmp_path / "out").glob("*.json")
    results = json.loads(found.read_text())
    assert results["failed"] == {"2": "OutOfMemoryError: too large"}
    assert [*results["rows"]] == ["1"]


@pytest.mark.parametrize(
    ("changes", "more", "message"),
    [
        ({"modes": {"autoregressive": {"attention": "causal"}}}, [], "needs an autoregressive mode, and a diffusion"),
        ({}, ["--prompt", "30"], "--prompt 30: 38 tokens are read, and tiny reads 32"),
        ({}, ["--batches", "1,0"], "0 is no whole number above 0"),
        ({}, ["--out", "docs/results"], "--device cpu measures nothing that docs/ may show"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(checkpoint, tmp_path, capsys, changes, more, message):
    try:
        code = run(checkpoint(**changes), tmp_path / "out", *more)
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_a_page_is_not_made_of_what_is_no_run_of_this_version(tmp_path, capsys):
    older = tmp_path / "older.json"
    older.write_text(json.dumps({"rows": {"1": {"verify": [1.0]}}, "block": 32, "environment": {"device_name": "X"}}))
    for path in (tmp_path / "none.json", older):
        with pytest.raises(SystemExit) as ended:
            mode_costs.run_or_explain(["--page", str(path)])
        assert ended.value.code == 2
        assert f"--page {path}: " in capsys.readouterr().err.splitlines()[-1]
    assert [*tmp_path.iterdir()] == [older]
