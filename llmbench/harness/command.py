"""`llmbench eval run --model llmbench --model_args model=llada,steps=64 --tasks gsm8k`: see the package.

lm-eval 0.4.13 finds models in a table inside its package and has no entry point for others, so its command line is
started from here, after the model has been added to that table. All options are lm-eval's own.
"""

import importlib.util
import os
import sys

from llmbench.errors import LlmbenchError, UsageError


def main(arguments: list[str]) -> int:
    """Run lm-eval's command line; returns the exit code."""
    try:
        if importlib.util.find_spec("lm_eval") is None:
            raise UsageError('lm-eval is not installed; pip install "llmbench[lm-eval]"')
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        from lm_eval.__main__ import cli_evaluate

        from llmbench.harness import adapter  # noqa: F401  (adds the model)

        sys.argv = ["llmbench eval", *arguments]
        cli_evaluate()
    except LlmbenchError as error:
        print(f"llmbench eval: {error}", file=sys.stderr)
        return error.exit_code
    return 0
