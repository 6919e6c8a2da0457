"""Completion in a real bash, as the installed script offers it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(sys.executable).with_name("llmbench")

PROGRAM = """
eval "$(llmbench -sc install=bash)"
complete -p llmbench > /dev/null || exit 3
for line in "$@"; do
    COMP_LINE=$line; COMP_POINT=${#line}; words=($line); COMP_CWORD=$((${#words[@]} - 1))
    [[ $line == *" " ]] && COMP_CWORD=${#words[@]}
    COMPREPLY=(); hydra_bash_completion; echo "${COMPREPLY[*]}"
done
"""


@pytest.mark.skipif(not SCRIPT.exists() or shutil.which("bash") is None, reason="needs bash and the installed script")
def test_bash_completes_commands_keys_and_choices():
    lines = ["llmbench rep", "llmbench model=ll", "llmbench st", "llmbench -m workload=cont", "llmbench report fr"]
    environment = os.environ | {"PATH": f"{SCRIPT.parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", PROGRAM, "bash", *lines], capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    command, model, key, workload, table = (line.split() for line in done.stdout.splitlines())
    assert command == ["report"]
    assert model == [f"model={name}" for name in ("llada", "llada_server", "llama", "llama_generate", "llama_server")]
    assert key == ["steps="]
    assert workload == ["workload=continuation"]
    assert table == ["frontier"]
