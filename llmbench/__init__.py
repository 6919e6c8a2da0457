"""llmbench: at what number of diffusion steps does LLaDA match LLaMA's quality, and is it faster there?

    import llmbench
    sweep = llmbench.sweep(model=["llama", "llada"], steps=[8, 16, 32, 64])
    print(sweep.parity())

Everything is imported when it is first asked for, so that `import llmbench` costs nothing.
"""

from typing import TYPE_CHECKING, Any

from llmbench.version import __version__

if TYPE_CHECKING:
    from llmbench.analysis.parity.parity import Parity
    from llmbench.api import Sweep, load, run, sweep
    from llmbench.config.job import Job
    from llmbench.record import Record

__all__ = ["Job", "Parity", "Record", "Sweep", "__version__", "load", "run", "sweep"]

_HOMES = {
    "Job": "llmbench.config.job",
    "Parity": "llmbench.analysis.parity.parity",
    "Record": "llmbench.record",
    "Sweep": "llmbench.api",
    "load": "llmbench.api",
    "run": "llmbench.api",
    "sweep": "llmbench.api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'llmbench' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
