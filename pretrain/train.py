"""How is one model trained? One loop for both kinds: ask, cost, step; now and then evaluate, and keep the best.

Weights stay in float32, matrix products run in bfloat16. AdamW (0.9, 0.95), weight decay 0.1 on matrices, gradient
norm clipped at 1. On CUDA one decoder layer and the output layer are compiled, once per row length; all layers share
the code.

Evaluation scores the same tokens for both kinds: windows of held-out text, every token but the first, which is given.
Exact for next-token models; for masked ones a Monte-Carlo upper bound, under the same masks at every evaluation.

A run folder holds ``model*.safetensors`` (the best weights so far, in bfloat16, as they will be exported) and
``run.json`` (settings, environment, learning curve), both replaced at every evaluation: a run that is killed leaves a
usable checkpoint. At the end the *stored* weights are read back and scored on validation and test text.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers import __version__ as transformers_version

from pretrain import objective
from pretrain.data import Rows, windows
from pretrain.export import llama_config, read_weights, write_weights
from pretrain.objective import Question
from pretrain.recipe import BATCH_TOKENS, EVALUATION_LENGTH, LENGTH_SHARES, MASK_ID, VOCABULARY, Recipe
from pretrain.schedule import FEWEST_TIMED, TIMED_FROM, TIMED_TO, Schedule

BETAS, WEIGHT_DECAY, CLIP = (0.9, 0.95), 0.1, 1.0
NO_BOUND = 10**9  # steps, where only the clock ends a training
REPORT_EVERY = 25  # steps between looks at the clock and at the training loss


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to run, as opposed to what to train.

    Attributes:
        device: Where to train.
        seconds: Wall-clock budget, compilation and final scores included, within which the number of steps is planned.
        steps: Upper bound of steps. None: without a bound if there are ``seconds``, else what the recipe says.
        batch_tokens: Tokens of a batch.
        shares: Row length -> share of the tokens.
        evaluation_length: Tokens of an evaluation window.
        evaluation_rows: Windows of an evaluation batch.
        evaluation_batches: At most this many batches of windows; None: all that the held-out text gives.
        evaluations: Evaluations in the course of the training.
        draws: Times that every window is masked anew in a masked evaluation.
        reserve_seconds: Part of the budget kept for the final scores.
        compile: Whether to compile; None: on CUDA only.
        vocabulary: Entries of the tokenizer.
    """

    device: str = "cpu"
    seconds: float | None = None
    steps: int | None = None
    batch_tokens: int = BATCH_TOKENS
    shares: dict[int, float] = field(default_factory=lambda: dict(LENGTH_SHARES))
    evaluation_length: int = EVALUATION_LENGTH
    evaluation_rows: int = 256
    evaluation_batches: int | None = None
    evaluations: int = 15
    draws: int = 4
    reserve_seconds: float = 12.0
    compile: bool | None = None
    vocabulary: int = VOCABULARY


class Training:
    """One model in training: its weights, its data, and what it has seen.

    Args:
        recipe: What to train.
        options: How to run.
        streams: Token ids of the splits train, valid and test, each of shape (tokens,).
        byte_lengths: Bytes of each token id.
        folder: Run folder.
        started: ``time.monotonic()`` from which the budget counts; None: now.
    """

    def __init__(self, recipe: Recipe, options: Options, streams: dict[str, torch.Tensor], byte_lengths: list[int],
                 folder: Path, started: float | None = None) -> None:  # fmt: skip
        self.recipe, self.options, self.folder = recipe, options, folder
        self.started = time.monotonic() if started is None else started
        self.device = torch.device(options.device)
        torch.manual_seed(recipe.seed)
        torch.set_float32_matmul_precision("high")
        self.model = LlamaForCausalLM(LlamaConfig(**llama_config(recipe, options.vocabulary))).to(self.device)
        self.head = objective.answer_cost
        if options.compile if options.compile is not None else self.device.type == "cuda":
            for layer in self.model.model.layers:
                layer.compile(dynamic=False)
            self.head = torch.compile(objective.answer_cost, dynamic=False)
        self.rows = Rows(streams["train"].to(self.device), options.shares, options.batch_tokens, recipe.seed)
        self.generator = torch.Generator(self.device).manual_seed(recipe.seed)
        self.held_out = {
            split: windows(streams[split].to(self.device), options.evaluation_length, options.evaluation_rows)
            for split in ("valid", "test")
        }
        self.held_out = {split: batches[: options.evaluation_batches] for split, batches in self.held_out.items()}
        self.byte_lengths = torch.tensor(byte_lengths, device=self.device)
        self.optimizer = self._optimizer()
        self.schedule = self._schedule()
        self.tokens_seen = 0
        self.dropped = torch.zeros((), dtype=torch.long, device=self.device)
        self.curve: list[dict[str, float]] = []
        self.losses: list[dict[str, float]] = []
        self.best = math.inf

    def run(self) -> dict[str, Any]:
        """Train until the schedule or the time ends. Returns what ``run.json`` holds."""
        self._compile_every_shape()
        batches = iter(self.rows)
        step, mark, next_evaluation = 0, (0, 0.0), 1
        while step < self.schedule.total:
            if step in (TIMED_FROM, TIMED_TO):
                mark = self._time(step, mark)
            loss = self.step(next(batches), step)
            step += 1
            if step % REPORT_EVERY == 0 or step >= self.schedule.total:
                self._report(step, loss)
                if self.schedule.out_of_time():
                    break
            if TIMED_TO <= step >= self.schedule.total * next_evaluation / self.options.evaluations:
                self.evaluate(step)
                mark = self._time(step, mark)
                next_evaluation = int(step * self.options.evaluations / max(1, self.schedule.total)) + 1
        if not self.curve or self.curve[-1]["step"] != step:
            self.evaluate(step)
        return self._finish(step)

    def step(self, ids: torch.Tensor, step: int) -> torch.Tensor:
        """One update from one batch (rows, length). Returns its loss, not yet synchronised."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.learning_rate(step)
        self.model.train()
        question = self.ask(ids)
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            loss = objective.cost(self.model, question, self.head)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.dropped += question.dropped
        self.tokens_seen += ids.numel()
        return loss.detach()

    def ask(self, ids: torch.Tensor) -> Question:
        """The training question of this kind of model about ``ids`` (rows, length)."""
        if self.recipe.causal:
            return objective.next_token(ids)
        rows, length = ids.shape
        t = objective.stratified_t(rows, self.generator)
        prefix = objective.random_prefix(rows, length, self.recipe.prefix_share, self.generator)
        capacity = objective.capacity_for(rows, length, self.recipe.prefix_share)
        return objective.masked(ids, t, prefix, MASK_ID, capacity, self.generator)

    def examine(self, batches: torch.Tensor) -> Iterator[Question]:
        """The same questions at every evaluation, about all but the first token of each row."""
        if self.recipe.causal:
            yield from map(objective.next_token, batches)
            return
        generator = torch.Generator(self.device).manual_seed(0)
        _, rows, length = batches.shape
        one = torch.ones(rows, dtype=torch.long, device=self.device)
        for _ in range(self.options.draws):
            for ids in batches:
                t = objective.stratified_t(rows, generator)
                yield objective.masked(ids, t, one, MASK_ID, objective.capacity_for(rows, length, 0.0), generator)

    @torch.no_grad()
    def score(self, split: str) -> dict[str, float]:
        """Nats per token and bits per byte on a held-out split (upper bounds for masked models)."""
        self.model.eval()
        batches = self.held_out[split]
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            costs = [objective.cost(self.model, question, self.head) for question in self.examine(batches)]
        nats = float(torch.stack(costs).mean())
        scored = batches[:, :, 1:]
        bytes_per_token = float(self.byte_lengths[scored].sum()) / scored.numel()
        return {
            "nats_per_token": nats,
            "bits_per_byte": nats / math.log(2) / bytes_per_token,
            "tokens": scored.numel(),
            "bytes_per_token": bytes_per_token,
        }

    def evaluate(self, step: int) -> None:
        """Score the validation text; keep the weights if they are the best so far."""
        nats = self.score("valid")["nats_per_token"]
        seconds = round(self.elapsed(), 1)
        self.curve.append({"step": step, "tokens": self.tokens_seen, "seconds": seconds, "valid": nats})
        if nats < self.best:
            self.best = nats
            write_weights(self.model.state_dict(), self.folder)
        self.write_run({"status": "unfinished"})
        place = f"{self.recipe.name} step {step} of {self.schedule.total}"
        print(f"{place}: valid {nats:.4f} after {self.elapsed():.0f} s", flush=True)

    def elapsed(self) -> float:
        """Seconds of the budget that are gone."""
        return time.monotonic() - self.started

    def write_run(self, more: dict[str, Any]) -> dict[str, Any]:
        """Replace ``run.json``. Returns what it holds."""
        run = {
            "recipe": asdict(self.recipe),
            "options": asdict(self.options),
            "environment": environment(self.device),
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "train_tokens": self.rows.stream.numel(),
            "total_steps": self.schedule.total,
            "warmup_steps": self.schedule.warmup,
            "plans": self.schedule.plans,
            "dropped_answers": int(self.dropped),
            "tokens_seen": self.tokens_seen,
            "curve": self.curve,
            "train_losses": self.losses,
            **more,
        }
        part = self.folder / "run.json.part"
        part.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
        os.replace(part, self.folder / "run.json")
        return run

    def _finish(self, step: int) -> dict[str, Any]:
        stored = {name: value.float() for name, value in read_weights(self.folder).items()}
        self.model.load_state_dict(stored, strict=False)  # the output layer is tied to the embedding
        best = min(self.curve, key=lambda point: point["valid"])
        final = {split: self.score(split) for split in self.held_out}
        print(f"{self.recipe.name} final {json.dumps(final)}", flush=True)
        return self.write_run({"status": "finished", "steps": step, "best_step": best["step"], "final": final,
                               "seconds": round(self.elapsed(), 1)})  # fmt: skip

    def _optimizer(self) -> torch.optim.AdamW:
        parameters = list(self.model.parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": WEIGHT_DECAY},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.recipe.learning_rate, betas=BETAS, fused=self.device.type == "cuda")

    def _schedule(self) -> Schedule:
        options = self.options
        if options.seconds is None:
            return Schedule(self.recipe.learning_rate, options.steps or self.recipe.steps)
        deadline = self.started + options.seconds - options.reserve_seconds
        return Schedule(self.recipe.learning_rate, options.steps or NO_BOUND, deadline)

    def _compile_every_shape(self) -> None:
        """Run every shape once, without an update, so that no step that is timed waits for the compiler."""
        for length, rows in self.rows.batch_rows.items():
            ids = self.rows.stream[: rows * length].long()
            if ids.numel() < rows * length:
                continue
            with torch.autocast(self.device.type, dtype=torch.bfloat16):
                loss = objective.cost(self.model, self.ask(ids.view(rows, length)), self.head)
            loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.zero_grad(set_to_none=True)
        self.score("valid")
        print(f"{self.recipe.name} ready after {self.elapsed():.0f} s", flush=True)

    def _time(self, step: int, mark: tuple[int, float]) -> tuple[int, float]:
        """Plan anew from the steps since ``mark`` (step, clock), if they are enough. Returns the next mark."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        now = time.monotonic()
        if not mark[0]:
            return step, now
        if step - mark[0] < FEWEST_TIMED or self.schedule.total - step < FEWEST_TIMED:
            return mark
        self.schedule.plan(step, (now - mark[1]) / (step - mark[0]))
        plan = f"{self.schedule.step_seconds:.4f} s each, {self.schedule.total} in all"
        print(f"{self.recipe.name} step {step}: {plan}", flush=True)
        return step, now

    def _report(self, step: int, loss: torch.Tensor) -> None:
        self.losses.append({"step": step, "loss": round(float(loss), 4)})


def environment(device: torch.device) -> dict[str, str]:
    """What the training ran on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    python = platform.python_version()
    return {"device": name, "torch": str(torch.__version__), "transformers": transformers_version, "python": python}
