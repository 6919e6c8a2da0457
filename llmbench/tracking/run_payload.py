"""What of a Record does MLflow get, and under which names? Metrics, params and tags to filter by, a table."""

import contextlib
import getpass
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmbench.analysis.formats import quantization
from llmbench.record import Record
from llmbench.system.redact import redact

DETAIL = "detail/"
"""Stands before every metric that is no chart of its own: quartiles, counts, intervals, floors, clocks."""

CHARTED = (
    *("latency/e2e_ms", "latency/prefill_ms", "latency/itl_ms", "latency/step_ms", "latency/first_text_ms"),
    *("throughput/tokens_per_s", "throughput/bytes_per_s"),
    *("memory/peak_reserved_bytes", "memory/over_model_bytes", "memory/peak_rss_bytes"),
    *("energy/joules_per_token", "roofline/efficiency", "likelihood/bits_per_byte"),
    *("quality/perplexity", "quality/bits_per_byte", "quality/entropy", "quality/bertscore_f1", "quality/accuracy"),
)
"""The metrics of a Record that keep their keys; of the others a page of charts would be too long to read."""

NAME = "llmbench.name"
"""Tag of a parent run: the name of the sweep's folder. The run's own name says what the sweep came to."""

COPY = "llmbench.copy"
"""Tag of a run: "true" where another run of the experiment holds the same measurement, "false" elsewhere."""

GENERATIONS = "generations.json"
GENERATIONS_TAG = json.dumps([{"path": GENERATIONS, "type": "table"}])
"""What makes MLflow's pages show this artifact as a table."""


def metric_key(key: str) -> str:
    """How a metric of a Record is called here: the few that are charted as they are, the others under `detail/`."""
    return key if key in CHARTED else f"{DETAIL}{key}"


def generations(record: Record) -> dict[str, list[Any]]:
    """What was written for each prompt, with its scores and the human reference's, as columns of a table."""
    scores = {(score.prompt_id, score.subject): score for score in record.scores}
    columns: dict[str, list[Any]] = {}

    def add(name: str, value: Any) -> None:
        columns.setdefault(name, []).append(value)

    for output in record.outputs:
        for name in ("prompt_id", "task", "prompt", "text", "tokens", "stopped"):
            add("output" if name == "text" else name, getattr(output, name))
        for subject, prefix in (("output", ""), ("human", "human_")):
            score = scores.get((output.prompt_id, subject))  # type: ignore[arg-type]
            nll = score.nll_nats if score else None
            tokens = score.judged_tokens if score else None
            add(f"{prefix}nll_per_token", round(nll / tokens, 4) if nll is not None and tokens else None)
            add(f"{prefix}entropy_nats", score.entropy_nats if score else None)
        score = scores.get((output.prompt_id, "output"))
        add("bertscore_f1", score.bertscore_f1 if score else None)
    return columns


def write_files(record: Record, folder: Path) -> None:
    """Write what a job's run has as artifacts: configuration, Record, memory traces, and the outputs as a table."""
    import yaml

    record.save(folder)
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # compiled, where PyYAML has it
    config = yaml.dump(record.config, Dumper=dumper, sort_keys=False, allow_unicode=True)
    (folder / "config.yaml").write_text(config, encoding="utf-8")
    for kind in ("reserved", "allocated"):
        if trace := getattr(record.device_use, f"{kind}_trace_bytes"):
            (folder / "memory").mkdir(exist_ok=True)
            (folder / "memory" / f"{kind}_trace.json").write_text(json.dumps(list(trace)))
    if record.outputs:
        columns = generations(record)
        table = {"columns": list(columns), "data": list(zip(*columns.values(), strict=True))}
        (folder / GENERATIONS).write_text(json.dumps(table, ensure_ascii=False), encoding="utf-8")


def params(record: Record, swept: Mapping[str, str]) -> dict[str, str]:
    """Short values that people filter and group by; the whole configuration is an artifact."""
    conditions = record.conditions
    named = {
        "model": record.side,  # curves are grouped by it
        "family": record.family,
        "k": record.steps,
        "temperature": conditions.get("decoding.temperature"),
        **{key: conditions.get(key) for key in ("batch", "canvas", "device", "dtype", "engine", "weights", "seed")},
        "quantization": next(iter(quantization(record)), None),
        "prompts": len(record.outputs) or None,
    }
    axes = {key: value for key, value in swept.items() if key != "steps"}
    return {key: str(value) for key, value in (axes | named).items() if value is not None}


def axes(models: Iterable[str], steps: Iterable[int], swept: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """The axes of a sweep as params of its parent run: on each the values, in their order.

    Args:
        models: of its jobs.
        steps: K.
        swept: each job's values on the axes on which jobs differ.
    """
    found: dict[str, dict[str, None]] = {"model": dict.fromkeys(models), "k": dict.fromkeys(map(str, steps))}
    for own in swept:
        for key, value in own.items():
            if key not in ("model", "steps"):
                found.setdefault(key, {})[value] = None
    return {key: ", ".join(values) for key, values in found.items() if values}


def axes_of(records: Sequence[Record]) -> dict[str, str]:
    """The axes of a sweep, from what its Records know of it."""
    contexts = [record.context for record in records]
    steps = dict.fromkeys(k for own in contexts for k in own.steps_axis)
    return axes([record.model for record in records], steps, [own.swept for own in contexts])


def tags(record: Record) -> dict[str, str]:
    """Identity, outcome, content hashes and origin of a Record."""
    named = {
        "kind": "job",
        "llmbench.role": record.role,
        "identity": record.identity,
        "status": record.status,
        "reason": (record.reason or "")[:5000],
    }
    named |= hardware(record) | origin()
    named |= {f"signature.{key}": value for key, value in record.signatures.items()}
    named["mlflow.note.content"] = "\n\n".join(record.notes)[:5000]
    return {key: redact(value) for key, value in named.items() if value}


def hardware(record: Record) -> dict[str, str]:
    """Where a Record was made."""
    environment = record.environment
    named = {
        "device_name": environment.device_name,
        "driver": environment.driver or "",
        "python": environment.python,
        "platform": environment.platform,
        "git_dirty": "" if environment.git_dirty is None else str(environment.git_dirty).lower(),
        "mlflow.source.git.commit": environment.git_commit or "",
    }
    return named | {f"version.{package}": version for package, version in environment.versions.items()}


def origin() -> dict[str, str]:
    """Who logs: MLflow's own tags."""
    user = ""
    with contextlib.suppress(Exception):  # a container may have no user name
        user = getpass.getuser()
    return {"mlflow.source.name": "llmbench", "mlflow.source.type": "LOCAL", "mlflow.user": user}


def name(key: str) -> str:
    """A key that MLflow accepts."""
    return re.sub(r"[^\w\-. :/]", "_", key)
