"""Where do results go so that a team can look at them? MLflow: one parent run per sweep, one child run per job.

The only room that knows MLflow, through `MlflowClient` alone: there is no global active run that a crash could leak.
A child carries every metric with step = diffusion steps (a model without steps has each value at every k of the
sweep, so that its line is flat when the UI groups by model), short params, the resolved configuration, the whole
Record and its generations. The parent carries the parity curve, the figures and the verdict as its description. What
is logged can be read back: `Store.records` returns the Records of a sweep, from which every table is made again.

The default store is a SQLite file in the folder of results (MLflow no longer writes to plain folders); any server or
SQL database works through `tracking.uri`, or the environment variable MLFLOW_TRACKING_URI. `open_store` says in one
line, before any job, what is wrong with a store. Credentials are taken out of URIs when they are resolved and stay in
the environment (`system.redact`). MLflow's telemetry is off unless the user has set MLFLOW_DISABLE_TELEMETRY or
DO_NOT_TRACK.
"""

from llmbench.system.redact import redact
from llmbench.tracking.opening import open_store, refusal
from llmbench.tracking.reading import options
from llmbench.tracking.run_payload import axes, axes_of, generations
from llmbench.tracking.store import Store
from llmbench.tracking.store_uri import resolve_uri
from llmbench.tracking.summary import SweepSummary
from llmbench.tracking.views import view_url

__all__ = [
    "Store",
    "SweepSummary",
    "axes",
    "axes_of",
    "generations",
    "open_store",
    "options",
    "redact",
    "refusal",
    "resolve_uri",
    "view_url",
]
