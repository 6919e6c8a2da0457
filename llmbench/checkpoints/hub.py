"""Where do the files of a checkpoint on the Hugging Face hub lie? In `huggingface_hub`'s cache, fetched when missing.

That library brings the cache, resumed downloads, HF_HUB_OFFLINE, HF_ENDPOINT, tokens and the progress bar. What is
fetched is named: configuration, tokenizer, and the safetensors files that the index lists. Code and pickles are never
fetched, so they cannot be run. First come the small files, so that they can be checked before gigabytes follow.
A branch is resolved to its commit once per process, and the commit is part of the checkpoint's name.
"""

import functools
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmbench.errors import CheckpointError, one_line
from llmbench.models import weights
from llmbench.system.offline import why_unreachable

SMALL = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json",
         "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt",
         "chat_template.jinja", "chat_template.json", weights.INDEX)  # fmt: skip

_PLACE = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One commit of a repository, as far as it was fetched."""

    repo: str
    commit: str
    folder: Path

    @property
    def name(self) -> str:
        """What names it for good: `hub:ORG/NAME@COMMIT`."""
        return f"hub:{self.repo}@{self.commit}"


@functools.lru_cache(maxsize=16)
def small_files(place: str) -> Snapshot:
    """Fetch what describes a checkpoint.

    Args:
        place: `ORG/NAME` or `ORG/NAME@REVISION`.

    Raises:
        CheckpointError: one line that says what stands in the way, and how to get past it.
    """
    match = _PLACE.fullmatch(place)
    if match is None:
        raise CheckpointError(f"checkpoint hub:{place}: write hub:ORG/NAME or hub:ORG/NAME@REVISION")
    repo, revision = match["repo"], match["revision"] or "main"
    folder = _fetch(repo, revision, SMALL, bar=False)
    return Snapshot(repo=repo, commit=folder.name, folder=folder)


def weight_files(snapshot: Snapshot) -> None:
    """Fetch the safetensors files that are not there yet, with a progress bar.

    Raises:
        CheckpointError: as `small_files`; or the repository has no safetensors, or its index is damaged.
    """
    sharded = (snapshot.folder / weights.INDEX).is_file()
    files = weights.shards(snapshot.folder, snapshot.name) if sharded else [weights.SINGLE]
    if all((snapshot.folder / file).is_file() for file in files):
        return
    _fetch(snapshot.repo, snapshot.commit, files, bar=True)
    missing = [file for file in files if not (snapshot.folder / file).is_file()]
    if missing:
        raise CheckpointError(
            f"checkpoint {snapshot.name}: the repository has no {missing[0]}; pickled weights are never fetched, so "
            "choose a revision that has safetensors"
        )


def _fetch(repo: str, revision: str, files: "list[str] | tuple[str, ...]", *, bar: bool) -> Path:
    """The folder of a commit with those of `files` that the repository has."""
    from huggingface_hub import errors as hub
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import logging
    from tqdm import tqdm

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # it logs every retry

    class Silent(tqdm):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **options: Any) -> None:
            options.pop("name", None)  # of a group of bars; the library's own
            super().__init__(*args, **(options | {"disable": True}))

    try:
        quiet: dict[str, Any] = {} if bar else {"tqdm_class": Silent}
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=list(files), **quiet))
    except hub.GatedRepoError as error:
        raise CheckpointError(f"checkpoint hub:{repo}: {_gated(repo)}") from error
    except hub.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"checkpoint hub:{repo}: the hub knows no such repository, or it is private; check the name, or log in "
            "with `hf auth login` or HF_TOKEN"
        ) from error
    except hub.RevisionNotFoundError as error:
        raise CheckpointError(f"checkpoint hub:{repo}: the repository has no revision {revision}") from error
    except hub.LocalEntryNotFoundError as error:
        if refused := _refused(error):
            raise CheckpointError(f"checkpoint hub:{repo}@{revision}: {refused}") from error
        why = why_unreachable(_short(error))
        raise CheckpointError(f"checkpoint hub:{repo}@{revision}: not in the cache, and {why}") from error
    except (TypeError, AttributeError, NameError):  # a bug: fetching again does not help
        raise
    except Exception as error:  # where a connection breaks, each version's HTTP client raises another class
        why = _refused(error) or f"cannot be fetched: {_short(error)}; the same command goes on from there"
        raise CheckpointError(f"checkpoint hub:{repo}@{revision}: {why}") from error
    if not folder.is_dir():  # files go into the folder of the commit that came with them
        raise CheckpointError(
            f"checkpoint hub:{repo}@{revision}: the hub has none of {', '.join(files[:2])} there, or answered with the "
            "files of another commit; check the name, and HF_ENDPOINT if it is set"
        )
    return folder


def _refused(error: BaseException | None) -> str | None:
    """What to do about an answer that is not the file: by its status, or because it is no answer of a hub."""
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            from huggingface_hub import get_token

            advice = "log in with `hf auth login` or HF_TOKEN"
            if get_token():
                advice = (
                    "your token may be wrong or expired: log in anew with `hf auth login`, or set or unset HF_TOKEN"
                )
            return f"the hub refuses ({status}); {advice}"
        if isinstance(status, int) and status >= 429:
            return f"the hub answers {status} and the cache lacks it; try again later"
        if isinstance(error, json.JSONDecodeError):
            place = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
            return f"what answers at {place} is no Hugging Face hub; check HF_ENDPOINT, or the network's login page"
        error = error.__cause__
    return None


def _gated(repo: str) -> str:
    from huggingface_hub import get_token

    page = f"https://huggingface.co/{repo}"
    if get_token():
        return f"gated, and your token's account has no access; accept its licence at {page}"
    return f"gated; accept its licence at {page}, then log in with `hf auth login` or HF_TOKEN"


def _short(error: BaseException) -> str:
    """The innermost reason, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(error)
