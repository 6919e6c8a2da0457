"""Are things called what the field calls them?

    python checks/words.py [FOLDER]

Prints every module, class, function and public module-level name under `llmbench/` (but for `analysis/`) that bears a
word which was replaced, and every docstring that names its callers. Exit code 1 where there is one.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

REPLACED = {
    "books": "state",
    "claim": "acquire",
    "keep": "running",
    "close_dead": "abort_orphans",
    "looks": "planned_analyses",
    "Look": "AnalysisPlan",
    "Taken": "PastAnalysis",
    "wording": "sentences",
    "Told": "what it is",
    "findings": "sentences",
    "evidence": "checks",
    "summaries": "likelihood_table, test_details_table",
    "rows": "cells",
    "served": "server",
    "wire": "openai_client",
    "endpoint": "server",
    "Server": "ServerConfig",
    "tested": "parity_test",
    "judge": "run_test, or load_judge for the model",
    "task": "job_task",
    "Outcome": "JobResult",
    "bounded": "sandbox",
    "rehearse": "sandbox",
    "likeliest": "greedy",
    "parallelism": "aup",
    "place": "store_uri",
    "content": "run_payload",
    "samples": "paired_sums",
    "comparable": "grouping",
    "ground": "shared_conditions",
    "apart": "is_external_server",
    "condition_sets": "comparison_groups",
    "heed": "install_signal_handlers",
    "check": "raise_if_stopped, or what is checked",
    "let_go": "discard_output",
    "say": "emit",
    "neighbours": "warn_parallel_launcher",
    "require_sense": "reject_ambiguous",
    **dict.fromkeys(("TOLD", "SHORT", "BESIDE", "WHOLE", "said", "own", "found", "told", "odd"), "what it is"),
    "heats": "temperatures",
    "narrow": "quantization",
    "generated": "generation_result",
    "Generated": "GenerationResult",
    "Generation": "GeneratedBatch",
    "scale": "pair",
    "same_hardware": "trust_same_hardware",
    "marked_repeats": "token_timing_repeats",
    "forced_tokens_per_forward": "fixed_tokens_per_forward",
}
"""Old word -> new word, as it is written: a configuration may have a `scale`, and a class `Scale` is another word."""

ORDINARY = {"keep", "rows", "place", "content", "samples", "judge", "check", "claim", "own", "found"}
"""Of these, what a file calls so for itself (`_rows` of a tensor) is right: only public names are refused."""

CALLERS = re.compile(
    r"\b(called (only )?by|is the caller|are the callers|calls? (it|them) (with|for|before|after))\b", re.I
)
"""Phrases with which a docstring names its callers, who change without it."""

EXEMPT = "analysis"


def names(tree: ast.Module) -> Iterator[tuple[int, str, str]]:
    """Line, kind and name of every class and function, and of every public name that a module assigns.

    Fields are left out, properties too: a workload's `task` and a Protocol that reads it bear the file's own key.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield node.lineno, "class", node.name
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not any(
            isinstance(decorator, ast.Name) and decorator.id == "property" for decorator in node.decorator_list
        ):
            yield node.lineno, "function", node.name
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
        for target in targets:
            if isinstance(target, ast.Name) and not target.id.startswith("_"):
                yield node.lineno, "name", target.id


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of every string that stands alone: docstrings, and what is said below a constant."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value


def problems(package: Path) -> Iterator[str]:
    """One line for each replaced word and each docstring that names its callers."""
    for path in sorted(package.rglob("*.py")):
        room, *rest = path.relative_to(package).with_suffix("").parts
        if room == EXEMPT:
            continue
        module = rest[-1] if rest and rest[-1] != "__init__" else ""
        for part in {room, module, *rest[:-1]} & REPLACED.keys():
            yield f"{path}:1: module {part}: say {REPLACED[part]}"
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for line, kind, name in names(tree):
            word = name.lstrip("_")
            if word in REPLACED and (word == name or word not in ORDINARY):
                yield f"{path}:{line}: {kind} {name}: say {REPLACED[word]}"
        for line, text in docstrings(tree):
            if phrase := CALLERS.search(text):
                yield f"{path}:{line}: docstring names its callers ({phrase[0]!r}): say what it does"


def main() -> int:
    """Print what is wrong; 1 if anything is."""
    package = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "llmbench"
    found = list(problems(package))
    print("\n".join(found) or "words: every name says what it is")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
