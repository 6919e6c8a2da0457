"""What can go wrong, as one tree; every branch is one line for the user and one exit code for the shell.

    LlmbenchError                 1   anything this project raises on purpose
    ├── UsageError                2   the user can fix it before anything expensive starts
    │   ├── ConfigError               a key, a value, a group or their combination
    │   ├── WorkloadError             prompts: file, line, field
    │   ├── CheckpointError           weights or tokenizer: missing, damaged, misshapen
    │   │   └── JudgeError            those of the model that scores, not of the one under test
    │   ├── HardwareError             a device that is asked for and is not there, or too small
    │   ├── TrackingError             the MLflow store or server
    │   └── ServerError             the server that is measured
    ├── RecordError               3   a recorded result cannot be read, or results do not belong together
    └── JobsFailedError           4   the sweep ended, but some of its jobs failed

A message names the key or file, the value found, and the change that helps. Foreign exceptions are translated
where they cross into the project, once.
"""


def one_line(error: BaseException, most: int = 200) -> str:
    """What a foreign exception says, on one line and short enough to stand in one of ours: `most` characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= most else f"{text[:most]} ..."


def first_cause(error: BaseException) -> BaseException:
    """The exception that a foreign library wrapped into `error`, or `error` itself."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


LONGEST = 1000
"""Characters of a message."""


class LlmbenchError(Exception):
    """Base of every error raised on purpose.

    What a message quotes is often foreign (names of tensors, values of a configuration): whatever it holds, the message
    stays one line that a terminal can show, with its beginning and its end.
    """

    exit_code = 1

    def __init__(self, message: str) -> None:
        """Escape what is no printable character, and leave out the middle of what is too long."""
        shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)
        super().__init__(shown if len(shown) <= LONGEST else f"{shown[: LONGEST // 2]} ... {shown[-LONGEST // 2 :]}")


class UsageError(LlmbenchError):
    """Input that the user can correct; raised before weights load."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration key, value, group or combination is wrong."""


class WorkloadError(UsageError):
    """Prompts or references cannot be used."""


class CheckpointError(UsageError):
    """Weights or tokenizer cannot be used."""


class EditableCheckpointError(CheckpointError):
    """The texts beside the weights cannot be used as they are, and whoever may write them can mend that."""


class JudgeError(CheckpointError):
    """The weights or tokenizer of the perplexity judge cannot be used."""


class HardwareError(UsageError):
    """The requested device is not available, or has too little memory."""


class TrackingError(UsageError):
    """The MLflow store or server cannot be used."""


class ServerError(UsageError):
    """The server that is to be measured cannot be reached, refuses, or does not answer as it should."""


class RecordError(LlmbenchError):
    """A recorded result is unreadable, or results whose conditions differ were put together."""

    exit_code = 3


class JobsFailedError(LlmbenchError):
    """The sweep is complete, but not all of its jobs finished."""

    exit_code = 4
