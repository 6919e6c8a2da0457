"""How does a masked diffusion model write? All positions at once, from a canvas of masks, in a fixed number of steps.

This is the official LLaDA sampler (ML-GSAI/LLaDA `generate.py` at b7e6c35; described in the LLaDA paper, arXiv
2502.09992). The canvas is G masks behind the prompt, cut into blocks that are filled from left to right. A step reads
the *whole* sequence, later blocks included, proposes a token for every masked position of the current block, and
makes the surest of them final; the schedule says how many. What is final is never revised. k steps are k forwards.

Four accelerations of Fast-dLLM (arXiv 2505.22618) and its successors are options, all off by default:
- `cache=prefix`: the first step of a block keeps all keys and values; later ones read the block and what follows it.
  `cache=dual`: later ones read the block alone. Both are approximate inside a block and exact at its first step.
- `threshold`, `factor`: sure candidates become final ahead of the schedule, which stays the minimum; so k is the most
  steps there can be, and k = G is the original's one token per step at least. The host asks once per step whether a
  block is done.
- `early_stop`: blocks behind the last row's stop token are not filled.

Dream's own sampler (Dream-org/Dream-v0-Instruct-7B `generation_utils.py`) is the same loop with other rules:
- `tokens_per_step=timesteps`: a step makes int(left * (1 - s / t)) tokens final, and the last one all that are left.
  There they are counted over the canvas, here over a block, which is the same for one block.
- `remasking=topk_margin`, `entropy`, and `remasking_temperature`; `remasking=origin`: every masked token becomes final
  by itself with chance 1 - s / t, so rows differ, and the host asks once per step how many are left. k stays k.
- `confidence=sampling`: tokens and confidences come from one distribution, after temperature, top_p and top_k.

Models that grew out of a causal one (Dream) predict position p from the hidden state at p - 1: with `logit_shift` 1
hidden states are asked for one position earlier, and a part that is read anew begins one position earlier.

Where it does less work than the original, with the same result:
- The schedule is known beforehand, so every row has the same number of masked positions in its block, and the host
  knows it. The head, the noise and the confidences are computed at those [B, M] positions, the canvas is never
  searched for masks, and nothing waits for the device.
- The [B * M] candidates are taken in pieces whose logits fit the cache (on a GPU: a limited amount of memory), head
  included, so that neither logits nor float64 noise nor a softmax exist for the whole canvas.

Where it differs on purpose:
- The mask token is never proposed: a position must hold text when it is final. It stays in the softmax of the
  confidence (and with `confidence=sampling` in top_p and top_k), so that confidences are the official ones.
- `late_eos`, the official `confidence_eos_eot_inf`, removes the stop tokens from the softmax of the confidence, at
  every temperature: their confidence is 0, they come last, and still come when nothing else is left. The official
  code does so at temperature 0; above it, a bug exempts EOS. With random remasking it has no effect, there as here.
- `suppress_eos`, the official `logits_eos_inf`, forbids every stop token, not EOS alone.
- A mask token inside a prompt is left alone, not filled in. Guidance hides everything that is not a mask when
  generation starts, which is the prompt and its padding, as in the original.
"""

import functools
from collections.abc import Callable
from dataclasses import replace

import torch

from llmbench.config.decoders import Diffusion
from llmbench.decoding import base, rules
from llmbench.decoding.base import DecodedBatch, Engine, OnStep, PromptBatch
from llmbench.decoding.commit import commit_
from llmbench.decoding.proposal import Proposal
from llmbench.record import ForwardShape

_SIZES = 8
"""Numbers of candidates for which a step is captured on a GPU, or one more.

Rounding M up costs the head at most an eighth of a block; with a prefix cache, whose blocks have steps of their own,
the head is computed for the whole block.
"""


class DiffusionDecoder:
    """Unmasking in `steps` denoising steps."""

    streams = False

    def __init__(self, settings: Diffusion, *, stop_ids: tuple[int, ...], mask_id: int, logit_shift: int = 0) -> None:
        """Take the settings, and the model's conventions.

        Args:
            settings: the checked configuration.
            stop_ids: end an output.
            mask_id: stands for "not yet known".
            logit_shift: how many positions before a masked one the hidden state lies that predicts it.
        """
        self._settings = settings
        self._stop_ids = stop_ids
        self._mask_id = mask_id
        self._shift = logit_shift

    @torch.inference_mode()
    def prepare(self, engine: Engine, batch: PromptBatch) -> "_Loop":
        """The static memory and captured steps for batches of this shape."""
        shape = (*batch.ids.shape, batch.mask is not None)
        key = self._settings, self._stop_ids, shape
        return engine.reuse(
            key, lambda: _Loop(self._settings, self._stop_ids, self._mask_id, self._shift, engine, shape)
        )

    @torch.inference_mode()
    def generate(self, engine: Engine, batch: PromptBatch, *, seed: int, on_step: OnStep | None) -> DecodedBatch:
        """Fill a canvas of G tokens behind each prompt; `on_step(i)` follows denoising step i."""
        settings, (rows, prompt) = self._settings, batch.ids.shape
        passes = 2 if settings.cfg_scale else 1
        length = end = prompt + settings.canvas
        loop = self.prepare(engine, batch)
        loop.start(batch, seed)
        whole = ForwardShape(rows=rows * passes, queries=length, keys=length, logits=0, padding=batch.padding * passes)
        forwards: list[ForwardShape] = []
        first_block = 0
        for start in range(prompt, length, settings.block):
            loop.begin_block(start)
            masked = mean_masked = settings.block
            for step, count in enumerate(loop.schedule):
                queries = loop.step(step, masked)
                forwards.append(replace(whole, queries=queries, logits=mean_masked))
                if on_step is not None:
                    on_step(len(forwards) - 1)
                masked, mean_masked = loop.masked() if settings.uneven else (masked - count,) * 2
                if settings.adaptive and not masked:
                    break
            first_block = first_block or len(forwards)
            if settings.early_stop and self._stop_ids and loop.all_stopped(start + settings.block):
                end = start + settings.block
                break
        return DecodedBatch(
            tokens=loop.canvas[:, prompt:end].clone(),
            forwards=tuple(forwards),
            nfe=len(forwards) * passes,
            first_text=first_block,
        )


class _Loop:
    """The memory of a generation, and its steps. They touch this memory alone, so they can be captured."""

    def __init__(
        self,
        settings: Diffusion,
        stop_ids: tuple[int, ...],
        mask_id: int,
        shift: int,
        engine: Engine,
        shape: tuple[int, int, bool],
    ) -> None:
        rows, prompt, padded = shape
        self._settings, self._engine, self._mask_id, self._prompt = settings, engine, mask_id, prompt
        self._shift = shift
        device, self._length, block = engine.device, prompt + settings.canvas, settings.block
        self.schedule = settings.schedule
        self._counts = torch.tensor(self.schedule, device=device)
        self._transfer = rules.transfer(settings, device)
        self._block = torch.arange(-shift, block, device=device)
        self._draws = base.Draws(device)
        self._propose = Proposal(settings, stop_ids, mask_id, self._draws, engine)
        self._stops = torch.tensor(stop_ids, dtype=torch.int64, device=device)
        self.canvas = torch.full((rows, self._length), mask_id, device=device)
        self._mask = torch.ones(rows, self._length, dtype=torch.bool, device=device) if padded else None
        self._given = torch.zeros(rows, self._length, dtype=torch.bool, device=device)
        self._done = torch.zeros(rows, 1, dtype=torch.int64, device=device)  # steps of this block
        self._left = torch.zeros(rows, 1, dtype=torch.int64, device=device)  # masked positions of this block
        self._open = torch.zeros(rows, block, dtype=torch.int64, device=device)  # its positions, masked ones first
        # its positions in order, behind those whose hidden states predict the first of them
        self._where = torch.zeros(shift + block, dtype=torch.int64, device=device)
        passes = 2 if settings.cfg_scale else 1
        self._cache = None if settings.cache == "none" else engine.new_cache(rows * passes, self._length)
        self._start = prompt
        # with a prefix cache every block has steps of its own, so there are fewer of each
        self._sizes = sizes(block, device) if settings.cache != "prefix" or device.type == "cpu" else [0, block]
        engine.compile([self._propose.of_logits, self._commit_nothing], padded=padded)
        self._steps: dict[tuple[int, int], Callable[[], None]] = {}
        for start in range(prompt, self._length, block):
            self._capture_block(start)

    def start(self, batch: PromptBatch, seed: int) -> None:
        """Take the prompts of a batch, and mask the canvas."""
        self.canvas[:, : self._prompt] = batch.ids
        self.canvas[:, self._prompt :] = self._mask_id
        torch.ne(self.canvas, self._mask_id, out=self._given)
        if self._mask is not None and batch.mask is not None:
            self._mask[:, : self._prompt] = batch.mask
        self._draws.restart(seed)

    def begin_block(self, start: int) -> None:
        """All positions of the block that begins at `start` are masked."""
        self._start = start
        torch.add(self._block, start, out=self._where)
        self._open.copy_(self._where[self._shift :])
        self._left.fill_(self._settings.block)
        self._done.zero_()

    def step(self, index: int, masked: int) -> int:
        """Denoising step `index` of the block, with so many masked positions; returns how many positions it read."""
        begin, size = self._span(self._start, index), round_up(masked, self._sizes)
        self._steps[begin, size]()
        return self._queries(begin)

    def masked(self) -> tuple[int, int]:
        """Masked positions of the row that has most, and of a row on average, rounded down: what must be computed.

        Waits for the device, once.
        """
        most, total = torch.stack([self._left.max(), self._left.sum()]).tolist()
        return most, total // self._left.shape[0]

    def all_stopped(self, end: int) -> bool:
        """Whether every row has a stop token before `end`. Waits for the device."""
        written = self.canvas[:, self._prompt : end, None] == self._stops
        return bool(written.any(-1).any(-1).all())

    # ------------------------------------------------------------------------------------------------------------
    # What a step reads: everything (_ALL), everything into the cache (_FILL), the block (_BLOCK), or all from `begin`

    def _span(self, start: int, index: int) -> int:
        """What step `index` of the block at `start` reads."""
        match self._settings.cache:
            case "none":
                return _ALL
            case _ if index == 0:
                return _FILL
            case "dual":
                return _BLOCK
            case "prefix":
                return start

    def _queries(self, begin: int) -> int:
        """How many positions of a row are read."""
        if begin == _BLOCK:
            return self._settings.block + self._shift
        return self._length if begin in (_ALL, _FILL) else self._length - begin + self._shift

    def _capture_block(self, start: int) -> None:
        """Make the steps ready that the block at `start` may need and earlier ones did not."""
        masked, needed = self._settings.block, set[tuple[int, int]]()
        for index, count in enumerate(self.schedule):
            least = 1 if self._settings.adaptive else 0  # where chance decides, steps follow the last token
            met = range(least, masked + 1) if index and self._settings.uneven else [masked]
            needed |= {(self._span(start, index), round_up(most, self._sizes)) for most in met}
            masked -= count
        for begin, size in sorted(needed - self._steps.keys(), reverse=True):  # the largest first: others reuse it
            step = functools.partial(self._step, begin, size)
            self._steps[begin, size] = self._engine.capture(
                step, functools.partial(self._warm_up, start, begin), self._draws
            )

    def _warm_up(self, start: int, begin: int) -> None:
        """A state from which a step may run."""
        self.begin_block(start)
        if begin not in (_ALL, _FILL):
            self._read(_FILL, self._open[:, :0])

    def _step(self, begin: int, size: int) -> None:
        """Read, and make final the surest of at most `size` candidates; with none, the forward runs all the same."""
        positions = self._open[:, :size]
        hidden = self._read(begin, positions)
        if size:
            tokens, confidence = self._propose(hidden)
            commit_(self.canvas, self._open, self._left, self._done, self._counts, tokens, confidence, self._transfer)

    def _commit_nothing(self, logits: torch.Tensor) -> None:
        """A commit in a canvas without open positions, to compile the kernel."""
        tokens, state = torch.zeros_like(self._open), (self._open, self._left, self._done)
        commit_(self.canvas, *state, self._counts, tokens, logits.new_zeros(tokens.shape).float(), self._transfer)

    def _read(self, begin: int, positions: torch.Tensor) -> torch.Tensor:
        """Hidden states [B, M, C], or [2 B, M, C] with guidance: as it is, then with everything given hidden."""
        canvas, mask = self.canvas, self._mask
        if self._shift:
            positions = positions - self._shift
        if self._settings.cfg_scale:
            canvas = torch.cat([canvas, canvas.masked_fill(self._given, self._mask_id)])
            mask = None if mask is None else torch.cat([mask, mask])
            positions = torch.cat([positions, positions])
        if begin in (_ALL, _FILL):
            return self._engine.denoise(canvas, mask, positions, self._cache)
        where = self._where
        if begin != _BLOCK:
            where = torch.arange(begin - self._shift, self._length, device=canvas.device)
        return self._engine.refine(canvas.index_select(1, where), mask, where, positions, self._cache)


_ALL, _FILL, _BLOCK = -3, -2, -1


def sizes(block: int, device: torch.device) -> list[int]:
    """Numbers of candidates for which there is a step: on a CPU every one, on a GPU a few, the block's length last."""
    if device.type == "cpu":
        return list(range(block + 1))
    grain = max(1, block // _SIZES)
    return [0, *range(block % grain or grain, block + 1, grain)]


def round_up(masked: int, sizes: list[int]) -> int:
    """The smallest of the rising `sizes` that holds so many candidates."""
    return next(size for size in sizes if size >= masked)
