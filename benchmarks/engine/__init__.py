"""How far from the limit are both decoders on this GPU, and how far are the loops that others publish with?

`python -m benchmarks.engine` (or `make bench`) measures 8B models with dummy weights and writes a page that can be
rebuilt from its JSON alone. `cases` says what is measured and where the bars are, `models` of what; `floor` is the
limit; `official` and `official_model` are the slow reference for LLaDA; `measure` takes the samples, in the turns that
`turns` describes; `page` turns them into text and a picture. `load` measures how fast weights come from a disk.
With `--vllm PYTHON` vLLM takes turns with our LLaMA: `vllm_rows` takes the samples, `vllm_process` runs `vllm_script`
under that interpreter, `vllm_page` says what came out.
"""
