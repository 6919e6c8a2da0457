"""What happens between the shell and the first job: help, Hydra, and every error as one line with an exit code.

`--help` is made from `conf/` and imports nothing heavy. Everything else is Hydra's command line (`-m`, `key=value`,
`--cfg job`, `--config-dir`, ...). Hydra reports errors over many lines and exits by itself; here they come out as
exceptions (HYDRA_FULL_ERROR) and are told in one line that says what to change. Exit codes: see `llmbench.errors`; 130
after Ctrl-C.
"""

import difflib
import os
import re
import sys
from pathlib import Path
from typing import Any

import llmbench
from llmbench.errors import LlmbenchError, UsageError

_PACKAGE = Path(__file__).parent


def conf_folder() -> Path:
    """Where the YAML groups lie: beside the package in a checkout, inside it when installed from a wheel."""
    beside = _PACKAGE.parent / "conf"
    return beside if (beside / "config.yaml").is_file() else _PACKAGE / "conf"


def main() -> None:
    """Run the command line and exit the process with its code."""
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        print(help_page())
        return
    if "--version" in arguments:
        print(f"llmbench {llmbench.__version__}")
        return
    try:
        _run_hydra()
    except SystemExit as stop:
        if not isinstance(stop.code, LlmbenchError):
            raise
        _exit(str(stop.code), stop.code.exit_code)
    except LlmbenchError as error:
        _exit(str(error), error.exit_code)
    except KeyboardInterrupt:
        _exit("interrupted; finished jobs are kept, the same command goes on from there", 130)
    except Exception as error:
        line = explain(error)
        if line is None or os.environ.get("LLMBENCH_TRACEBACK"):
            raise
        _exit(line, UsageError.exit_code)


def _exit(message: str, code: int) -> None:
    print(f"llmbench: {message}", file=sys.stderr)
    sys.exit(code)


def _run_hydra() -> None:
    """Hand over to Hydra; it composes the configuration and calls `task` or the sweeper."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise, so that `main` can say it in one line
    import hydra

    from llmbench.task import task

    hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")(task)()


def explain(error: Exception) -> str | None:  # noqa: PLR0911  (a table of patterns reads best as one)
    """Hydra's or OmegaConf's error as one line that says what to change; None for an error that is not the user's."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    if not type(error).__module__.startswith(("hydra", "omegaconf", "yaml")):
        return None
    text = str(error)
    first = " ".join(text.splitlines()[0].split())
    choice = re.search(r"Could not find '(.+)/([^/']+)'", text)
    options = re.findall(r"^\t(.+)$", text.partition("Config search path")[0], flags=re.MULTILINE)
    if choice and options:
        return f"{choice[1]}={choice[2]}: no such choice; available: {', '.join(options)}"
    if key := re.search(r"Could not (?:override|delete)(?: from config)?[^']*'([^']+)'", text):
        return f"{key[1]}: no such key or group{_suggest(key[1])}; see --help"
    if ambiguous := re.search(r"Ambiguous value for argument '([^']+)'", text):
        return f"{ambiguous[1]} is a sweep: add -m (python -m llmbench -m ...)"
    if type(error).__name__ == "OverrideParseException":
        return f"{first}; an override is key=value"
    return first


def _suggest(key: str) -> str:
    import yaml

    names = set(re.findall(r"^(\w+):", (conf_folder() / "config.yaml").read_text(), flags=re.M)) | set(groups())
    first = key.split(".", maxsplit=1)[0].lstrip("+~")
    close = difflib.get_close_matches(first, sorted(names - {"defaults", "hydra"}), n=1)
    if close and close[0] == first:  # the group is right; the key may lie at another depth of it
        last = key.rpartition(".")[2]
        files = (conf_folder() / first).glob("*.yaml")
        known = {f"{first}.{inner}" for path in files for inner in _keys(yaml.safe_load(path.read_text()))}
        meant = sorted(inner for inner in known if inner.rpartition(".")[2] == last)
        return f"; did you mean {meant[0]}?" if meant and key not in meant else ""
    return f"; did you mean {close[0]}?" if close else ""


def _keys(tree: Any) -> list[str]:
    """Dotted keys of the values in a tree of dictionaries."""
    if not isinstance(tree, dict):
        return []
    return [".".join(filter(None, (str(key), inner))) for key, value in tree.items() for inner in _keys(value) or [""]]


def groups() -> dict[str, list[tuple[str, str]]]:
    """Every configuration group with its choices and the comment that each file begins with."""
    found: dict[str, list[tuple[str, str]]] = {}
    root = conf_folder()
    for path in sorted(root.glob("*/**/*.yaml")):
        comments = [
            line[2:] for line in path.read_text().splitlines() if line.startswith("# ") and "@package" not in line
        ]
        group = path.parent.relative_to(root).as_posix()
        found.setdefault(group, []).append((path.stem, comments[0] if comments else ""))
    return found


def _columns(indent: str, rows: list[tuple[str, str]], least: int) -> list[str]:
    """Names and comments in two columns that never touch; names without a comment may be longer."""
    width = max([least, *(len(name) + 2 for name, comment in rows if comment)])
    return [f"{indent}{name:<{width}}{comment}".rstrip() for name, comment in rows]


def help_page() -> str:
    """The text of `--help`, made from the files of `conf/`."""
    lines = [
        "llmbench: at what number of diffusion steps does LLaDA match LLaMA's quality, and is it faster there?",
        "",
        "  python -m llmbench -m model=llama,llada steps=8,16,32,64     the sweep and its parity verdict",
        "  python -m llmbench model=llada steps=16                      one job",
        "  python -m llmbench -m ... dry_run=true                       the plan, and nothing runs",
        "  python -m llmbench.report parity                             a table again, from what was recorded",
        "  python -m llmbench.harness run --model llmbench --tasks ...  tasks of lm-evaluation-harness",
        "",
        "Groups, chosen with group=choice (with -m also group=a,b):",
    ]
    for group, choices in groups().items():
        lines.append(f"  {group}")
        lines += _columns("    ", choices, 16)
    lines += ["", "Values, changed with key=value (with -m also key=a,b):"]
    settings = []
    for line in (conf_folder() / "config.yaml").read_text().splitlines():
        if line.startswith("hydra:"):
            break
        if re.match(r"\w+:|  \w+:", line) and not line.startswith(("defaults", "  -")):
            setting, _, comment = line.partition(" # ")
            settings.append((setting, comment))
    lines += _columns("  ", settings, 24)
    lines += [
        "",
        "Any key inside a group can be changed too: model.decoder.remasking=random, workload.prompts=150.",
        "Also: --cfg job (print the composed configuration), --version. Definitions: docs/metrics.md.",
    ]
    return "\n".join(lines)
