"""The page of what drafts cost: ratios by round, and the tokens that a step must write."""

from benchmarks.draft_costs import markdown


def test_a_step_needs_as_many_tokens_as_it_costs_plain_steps_and_no_more_than_it_can_write():
    samples = {
        "plain": [4.0, 5.0, 4.0, 5.0, 4.0, 5.0],
        "verify 2": [6.0, 7.5, 6.0, 7.5, 6.0, 7.5],  # 1.5 plain steps in every round
        "lookup 8": [8.0, 10.0, 8.0, 10.0, 8.4, 10.5],
    }
    environment = {
        "device_name": "X",
        "versions": {},
        "git_commit": None,
        "git_dirty": None,
        "driver": None,
        "python": "3",
    }
    results = {"environment": environment, "rows": {"1": samples}, "smoke": False, "dtype": "bfloat16", "prompt": 128,
               "canvas": 256, "command": "c", "date": "2026-11-30T00:00:00"}  # fmt: skip
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in markdown(results).splitlines() if "|" in line
    ]
    assert rows[2] == ["1", "plain", "4.500", "1", "-", "-"]
    assert rows[3] == ["1", "verify 2", "6.750", "1.500 [1.500, 1.500]", "1.50", "more than 2"]
    assert rows[4] == ["1", "lookup 8", "9.200", "2.000 [2.000, 2.100]", "2.00", "3.00"]
