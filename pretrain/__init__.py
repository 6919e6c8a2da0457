"""How were the bundled models made, and can I make them again? From the text of ordinary packages to four checkpoints.

The benchmark needs a pair of models that differ in one thing only: how they generate. So both are the same
Transformer, of the same size, on the same text and tokenizer; one learns to predict the next token, the other to fill
masks. A third of that size does both, from one set of weights. A fourth, larger one judges their text. This package is
the whole recipe; nothing in the benchmark imports it.

    corpus/        the text, with its sources and licences
    recipe.py      the four models, as data
    tokenizer.py   text -> a byte-level BPE of 8,192 entries
    data.py        text -> one stream of token ids -> batches
    objective.py   a batch -> what the model is asked, and what its answer costs
    joint.py       the same for both ways to generate at once, the diffusion in blocks
    tasks.py       a recipe -> its questions in training and at an evaluation
    schedule.py    how far a training is, and its learning rate there
    options.py     what may differ between machines
    train.py       the loop: steps, evaluations, checkpoints
    export.py      a run -> a Hugging Face directory
    measure.py     an exported checkpoint of several modes -> its numbers, as the benchmark counts them
    card.py        a run -> its model card

Run it with ``python -m pretrain all``; every stage is also a command of its own (``python -m pretrain --help``).
"""
