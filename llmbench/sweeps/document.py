"""What `--json` prints: the result of a sweep, a job or a plan as one document."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmbench.analysis.parity.parity import Parity
from llmbench.record import Record

if TYPE_CHECKING:
    from llmbench.sweeps.plan import Cell

FORMAT = 1


def of_sweep(
    *,
    command: str,
    folder: Path,
    seconds: float,
    verdicts: Sequence[Parity],
    jobs: Mapping[str, Record],
    failed: Mapping[str, str],
    run: str,
    unlogged: str,
) -> dict[str, Any]:
    """A sweep that came to its end.

    Args:
        command: what was typed.
        folder: of the sweep.
        seconds: that it took.
        verdicts: of its groups of settings.
        jobs: Records by title.
        failed: reasons of the failed jobs by title.
        run: the parent's id in MLflow.
        unlogged: what is not in MLflow, and why; "" when everything is.
    """
    return {
        "format": FORMAT,
        "status": "failed" if failed or unlogged else "finished",
        "command": command,
        "folder": str(folder),
        "seconds": round(seconds, 3),
        "run": run,
        **({"unlogged": unlogged} if unlogged else {}),
        "verdicts": [item.to_dict() | {"title": item.title} for item in verdicts],
        "jobs": [
            *(of_job(title, record) for title, record in jobs.items()),
            *({"title": name, "status": "failed", "reason": why} for name, why in failed.items() if name not in jobs),
        ],
    }


def of_job(title: str, record: Record) -> dict[str, Any]:
    """A job with its metrics; what could not be computed is absent."""
    found = {
        "title": title,
        "status": record.status,
        "reason": record.reason,
        "identity": record.identity,
        "role": record.role,
        "model": record.model,
        "family": record.family,
        "steps": record.steps,
        "seconds": record.duration_s,
        "conditions": dict(record.conditions),
        "metrics": dict(record.metrics),
    }
    return {key: value for key, value in found.items() if value is not None}


def of_alone(*, command: str, title: str, record: Record, path: Path, unlogged: str) -> dict[str, Any]:
    """A job that ran alone; arguments as for `of_sweep`."""
    return {
        "format": FORMAT,
        "command": command,
        "record": str(path),
        **({"unlogged": unlogged} if unlogged else {}),
        **of_job(title, record),
    }


def of_plan(
    command: str, cells: "Sequence[Cell]", expected: Mapping[str, float | None], refused: Sequence[str]
) -> dict[str, Any]:
    """A dry run.

    Args:
        command: what was typed.
        cells: the plan.
        expected: seconds that each job probably takes, by identity.
        refused: why the jobs would be refused now.
    """
    jobs = []
    for cell in cells:
        about = expected[cell.prepared.identity]
        jobs.append(
            {
                "title": cell.title,
                "folder": cell.name,
                "role": cell.role,
                "identity": cell.prepared.identity,
                "recorded": cell.reused is not None,
                **({} if about is None else {"expected_s": about}),
            }
        )
    return {"format": FORMAT, "status": "planned", "command": command, "jobs": jobs, "refused": list(refused)}


def text(document: Mapping[str, Any]) -> str:
    """JSON without NaN and infinities: what has no finite value is null."""
    return json.dumps(_finite(document), indent=1, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and value - value != 0:
        return None
    return value
