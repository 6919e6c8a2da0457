#!/usr/bin/env bash
# A gate for CI:  examples/regression_gate.sh SWEEP_THAT_WAS_KEPT
# Runs the same sweep again and ends with 1 when a time or a quality is surely worse by more than 5 %, with 3 when it
# cannot be told (a busy CPU, say). On a machine of your own, keep the newest sweep of each release as the one to compare with.
set -euo pipefail
before=$1

llmbench -m model=llama,llada steps=4,8 canvas=16 workload.prompts=8 metric.likelihood=false
after=$(ls -d multirun/*/ | tail -1)

llmbench report compare "$before" "$after" --fail-if-worse=5%
