"""How does a model write block after block? Each block is denoised against an exact cache of all before it.

For models that were trained so (`config.modes`): SDAR (arXiv 2510.06303), Fast-dLLM v2 (arXiv 2509.26328) and
Nemotron-Labs-Diffusion (arXiv 2607.05722). What a block needs:

1. Denoising steps. Each reads the block alone, which sees itself both ways and the cache, and makes the surest
   proposals final, as in `diffusion`: as many as the schedule says, and with `threshold` or `factor` all that are sure
   enough. `Mode.minimum` says how a schedule is rounded, or that a step makes ceil(masks left / steps left) final.
2. One more forward, the *commit*: it reads the finished block and writes its keys and values, causally or both ways as
   the mode says. Nobody reads those of the last block, so it has none.

Blocks begin behind the prompt, or are counted from the first token of each row's own prompt (`Mode.aligned`). Then the
rest of a prompt that fills no block is the beginning of the first one, which has fewer masks; rows of a batch may need
one block more than others, and the last one may reach beyond the canvas, where its tokens are cut off.

Where a mode is `seeded`, or its logits are shifted, the first token of a block comes from the forward before: that of
the commit, or of the prompt. With `sub_block_length` the parts of a block are filled from left to right, and a part's
share of the steps is its share of the block.

A block ends when nothing in it is masked, even if its schedule has steps left.
"""

import functools

import torch

from llmbench.config.decoders import Diffusion
from llmbench.config.modes import Mode
from llmbench.config.schedules import at_least, even, rounded
from llmbench.decoding import base, rules
from llmbench.decoding.base import DecodedBatch, Engine, OnStep, PromptBatch
from llmbench.decoding.commit import commit_
from llmbench.decoding.diffusion import round_up, sizes
from llmbench.decoding.proposal import Proposal
from llmbench.record import ForwardShape


class BlockDecoder:
    """Unmasking block after block, `steps` denoising steps over the canvas."""

    streams = False

    def __init__(
        self, settings: Diffusion, mode: Mode, *, stop_ids: tuple[int, ...], mask_id: int, pad_id: int
    ) -> None:
        """Take the settings, and the model's conventions.

        Args:
            settings: the checked configuration, with a block length.
            mode: of the model, in blocks.
            stop_ids: end an output.
            mask_id: stands for "not yet known".
            pad_id: stands behind the stop token of a row whose last blocks were not written.
        """
        self._settings, self._mode = settings, mode
        self._stop_ids, self._mask_id, self._pad_id = stop_ids, mask_id, pad_id

    @torch.inference_mode()
    def prepare(self, engine: Engine, batch: PromptBatch) -> "_Loop":
        """The static memory and captured steps for batches of this shape."""
        shape = (*batch.ids.shape, batch.mask is not None)
        key = self._settings, self._mode, self._stop_ids, shape
        return engine.reuse(
            key, lambda: _Loop(self._settings, self._mode, self._stop_ids, self._mask_id, engine, shape)
        )

    @torch.inference_mode()
    def generate(self, engine: Engine, batch: PromptBatch, *, seed: int, on_step: OnStep | None) -> DecodedBatch:
        """Fill a canvas of G tokens behind each prompt; `on_step(i)` follows forward i.

        The prompt's forward and the commits count as forwards.
        """
        settings, (rows, prompt) = self._settings, batch.ids.shape
        forwards: list[ForwardShape] = []

        def note(queries: int, keys: int, logits: int, *, causal: bool) -> None:
            forwards.append(
                ForwardShape(rows=rows, queries=queries, keys=keys, logits=logits, padding=batch.padding, causal=causal)
            )
            if on_step is not None:
                on_step(len(forwards) - 1)

        loop = self.prepare(engine, batch)
        loop.start(batch, seed)
        if loop.reads:
            loop.read()
            note(loop.reads, loop.reads, self._mode.given, causal=True)  # block by block, as much at least
        first_block = 0
        for number in range(loop.blocks):
            keys = loop.keys(number)
            for part in range(loop.parts):
                most, mean = loop.begin_part(number, part)
                while most:
                    loop.step(most)
                    note(settings.block, keys, mean, causal=False)
                    most, mean = loop.masked()
            first_block = first_block or len(forwards)
            if number + 1 == loop.blocks or (settings.early_stop and self._stop_ids and loop.all_stopped()):
                break
            loop.commit()
            note(settings.block, keys, self._mode.given, causal=self._mode.causal_prompt)
        tokens = loop.text[:, prompt : prompt + settings.canvas]
        return DecodedBatch(
            tokens=tokens.masked_fill(tokens == self._mask_id, self._pad_id),
            forwards=tuple(forwards),
            nfe=len(forwards),
            first_text=first_block,
        )


class _Loop:
    """The memory of a generation, and its three kinds of forwards. They touch it alone, so they can be captured."""

    def __init__(
        self,
        settings: Diffusion,
        mode: Mode,
        stop_ids: tuple[int, ...],
        mask_id: int,
        engine: Engine,
        shape: tuple[int, int, bool],
    ) -> None:
        rows, prompt, padded = shape
        self._settings, self._mode, self._engine, self._mask_id = settings, mode, engine, mask_id
        self._prompt, self._size, device = prompt, settings.block, engine.device
        self._part = mode.sub_block_length if mode.sub_block_length and mode.sub_block_length < self._size else None
        self._width = self._part or self._size
        self.parts = self._size // self._width
        self.reads = prompt - prompt % self._size if mode.aligned and not padded else prompt
        self._steps = settings.steps_of_a_block // self.parts
        self._schedule = self._planned()
        self._remaining = mode.minimum == "remaining" and settings.fixed_tokens_per_forward is None
        self._transfer = rules.transfer(settings)
        self._draws = base.Draws(device)
        self._propose = Proposal(settings, stop_ids, mask_id, self._draws, engine, hide_mask=not mode.mask_in_softmax)
        self._stops = torch.tensor(stop_ids, dtype=torch.int64, device=device)
        length = prompt + settings.canvas + (self._size if mode.aligned else 0)
        self._cache = engine.new_cache(rows, length)
        self.text = torch.full((rows, length), mask_id, device=device)
        self._mask = torch.ones(rows, prompt, dtype=torch.bool, device=device) if padded else None
        self._first = torch.zeros(rows, dtype=torch.int64, device=device)  # where each row's first block begins
        self._start = torch.zeros(rows, dtype=torch.int64, device=device)  # and the current one
        self._block = torch.arange(self._size, device=device)
        self._open = torch.zeros(rows, self._width, dtype=torch.int64, device=device)  # of the part, masked ones first
        self._left = torch.zeros(rows, 1, dtype=torch.int64, device=device)  # masked positions of the part
        self._done = torch.zeros(rows, 1, dtype=torch.int64, device=device)  # steps of the part
        self._counts = torch.tensor(self._schedule, device=device)
        # what a step makes final at least, by steps done and masks left
        table = [[-(-left // (self._steps - done)) for left in range(self._width + 1)] for done in range(self._steps)]
        self._least = torch.tensor(table, device=device)
        self._tails = [0] * rows  # of each row: tokens of the prompt in its first block
        self._lefts = [0] * rows  # as `_left`, known to the host
        self._made = 0  # steps of the part
        self.blocks = 0
        self._sizes = sizes(self._width, device)
        engine.compile([self._propose.of_logits], padded=padded)
        self.read = engine.capture(self._read, self._reset, self._draws)
        self._step_of = {
            size: engine.capture(functools.partial(self._step, size), self._warm_up, self._draws)
            for size in reversed(self._sizes)
            if size
        }
        self.commit = engine.capture(self._commit, self._warm_up, self._draws)

    def start(self, batch: PromptBatch, seed: int) -> None:
        """Take the prompts of a batch, and mask the canvas. Waits for the device where prompts are padded."""
        rows, prompt = batch.ids.shape
        lengths = [prompt] * rows if batch.mask is None else batch.mask.sum(1).tolist()
        if self._mask is not None and batch.mask is not None:
            self._mask.copy_(batch.mask)
        self._tails = [length % self._size if self._mode.aligned else 0 for length in lengths]
        self.blocks = max(-(-(tail + self._settings.canvas) // self._size) for tail in self._tails)
        self._first.copy_(prompt - torch.tensor(self._tails))
        self._draws.restart(seed)
        self.text[:, :prompt] = batch.ids
        self._reset()

    def begin_part(self, number: int, part: int) -> tuple[int, int]:
        """Open the masked positions of a part of the block where the loop stands: as `masked`."""
        begin = part * self._width
        self._open_part(begin)
        self._made = 0
        for row, tail in enumerate(self._tails):
            given = max(tail if number == 0 else 0, self._mode.given)
            wanted = number * self._size < tail + self._settings.canvas
            self._lefts[row] = max(0, self._width - max(0, given - begin)) if wanted else 0
        return self._most()

    def step(self, most: int) -> None:
        """A denoising step of a part in which no row has more masks."""
        self._step_of[round_up(most, self._sizes)]()
        self._made += 1

    def masked(self) -> tuple[int, int]:
        """Masked positions of the part: of the row that has most, and of a row on average, rounded down.

        Waits for the device where their number depends on what is written.
        """
        if self._settings.adaptive:
            self._lefts = self._left[:, 0].tolist()
        else:
            done = min(self._made, self._steps) - 1
            for row, left in enumerate(self._lefts):
                least = -(-left // (self._steps - done)) if self._remaining else self._schedule[done]
                self._lefts[row] = max(0, left - least)
        return self._most()

    def keys(self, number: int) -> int:
        """Positions that block `number` of a row sees on average, rounded down."""
        return self._prompt + (number + 1) * self._size - -(-sum(self._tails) // len(self._tails))

    def all_stopped(self) -> bool:
        """Whether every row has a stop token. Waits for the device."""
        written = self.text[:, self._prompt : self._prompt + self._settings.canvas, None] == self._stops
        return bool(written.any(-1).any(-1).all())

    # ------------------------------------------------------------------------------------------------------------

    def _planned(self) -> list[int]:
        """Tokens of a part that each of its steps makes final at least; never 0, since a part ends when it is full."""
        least = self._settings.fixed_tokens_per_forward or 1
        planned = rounded if self._mode.minimum == "rounded" else even
        return at_least(planned(self._width, self._steps), least)

    def _most(self) -> tuple[int, int]:
        return max(self._lefts), sum(self._lefts) // len(self._lefts)

    def _reset(self) -> None:
        """Nothing is written behind the prompts."""
        self.text[:, self._prompt :] = self._mask_id
        self._start.copy_(self._first)

    def _warm_up(self) -> None:
        """A state from which a step may run."""
        self._reset()
        self._open_part(0)

    def _open_part(self, begin: int) -> None:
        """List the positions of the part that begins so far behind its block, those without a token first."""
        positions = self._start[:, None] + self._block[begin : begin + self._width]
        shown = self.text.gather(1, positions.clamp(max=self.text.shape[1] - 1))
        wanted = (self._start < self._prompt + self._settings.canvas)[:, None]
        masked = (positions >= self._prompt) & (shown == self._mask_id) & wanted
        self._open.copy_(rules.ascending_first(positions, masked))
        self._left.copy_(masked.sum(1, keepdim=True))
        self._done.zero_()

    def _read(self) -> None:
        """Read the prompts, or their whole blocks where that is all that is needed."""
        ids = self.text[:, : self.reads]
        positions = torch.full((ids.shape[0], self._mode.given), self.reads - 1, device=ids.device)
        hidden = self._engine.denoise(ids, self._mask, positions, self._cache)
        if self._mode.given:
            self._write_first(hidden)

    def _window(self) -> torch.Tensor:
        """The tokens of the current block [B, L]."""
        return self.text.gather(1, (self._start[:, None] + self._block).clamp_(max=self.text.shape[1] - 1))

    def _step(self, size: int) -> None:
        """Read the block, and make final the surest of at most `size` candidates."""
        hidden = self._engine.extend(self._window(), self._start, self._cache, causal=False)
        at = (self._open[:, :size] - self._start[:, None] - self._mode.logit_shift).clamp_(min=0)
        hidden = hidden.gather(1, at[..., None].expand(-1, -1, hidden.shape[2]))
        tokens, confidence = self._propose(hidden)
        counts, done = self._counts, self._done
        if self._remaining:  # the row of the steps done, looked up by what is left
            counts, done = self._least.index_select(0, self._done[0])[0], self._left.clone()
            self._done.add_(1).clamp_(max=self._steps - 1)
        commit_(self.text, self._open, self._left, done, counts, tokens, confidence, self._transfer)

    def _commit(self) -> None:
        """Write the finished block into the cache, and go to the next one."""
        given, causal = self._mode.given > 0, self._mode.causal_prompt
        hidden = self._engine.extend(self._window(), self._start, self._cache, causal=causal, wanted=given)
        self._start.add_(self._size)
        if given:
            self._write_first(hidden[:, -1:])

    def _write_first(self, hidden: torch.Tensor) -> None:
        """Write the first token of each row's block, from the hidden states [B, 1, C] before it, where it is wanted."""
        tokens = self._propose(hidden)[0]
        where = self._start[:, None]
        wanted = (where >= self._prompt) & (where < self._prompt + self._settings.canvas)
        where = where.clamp(max=self.text.shape[1] - 1)
        self.text.scatter_(1, where, torch.where(wanted, tokens, self.text.gather(1, where)))
