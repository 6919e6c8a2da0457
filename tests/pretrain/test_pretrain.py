"""The recipe of the bundled models: its objective by hand, its packing, its loop, and what it exports."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from pretrain import joint, measure, objective, tokenizer
from pretrain.card import card
from pretrain.data import Rows, encode
from pretrain.export import export, llama_config, read_weights, write_weights
from pretrain.options import Options
from pretrain.recipe import EOS_ID, MASK_ID, RECIPES, Kind, Recipe
from pretrain.schedule import Schedule
from pretrain.train import Training

TEXTS = [
    "The king had three sons, and the youngest was called Simpleton.\n",
    "  Two spaces, a tab\t, an accent: café, and a snowman ☃.",
    "I wandered lonely as a cloud\nThat floats on high o'er vales and hills,",
]

MODES = {
    "autoregressive": {"attention": "causal"},
    "diffusion": {"attention": "causal_context", "block_length": 8, "seeded": True},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small tokenizer of 300 entries."""
    made = tmp_path_factory.mktemp("tokenizer")
    tokenizer.train(TEXTS * 4, made, vocabulary=300)
    return made


@pytest.fixture(scope="module")
def streams(folder: Path) -> dict[str, torch.Tensor]:
    """The same few sentences, over and over, as every split."""
    ids = torch.from_numpy(encode(tokenizer.load(folder), iter(TEXTS * 8)).astype(np.int16))
    return dict.fromkeys(("train", "valid", "test"), ids)


def small(kind: Kind, **changes: Any) -> Recipe:
    settings = {"name": "small", "hidden": 32, "layers": 2, "heads": 2, "ffn": 48, "seed": 0, "learning_rate": 1e-2,
                "steps": 40, **changes}  # fmt: skip
    return Recipe(kind=kind, **settings)


SMALL = {
    "causal": small("causal"),
    "masked": small("masked", prefix_share=0.5),
    "trimode": small("trimode", block_length=8, alpha=2.0, seeded_share=0.6, draft_share=0.2, copies=2, start="small"),
}


def options(**changes: object) -> Options:
    settings: dict[str, object] = {
        "steps": 24, "batch_tokens": 256, "shares": {16: 0.5, 24: 0.5}, "evaluation_length": 16, "evaluation_rows": 8,
        "evaluations": 2, "vocabulary": 300,
    }  # fmt: skip
    return Options(**{**settings, **changes})  # type: ignore[arg-type]


class Certain(torch.nn.Module):
    """A model whose answer at every place is: token 0 with probability 1/2, tokens 1 and 2 with 1/4 each."""

    def __init__(self) -> None:
        super().__init__()
        self.lm_head = torch.nn.Linear(3, 3, bias=False)
        weight = torch.diag(torch.tensor([0.5, 0.25, 0.25]).log())
        self.lm_head.weight = torch.nn.Parameter(weight, requires_grad=False)

    def model(self, input_ids: torch.Tensor, use_cache: bool) -> object:
        rows, length = input_ids.shape
        return type("Output", (), {"last_hidden_state": torch.ones(rows, length, 3)})


def test_masked_loss_equals_a_number_worked_by_hand() -> None:
    # Row 0, t = 1/2: tokens 0 and 1 are masked: (ln 2 + ln 4) / (1/2) = 6 ln 2.
    # Row 1, t = 1/4: token 2 is masked: ln 4 / (1/4) = 8 ln 2. Together 14 ln 2 over 8 scorable tokens.
    ids = torch.tensor([[0, 1, 2, 2], [1, 1, 2, 0]])
    chosen = torch.tensor([[True, True, False, False], [False, False, True, False]])
    question = objective.hide(ids, chosen, torch.tensor([[0.5], [0.25]]), torch.tensor(8), mask_id=7, capacity=5)
    assert question.inputs.tolist() == [[7, 7, 2, 2], [1, 1, 7, 0]]
    assert question.labels[:3].tolist() == [0, 1, 2]
    assert int(question.dropped) == 0
    assert float(objective.cost(Certain(), question)) == pytest.approx(14 * math.log(2) / 8)  # type: ignore[arg-type]


def test_next_token_loss_equals_a_number_worked_by_hand() -> None:
    # Predicted are 1, 2, 0 (row 0) and 0, 0, 2 (row 1): 3 times ln 4, 3 times ln 2: 9 ln 2 over 6 tokens.
    question = objective.next_token(torch.tensor([[0, 1, 2, 0], [1, 0, 0, 2]]))
    assert float(objective.cost(Certain(), question)) == pytest.approx(9 * math.log(2) / 6)  # type: ignore[arg-type]


def test_places_beyond_the_capacity_are_dropped_and_counted() -> None:
    ids, chosen = torch.tensor([[0, 1, 2, 2]]), torch.tensor([[True, True, True, False]])
    question = objective.hide(ids, chosen, torch.tensor([[0.5]]), torch.tensor(4), mask_id=7, capacity=2)
    assert int(question.dropped) == 1
    assert question.labels.tolist() == [0, 1]


def test_masked_loss_is_unbiased_and_leaves_prefixes_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.zeros(4000, 8, dtype=torch.long)
    t = objective.stratified_t(4000, generator)
    prefix = objective.random_prefix(4000, 8, 0.5, generator)
    question = objective.masked(ids, t, prefix, 2, 32000, generator)
    hidden = question.inputs == 2
    assert not bool((hidden & (torch.arange(8) < prefix[:, None])).any())
    # Every answer costs ln 2, so the cost is ln 2 whatever the masks, on average.
    assert float(objective.cost(Certain(), question)) == pytest.approx(math.log(2), rel=0.05)  # type: ignore[arg-type]
    assert t.sort().values.diff().max() < 2 / 4000


@pytest.mark.parametrize("seed", [0, 1])
def test_an_epoch_keeps_every_token(seed: int) -> None:
    stream = torch.arange(1000, dtype=torch.int16)
    rows = Rows(stream, {7: 0.3, 16: 0.7}, 64, seed)
    places = np.concatenate(
        [(starts[:, None] + np.arange(length)).ravel() % 1000 for length, starts in rows.cut().items()]
    )
    counts = np.bincount(places, minlength=1000)
    assert counts.min() == 1
    assert counts.sum() < 1000 + 16  # only the row that crosses the end repeats tokens


def test_batches_are_runs_of_the_stream_that_differ_between_epochs() -> None:
    rows = Rows(torch.arange(1000, dtype=torch.int16), {10: 1.0}, 100, seed=0)
    batches = [batch for batch, _ in zip(rows, range(20), strict=False)]
    assert all(batch.shape == (10, 10) for batch in batches)
    assert all(bool(((batch.diff(dim=1) % 1000) == 1).all()) for batch in batches)
    firsts = [sorted(batch[:, 0].tolist()) for batch in batches]
    assert firsts[:10] != firsts[10:]


def test_tokenizer_returns_every_text_unchanged(folder: Path) -> None:
    loaded = AutoTokenizer.from_pretrained(folder)
    for text in [*TEXTS, " leading", "trailing \n\n", "😀 unseen \x00 bytes"]:
        assert loaded.decode(loaded.encode(text, add_special_tokens=False)) == text
    assert (loaded.eos_token_id, loaded.mask_token_id) == (EOS_ID, MASK_ID)


def test_byte_lengths_add_up_to_the_text(folder: Path) -> None:
    trained = tokenizer.load(folder)
    lengths = tokenizer.byte_lengths(trained)
    assert sum(lengths[i] for i in trained.encode(TEXTS[1]).ids) == len(TEXTS[1].encode())
    assert lengths[EOS_ID] == 0


def test_learning_rate_rises_then_ends_at_zero_after_its_steps_or_with_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    schedule = Schedule(peak=1.0, max_steps=10_000)
    assert schedule.learning_rate(99) == pytest.approx(0.5)
    assert schedule.learning_rate(10_000 - 980) == pytest.approx(0.1)
    assert schedule.learning_rate(10_000) == 0

    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    timed = Schedule(peak=1.0, deadline=1150.0)
    clock[0] = 1050.0
    timed.begin()  # 100 seconds are left, of which 5 are the warm-up; steps do not matter
    rates = []
    for clock[0] in (1052.5, 1055.0, 1102.5, 1150.0, 1160.0):
        rates.append(timed.learning_rate(7))
    assert rates == pytest.approx([0.5, 1.0, 0.5, 0.0, 0.0])
    assert timed.share(7) == 1
    with pytest.raises(TimeoutError, match="--seconds"):
        timed.begin()
    going = Schedule(peak=1.0, deadline=1260.0, before=0.4)
    going.begin()
    clock[0] = 1210.0  # half of what is left: of 60% of the schedule
    assert going.share(0) == pytest.approx(0.7)


@pytest.fixture(scope="module")
def start(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the small model, as a run leaves them."""
    made = tmp_path_factory.mktemp("start")
    torch.manual_seed(7)
    write_weights(LlamaForCausalLM(LlamaConfig(**llama_config(SMALL["causal"], 300))).state_dict(), made)
    return made


@pytest.mark.parametrize("kind", list(SMALL))
def test_a_few_steps_lower_the_loss_and_the_export_gives_equal_logits(
    kind: str, folder: Path, streams: dict[str, torch.Tensor], start: Path, tmp_path: Path
) -> None:
    lengths = tokenizer.byte_lengths(tokenizer.load(folder))
    begin = start if kind == "trimode" else None
    training = Training(SMALL[kind], options(), streams, lengths, tmp_path / "run", start=begin)
    before = training.score(training.held_out["valid"])
    run = training.run()
    after = run["final"]["valid"]
    assert set(after) == {"causal": {"autoregressive"}, "masked": {"diffusion"}}.get(
        kind, {"autoregressive", "diffusion"}
    )
    for mode, score in after.items():
        assert score["nats_per_token"] < before[mode]["nats_per_token"] - 0.5
        assert score["bits_per_byte"] == pytest.approx(score["nats_per_token"] / math.log(2) / score["bytes_per_token"])
    assert run["dropped_answers"] == 0 or kind != "causal"
    target = export(run, tmp_path / "run", folder, tmp_path / "checkpoint")
    ids = streams["test"][:24].long()[None]
    loaded = LlamaForCausalLM.from_pretrained(target, dtype=torch.float32).eval()
    assert read_weights(target).keys() == {name for name, _ in loaded.named_parameters()}
    with torch.no_grad():
        logits = loaded(ids).logits
        torch.testing.assert_close(logits, training.model.eval()(ids).logits, rtol=0, atol=0)
        changed = ids.clone()
        changed[0, -1] = 5
        moved = bool((loaded(changed).logits[0, 0] - logits[0, 0]).abs().max() > 1e-6)
    assert moved == (kind == "masked")  # only the bidirectional model looks ahead
    assert (target / "README.md").read_text().startswith("---\nlicense: apache-2.0\n")
    config = json.loads((target / "config.json").read_text())
    assert config.get("mask_token_id") == (None if kind == "causal" else MASK_ID)
    assert config.get("is_causal") == (False if kind == "masked" else None)
    assert config.get("modes") == (MODES if kind == "trimode" else None)
    if kind == "trimode":
        check_measures(run, target, loaded, streams)


def check_measures(
    run: dict[str, Any], target: Path, model: LlamaForCausalLM, streams: dict[str, torch.Tensor]
) -> None:
    """The benchmark's numbers of a checkpoint, beside those of plain loops over Transformers."""
    sizes = measure.Sizes(windows=2, length=25, draws=64, prompts=1, prompt=9, new_tokens=12)
    rows = measure.likelihoods(target, target, {"test": streams["test"]}, "cpu", sizes)
    assert [(row["mode"], row["start"], row["bound"], row["tokens"]) for row in rows[1:]] == [
        ("autoregressive", False, False, 48),
        ("diffusion", False, True, 48),
    ]
    ids = torch.tensor(measure.cut(streams["test"], 2, 25))
    with torch.no_grad():
        exact = torch.nn.functional.cross_entropy(model(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert [row["nats_per_token"] for row in rows[:2]] == pytest.approx([float(exact)] * 2, rel=1e-4)
    # Of 24 tokens 3 begin a block; the others cost what the training's own evaluation says.
    with torch.no_grad():
        log_p = model(ids).logits.log_softmax(-1)
    given = -sum(float(log_p[:, place - 1].gather(1, ids[:, place : place + 1]).sum()) for place in (1, 9, 17))
    generator = torch.Generator().manual_seed(0)
    asked = joint.examine(ids.repeat(500, 1), 8, MASK_ID, generator)
    with torch.no_grad():
        masked = float(joint.costs(model, asked)[1])
    assert rows[2]["nats_per_token"] == pytest.approx((given + masked * 42) / 48, rel=0.1)

    row = measure.accepted(target, streams["test"], 7, sizes)
    text, written, verifications = ids[:1, :9], 1, 0
    with torch.no_grad():
        text = torch.cat([text, model(text).logits[:, -1:].argmax(-1)], 1)
        while written < 12:
            sees = torch.ones(text.shape[1] + 7, text.shape[1] + 7, dtype=torch.bool).tril()
            sees[text.shape[1] - 1 :] = True
            noisy = torch.cat([text, torch.full((1, 7), MASK_ID)], 1)
            logits = model(noisy, attention_mask=sees[None, None]).logits[:, -7:]
            logits[..., MASK_ID] = -torch.inf
            draft = logits.argmax(-1)
            chosen = model(torch.cat([text, draft], 1)).logits[:, -8:].argmax(-1)
            right = int((chosen[:, :-1] == draft).cumprod(1).sum())
            text = torch.cat([text, chosen[:, : right + 1]], 1)
            written, verifications = written + right + 1, verifications + 1
    assert row == {"draft_tokens": 7, "verifications": verifications, "accepted": pytest.approx(11 / verifications - 1)}

    run["measured"] = {"sizes": vars(sizes), "likelihoods": rows, "drafts": [row]}
    assert f"| 7 | {row['accepted']:.2f} | {verifications} |" in card(run)
    unfinished = {key: value for key, value in run.items() if key not in ("measured", "final")}
    assert "stopped before its end" in card({**unfinished, "status": "unfinished"})


def test_a_stopped_run_goes_on_from_its_weights_and_its_place_in_the_schedule(
    folder: Path, streams: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    lengths = tokenizer.byte_lengths(tokenizer.load(folder))

    def training() -> Training:
        return Training(SMALL["causal"], options(steps=16, evaluations=1), streams, lengths, tmp_path / "run")

    stopped = training()
    batches = iter(stopped.rows)
    for _ in range(8):
        stopped.step(next(batches))
    stopped.evaluate()
    going = training()
    going.resume()
    assert (going.steps, going.tokens_seen) == (8, stopped.tokens_seen)
    batch = streams["train"][:64].long().view(4, 16)
    torch.testing.assert_close(going.step(batch), stopped.step(batch), rtol=0, atol=0)  # before the update
    torch.testing.assert_close(going.step(batch), stopped.step(batch), rtol=0, atol=0)  # after it: the same optimizer
    run = going.run()
    assert (run["steps"], run["resumed"]) == (16, [8])
    assert [point["step"] for point in run["curve"]] == [8, 16]


def test_the_pair_differs_only_in_how_it_generates() -> None:
    llama, llada, judge = RECIPES["llama"], RECIPES["llada"], RECIPES["judge"]
    shape = ("hidden", "layers", "heads", "ffn", "learning_rate")
    assert [getattr(llama, key) for key in shape] == [getattr(llada, key) for key in shape]
    assert [llama.kind, llada.kind, judge.kind] == ["causal", "masked", "causal"]
    assert len({llama.seed, llada.seed, judge.seed}) == 3
    trimode = RECIPES["trimode"]
    assert (trimode.kind, trimode.start) == ("trimode", "llama")
    assert [getattr(trimode, key) for key in shape[:4]] == [getattr(llama, key) for key in shape[:4]]


@pytest.mark.parametrize(
    ("kind", "changes", "key"),
    [
        ("causal", {"prefix_share": 0.5}, "prefix_share=0.5"),
        ("masked", {"prefix_share": 1.5}, "prefix_share=1.5"),
        ("trimode", {}, "block_length"),
        ("causal", {"block_length": 8, "alpha": 1.0}, "block_length"),
        ("trimode", {"block_length": 8, "alpha": 1.0, "seeded_share": -0.1}, "seeded_share=-0.1"),
        ("trimode", {"block_length": 8, "alpha": 1.0, "draft_share": 0.1}, "draft_share=0.1"),
        ("causal", {"steps": None}, "steps or seconds"),
        ("causal", {"seconds": 10.0}, "steps or seconds"),
        ("trimode", {"block_length": 8, "alpha": 1.0, "copies": 0}, "copies=0"),
    ],
)
def test_a_recipe_that_cannot_be_trained_is_refused(kind: Kind, changes: dict[str, Any], key: str) -> None:
    with pytest.raises(ValueError, match=key):
        small(kind, **changes)
