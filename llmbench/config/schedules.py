"""How many tokens of a block does each denoising step make final?"""

import functools

TIMESTEP_EPSILON = 1e-3
"""The time at which the last step ends, in Dream's code and its published numbers."""


def even(masked: int, steps: int) -> list[int]:
    """How many tokens each of `steps` steps makes final: as even as possible, the remainder in the first steps.

    10 tokens in 4 steps are 3, 3, 2, 2, as in the official LLaDA sampler. With more steps than tokens the tail is 0;
    those steps still run a forward.
    """
    each, rest = divmod(masked, steps)
    return [each + (step < rest) for step in range(steps)]


def rounded(masked: int, steps: int) -> list[int]:
    """How many tokens each of `steps` steps makes final in dllm's sampler for blocks: left * (1 - s / t), rounded.

    Steps go from time t to time s, from 1 to 0 at equal distances (ZHZisZZ/dllm, core/samplers/utils.py and
    core/schedulers/alpha.py, the linear one). 10 tokens in 4 steps are 2, 3, 2, 3. The quotient is one of float32 as
    there, so that exact halves fall to either side: 32 tokens in 12 steps begin with five times 3.
    """
    import numpy as np

    one, counts = np.float32(1), list[int]()
    for left in range(steps, 0, -1):
        start, end = np.float32(left / steps), np.float32((left - 1) / steps)
        share = 1 - float((one - (one - end)) / (one - (one - start)))
        counts.append(min(masked, round(masked * share)))
        masked -= counts[-1]
    return counts


def at_least(schedule: list[int], each: int) -> list[int]:
    """A schedule that makes at least `each` tokens final in every step, until none is left.

    4, 4, 4, 4 with at least 6 is 6, 6, 4.
    """
    left, counts = sum(schedule), list[int]()
    for count in schedule:
        if left:
            counts.append(min(left, max(each, count)))
            left -= counts[-1]
    return counts


@functools.cache
def chances(steps: int) -> tuple[float, ...]:
    """The share of what is masked that each step makes final: 1 - s / t from time t to time s, and 1 in the last step.

    The times are `steps` + 1 values from 1 to 0.001 at equal distances (Dream-org/Dream-v0-Instruct-7B,
    generation_utils.py). They and the quotient are rounded to float32 as there, with the product and sum of a time
    rounded once, as torch's linspace does: shares of a block are cut to whole tokens, and some lie next to one.
    """
    import numpy as np

    first, last = np.float32(1), np.float32(TIMESTEP_EPSILON)
    width = float((last - first) / np.float32(steps))
    rising = [1 + width * i if i < (steps + 1) // 2 else float(last) - width * (steps - i) for i in range(steps + 1)]
    times = np.array(rising).astype(np.float32)
    shares = np.float32(1) - times[1:] / times[:-1]
    return (*map(float, shares[:-1]), 1.0)


def over_timesteps(masked: int, steps: int) -> list[int]:
    """How many tokens each of `steps` steps makes final in Dream's code: int(left * (1 - s / t)), all in the last step.

    10 tokens in 4 steps are 2, 2, 2, 4. As many steps as tokens make none final in the first and two in the last.
    """
    import numpy as np

    counts = list[int]()
    for share in chances(steps):
        counts.append(int(np.float32(masked) * np.float32(share)))
        masked -= counts[-1]
    return counts
