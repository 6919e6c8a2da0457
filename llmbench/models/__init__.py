"""What is a model here? Transformers' blocks (`llama`), run as they are (`engine`) or fast (`fused`), and counted.

`fused` stands on `blocks` (its weights), `kernels` (what is between two matrix products) and `graphs` (a step as one
CUDA graph); `architecture` counts the work of a forward. Nothing in this room knows checkpoints' names, decoders or
clocks.
"""
