"""What do MLflow's pages show first? Saved views with four charts over k and a table's columns, and their addresses.

A saved view is a tag of the experiment that holds the state of MLflow's page. Its format is not documented; this one
was read from the page of MLflow 3.17. A page that cannot read it shows its own charts. MLflow 3 opens on a page about
traces, which has nothing to show here; the parameter `workflowType` of the address opens the runs.
"""

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from llmbench.analysis.formats import TITLES
from llmbench.analysis.parity import brief
from llmbench.analysis.parity.parity import Parity
from llmbench.analysis.parity.sides import as_logged
from llmbench.analysis.parity.verdict import DIVERSITY, JUDGED, MATCHED
from llmbench.metrics.keys import METRICS
from llmbench.system.redact import split_uri
from llmbench.tracking.run_payload import DETAIL, name

ALL = "llmbench"
"""Key of the view of all sweeps; that of one sweep has its run id as its key."""

LOCAL = "http://127.0.0.1:5000"
"""Where `llmbench ui` serves a local store, unless the port is taken."""

TAG = "mlflow.sharedViewState."
"""What stands before the key of a view in the name of its tag."""

NOTE = "[All sweeps of llmbench]("
"""Beginning of an experiment's description; one that begins otherwise is somebody's own."""

_LONGEST = 100
"""Characters of a title; MLflow refuses a tag of 5000."""

_QUALITY, _SPEED = "charts of quality", "charts of speed"
"""The sections that stand open, by their ids."""

_OF_JOBS = {
    "quality/perplexity": "Perplexity",
    "quality/entropy": "Entropy (nats)",
    "latency/e2e_ms": "L_e2e (ms)",
    "throughput/tokens_per_s": "Tokens per second",
}
"""What is charted of jobs, where a sweep has no verdict or several."""

_DIFFUSION, _AUTOREGRESSIVE = "diffusion", "autoregressive"
_SPEEDUP = f"speedup/{_DIFFUSION}"
_MATCHED = f"{_AUTOREGRESSIVE}_matched"

_COLUMNS = {
    "tags.`verdict`": 110,
    "tags.`S_parity`": 190,
    "tags.`speedup`": 130,
    "params.`model`": 130,
    "params.`k`": 110,
}
"""The table's own columns, from left to right, and their widths in pixels."""

_ALWAYS = {"attributes.`Run Name`": 300, "runDateAndNestInfo": 140}
"""Those that MLflow shows on their left."""


def page(experiment_id: str, view: str = ALL) -> str:
    """A saved view's address within MLflow's pages: all sweeps as a table, one sweep as charts."""
    mode = "TABLE" if view == ALL else "CHART"
    state = f"viewStateShareKey={view}&compareRunsMode={mode}&workflowType=machine_learning"
    return f"#/experiments/{experiment_id}/runs?{state}"


def view_url(base: str, experiment_id: str, view: str = ALL) -> str:
    """Address of a saved view on a server at `base`; passwords in that are left out."""
    return f"{split_uri(base)[0].rstrip('/')}/{page(experiment_id, view)}"


def description(experiment_id: str, last: tuple[str, str] | None = None) -> str:
    """Markdown that MLflow shows above an experiment: a line, for it shows no more until it is unfolded.

    Args:
        experiment_id: that it is for.
        last: run id and title of the sweep that ended last.
    """
    said = f"{NOTE}{page(experiment_id)})"
    return said if last is None else f"{said}. Last one: [{last[1]}]({page(experiment_id, last[0])})"


def curves(verdict: Parity) -> list[tuple[str, int, float]]:
    """The four charts of a verdict as (key, k, value): headline metric, entropy, L_e2e, speedup.

    A metric that is compared at matched diversity has the baseline's value at the entropy of the candidate at that k:
    the reference of the test, so that it is absent where nothing was tested. Of other metrics and of entropy the
    baseline's value is the same at every k.
    """
    head, rows = verdict.head, []
    for curve in (head.curve if head else None, verdict.curve(DIVERSITY)):
        if curve is None:
            continue
        short = curve.metric.partition("/")[2]
        rows += [(f"{short}/{_DIFFUSION}", k, value) for k, value in curve.values]
        if curve.metric in MATCHED and head is not None:
            tested = [(test.steps, as_logged(curve.metric, test.reference)) for test in head.tests]
            rows += [(f"{short}/{_MATCHED}", k, value) for k, value in tested]
        elif curve.baseline is not None:
            rows += [(f"{short}/{_AUTOREGRESSIVE}", k, curve.baseline) for k in verdict.steps]
    for speed in verdict.speedups:
        rows.append((f"e2e_ms/{_DIFFUSION}", speed.steps, speed.candidate_ms))
        rows.append((f"e2e_ms/{_AUTOREGRESSIVE}", speed.steps, speed.baseline_ms))
        rows.append((_SPEEDUP, speed.steps, speed.ratio))
    return rows


def of_all_sweeps() -> str:
    """The view of all sweeps: a row for each with its verdict, above its jobs; as charts a line for each."""
    cards = [card for metric in JUDGED for card in _quality_cards(metric, _QUALITY)]
    cards += [*_entropy_cards(_QUALITY), *_speed_cards(_SPEED)]
    charts = {_QUALITY: "Quality", _SPEED: "Speed"}
    return _packed("all sweeps", {}, charts, cards)


def of_sweep(run_id: str, title: str, verdicts: Sequence[Parity], axes: Mapping[str, str], ended_ms: int = 0) -> str:
    """The view of one sweep.

    Args:
        run_id: of its parent.
        title: what it came to.
        verdicts: of the sweep; with exactly one the charts are its own, else those of its jobs, grouped by their
            settings.
        axes: of the sweep.
        ended_ms: in ms since 1970.
    """
    state: dict[str, Any] = {"searchFilter": f"tags.`mlflow.parentRunId` = '{run_id}'"}
    if len(verdicts) == 1:
        (verdict,) = verdicts
        said = f"Verdict: {verdict.status.value.replace('_', ' ')}"
        charts = {
            _QUALITY: said + (f"; S_parity: {verdict.head.reached or 'none'}" if verdict.head else ""),
            _SPEED: f"Speedup: {brief.speedup(verdict) or 'not measured'}",
        }
        metric = verdict.headline or JUDGED[0]
        cards = [*_quality_cards(metric, _QUALITY), *_entropy_cards(_QUALITY), *_speed_cards(_SPEED)]
    else:
        settings = dict.fromkeys(["model", *(key for key in axes if key != "k")])
        keys = [{"mode": "param", "groupByData": name(key)} for key in settings]
        state["groupBy"] = {"aggregateFunction": "average", "groupByKeys": keys}
        charts = {_QUALITY: title}
        cards = [card for key, what in _OF_JOBS.items() for card in _cards(f"{what} over k", [key], _QUALITY)]
    return _packed(title, state, charts, cards, ended_ms)


def _quality_cards(metric: str, section: str) -> list[dict[str, Any]]:
    short = metric.partition("/")[2]
    matched = metric in MATCHED
    title = TITLES[metric][:1].upper() + TITLES[metric][1:] + (" at matched diversity" if matched else "")
    other = _MATCHED if matched else _AUTOREGRESSIVE
    return _cards(f"{title}, over k", [f"{short}/{_DIFFUSION}", f"{short}/{other}"], section)


def _entropy_cards(section: str) -> list[dict[str, Any]]:
    return _cards("Entropy (nats) over k", [f"entropy/{_DIFFUSION}", f"entropy/{_AUTOREGRESSIVE}"], section)


def _speed_cards(section: str) -> list[dict[str, Any]]:
    times = _cards("L_e2e (ms) over k", [f"e2e_ms/{_DIFFUSION}", f"e2e_ms/{_AUTOREGRESSIVE}"], section)
    return [*times, *_cards("Speedup over k", [_SPEEDUP], section)]


def _cards(title: str, keys: Sequence[str], section: str) -> list[dict[str, Any]]:
    """One chart with a line for each key; MLflow would draw a key that no card begins with once more."""
    line = {
        "uuid": keys[0],
        "type": "LINE",
        "runsCountToCompare": 10,
        "metricSectionId": section,
        "deleted": False,
        "isGenerated": False,
        "displayName": title,
        "metricKey": keys[0],
        "selectedMetricKeys": list(keys),
        "lineSmoothness": 0,
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "range": {},
        "xAxisKey": "step",
        "selectedXAxisMetricKey": "",
        "displayPoints": True,
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "ignoreOutliers": False,
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
        # what makes MLflow print the title of a chart with several lines; it has no other effect on runs' charts
        "nodeLevelSystemMetricConfiguration": {"metric": title, "type": "node"},
    }
    return [line, *(line | {"uuid": key, "metricKey": key, "deleted": True} for key in keys[1:])]


def _packed(
    title: str, state: Mapping[str, Any], charts: Mapping[str, str], cards: Sequence[Any], at_ms: int = 0
) -> str:
    """A view as the value of its tag: the sections of its charts stand first, everything else is folded."""
    section = {"isReordered": True, "deleted": False, "isGenerated": False}
    sections: list[dict[str, Any]] = [
        {"uuid": key, "name": text[:_LONGEST], "display": True, "columns": 2, "cardHeight": 230} | section
        for key, text in charts.items()
    ]
    kinds = sorted({key.partition("/")[0] for key in METRICS})
    folded = [*kinds, *(f"{DETAIL}{kind}" for kind in (*kinds, "parity"))]
    sections += [{"uuid": key, "name": key, "display": False} | section for key in folded]
    whole = dict(state) | {
        "selectedColumns": list(_COLUMNS),
        "columnOrder": [*_ALWAYS, *_COLUMNS],
        "columnWidths": _ALWAYS | _COLUMNS,
        "hideEmptyCharts": True,
        "isAccordionReordered": True,
        "compareRunSections": sections,
        "compareRunCharts": list(cards),
    }
    packed = "deflate;" + base64.b64encode(zlib.compress(json.dumps(whole).encode(), 9)).decode()
    return json.dumps({"name": title[:_LONGEST], "createdAt": at_ms, "updatedAt": at_ms, "state": packed})
