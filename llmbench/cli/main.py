"""What happens between the shell and the first job: help, Hydra, and every error as one line with an exit code.

`--help` is made from `conf/` and imports nothing heavy. Everything else is Hydra's command line (`-m`, `key=value`,
`--cfg job`, `--config-dir`, ...). Hydra reports errors over many lines and exits by itself; here they come out as
exceptions (HYDRA_FULL_ERROR) and are told in one line that says what to change. Exit codes: see `llmbench.errors`; 130
after Ctrl-C.
"""

import contextlib
import itertools
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from llmbench.cli import help_pages
from llmbench.config.conf_files import conf_folder, recipe_axes
from llmbench.errors import LlmbenchError, UsageError
from llmbench.system import paths, shell, signals
from llmbench.system.output import Level, discard_output, emit, flush_output, keep_stdout, own_process, set_level
from llmbench.system.redact import clean_arguments
from llmbench.system.terminal import doing
from llmbench.version import __version__


def main() -> None:  # noqa: C901
    """Run the command line and exit the process with its code."""
    arguments = sys.argv[1:] = clean_arguments(sys.argv[1:])  # Hydra, its launchers and errors see no password
    if arguments and arguments[0] in COMMANDS:
        sys.exit(_command(arguments[0], arguments[1:]))
    if not arguments:
        _help([])
        return
    if asked := [place for place, text in enumerate(arguments) if text in ("-h", "--help")]:
        behind = arguments[asked[0] + 1 :]
        _help(list(itertools.takewhile(lambda text: not text.startswith("-") and "=" not in text, behind)))
        return
    if "--version" in arguments:
        print(f"llmbench {__version__}")
        return
    if "query=bash" in arguments and _complete_command(os.environ.get("COMP_LINE", "")):
        return
    try:
        arguments = sys.argv[1:] = _take_output_options(arguments)
        reject_ambiguous(arguments)
        _run_hydra(shows=not _SHOWS_CONFIGURATION & {text.partition("=")[0] for text in arguments})
    except SystemExit as stop:
        if isinstance(stop.code, int) and stop.code in signals.REASONS:
            _exit(f"{signals.REASONS[stop.code]}{_goes_on(arguments)}", stop.code)
        if not isinstance(stop.code, LlmbenchError):
            raise
        _exit(str(stop.code), stop.code.exit_code)
    except LlmbenchError as error:
        _exit(str(error), error.exit_code)
    except KeyboardInterrupt:
        _exit(f"interrupted{_goes_on(arguments)}", 130)
    except Exception as error:
        line = _explain(error, arguments)
        if line is None or os.environ.get("LLMBENCH_TRACEBACK"):
            raise
        _exit(line, UsageError.exit_code)


_SHOWS_CONFIGURATION = {"-c", "--cfg", "--info", "-i", "-sc", "--shell-completion", "--hydra-help"}
"""Hydra's options with which no job runs."""

OUTPUT_OPTIONS = {"-q": "quiet", "--quiet": "quiet", "-v": "verbose", "--verbose": "verbose", "--json": "json"}
"""Ours, taken before Hydra reads the command line; none is one of Hydra's."""


def _take_output_options(arguments: Sequence[str]) -> list[str]:
    """Set how much is printed; returns what is left for Hydra.

    Raises:
        UsageError: -q and -v at once, nothing beside them, or --json where no job runs.
    """
    given = {OUTPUT_OPTIONS[text] for text in arguments if text in OUTPUT_OPTIONS}
    left = [text for text in arguments if text not in OUTPUT_OPTIONS]
    if not left:
        raise UsageError("nothing is to run: add a model, as model=llada steps=16; see --help")
    if {"quiet", "verbose"} <= given:
        raise UsageError("-q prints less and -v more: give one of them")
    shown = _SHOWS_CONFIGURATION & {text.partition("=")[0] for text in left}
    if "json" in given and shown:
        raise UsageError(f"--json is for what runs or is planned, not for {min(shown)}")
    for name, wanted in (("quiet", Level.QUIET), ("verbose", Level.VERBOSE)):
        if name in given:
            set_level(wanted)
    if "json" in given:
        keep_stdout()
    return left


COMMANDS = ("report", "ui", "sync", "eval", "version")
"""What stands in front of a command line that runs no job."""


def _command(name: str, arguments: list[str]) -> int:
    """Run a command that is no job; returns its exit code."""
    if name == "version":
        print(f"llmbench {__version__}")
        return 0
    if name == "eval":
        from llmbench.harness.command import main as evaluate

        return evaluate(arguments)
    if name == "sync":
        from llmbench.cli.sync import main as sync

        return sync(arguments)
    from llmbench.cli.report import main as report
    from llmbench.cli.report import ui

    return (ui if name == "ui" else report)(arguments)


def _complete_command(line: str) -> bool:
    """Print the commands for the shell to choose from, before Hydra prints its keys; whether nothing is to follow.

    Args:
        line: as it stands in the shell.
    """
    words = line.split()
    if words[1:2] == ["report"]:
        from llmbench.cli.report import parser

        print(" ".join(parser()._actions[1].choices or ()))
        return True
    if len(words) <= 2 and "=" not in line:
        print(" ".join(COMMANDS), end=" ")
    return words[1:2] != [] and words[1] in COMMANDS


_NO_READER = 141
"""Exit code of a program whose output nobody reads, as the shell gives it."""


def _goes_on(arguments: list[str]) -> str:
    """What becomes of a run that was stopped; a job alone keeps nothing of itself."""
    sweep = {"-m", "--multirun"} & set(arguments)
    return "; finished jobs are kept, the same command goes on from there" if sweep else ""


def _exit(message: str, code: int) -> NoReturn:
    emit(f"llmbench: {message}", sys.stderr)
    sys.exit(code)


def _help(topics: Sequence[str]) -> None:
    """The page of every topic, or the whole one; a word that is none is an error with a suggestion."""
    pages = [help_pages.topic_page(topic) for topic in topics]
    if None in pages:
        from llmbench.config.hydra_errors import unknown_key

        _exit(unknown_key(topics[pages.index(None)]), UsageError.exit_code)
    emit("\n\n".join(filter(None, pages)) or help_pages.help_page())


def reject_ambiguous(arguments: Sequence[str]) -> None:
    """Refuse a command line of which a part would be dropped in silence.

    Raises:
        UsageError: a key stands there twice, or a recipe's sweep is asked for without -m.
    """
    given = [text for text in arguments if "=" in text and not text.startswith("-")]
    keys = [text.partition("=")[0].lstrip("+") for text in given]
    for key, count in Counter(keys).items():
        if count > 1:
            values = [text.partition("=")[2] for text, own in zip(given, keys, strict=True) if own == key]
            swept = shell.quoted(f"{key}={','.join(dict.fromkeys(values))}")
            raise UsageError(
                f"{key} is given {count} times, as {' and '.join(values)}: give it once, or as a sweep: -m {swept}"
            )
    alone = not {"-m", "--multirun", "-c", "--cfg", "--info", "-i"} & {text.partition("=")[0] for text in arguments}
    recipe = dict(zip(keys, given, strict=True)).get("experiment", "").partition("=")[2]
    axes = recipe_axes(recipe) if alone and "hydra.mode" not in keys else []
    if not set(axes) <= set(keys):
        raise UsageError(
            f"experiment={recipe} is a sweep (over {' and '.join(axes)}): add -m (llmbench -m experiment={recipe} ...)"
        )


def _run_hydra(shows: bool) -> None:
    """Hand over to Hydra; it composes the configuration and calls `task` or the sweeper.

    Args:
        shows: say what goes on.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise, so that `main` can say it in one line
    own_process()
    try:
        with doing("loading libraries") if shows else contextlib.nullcontext():
            import hydra
            from hydra._internal.utils import get_args_parser

            parser = get_args_parser()  # the one that Hydra reads the command line with; its own error is a page
            parser.error = _refuse_option
            parser.parse_args()

            from llmbench.sweeps.hydra_task import run_hydra_job

            hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")(run_hydra_job)()
        flush_output()  # what Hydra printed by itself, as for --cfg job
    except BrokenPipeError:
        discard_output(sys.stdout)
        sys.exit(_NO_READER)


def _refuse_option(message: str) -> NoReturn:
    """What argparse has against the command line, in one line."""
    left = message.partition("unrecognized arguments: ")[2]
    if left and not left.startswith("-"):  # argparse ends its list of overrides at the first option behind one
        raise UsageError(f"{left}: options go in front: llmbench -m key=value ...")
    raise UsageError(f"{f'{left}: no such option' if left else message}; see --help")


def _explain(error: Exception, arguments: Sequence[str]) -> str | None:
    """An error that the user can mend, in one line; None for any other."""
    if isinstance(error, OSError) and error.filename:
        ours = Path(str(error.filename)).absolute().is_relative_to(paths.results())
        return f"{error.filename}: {error.strerror}{f'; {paths.ELSEWHERE}' if ours else ''}"
    from llmbench.config.hydra_errors import explain

    return explain(error, arguments)
