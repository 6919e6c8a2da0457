"""The denoising loop, token by token, against a slow one written from the description of the official sampler."""

import itertools

import pytest
import tiny_models
import torch
from tiny_models import MASK, PAD, STOP, VOCAB

from llmbench.config.decoders import Diffusion
from llmbench.decoding import base, diffusion, proposal
from llmbench.decoding.base import PromptBatch
from llmbench.decoding.diffusion import DiffusionDecoder
from llmbench.models.engine import EagerEngine
from llmbench.models.fused import FusedEngine

STOPS = (STOP, 7)


def settings(**changes):
    base = {"kind": "diffusion", "steps": 8, "canvas": 16, "block_length": 16, "temperature": 0.0}
    return Diffusion(**(base | changes))


def generate(engine, ids, mask, *, seed=0, on_step=None, stop_ids=STOPS, **changes):
    decoder = DiffusionDecoder(settings(**changes), stop_ids=stop_ids, mask_id=MASK)
    return decoder.generate(engine, PromptBatch(ids=ids, mask=mask), seed=seed, on_step=on_step)


def reference(model, ids, mask, *, seed, **changes):
    """The official algorithm in the plainest form: one row and one position at a time, on the whole canvas.

    Its only debt to the code under test is the order in which random numbers are drawn: per step, float64 uniforms for
    the masked positions of the block, row by row; then, for random remasking, uniforms in the same order.
    """
    s = settings(**changes)
    rows, prompt = ids.shape
    x = torch.cat([ids, torch.full((rows, s.canvas), MASK)], dim=1)
    attention = torch.ones_like(x)
    if mask is not None:
        attention[:, :prompt] = mask.long()
    prompt_index = x != MASK
    draw = base.Draws(torch.device("cpu"), seed)
    blocks = s.canvas // s.block_length
    steps = s.steps // blocks
    for block in range(blocks):
        start = prompt + block * s.block_length
        end = start + s.block_length
        for step in range(steps):
            hidden_prompt = torch.where(prompt_index, MASK, x)
            logits = model(x, attention_mask=attention).logits
            if s.cfg_scale > 0:
                unconditional = model(hidden_prompt, attention_mask=attention).logits
                logits = unconditional + (s.cfg_scale + 1) * (logits - unconditional)
            masked = [[p for p in range(start, end) if x[row, p] == MASK] for row in range(rows)]
            count = len(masked[0])
            if s.temperature > 0 and count:
                uniform = draw.fill_(torch.empty(rows, count, VOCAB, dtype=torch.float64))
            if s.remasking == "random" and count:
                lottery = draw.fill_(torch.empty(rows, count, dtype=torch.float64))
            for row in range(rows):
                ranked = []
                for n, p in enumerate(masked[row]):
                    scores = logits[row, p].clone()
                    if s.suppress_eos:
                        scores[list(STOPS)] = -torch.inf
                    candidates = scores.double()
                    if s.temperature > 0:
                        candidates = candidates.exp() / (-uniform[row, n].log()) ** s.temperature
                    candidates[MASK] = -torch.inf
                    token = candidates.argmax().item()
                    if s.late_eos:
                        scores[list(STOPS)] = -torch.inf
                    if s.remasking == "random":
                        confidence = lottery[row, n].item()
                    else:
                        confidence = scores.to(getattr(torch, s.confidence_dtype)).softmax(-1)[token].item()
                    ranked.append((-confidence, p, token))
                # of m masks at the start of the block, floor(m / steps) per step, one more in the first m mod steps
                transfer = s.block_length // steps + (step < s.block_length % steps)
                for _, p, token in sorted(ranked)[:transfer]:
                    x[row, p] = token
    return x[:, prompt:]


CASES = [
    {},
    {"steps": 16},
    {"steps": 1},
    {"steps": 5},  # 16 in 5 steps: 4, 3, 3, 3, 3
    {"block_length": 4},
    {"block_length": 8, "steps": 6},
    {"block_length": 1, "steps": 16},
    {"block_length": 4, "steps": 24},  # 6 steps for 4 tokens: the tail transfers nothing
    {"cfg_scale": 1.5},
    {"cfg_scale": 0.5, "block_length": 8, "temperature": 0.7},
    {"suppress_eos": True},
    {"late_eos": True, "block_length": 8},
    {"suppress_eos": True, "late_eos": True, "temperature": 1.0},
    {"late_eos": True, "temperature": 1.0},
    {"temperature": 0.3},
    {"temperature": 1.0, "block_length": 4},
    {"temperature": 2.0, "block_length": 4, "steps": 24},
    {"remasking": "random"},
    {"remasking": "random", "temperature": 0.7, "block_length": 8},
    {"remasking": "random", "cfg_scale": 1.0, "late_eos": True},
    {"confidence_dtype": "float64", "temperature": 0.7},
    {"confidence_dtype": "bfloat16"},
    {"confidence_dtype": "bfloat16", "temperature": 1.0, "block_length": 8},
]


EVEN, PADDED = ([4, 4], 0), ([6, 3, 1], 5)


@pytest.mark.parametrize(
    ("changes", "lengths", "seed"),
    [(case, *PADDED) for case in CASES] + [(CASES[place], *EVEN) for place in (0, 9, 19)],
    ids=str,
)
def test_tokens_are_those_of_the_plain_algorithm(changes, lengths, seed):
    model = tiny_models.model(causal=False, seed=seed)
    ids, mask = tiny_models.prompts(lengths, seed=seed)
    with torch.inference_mode():
        expected = reference(model, ids, mask, seed=seed, **changes)
    generation = generate(EagerEngine(model), ids, mask, seed=seed, **changes)
    assert generation.tokens.tolist() == expected.tolist()
    assert not (generation.tokens == MASK).any()


class KeptKeys:
    """Forwards in which all keys and values outside of a part are those of an earlier forward, by hooks on the modules.

    The whole canvas is read every time; what the part's positions give is what a cache of the rest gives.
    """

    def __init__(self, model):
        self.model, self.kept = model, {}
        layers = enumerate(layer.self_attn for layer in model.model.layers)
        self.modules = [(i, part, getattr(layer, part)) for i, layer in layers for part in ("k_proj", "v_proj")]

    def __call__(self, x, attention, part):
        def hook(name):
            def swap(module, args, output):
                fresh = output.clone()
                if part is not None:
                    fresh[:, ~part] = self.kept[name][:, ~part]
                self.kept[name] = fresh
                return fresh

            return swap

        hooks = [module.register_forward_hook(hook((i, name))) for i, name, module in self.modules]
        try:
            return self.model(x, attention_mask=attention).logits
        finally:
            for one in hooks:
                one.remove()


def fast_reference(model, ids, mask, *, seed, **changes):
    """The accelerated algorithm of Fast-dLLM's description in the plainest form, and its number of forwards.

    Random numbers as in `reference`; there are as many in a row as in the row with most masked positions.
    """
    s = settings(**changes)
    rows, prompt = ids.shape
    x = torch.cat([ids, torch.full((rows, s.canvas), MASK)], dim=1)
    attention = torch.ones_like(x)
    if mask is not None:
        attention[:, :prompt] = mask.long()
    read = KeptKeys(model)
    draw = base.Draws(torch.device("cpu"), seed)
    blocks = s.canvas // s.block_length
    forwards = 0
    for block in range(blocks):
        start = prompt + block * s.block_length
        end = start + s.block_length
        for step in range(s.steps // blocks):
            part = None
            if step and s.cache != "none":
                part = torch.zeros(x.shape[1], dtype=torch.bool)
                part[start : end if s.cache == "dual" else None] = True
            logits = read(x, attention, part)
            forwards += 1
            masked = [[p for p in range(start, end) if x[row, p] == MASK] for row in range(rows)]
            most = max(map(len, masked))
            uniform = draw.fill_(torch.empty(rows, most, VOCAB, dtype=torch.float64)) if s.temperature else None
            for row in range(rows):
                ranked = []
                for n, p in enumerate(masked[row]):
                    candidates = logits[row, p].double()
                    if s.temperature:
                        candidates = candidates - s.temperature * (-uniform[row, n].log()).log()
                    candidates[MASK] = -torch.inf
                    token = candidates.argmax().item()
                    ranked.append((-logits[row, p].softmax(-1)[token].item(), p, token))
                ranked.sort()
                steps = s.steps // blocks
                transfer = s.block_length // steps + (step < s.block_length % steps)
                if s.fixed_tokens_per_forward:
                    transfer = max(transfer, s.fixed_tokens_per_forward)
                elif s.threshold:
                    transfer = max(transfer, sum(-confidence >= s.threshold for confidence, _, _ in ranked))
                elif s.factor:
                    passing = 0
                    while passing < len(ranked) and -ranked[passing][0] >= 1 - s.factor / (passing + 2):
                        passing += 1
                    transfer = max(transfer, passing)
                for _, p, token in ranked[:transfer]:
                    x[row, p] = token
            if not (x[:, start:end] == MASK).any() and (s.adaptive or s.fixed_tokens_per_forward):
                break
        if s.early_stop and all(any(t in STOPS for t in row) for row in x[:, prompt:end].tolist()):
            return x[:, prompt:end], forwards
    return x[:, prompt:], forwards


FAST_CASES = [
    {"cache": cache, "block_length": block, "steps": steps, **more}
    for cache in ("none", "prefix", "dual")
    for block, steps, more in (
        (4, 16, {}),
        (8, 6, {"temperature": 0.8}),
        (16, 4, {}),
        (4, 16, {"threshold": 0.3}),
        (8, 16, {"threshold": 0.6, "temperature": 0.5}),
        (8, 4, {"factor": 0.8}),
        (4, 8, {"factor": 1.5, "temperature": 0.3}),
        (8, 16, {"threshold": 0.9, "fixed_tokens_per_forward": 3}),
        (4, 16, {"early_stop": True, "temperature": 1.5}),
    )
]


@pytest.mark.parametrize(
    ("changes", "lengths", "seed"),
    [(case, *PADDED) for case in FAST_CASES] + [(case, *EVEN) for case in FAST_CASES[::4]],
    ids=str,
)
def test_accelerated_tokens_are_those_of_the_plain_algorithm(changes, lengths, seed):
    model = tiny_models.model(causal=False, seed=seed)
    ids, mask = tiny_models.prompts(lengths, seed=seed)
    with torch.inference_mode():
        expected, forwards = fast_reference(model, ids, mask, seed=seed, **changes)
    generation = generate(EagerEngine(model), ids, mask, seed=seed, **changes)
    assert generation.tokens.tolist() == expected.tolist()
    assert generation.nfe == len(generation.forwards) == forwards


@pytest.mark.parametrize("cfg_scale", [0.0, 1.0])
@pytest.mark.parametrize(("steps", "block", "forced", "nfe"), [(4, 16, 4, 4), (16, 16, 6, 3), (16, 8, 6, 4)])
def test_a_forced_number_of_tokens_becomes_final_in_every_forward(steps, block, forced, nfe, cfg_scale):
    model = tiny_models.model(causal=False)
    ids, mask = tiny_models.prompts([4])
    changes = {"steps": steps, "block_length": block, "fixed_tokens_per_forward": forced, "cfg_scale": cfg_scale}
    passes = 2 if cfg_scale else 1
    assert generate(EagerEngine(model), ids, mask, **changes).nfe == nfe * passes == settings(**changes).forwards


def test_acceleration_saves_forwards_and_positions():
    model = tiny_models.model(causal=False)
    ids, mask = tiny_models.prompts([4])
    slow = generate(EagerEngine(model), ids, mask, steps=16, block_length=8)
    sure = generate(EagerEngine(model), ids, mask, steps=16, block_length=8, threshold=0.3)
    assert sure.nfe < slow.nfe == 16
    dual = generate(EagerEngine(model), ids, mask, steps=16, block_length=8, cache="dual")
    assert [shape.queries for shape in dual.forwards] == [20, *[8] * 7] * 2
    prefix = generate(EagerEngine(model), ids, mask, steps=16, block_length=8, cache="prefix")
    assert [shape.queries for shape in prefix.forwards] == [20, *[16] * 7, 20, *[8] * 7]
    assert slow.first_text == dual.first_text == 8
    assert generate(EagerEngine(model), ids, mask, steps=16).first_text == 16


def test_guidance_works_with_a_cache():
    model = tiny_models.model(causal=False)
    ids, mask = tiny_models.prompts([6, 3, 1])
    whole = generate(EagerEngine(model), ids, mask, steps=2, block_length=8, cfg_scale=1.0)
    dual = generate(EagerEngine(model), ids, mask, steps=2, block_length=8, cfg_scale=1.0, cache="dual")
    assert dual.tokens.tolist() == whole.tokens.tolist(), "with one step per block nothing is taken over"
    more = generate(EagerEngine(model), ids, mask, steps=8, block_length=8, cfg_scale=1.0, cache="dual")
    assert more.nfe == 16


def few_sizes(block, device):
    return sorted({0, block // 3, block})


ENGINE_CASES = [
    {},
    {"steps": 5},
    {"block_length": 8, "steps": 6},
    {"block_length": 1, "steps": 16},
    {"block_length": 4, "steps": 24},
    {"cfg_scale": 0.5, "block_length": 8, "temperature": 0.7},
    {"cfg_scale": 1.0, "block_length": 8, "cache": "dual"},
    {"suppress_eos": True, "late_eos": True, "temperature": 1.0},
    {"remasking": "random", "temperature": 0.7, "block_length": 8},
    {"confidence_dtype": "bfloat16"},
    *FAST_CASES,
]
"""Of the options that decide what is chosen a few are enough: an engine sees what is read, how often and where."""


@pytest.mark.parametrize(
    ("changes", "lengths", "sizes"),
    [(case, [6, 3, 1], "few") for case in ENGINE_CASES] + [(case, [4, 4], "every") for case in ENGINE_CASES[::4]],
    ids=str,
)
def test_the_fused_engine_writes_the_same_tokens(monkeypatch, changes, lengths, sizes):
    """Also with the few sizes of a GPU; there, candidates that fill a size up draw noise, in both engines alike."""
    if sizes == "few":
        monkeypatch.setattr(diffusion, "sizes", few_sizes)
    model = tiny_models.model(causal=False)
    ids, mask = tiny_models.prompts(lengths)
    eager = generate(EagerEngine(model), ids, mask, **changes)
    fused = generate(FusedEngine(model), ids, mask, **changes)
    assert fused.tokens.tolist() == eager.tokens.tolist()
    assert fused.forwards == eager.forwards


@pytest.mark.parametrize("changes", [case for case in ENGINE_CASES if not case.get("temperature")], ids=str)
def test_filling_sizes_up_changes_nothing(monkeypatch, changes):
    model = tiny_models.model(causal=False)
    ids, mask = tiny_models.prompts([6, 3, 1])
    exact = generate(EagerEngine(model), ids, mask, **(changes | {"remasking": "low_confidence"}))
    monkeypatch.setattr(diffusion, "sizes", few_sizes)
    filled = generate(EagerEngine(model), ids, mask, **(changes | {"remasking": "low_confidence"}))
    assert filled.tokens.tolist() == exact.tokens.tolist()


def test_two_decoders_on_one_engine_do_not_share_a_loop():
    engine = FusedEngine(tiny_models.model(causal=False))
    ids, mask = tiny_models.prompts([6, 3])
    one = generate(engine, ids, mask, steps=4)
    other = generate(engine, ids, mask, steps=16)
    assert (one.nfe, other.nfe) == (4, 16)


def test_a_kept_loop_forgets_the_generation_before():
    model = tiny_models.model(causal=False)
    engine = FusedEngine(model)
    decoder = DiffusionDecoder(settings(temperature=0.5, block_length=8), stop_ids=STOPS, mask_id=MASK)
    batches = [PromptBatch(ids=ids, mask=mask) for ids, mask in (tiny_models.prompts([6, 3], seed=s) for s in (0, 1))]
    first, other, again = (decoder.generate(engine, batches[i], seed=i, on_step=None).tokens for i in (0, 1, 0))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


class FixedLogits:
    """An engine that says the same at every position, and remembers what it was asked."""

    device = torch.device("cpu")

    def __init__(self, logits, scale=None):
        self.row = torch.tensor(logits)
        self.scale = scale
        self.canvases, self.positions, self.masks = [], [], []

    def reuse(self, key, make):
        return make()

    def compile(self, calls, *, padded): ...

    def capture(self, step, reset, draws):
        return step

    def head(self, hidden):
        return hidden.clone()

    def denoise(self, ids, mask, positions, cache=None):
        self.canvases.append(ids.clone())
        self.positions.append(positions.clone())
        self.masks.append(mask)
        logits = self.row.expand(*positions.shape, -1).clone()
        return logits if self.scale is None else logits * self.scale[positions].unsqueeze(-1)


def flat(**high):
    logits = [0.0] * VOCAB
    for token, value in high.items():
        logits[int(token[1:])] = value
    return logits


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_mask_is_never_final_even_when_the_model_wants_it(temperature):
    ids, _ = tiny_models.prompts([3, 3])
    generation = generate(FixedLogits(flat(t2=50.0, t9=1.0)), ids, None, temperature=temperature)
    assert not (generation.tokens == MASK).any()
    assert temperature or (generation.tokens == 9).all()


def test_blocks_fill_from_left_to_right_and_final_tokens_stay():
    model = tiny_models.model(causal=False)

    class Recorder(EagerEngine):
        canvases, positions = [], []

        def denoise(self, ids, mask, positions, cache=None):
            self.canvases.append(ids.clone())
            self.positions.append(positions.clone())
            return super().denoise(ids, mask, positions)

    ids, mask = tiny_models.prompts([5, 2])
    engine, marks = Recorder(model), []
    generation = generate(engine, ids, mask, steps=8, block_length=4, temperature=0.7, on_step=marks.append)
    assert marks == list(range(8))
    states = [*engine.canvases, torch.cat([ids, generation.tokens], dim=1)]
    for step, (before, after) in enumerate(itertools.pairwise(states)):
        start = 5 + 4 * (step // 2)
        assert (before[:, 5:start] != MASK).all()
        assert (before[:, start + 4 :] == MASK).all()
        final = before != MASK
        assert torch.equal(before[final], after[final])
        assert ((before == MASK) & (after != MASK)).sum(1).tolist() == [2, 2]
        asked = engine.positions[step]
        assert [row.tolist() for row in asked] == [
            [p for p in range(start, start + 4) if before[row, p] == MASK] for row in range(2)
        ]


@pytest.mark.parametrize(
    ("changes", "nfe", "passes", "rows"),
    [
        ({"steps": 8}, 8, 8, 2),
        ({"steps": 32, "block_length": 4}, 32, 32, 2),  # 8 steps for 4 tokens in each of 4 blocks
        ({"steps": 8, "cfg_scale": 1.0}, 16, 8, 4),
    ],
)
def test_forwards_are_counted(changes, nfe, passes, rows):
    ids, _ = tiny_models.prompts([3, 3])
    engine = FixedLogits(flat(t9=1.0))
    generation = generate(engine, ids, None, **changes)
    assert generation.nfe == nfe
    assert len(generation.forwards) == len(engine.canvases) == passes
    assert {(s.rows, s.queries, s.keys) for s in generation.forwards} == {(rows, 19, 19)}
    assert [s.logits for s in generation.forwards] == [p.shape[1] for p in engine.positions]


@pytest.mark.parametrize("block", [4, 16])
@pytest.mark.parametrize("rule", [{}, {"temperature": 0.7}, {"remasking": "random"}, {"cache": "dual"}])
def test_steps_beyond_the_canvas_write_the_text_of_as_many_steps_as_tokens_and_run_all_the_same(block, rule):
    model, (ids, mask) = tiny_models.model(causal=False), tiny_models.prompts([5, 3])
    full, beyond = (generate(EagerEngine(model), ids, mask, steps=k, block_length=block, **rule) for k in (16, 48))
    assert torch.equal(beyond.tokens, full.tokens)
    assert (full.nfe, beyond.nfe) == (16, 48)


@pytest.mark.parametrize(
    ("changes", "idle"),
    [
        ({"steps": 16}, 0),
        ({"steps": 24}, 8),
        ({"steps": 24, "block_length": 4}, 8),  # 6 steps for 4 tokens in each of 4 blocks
        ({"steps": 16, "block_length": 1}, 0),
        ({"steps": 24, "block_length": 4, "threshold": 0.9}, 0),
        ({"steps": 24, "block_length": 4, "fixed_tokens_per_forward": 1}, 0),
    ],
)
def test_idle_steps_are_the_forwards_that_make_nothing_final(changes, idle):
    ids, _ = tiny_models.prompts([3])
    engine = FixedLogits(flat(t9=1.0))
    generate(engine, ids, None, **changes)
    nothing = sum(positions.shape[1] == 0 for positions in engine.positions)
    assert (settings(**changes).idle_steps, nothing) == (idle, idle)


def test_guidance_hides_the_prompt_and_its_padding_only():
    ids, mask = tiny_models.prompts([5, 2])
    engine = FixedLogits(flat(t9=1.0))
    generate(engine, ids, mask, steps=2, canvas=4, block_length=4, cfg_scale=1.0)
    canvas = engine.canvases[1]
    assert torch.equal(canvas[:2, :5], ids)
    assert (canvas[2:, :5] == MASK).all()
    assert torch.equal(canvas[:2, 5:], canvas[2:, 5:])
    assert (canvas[2:, 5:] == 9).sum() == 4
    assert torch.equal(engine.masks[1][:2], engine.masks[1][2:])
    assert engine.masks[1][:2, :5].tolist() == mask.tolist()


def test_late_stop_tokens_come_last_but_come():
    ids, _ = tiny_models.prompts([4])
    scale = torch.ones(20)
    scale[[5, 9, 10]] = -1.0  # there token 9 wins, elsewhere the stop token does
    logits = flat(t0=6.0, t9=-3.0)
    early = generate(FixedLogits(logits, scale), ids, None, steps=16)
    assert early.tokens[0].tolist().count(9) == 3
    engine = FixedLogits(logits, scale)
    late = generate(engine, ids, None, steps=16, late_eos=True)
    assert late.tokens.tolist() == early.tokens.tolist()
    filled = [(canvas[0] != MASK).nonzero().flatten().tolist()[4:] for canvas in engine.canvases]
    assert sorted(filled[3]) == [5, 9, 10]
    assert not generate(FixedLogits(logits, scale), ids, None, suppress_eos=True).tokens.eq(STOP).any()


@pytest.mark.parametrize("temperature", [0.7, 1.5])
def test_sampled_frequencies_are_the_softmax_of_the_scaled_logits(temperature):
    logits = [1.0, 0.0, 5.0, -1.0, 2.0, 0.5]  # token 2 is the mask
    ids = torch.full((40, 1), 4)
    tokens = generate(FixedLogits(logits), ids, None, canvas=500, block_length=500, steps=1, temperature=temperature)
    frequency = tokens.tokens.flatten().bincount(minlength=6) / 20_000
    scaled = torch.tensor(logits) / temperature
    scaled[MASK] = -torch.inf
    expected = scaled.softmax(-1)
    assert ((frequency - expected).abs() <= 4 * (expected * (1 - expected) / 20_000).sqrt()).all()


@pytest.mark.parametrize("remasking", ["low_confidence", "random"])
def test_the_size_of_the_pieces_changes_no_token(remasking, monkeypatch):
    model = tiny_models.model(causal=False)
    ids, mask = tiny_models.prompts([6, 3, 1])
    temperature = 1.0 if remasking == "low_confidence" else 0.0
    whole = generate(EagerEngine(model), ids, mask, temperature=temperature, remasking=remasking)
    monkeypatch.setattr(proposal, "_PIECE_CPU", 5 * VOCAB)
    pieces = generate(EagerEngine(model), ids, mask, temperature=temperature, remasking=remasking)
    assert pieces.tokens.tolist() == whole.tokens.tolist()


def test_the_seed_decides():
    model = tiny_models.model(causal=False)
    ids, mask = tiny_models.prompts([6, 3])
    first, again, other = (
        generate(EagerEngine(model), ids, mask, seed=seed, temperature=1.0).tokens.tolist() for seed in (0, 0, 1)
    )
    assert first == again != other


def test_a_mask_inside_a_prompt_is_left_alone():
    ids, _ = tiny_models.prompts([4])
    ids[0, 2] = MASK
    engine = FixedLogits(flat(t9=1.0))
    generate(engine, ids, None)
    assert all(canvas[0, 2] == MASK for canvas in engine.canvases)
    assert PAD not in generate(FixedLogits(flat(t9=1.0)), ids, None).tokens
