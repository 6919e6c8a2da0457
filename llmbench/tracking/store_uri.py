"""Which MLflow store is meant, and can it be used? Answered before any job, in one line and a few seconds.

URIs become absolute, so that a job in another folder or process means the same store, and lose their credentials,
which stay in the environment (`system.redact`). What MLflow would retry for minutes (a server or database that does
not answer) is probed first. MLflow itself is imported here, late and silent.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

from llmbench.config.conf_files import typed
from llmbench.errors import LlmbenchError, TrackingError
from llmbench.system.paths import ELSEWHERE, results
from llmbench.system.redact import clean_uri, full_uri, redact

_SERVERS = {"http": 80, "https": 443}
_DATABASES = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_CONNECT_SECONDS = 3.0


def resolve_uri(uri: str | None) -> str:
    """The store's URI, absolute and without credentials. Nothing is opened.

    None means MLFLOW_TRACKING_URI, else `mlflow.db` in the folder of results (`paths.results`). Credentials are kept
    in the environment, where `full_uri` finds them.

    Raises:
        TrackingError: for what MLflow cannot keep sweeps in: plain folders, memory, unknown schemes.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or None
    if uri is None:
        return sqlite_uri(results() / "mlflow.db")
    scheme, separator, rest = uri.partition("://")
    if scheme == "databricks" or scheme in _SERVERS or scheme.partition("+")[0] in _DATABASES:
        return clean_uri(uri).rstrip("/")
    if not separator or scheme == "file":
        path = Path(rest or uri.removeprefix("file:")).absolute()
        database = path if path.suffix in (".db", ".sqlite") else path / "mlflow.db"
        raise TrackingError(
            f"tracking.uri={uri}: MLflow no longer writes to folders or bare paths; "
            f"use {typed('tracking.uri', sqlite_uri(database))}"
        )
    if scheme != "sqlite":
        known = "use sqlite:///file.db or http://host:port"
        raise TrackingError(f"tracking.uri={redact(uri)}: unknown scheme {scheme}; {known}")
    return sqlite_uri(_database_of(uri).absolute())


def _database_of(uri: str) -> Path:
    """The file that a SQLite URI names.

    Raises:
        TrackingError: it names none, or has a query.
    """
    import sqlalchemy

    try:
        url = sqlalchemy.make_url(uri)
    except (sqlalchemy.exc.ArgumentError, ValueError) as error:
        raise TrackingError(f"tracking.uri={uri}: cannot be read; use sqlite:////folder/file.db") from error
    if "?" in uri:
        raise TrackingError(f"tracking.uri={uri}: a ? in the name of a file is written %3F; nothing else may follow it")
    if not url.database or url.database == ":memory:":
        raise TrackingError(f"tracking.uri={uri}: a store in memory is lost with the process; name a file")
    if url.host:
        slashes = f"use sqlite:///{url.host}/{url.database}, or sqlite:////folder/file.db"
        raise TrackingError(f"tracking.uri={uri}: a path begins behind three slashes; {slashes}")
    return Path(url.database)


def sqlite_uri(path: Path) -> str:
    """The URI of a SQLite file; characters with a meaning in URIs are percent-encoded.

    Raises:
        TrackingError: the installed SQLAlchemy has no way to write this path.
    """
    import urllib.parse

    import sqlalchemy

    for text in (str(path), urllib.parse.quote(str(path))):
        url = sqlalchemy.make_url(f"sqlite:///{text}")
        if url.database == str(path) and not url.query:
            return f"sqlite:///{text}"
    raise TrackingError(f"tracking.uri: no URI can be written for {path}; name a folder without ?, or {ELSEWHERE}")


def sqlite_file(uri: str) -> Path | None:
    """The file of a resolved URI; None for servers and other databases."""
    return _database_of(uri) if uri.startswith("sqlite:") else None


def artifact_folder(uri: str) -> Path | None:
    """Where a new experiment keeps files: beside a SQLite file, else under the results; None where a server decides."""
    if file := sqlite_file(uri):
        return file.parent / "artifacts"
    return results() / "artifacts" if uri.partition("://")[0].partition("+")[0] in _DATABASES else None


def check_reachable(uri: str, create: bool, touch: bool = True) -> None:
    """Refuse at once what MLflow would retry for minutes.

    Args:
        uri: resolved.
        create: whether the store will be written, and made where it is missing; else it will be read.
        touch: make the folder of a SQLite file; a plan makes nothing.

    Raises:
        TrackingError: it cannot be used.
    """
    import socket
    import urllib.error
    import urllib.parse
    import urllib.request

    scheme = uri.partition("://")[0].partition("+")[0]
    if file := sqlite_file(uri):
        _check_file(file, create, touch)
    if scheme not in _SERVERS and scheme not in _DATABASES:
        return
    try:
        parts = urllib.parse.urlsplit(uri)
        if scheme in _SERVERS:
            with contextlib.suppress(urllib.error.HTTPError):  # any answer is an answer
                urllib.request.urlopen(f"{uri}/health", timeout=_CONNECT_SECONDS, context=_any_certificate()).close()
        else:
            address = (parts.hostname or "localhost", parts.port or _DATABASES[scheme])
            socket.create_connection(address, timeout=_CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        change = "start the server, or leave tracking.uri out for a local file"
        raise TrackingError(f"tracking.uri={uri} does not answer ({redact(str(reason))}); {change}") from error
    if scheme in _DATABASES:
        _check_database(uri)


def _check_database(uri: str) -> None:
    """Log in once: MLflow would try a wrong name or password again for a minute and a half."""
    import sqlalchemy

    try:
        engine = sqlalchemy.create_engine(full_uri(uri))
        engine.connect().close()
        engine.dispose()
    except ImportError as error:
        driver = error.name or "of this database"
        remedy = 'pip install "psycopg[binary]"' if driver == "psycopg" else "install it"
        raise TrackingError(
            f"tracking.uri={uri} needs the driver {driver}; {remedy}, or name another (as in postgresql+psycopg2://)"
        ) from error
    except (sqlalchemy.exc.SQLAlchemyError, ValueError, TypeError) as error:
        reason = " ".join(str(getattr(error, "orig", None) or error).split())
        change = (
            "" if full_uri(uri) != uri else "; write user:password@ in front of the host, or set MLFLOW_TRACKING_URI"
        )
        raise TrackingError(f"tracking.uri={uri}: {redact(reason)}{change}") from error


def _any_certificate() -> Any:
    """The probe sends nothing; whether the certificate is trusted is for MLflow to decide."""
    import ssl

    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _check_file(path: Path, create: bool, touch: bool) -> None:
    if not path.exists() and not create:
        raise TrackingError(
            f"there is no MLflow store {path}; run `llmbench -m experiment=parity` first, name another with --uri, or "
            "read the sweeps of a "
            "folder with --folder"
        )
    head = b""
    shown = f"tracking.uri={sqlite_uri(path)}"
    change = f"name another file, or {ELSEWHERE}" if create else "name another with --uri"
    try:
        if create and touch:
            path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            with path.open("rb") as file:
                head = file.read(16)
    except OSError as error:
        raise TrackingError(f"{shown}: {error.strerror} ({error.filename}); {change}") from error
    if not head and not create:
        raise TrackingError(f"{shown}: the file is empty; name another with --uri")
    if head and not head.startswith(b"SQLite format 3"):
        raise TrackingError(f"{shown}: the file is no SQLite database; name another")
    written = path if path.exists() else next(above for above in path.parents if above.exists())
    if create and not (os.access(written, os.W_OK) and (written == path or written.is_dir())):
        raise TrackingError(f"{shown}: {written} is not writable; {change}")


def client(uri: str) -> Any:
    """MLflow's client, imported late (1.4 s), silent, and with telemetry off unless the user has decided."""
    if not {"MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"} & os.environ.keys():
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = os.environ["DO_NOT_TRACK"] = "true"
    # of a server that hangs; what was not logged is sent again at the end of a sweep, or by `llmbench sync`
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # its errors reach us, and are told in a line
    with no_encoded_folder(uri):
        return MlflowClient(tracking_uri=full_uri(uri))


@contextlib.contextmanager
def no_encoded_folder(uri: str) -> Iterator[None]:
    """MLflow makes the folder of a SQLite URI without decoding it; take such empty folders away at the end."""
    raw = Path(uri.removeprefix("sqlite:///")).parent if uri.startswith("sqlite:///") else Path()
    made = [folder for folder in (raw, *raw.parents) if not folder.exists()]
    try:
        yield
    finally:
        for folder in made:
            with contextlib.suppress(OSError):  # not empty, or never made
                folder.rmdir()


@contextlib.contextmanager
def translated(what: str, change: str = "") -> Iterator[None]:
    """MLflow's, SQL's and the network's exceptions as one line without passwords; `change`: what helps."""
    try:
        yield
    except LlmbenchError:
        raise
    except Exception as error:
        status = getattr(error, "get_http_status_code", lambda: None)()
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            reason, change = f"the server does not let this user in ({status})", _LOG_IN
        else:
            reason = redact((str(error).strip() or type(error).__name__).splitlines()[0])
        raise TrackingError(f"{what}: {reason}{change and f'; {change}'}") from error


_LOG_IN = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or write user:password@ in front of the host"


def remedy(uri: str) -> str:
    """What helps where a store exists and does not open."""
    if uri.partition("://")[0] in _SERVERS:
        return "is this an MLflow server? start one, or leave tracking.uri out for a local file"
    if sqlite_file(uri) is None:
        return ""
    return (
        f"if the file is damaged, move it away: Records lie under {results()} all the same, and `llmbench sync FOLDER` "
        "sends them into a new one"
    )
