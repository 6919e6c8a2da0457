"""What is a model here? Transformers' own blocks (`llama`), made fast (`engine`), and counted (`architecture`).

Nothing in this room knows checkpoints' names, decoders or clocks. `llmbench.checkpoints` puts the parts together.
"""
