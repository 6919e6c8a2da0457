#!/usr/bin/env bash
# Prompts of your own: only "prompt" is needed. "reference" is what a human wrote there (BERTScore), "document" says where a
# prompt was taken from: prompts of one document are not independent, and the verdict counts them as a cluster.
set -euo pipefail

cat > prompts.jsonl <<'END'
{"prompt": "The children ran to the window and saw", "reference": "that it had snowed in the night.", "document": "winter"}
{"prompt": "Their mother opened the door and said", "reference": "that breakfast was ready.", "document": "winter"}
{"prompt": "At the market she bought bread, cheese and", "reference": "a basket of apples.", "document": "market"}
{"prompt": "The old captain looked at the sky and said", "reference": "that a storm was coming.", "document": "harbour"}
END

llmbench -m model=llama,llada steps=4,8 canvas=16 \
    workload=jsonl workload.source=prompts.jsonl workload.prompts=4 workload.instructions=false \
    metric.likelihood=false
llmbench report html -o own_prompts.html
