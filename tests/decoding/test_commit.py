"""The surest candidates become final: against a plain loop over rows."""

import pytest
import torch

from llmbench.decoding import rules
from llmbench.decoding.commit import commit_


def slowly(canvas, opened, left, done, counts, tokens, confidence, rule):
    """A row at a time, as a reader would do it."""
    for row in range(canvas.shape[0]):
        candidates = list(range(int(left[row])))
        order = sorted(candidates, key=lambda i: (-float(confidence[row, i]), i))
        more = 0
        if isinstance(rule, rules.Threshold):
            more = sum(float(confidence[row, i]) >= rule.threshold for i in candidates)
        if isinstance(rule, rules.Factor):
            while more < len(order) and float(confidence[row, order[more]]) >= 1 - rule.factor / (more + 2):
                more += 1
        count = min(max(more, int(counts[int(done[row])])), int(left[row]))
        where = opened[row].tolist()
        for i in order[:count]:
            canvas[row, where[i]] = tokens[row, i]
        still = sorted(where[i] for i in order[count:])
        others = sorted(set(where[: tokens.shape[1]]) - set(still))
        opened[row, : tokens.shape[1]] = torch.tensor(still + others)
        left[row] -= count
        done[row] = min(int(done[row]) + 1, len(counts) - 1)


def state(rows, block, masked, size, seed, device="cpu"):
    generator = torch.Generator().manual_seed(seed)
    canvas = torch.full((rows, block + 9), 99)
    shuffled = torch.stack([torch.randperm(block, generator=generator) for _ in range(rows)]) + 4
    opened = torch.stack([torch.cat([row[:m].sort().values, row[m:]]) for row, m in zip(shuffled, masked, strict=True)])
    tokens = torch.randint(0, 50, (rows, size), generator=generator)
    confidence = torch.randint(0, 12, (rows, size), generator=generator) / 11  # with many equals
    left = torch.tensor(masked)[:, None]
    done = torch.full((rows, 1), 1)
    counts = torch.tensor([3, 2, 2])
    return [part.to(device) for part in (canvas, opened, left, done, counts, tokens, confidence)]


CASES = [(1, 8, [5], 8), (3, 8, [5, 8, 0], 8), (2, 32, [1, 20], 20), (2, 7, [3, 6], 6)]
RULES = [rules.Scheduled(), rules.Threshold(0.6), rules.Factor(1.0)]


@pytest.mark.parametrize(("rows", "block", "masked", "size"), CASES)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("seed", range(5))
def test_the_surest_become_final_and_the_rest_stays_listed(rows, block, masked, size, rule, seed):
    expected, found = state(rows, block, masked, size, seed), state(rows, block, masked, size, seed)
    for _ in range(3):
        slowly(*expected, rule)
        commit_(*found, rule)
        for a, b in zip(expected, found, strict=True):
            assert torch.equal(a, b)
