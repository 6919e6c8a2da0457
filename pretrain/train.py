"""How is one model trained? One loop for all kinds: ask, cost, step; now and then evaluate, and keep the best.

Weights stay in float32, matrix products run in bfloat16. AdamW (0.9, 0.95), weight decay 0.1 on matrices, gradient
norm clipped at 1. On CUDA one decoder layer and the output layer are compiled, once per row length; all layers share
the code.

Evaluation scores the same tokens for all kinds: windows of held-out text, every token but the first, which is given.
Exact for next-token models; for masked ones a Monte-Carlo upper bound, under the same masks at every evaluation.

A run folder holds ``model*.safetensors`` (the best weights so far, in bfloat16, as they will be exported),
``run.json`` (settings, environment, learning curve) and ``state.pt`` (what it takes to go on), all replaced at every
evaluation: a run that is killed leaves a usable checkpoint. At the end the *stored* weights are read back and scored
on validation and test text.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers import __version__ as transformers_version

from pretrain import objective
from pretrain.data import Rows, windows
from pretrain.export import llama_config, read_weights, write_weights
from pretrain.options import Options
from pretrain.recipe import Recipe
from pretrain.schedule import Schedule
from pretrain.tasks import task_of

BETAS, WEIGHT_DECAY, CLIP = (0.9, 0.95), 0.1, 1.0
REPORT_EVERY = 25  # steps between looks at the clock and at the training loss
SAY_EVERY = 20.0  # seconds between lines of the log
KEPT = ("steps", "tokens_seen", "dropped", "curve", "losses", "best", "resumed")  # by a run that goes on later


class Training:
    """One model in training: its weights, its data, and what it has seen.

    Args:
        recipe: What to train.
        options: How to run.
        streams: Token ids of the splits train, valid and test, each of shape (tokens,).
        byte_lengths: Bytes of each token id.
        folder: Run folder.
        started: ``time.monotonic()`` from which the budget counts; None: now.
        start: Folder of the weights to train on; None: random ones.
    """

    def __init__(self, recipe: Recipe, options: Options, streams: dict[str, torch.Tensor], byte_lengths: list[int],
                 folder: Path, started: float | None = None, start: Path | None = None) -> None:  # fmt: skip
        self.recipe, self.options, self.folder, self.start = recipe, options, folder, start
        self.task = task_of(recipe)
        self.started = time.monotonic() if started is None else started
        self.device = torch.device(options.device)
        torch.manual_seed(recipe.seed)
        torch.set_float32_matmul_precision("high")
        torch.backends.cuda.enable_cudnn_sdp(False)  # of the kernels that take a mask, the one in longest use
        self.model = LlamaForCausalLM(LlamaConfig(**llama_config(recipe, options.vocabulary))).to(self.device)
        if start is not None:
            self.load(start)
        self.head = objective.answer_cost
        if options.compile if options.compile is not None else self.device.type == "cuda":
            torch._dynamo.config.recompile_limit = 64  # a shape for each row length, mode and use
            for layer in self.model.model.layers:
                layer.compile(dynamic=False)
            self.head = torch.compile(objective.answer_cost, dynamic=False)
        self.rows = Rows(streams["train"].to(self.device), options.shares, options.batch_tokens, recipe.seed)
        self.generator = torch.Generator(self.device).manual_seed(recipe.seed)
        self.held_out = {
            split: windows(streams[split].to(self.device), options.evaluation_length, options.evaluation_rows)
            for split in ("valid", "test")
        }
        self.byte_lengths = torch.tensor(byte_lengths, device=self.device)
        self.optimizer = self._optimizer()
        self.schedule = self._schedule()
        self.steps = self.tokens_seen = 0
        self.resumed: list[int] = []
        self.dropped = torch.zeros((), dtype=torch.long, device=self.device)
        self.curve: list[dict[str, float]] = []
        self.losses: list[dict[str, float]] = []
        self.best = math.inf
        self.reported = (0, time.monotonic())

    def run(self) -> dict[str, Any]:
        """Train until the schedule or the time ends. Returns what ``run.json`` holds."""
        self._compile_every_shape()
        batches = iter(self.rows)
        if self.start is not None and not self.steps:
            self.evaluate()  # what the training starts from
        self.schedule.begin()
        evaluated = int(self.share() * self.options.evaluations)
        while self.share() < 1 or not self.losses:
            costs = self.step(next(batches))
            share = self.share()
            if self.steps % REPORT_EVERY == 0 or self.steps == 1 or share == 1:
                self._report(costs)
            if int(share * self.options.evaluations) > evaluated:
                evaluated = int(share * self.options.evaluations)
                self.evaluate()
        if not self.curve or self.curve[-1]["step"] != self.steps:
            self.evaluate()
        return self._finish()

    def step(self, ids: torch.Tensor) -> torch.Tensor:
        """One update from one batch (rows, length). Returns the costs of its modes, not yet synchronised."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.learning_rate(self.steps)
        self.model.train()
        asked = self.task.ask(ids, self.generator)
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            costs = self.task.costs(self.model, asked, self.head)
        self._loss(costs).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.dropped += asked.dropped
        self.tokens_seen += ids.numel()
        self.steps += 1
        return torch.stack(costs).detach()

    @torch.no_grad()
    def score(self, batches: torch.Tensor) -> dict[str, dict[str, float]]:
        """Mode -> nats per token and bits per byte on held-out ``batches`` (upper bounds for diffusion)."""
        self.model.eval()
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            costs = [
                torch.stack(self.task.costs(self.model, asked, self.head))
                for asked in self.task.examine(batches, self.options.draws)
            ]
        scored = batches[:, :, 1:]
        bytes_per_token = float(self.byte_lengths[scored].sum()) / scored.numel()
        return {
            mode: {
                "nats_per_token": nats,
                "bits_per_byte": nats / math.log(2) / bytes_per_token,
                "tokens": scored.numel(),
                "bytes_per_token": bytes_per_token,
            }
            for mode, nats in zip(self.task.weights, torch.stack(costs).mean(dim=0).tolist(), strict=True)
        }

    def evaluate(self) -> None:
        """Score the validation text; keep the weights if their loss is the lowest so far."""
        scores = self.score(self.held_out["valid"][: self.options.evaluation_batches])
        nats = {mode: score["nats_per_token"] for mode, score in scores.items()}
        loss = sum(weight * nats[mode] for mode, weight in self.task.weights.items())
        self.curve.append({"step": self.steps, "tokens": self.tokens_seen, "seconds": round(self.elapsed(), 1),
                           "valid": loss, **nats})  # fmt: skip
        if loss < self.best:
            self.best = loss
            write_weights(self.model.state_dict(), self.folder)
        self.save()
        self.write_run({"status": "unfinished"})
        self._say(f"valid {json.dumps(nats)}")

    def save(self) -> None:
        """Replace ``state.pt``."""
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
                 "share": self.share(), **{key: getattr(self, key) for key in KEPT}}  # fmt: skip
        torch.save(state, self.folder / "state.pt.part")
        os.replace(self.folder / "state.pt.part", self.folder / "state.pt")

    def resume(self) -> None:
        """Go on where ``state.pt`` was written, with other rows of the text; the budget in seconds begins anew."""
        path = self.folder / "state.pt"
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist: nothing to go on with; leave out --resume")
        state = torch.load(path, map_location=self.device)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.before = state["share"]
        for key in KEPT:
            setattr(self, key, state[key])
        self.resumed = [*self.resumed, self.steps]
        self.reported = (self.tokens_seen, time.monotonic())
        self.rows.random = np.random.default_rng([self.recipe.seed, self.steps])
        self.generator.manual_seed(self.recipe.seed + self.steps)

    def load(self, folder: Path) -> None:
        """Take the weights of a checkpoint; the output layer, which is tied to the embedding, is not among them."""
        self.model.load_state_dict({name: w.float() for name, w in read_weights(folder).items()}, strict=False)

    def share(self) -> float:
        """Share of the training that is done, 0 to 1."""
        return self.schedule.share(self.steps)

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
            "steps": self.steps,
            "warmup": self.schedule.warmup,
            "dropped_answers": int(self.dropped),
            "tokens_seen": self.tokens_seen,
            "resumed": self.resumed,
            "curve": self.curve,
            "train_losses": self.losses,
            **more,
        }
        part = self.folder / "run.json.part"
        part.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
        os.replace(part, self.folder / "run.json")
        return run

    def _finish(self) -> dict[str, Any]:
        held_out = {split: batches[: self.options.final_batches] for split, batches in self.held_out.items()}
        self.load(self.folder)
        final = {split: self.score(batches) for split, batches in held_out.items()}
        self._say(f"final {json.dumps(final)}")
        return self.write_run({"status": "finished", "final": final, "seconds": round(self.elapsed(), 1)})

    def _loss(self, costs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        weighted = [weight * cost for weight, cost in zip(self.task.weights.values(), costs, strict=True)]
        return torch.stack(weighted).sum()

    def _say(self, text: str) -> None:
        where = f"step {self.steps}, {self.share():.1%}, {self.elapsed():.0f} s"
        print(f"{self.recipe.name} {where}: {text}", flush=True)

    def _optimizer(self) -> torch.optim.AdamW:
        parameters = list(self.model.parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": WEIGHT_DECAY},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.recipe.learning_rate, betas=BETAS, fused=True)

    def _schedule(self) -> Schedule:
        steps, seconds = self.options.steps, self.options.seconds
        if steps is None and seconds is None:
            steps, seconds = self.recipe.steps, self.recipe.seconds
        deadline = None if seconds is None else self.started + seconds - self.options.reserve_seconds
        return Schedule(self.recipe.learning_rate, steps, deadline)

    def _compile_every_shape(self) -> None:
        """Run every shape once, without an update, so that no step that is timed waits for the compiler."""
        for length, rows in self.rows.batch_rows.items():
            ids = self.rows.stream[: rows * length].long()
            if ids.numel() < rows * length:
                continue
            with torch.autocast(self.device.type, dtype=torch.bfloat16):
                asked = self.task.ask(ids.view(rows, length), self.generator)
                loss = self._loss(self.task.costs(self.model, asked, self.head))
            loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.zero_grad(set_to_none=True)
        self.score(self.held_out["valid"][:1])
        self._say("ready")

    def _report(self, costs: torch.Tensor) -> None:
        values = [round(value, 4) for value in costs.tolist()]
        loss = sum(weight * value for weight, value in zip(self.task.weights.values(), values, strict=True))
        self.losses.append({"step": self.steps, "loss": loss, **dict(zip(self.task.weights, values, strict=True))})
        now = time.monotonic()
        if now - self.reported[1] >= SAY_EVERY:
            speed = (self.tokens_seen - self.reported[0]) / (now - self.reported[1])
            self._say(f"{json.dumps(self.losses[-1])}, {speed:.0f} tokens/s")
            self.reported = (self.tokens_seen, now)


def environment(device: torch.device) -> dict[str, str]:
    """What the training ran on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    python = platform.python_version()
    return {"device": name, "torch": str(torch.__version__), "transformers": transformers_version, "python": python}


def _processor() -> str:
    """Name of the CPU, and the threads that are used."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text(encoding="utf-8").splitlines() if about.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {torch.get_num_threads()} threads"
