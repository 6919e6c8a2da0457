"""Opening a store: with its experiment, and in one line where it cannot be used."""

from typing import Any

from llmbench.config.job import TrackingConfig
from llmbench.errors import TrackingError
from llmbench.tracking import sqlite_store, store_uri, views
from llmbench.tracking.store import Store


def open_store(config: TrackingConfig, *, create: bool = True) -> Store:
    """Open the store of `config`, with its experiment.

    Args:
        config: `uri` and `experiment`.
        create: make the store and the experiment when they are missing. A reader passes False.

    Raises:
        TrackingError: it cannot be used; one line that says why, after a few seconds at most.
    """
    uri = store_uri.resolve_uri(config.uri)
    store_uri.check_reachable(uri, create)
    file = store_uri.sqlite_file(uri)
    if create and file is not None:
        sqlite_store.make_database(file)
    client, experiment = _open(uri, config.experiment)
    where = f"experiment {config.experiment} of {uri}"
    if experiment is None and not create:
        raise TrackingError(
            f"there is no {where}; run `llmbench -m experiment=parity` first, or name another with --experiment"
        )
    with store_uri.translated(f"cannot create {where}"):
        if create:
            experiment = _for_writing(client, experiment, config.experiment, uri)
    return Store(uri=uri, experiment=config.experiment, experiment_id=experiment.experiment_id, client=client)


def refusal(config: TrackingConfig) -> str | None:
    """Why `open_store` would refuse a sweep now; None where nothing is known against it. Makes nothing."""
    try:
        uri = store_uri.resolve_uri(config.uri)
        store_uri.check_reachable(uri, create=True, touch=False)
        file = store_uri.sqlite_file(uri)
        if file is None or (file.exists() and file.stat().st_size > 0):
            _open(uri, config.experiment)
    except TrackingError as error:
        return str(error)
    return None


def _for_writing(client: Any, experiment: Any, name: str, uri: str) -> Any:
    """The experiment, made where it is missing, with a folder for files, the view of all sweeps and a description."""
    artifacts, file = store_uri.artifact_folder(uri), store_uri.sqlite_file(uri)
    if experiment is None:
        experiment = _create(client, name, artifacts.as_uri() if artifacts else None)
    if file is not None and sqlite_store.adopt_artifacts(file, experiment):
        experiment = client.get_experiment(experiment.experiment_id)
    if artifacts is not None and experiment.artifact_location == artifacts.as_uri():
        artifacts.mkdir(parents=True, exist_ok=True)
    wanted = {f"{views.TAG}{views.ALL}": views.of_all_sweeps()}
    if "mlflow.note.content" not in experiment.tags:
        wanted["mlflow.note.content"] = views.description(experiment.experiment_id)
    for key, value in wanted.items():
        if experiment.tags.get(key) != value:
            _tag(client, experiment.experiment_id, key, value)
    return experiment


def _tag(client: Any, experiment_id: str, key: str, value: str) -> None:
    """Set a tag; that another process set it in the same instant is no failure."""
    try:
        client.set_experiment_tag(experiment_id, key, value)
    except Exception:
        if key not in client.get_experiment(experiment_id).tags:
            raise


def _open(uri: str, name: str) -> tuple[Any, Any]:
    """MLflow's client, and the experiment of this name, or None where there is none yet."""
    with store_uri.translated(f"cannot open the MLflow store {uri}", store_uri.remedy(uri)):
        client = store_uri.client(uri)
        experiment = client.get_experiment_by_name(name)
    if experiment is not None and experiment.lifecycle_stage != "active":
        where = f"experiment {name} of {uri}"
        raise TrackingError(f"{where} is deleted; restore it (mlflow experiments restore) or set tracking.experiment")
    return client, experiment


def _create(client: Any, name: str, location: str | None) -> Any:
    """A new experiment; that of another process, where one was quicker."""
    try:
        return client.get_experiment(client.create_experiment(name, artifact_location=location))
    except Exception:
        found = client.get_experiment_by_name(name)
        if found is None:
            raise
        return found
