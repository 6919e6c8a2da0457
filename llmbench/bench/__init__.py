"""How far from the limit are both decoders on this GPU, and how far are the loops that others publish with?

`python -m llmbench.bench` (or `make bench`) measures 8B models with dummy weights and writes a page that can be rebuilt
from its JSON alone. `cases` says what is measured and where the bars are; `floor` is the limit that ratios stand on;
`official` is the slow reference for LLaDA; `measure` takes the samples; `page` turns them into text and a picture.
"""
