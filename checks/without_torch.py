"""Import every module that reads results where torch, Transformers and bert-score cannot be imported.

    python checks/without_torch.py

Exits with 1 and names the module and what it asked for, where one of them is needed.
"""

import importlib
import pkgutil
import sys
from collections.abc import Iterator, Sequence

ROOMS = ("llmbench.record", "llmbench.config", "llmbench.analysis", "llmbench.report")
BLOCKED = ("torch", "transformers", "bert_score")


class Blocker:
    """A finder that refuses the packages that must not be needed."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> None:
        """Refuse a blocked package, and leave everything else to the other finders. Raises ModuleNotFoundError."""
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"{name} must not be needed here", name=name)


def modules(room: str) -> Iterator[str]:
    """A room and every module in it."""
    yield room
    for item in pkgutil.walk_packages(getattr(importlib.import_module(room), "__path__", ()), f"{room}."):
        yield item.name


def main() -> int:
    """Import all modules; 1 where one needs a blocked package."""
    sys.meta_path.insert(0, Blocker())
    count = 0
    for room in ROOMS:
        try:
            for name in modules(room):
                importlib.import_module(name)
                count += 1
        except ModuleNotFoundError as error:
            print(f"A module of {room} cannot be imported: {error}", file=sys.stderr)
            return 1
    print(f"{count} modules imported without {', '.join(BLOCKED)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
