"""Commands as they are typed into a shell."""

import shlex
from collections.abc import Iterable


def quoted(word: str) -> str:
    """One word of a command. What holds single quotes stands in double ones where no character means more in them."""
    return f'"{word}"' if "'" in word and not set(word) & set('"$`\\!') else shlex.quote(word)


def joined(words: Iterable[str]) -> str:
    """The words of a command with spaces between them."""
    return " ".join(map(quoted, words))
