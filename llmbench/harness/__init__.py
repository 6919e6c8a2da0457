"""How do our decoders do on the tasks of lm-evaluation-harness? Its tasks and graders, our model.

`python -m llmbench eval` is lm-eval's own command line with one more model, `llmbench`. The harness asks for texts
and for log-likelihoods; `adapter` speaks its language, `side` does the work and needs nothing of it. lm-eval is an
optional extra (`pip install "llmbench[lm-eval]"`); no other room imports it.
"""
