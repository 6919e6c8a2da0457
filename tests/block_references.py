"""Block diffusion and self-speculation as described, for one row at T = 0: slow, and exact by construction.

Every forward reads the whole sequence under an explicit matrix of what sees what, so there is no cache that could be
wrong. Nothing of llmbench or Transformers is in it. A decoder takes `logits(ids, sees)`: ids is a list of S tokens,
sees [S, S] bool (query, key), and the answer [S, V]. It returns the tokens that it wrote and the forwards that it took;
the last of a decoder in blocks reads a final block only to write its keys and values, which here changes nothing.

A block never sees what comes behind it. So tokens up to the first end token are the same whether a decoder stops there,
as the published ones do, or goes on, as these do: only the number of forwards differs.

Sources: generate.py of JetAstra/SDAR; modeling.py of Efficient-Large-Model/Fast_dLLM_v2_7B; bd3lm.py of ZHZisZZ/dllm;
modeling_nemotron_labs_diffusion.py of nvidia/Nemotron-Labs-Diffusion-8B; YaRN: arXiv 2309.00071.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch

Logits = Callable[[list[int], torch.Tensor], torch.Tensor]


class Written(NamedTuple):
    """What a decoder made."""

    tokens: list[int]  # behind the prompt
    forwards: int  # all that read new tokens, behind the one that reads the prompt
    commits: int  # of these: that read a final block


# ---- the model


class Transformer:
    """The forward pass of one row over weights by name: Llama's blocks, with what Qwen and Ministral add to them."""

    def __init__(
        self, state, names, *, layers, heads, kv_heads, size, theta, eps, yarn=None, query_scale=0.0, original=0
    ):
        """Set up.

        Args:
            state: tensors by their stored name; biases and norms of queries and keys are used where there are some.
            names: the stored name of "embed", "norm", "head", and with {i} for the layer of "norm1", "q", ...
            layers: of blocks.
            heads: of queries.
            kv_heads: of keys and values.
            size: of a head; heads * size may differ from the width.
            theta: base of the rotation.
            eps: of the norms.
            yarn: factor, beta_fast, beta_slow, mscale, mscale_all_dim of the rotation; None: no YaRN.
            query_scale: b of 1 + b ln(1 + floor(position / original)), which multiplies rotated queries.
            original: length before it was extended, for YaRN and the scale of queries.
        """
        self.state, self.names, self.layers, self.heads, self.kv_heads = state, names, layers, heads, kv_heads
        self.size, self.theta, self.eps, self.yarn = size, theta, eps, yarn
        self.query_scale, self.original = query_scale, original

    def linear(self, x, part, i):
        name = self.names[part].format(i=i)
        return x @ self.state[f"{name}.weight"].T + self.state.get(f"{name}.bias", 0.0)

    def normed(self, x, name):
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + self.eps) * self.state[name]

    def frequencies(self):
        """Radians per position of each pair, [size / 2], and what multiplies cosine and sine."""
        pairs = torch.arange(self.size // 2)
        plain = self.theta ** (-2 * pairs / self.size)
        if self.yarn is None:
            return plain, 1.0

        def pair_with(turns):  # the pair that makes so many turns within the original length
            return self.size * math.log(self.original / (turns * 2 * math.pi)) / (2 * math.log(self.theta))

        low = max(math.floor(pair_with(self.yarn["beta_fast"])), 0)
        high = min(math.ceil(pair_with(self.yarn["beta_slow"])), self.size - 1)
        slow = ((pairs - low) / max(high - low, 0.001)).clamp(0, 1)  # 0: kept, 1: slowed down by the factor

        def grown(mscale):
            return 0.1 * mscale * math.log(self.yarn["factor"]) + 1

        return plain * (1 - slow) + plain / self.yarn["factor"] * slow, grown(self.yarn["mscale"]) / grown(
            self.yarn["mscale_all_dim"]
        )

    def rotated(self, x, positions):
        """[S, heads, size]: the first half of a head is the real part, the second the imaginary one."""
        radians, factor = self.frequencies()
        angles = positions[:, None] * radians  # in float32, as published
        cos, sin = ((f(angles) * factor)[:, None] for f in (torch.cos, torch.sin))
        real, imaginary = x.chunk(2, -1)
        return torch.cat([real * cos - imaginary * sin, imaginary * cos + real * sin], -1)

    def logits(self, ids, sees=None, positions=None):
        """[S, V] of ids [S]; sees [S, S] bool, None: all see all; positions [S], None: 0, 1, ..."""
        ids = torch.as_tensor(ids)
        positions = torch.arange(len(ids)) if positions is None else positions
        hidden = torch.zeros(len(ids), len(ids)) if sees is None else torch.where(sees, 0.0, -math.inf)
        x = self.state[self.names["embed"]][ids]
        for i in range(self.layers):
            n = self.normed(x, f"{self.names['norm1'].format(i=i)}.weight")
            q, k, v = (self.linear(n, part, i).view(len(ids), -1, self.size) for part in "qkv")
            if "q_norm" in self.names:
                q, k = (
                    self.normed(p, f"{self.names[f'{n}_norm'].format(i=i)}.weight") for p, n in ((q, "q"), (k, "k"))
                )
            q, k = self.rotated(q, positions), self.rotated(k, positions)
            if self.query_scale:
                q = q * (1 + self.query_scale * torch.log(1 + positions // self.original))[:, None, None]
            mixed = []
            for head in range(self.heads):
                other = head * self.kv_heads // self.heads
                weights = torch.softmax(q[:, head] @ k[:, other].T / math.sqrt(self.size) + hidden, -1)
                mixed.append(weights @ v[:, other])
            x = x + self.linear(torch.cat(mixed, -1), "o", i)
            n = self.normed(x, f"{self.names['norm2'].format(i=i)}.weight")
            gate = self.linear(n, "gate", i)
            x = x + self.linear(gate * torch.sigmoid(gate) * self.linear(n, "up", i), "down", i)
        return self.normed(x, self.names["norm"]) @ self.state[self.names["head"]].T


# ---- what sees what: [S, S] bool, query and key


def causal(length):
    return torch.ones(length, length, dtype=torch.bool).tril()


def block_causal(length, block, first=0):
    """Blocks see themselves and all before them; the first has `first` positions, 0: as many as the others."""
    number = (torch.arange(length) + (-first % block)) // block
    return number[None] <= number[:, None]


def causal_context(length, start):
    """Causal up to `start`; from there on a block that sees itself both ways, and all before it."""
    sees = causal(length)
    sees[start:] = True
    return sees


# ---- what a step makes final


def proposals(logits, mask_id, mask_in_softmax=True):
    """The most probable token but the mask, [S], and its probability, [S] float64.

    Args:
        logits: [S, V].
        mask_id: which is never proposed.
        mask_in_softmax: whether the mask token has a share of the probability all the same.
    """
    without = logits.double().clone()
    without[:, mask_id] = -math.inf
    tokens = without.argmax(-1)
    odds = torch.softmax(logits.double() if mask_in_softmax else without, -1)
    return tokens, odds.gather(-1, tokens[:, None])[:, 0]


def surest(confidence, places, count):
    """The `count` places of most confidence; of equal ones the leftmost."""
    return sorted(places, key=lambda place: (-confidence[place].item(), place))[:count]


def even(total, steps):
    """`total` over steps, the remainder first."""
    return [total // steps + (step < total % steps) for step in range(steps)]


def masked(ids, mask_id, start, end):
    return [place for place in range(start, end) if ids[place] == mask_id]


# ---- decoders


def autoregressive(logits: Logits, prompt: list[int], *, canvas: int) -> Written:
    """One token after another."""
    ids = list(prompt)
    for _ in range(canvas):
        ids.append(logits(ids, causal(len(ids)))[-1].argmax().item())
    return Written(ids[len(prompt) :], canvas - 1, 0)


def sdar(logits: Logits, prompt: list[int], *, canvas: int, block: int, steps: int, mask_id: int,
         threshold: float | None = None) -> Written:  # fmt: skip
    """SDAR: blocks counted from the row's first token, so the first one that is written may begin inside the prompt.

    A step makes its share of an even schedule final (static), or all that are surer than the threshold where these are
    more (dynamic). The schedule is that of a whole block; a shorter one ends sooner.

    Args:
        logits: of the model.
        prompt: tokens.
        canvas: tokens to write; the last block is denoised as a whole, and what is beyond is dropped.
        block: length.
        steps: of a whole block.
        mask_id: token.
        threshold: of the dynamic rule; None: static.
    """
    ids, forwards, commits = list(prompt), 0, 0
    while len(ids) < len(prompt) + canvas:
        start = len(ids) // block * block
        ids += [mask_id] * (start + block - len(ids))
        for share in even(block, steps):
            places = masked(ids, mask_id, start, start + block)
            if not places:
                break
            tokens, confidence = proposals(logits(ids, block_causal(len(ids), block)), mask_id)
            forwards += 1
            chosen = surest(confidence, places, share)
            if threshold is not None:
                sure = [place for place in places if confidence[place] > threshold]
                chosen = sure if len(sure) >= share else chosen
            for place in chosen:
                ids[place] = tokens[place].item()
        commits += 1
    return Written(ids[len(prompt) : len(prompt) + canvas], forwards + commits, commits)


def bd3lm(logits: Logits, prompt: list[int], *, canvas: int, block: int, steps: int, mask_id: int) -> Written:
    """dllm's BD3LM: blocks begin behind the prompt; those of the prompt end with it, so its first may be short.

    A step from time t to s makes masks left x (1 - s / t) final, the quotient in float32, rounded to the nearest; steps
    of none are left out. Args as in `sdar`; the last block is only as long as the canvas.
    """
    ids, forwards, commits, first = list(prompt), 0, 0, len(prompt) % block
    while len(ids) < len(prompt) + canvas:
        start = len(ids)
        ids += [mask_id] * min(block, len(prompt) + canvas - start)
        for left in range(steps, 0, -1):
            places = masked(ids, mask_id, start, len(ids))
            s, t = torch.tensor([left - 1, left], dtype=torch.float64).div(steps).float()
            kept = ((1 - (1 - s)) / (1 - (1 - t))).item()
            share = int(torch.tensor(len(places) * (1 - kept), dtype=torch.float64).round())
            if share == 0:
                continue
            tokens, confidence = proposals(logits(ids, block_causal(len(ids), block, first)), mask_id)
            forwards += 1
            for place in surest(confidence, places, share):
                ids[place] = tokens[place].item()
        commits += 1
    return Written(ids[len(prompt) :], forwards + commits, commits)


def fast_dllm(logits: Logits, prompt: list[int], *, canvas: int, block: int, part: int, threshold: float,
              mask_id: int) -> Written:  # fmt: skip
    """Fast-dLLM v2: blocks counted from the row's first token, predicted from one position before.

    The first token of a block is the most probable one behind the last position of the final block before it. The
    others are predicted inside their block, part after part from the left: in the part that has masks, all that are
    surer than the threshold and always the surest become final.

    Args:
        logits: of the model.
        prompt: tokens, one at least.
        canvas: tokens to write; the last block is denoised as a whole, and what is beyond is dropped.
        block: length.
        part: length of the parts of a block.
        threshold: probability.
        mask_id: token.
    """
    ids, forwards, commits = list(prompt), 0, 0
    while len(ids) < len(prompt) + canvas:
        start = len(ids) // block * block
        if start == len(ids):  # the forward that read the block before, final, predicts it
            last = logits(ids, block_causal(len(ids), block))[-1:]
            ids.append(proposals(last, mask_id)[0].item())
        ids += [mask_id] * (start + block - len(ids))
        for begin in range(start, start + block, part):
            while places := masked(ids, mask_id, begin, begin + part):
                found = logits(ids, block_causal(len(ids), block))
                tokens, confidence = proposals(found.roll(1, 0), mask_id)
                forwards += 1
                for place in places:
                    if confidence[place] > threshold or place == surest(confidence, places, 1)[0]:
                        ids[place] = tokens[place].item()
        commits += 1
    return Written(ids[len(prompt) : len(prompt) + canvas], forwards + commits, commits)


def nemotron(logits: Logits, prompt: list[int], *, canvas: int, block: int, mask_id: int,
             threshold: float | None = None, steps: int | None = None, seeded: bool = True,
             mask_in_softmax: bool = True) -> Written:  # fmt: skip
    """Nemotron-Labs-Diffusion: blocks begin behind the prompt, and a block sees itself both ways while it is written.

    The prompt and all final blocks are causal, so the forward that reads them also predicts the next token: it is the
    first of the next block (`seeded`; vLLM's decoder begins with masks alone). Then either all that reach the threshold
    and always the surest become final, or ceil(masks left / steps left) at every step.

    Args:
        logits: of the model.
        prompt: tokens.
        canvas: tokens to write.
        block: length; the last block is only as long as the canvas.
        mask_id: token.
        threshold: probability; None: `steps` decides.
        steps: of a block; None: as many as it has positions.
        seeded: see above.
        mask_in_softmax: as in `proposals`.
    """
    ids, forwards, commits = list(prompt), 0, 0
    while len(ids) < len(prompt) + canvas:
        start = len(ids)
        if seeded:
            ids.append(proposals(logits(ids, causal(start))[-1:], mask_id)[0].item())
        ids += [mask_id] * (min(start + block, len(prompt) + canvas) - len(ids))
        left = steps or block
        while places := masked(ids, mask_id, start, len(ids)):
            found = logits(ids, causal_context(len(ids), start))
            tokens, confidence = proposals(found, mask_id, mask_in_softmax)
            forwards += 1
            chosen = surest(confidence, places, 1 if threshold is not None else math.ceil(len(places) / left))
            left -= 1
            if threshold is not None:
                chosen += [place for place in places if confidence[place] >= threshold]
            for place in chosen:
                ids[place] = tokens[place].item()
        commits += 1
    return Written(ids[len(prompt) :], forwards + commits, commits)


def self_speculation(logits: Logits, prompt: list[int], *, canvas: int, block: int, mask_id: int) -> Written:
    """Nemotron-Labs-Diffusion as its own drafter: a bidirectional forward drafts, a causal one verifies.

    The block is the token that is known already and masks. All masks are filled at once; the causal forward's choice
    behind position i is accepted as long as the draft had the same, and once more where it had another.

    Args:
        logits: of the model.
        prompt: tokens.
        canvas: tokens to write.
        block: length; the known token and the draft.
        mask_id: token, never drafted.
    """
    ids = list(prompt)
    ids.append(logits(ids, causal(len(ids)))[-1].argmax().item())
    forwards = commits = 0
    while len(ids) < len(prompt) + canvas:
        start = len(ids) - 1
        tried = ids + [mask_id] * (block - 1)
        drafted, _ = proposals(logits(tried, causal_context(len(tried), start)), mask_id)
        tried = ids + drafted[start + 1 :].tolist()
        choices = logits(tried, causal(len(tried))).argmax(-1).tolist()
        forwards, commits = forwards + 2, commits + 1
        accepted = 0
        while accepted < block - 1 and choices[start + accepted] == tried[start + accepted + 1]:
            accepted += 1
        ids += choices[start : start + accepted + 1]
    return Written(ids[len(prompt) : len(prompt) + canvas], forwards, commits)
