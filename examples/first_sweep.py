"""A sweep from Python.

    python examples/first_sweep.py

Eight prompts decide nothing: the verdict says so. Take more (`"prompts": 52`) and the whole canvas (64) for an answer.
"""

import llmbench

sweep = llmbench.sweep(
    model=["llama", "llada"],
    steps=[4, 8, 16],
    canvas=16,
    workload={"prompts": 8},
    metric={"likelihood": False},
)
print(sweep.parity())

frame = sweep.to_frame()
print(frame[["label", "latency/e2e_ms", "quality/perplexity", "quality/entropy"]].to_string(index=False))

sweep.figure("parity").savefig("parity.pdf")
print(f"wrote parity.pdf; everything else is in {sweep.folder}")
