"""Which rows does a data set hold? One of the Hugging Face hub at a commit, or files on this machine.

A JSON, CSV or TSV file is read here (`table_files`); Parquet, folders and the hub by the `datasets` library, with
whatever else it knows. From version 4 on it runs no code that came with a data set. Where it cannot reach the hub it
takes the newest copy that it has, of whatever commit; a copy of another commit than the one that was asked for is
refused here. Without a revision the hub's newest commit is taken, and the name says which one that was.
"""

import functools
import importlib.util
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmbench.config.job import HUB_DATASET, WorkloadConfig
from llmbench.data import table_files, texts
from llmbench.errors import WorkloadError, one_line
from llmbench.system import digests
from llmbench.system.offline import why_unreachable

_COMMIT = re.compile("[0-9a-f]{40}")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_FILES = (".parquet", *table_files.SUFFIXES)
_INSTALL = 'pip install "llmbench[datasets]"'


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What was read."""

    name: str  # for people: where from, commit, subset and split
    fields: dict[str, str]  # by the keys of a workload's line, what the data set calls them
    rows: tuple[tuple[int, dict[str, Any]], ...]  # number from 1, and values under the keys of a workload's line


def read(config: WorkloadConfig) -> Rows:
    """The rows of a split that have a prompt, each as a workload's line says it.

    Without tasks to draw from in turn, no more are read than prompts are wanted: data sets may be long.

    Raises:
        WorkloadError: one line that says what is missing, and what there is.
    """
    fields = {
        "prompt": config.prompt_field,
        "reference": config.reference_field,
        "answer": config.answer_field,
        "task": config.task_field,
        "document": config.document_field,
    }
    named = tuple((key, field) for key, field in fields.items() if field is not None)
    most = config.count if config.task_field is None else None
    path = Path(config.source).expanduser()
    stamp = digests.stamp(sorted(path.rglob("*")) if path.is_dir() else [path])
    return _read(config.source, config.revision, config.subset, config.split, named, most, stamp)


@functools.lru_cache(maxsize=4)
def _read(
    source: str,
    revision: str | None,
    subset: str | None,
    split: str | None,
    fields: tuple[tuple[str, str], ...],
    most: int | None,
    stamp: digests.Stamp,
) -> Rows:
    """`read`, cached until local files change: every cell of a sweep reads the same rows."""
    splits, name = _load(source, revision, subset, tuple(field for _, field in fields))
    have = [str(key) for key in splits]
    if split is None and len(have) > 1:
        raise WorkloadError(f"workload.split is not set; {name} has {', '.join(have)}")
    chosen = have[0] if split is None else split
    if chosen not in have:
        raise WorkloadError(f"workload.split={chosen}: {name} has {', '.join(have)}")
    table = splits[chosen]
    for key, field in fields:
        if field not in table.column_names:
            raise WorkloadError(
                f"workload.{key}_field={field}: {name} has no such field; there are {', '.join(table.column_names)}"
            )
    where = "/".join(part for part in (subset, chosen) if part)
    rows = (
        (number, {key: None if _blank(row.get(field)) else row[field] for key, field in fields})
        for number, row in enumerate(_each(table, source, {field for _, field in fields}), start=1)
    )
    return Rows(
        name=f"{name} {where}",
        fields=dict(fields),
        rows=tuple(itertools.islice((found for found in rows if found[1]["prompt"] is not None), most)),
    )


def _each(table: Any, source: str, fields: set[str]) -> Iterator[dict[str, Any]]:
    """The rows of a split. Raises WorkloadError: one cannot be decoded."""
    if isinstance(table, table_files.TableFile):
        yield from table.rows
        return
    rows = iter(table.select_columns(sorted(fields)))
    for number in itertools.count(1):
        try:
            row = next(rows, None)
        except Exception as error:  # its decoders of pictures and sound raise their own
            raise WorkloadError(
                f"workload.source={source}: row {number} cannot be read: {one_line(error, 300)}"
            ) from error
        if row is None:
            return
        yield row


def _blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _load(source: str, revision: str | None, subset: str | None, fields: tuple[str, ...]) -> tuple[Any, str]:
    """Every split of a data set, and its name with the commit.

    Args:
        source: as `workload.source`.
        revision: of the hub.
        subset: where there are several.
        fields: that are read.
    """
    on_hub = source.startswith(HUB_DATASET)
    path: str = _repository(source) if on_hub else str(_local(source))
    if not on_hub and Path(path).is_file() and texts.suffix(Path(path)) in table_files.SUFFIXES:
        return {"train": table_files.read(Path(path))}, Path(path).name
    if importlib.util.find_spec("datasets") is None:
        raise WorkloadError(f"workload.source={source}: the datasets library is not installed; {_INSTALL}")
    import datasets
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.utils import logging

    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what it logs, it raises as well
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # it logs every retry
    datasets.disable_progress_bars()
    more: dict[str, Any] = {}
    if not on_hub and Path(path).is_file():
        path, more = "parquet", {"data_files": path}
    elif not on_hub and _only_csv(Path(path)):
        # "NA", "None", "007" are texts; an empty field is blank all the same
        more |= {"keep_default_na": False, "converters": dict.fromkeys(fields, str)}
    try:
        builder = datasets.load_dataset_builder(path, subset, revision=revision if on_hub else None, **more)
        if on_hub:
            _require_commit(path, builder, revision)
        builder.download_and_prepare()
        return builder.as_dataset(), f"{source}@{builder.hash}" if on_hub else Path(source).name
    except DatasetNotFoundError as error:
        raise WorkloadError(f"workload.source={source}: {one_line(error, 300)}") from error
    except ConnectionError as error:
        why = why_unreachable(one_line(error, 300), "HF_DATASETS_OFFLINE")
        raise WorkloadError(f"workload.source={source}: not in the cache, and {why}") from error
    except WorkloadError:
        raise
    except Exception as error:  # its readers raise their own
        raise WorkloadError(f"workload.source={source}: {_explain(error, subset)}") from error


def _require_commit(repository: str, builder: Any, revision: str | None) -> None:
    """Refuse a copy from the cache that is not what was asked for: the library takes the newest one that there is."""
    cached = type(builder).__module__.startswith("datasets.packaged_modules.cache")
    if revision is None or builder.hash == revision or (not cached and not _COMMIT.fullmatch(revision)):
        return
    raise WorkloadError(
        f"workload.revision={revision}: not to be had from the hub, and the cache has {repository} at {builder.hash}; "
        "set that commit, or connect once"
    )


def _repository(source: str) -> str:
    """A name that the library looks for on the hub: it takes a path, or a folder of that name, for a local data set."""
    path = source.removeprefix(HUB_DATASET)
    if not _REPOSITORY.fullmatch(path):
        raise WorkloadError(f"workload.source={source}: write {HUB_DATASET}ORG/NAME, or a path without {HUB_DATASET}")
    if Path(path).exists():
        raise WorkloadError(
            f"workload.source={source}: there is a {path} here, which would be read in its place; run elsewhere, or "
            f"give its path without {HUB_DATASET}"
        )
    return path


def _local(source: str) -> Path:
    """A folder or a file that the library reads."""
    path = Path(source).expanduser().absolute()
    if not path.exists():
        raise WorkloadError(f"workload.source={source}: {path} does not exist; give {HUB_DATASET}ORG/NAME, or a path")
    if path.is_file() and path.suffix.lower() != ".parquet" and texts.suffix(path) not in table_files.SUFFIXES:
        kinds = f"{', '.join(_FILES)} file (all but Parquet also as .gz, .bz2, .xz)"
        raise WorkloadError(f"workload.source={source}: give a {kinds}, or a folder of them")
    return path


def _only_csv(path: Path) -> bool:
    """Whether all that the library reads of a folder is CSV."""
    return {kind for file in path.rglob("*") if (kind := texts.suffix(file)) in _FILES} == {".csv"}


def _explain(error: Exception, subset: str | None) -> str:
    """The library's message; where it is about subsets, in terms of our settings."""
    message = one_line(error.__cause__ or error, 300)
    listed = re.search(r"\[[^\]]*\]", message)
    subsets = listed[0] if listed else message
    if subset is None and "Config name is missing" in message:
        return f"it has several subsets; set workload.subset to one of {subsets}"
    if subset is not None and f"'{subset}' not found" in message:
        return f"workload.subset={subset}: no such subset; there are {subsets}"
    return message
