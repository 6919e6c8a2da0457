#!/usr/bin/env bash
# A server beside both sides:  examples/beside_a_server.sh http://localhost:8000/v1
# Start it first, without prefix caching: vllm serve MODEL --no-enable-prefix-caching --generation-config vllm
# Its times are wall clock with HTTP. It is a row of the table, and no side of the verdict unless you say
# server.trust_same_hardware=true: it runs on this device and serves the checkpoint of model=llama, unquantized.
set -euo pipefail

llmbench -m model=llama,llama_server,llada steps=4,8 canvas=16 temperature=0 \
    server.url="$1" workload.prompts=8 metric.likelihood=false
