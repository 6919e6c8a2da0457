"""User names and passwords in URIs: taken out of all that is shown or kept, and handed to workers by environment.

A password may hold any character, also those that end a URI's first part (`/`, `?`, `#`, `@`, blanks, quotes). A URI
that is known whole is read from its last `@`. In running text a URI ends at a blank or a quote, so passwords that
`clean_uri` has met are searched for as well.
"""

import functools
import json
import os
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

VARIABLE = "LLMBENCH_CREDENTIALS"
"""Environment variable: a JSON object of URIs without credentials and the same URIs with them."""

_WITHOUT_HOST = ("sqlite", "file")
_SECRET_KEYS = ("user", "username", "password", "passwd", "pwd", "pass", "token", "secret", "sslpassword", "api_key")
_IN_QUERY = re.compile(rf"(?<=[?&])({'|'.join(_SECRET_KEYS)})=([^&]*)(&?)", re.IGNORECASE)
_URI = re.compile(r"\b([a-zA-Z][\w+.-]*)://[^\s'\"]+")
_WHOLE = re.compile(r"[+~]*[\w.]*=?['\"]?([a-zA-Z][\w+.-]*)://[^\n]+")


def split_uri(uri: str) -> tuple[str, str]:
    """A URI without credentials, and with them: percent-encoded, so that every library reads the same.

    Args:
        uri: whole. User and password stand in front of the host, or in the query (`?user=ml&password=...`).
    """
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme.partition("+")[0] in _WITHOUT_HOST:
        return uri, uri
    end = _end_of_credentials(rest)
    user, colon, password = rest[: max(end, 0)].partition(":")
    place = rest[end + 1 :]
    encoded = "".join([_encoded(user), colon, _encoded(password), "@"]) if end >= 0 else ""
    clean = _IN_QUERY.sub("", place).rstrip("?&")
    place = _IN_QUERY.sub(lambda found: f"{found[1]}={_encoded(found[2], '+')}{found[3]}", place)
    return f"{scheme}://{clean}", f"{scheme}://{encoded}{place}"


def clean_uri(uri: str) -> str:
    """A URI without credentials. They are kept in this process' environment, where `full_uri` and workers find them."""
    clean, full = split_uri(uri)
    if clean != full:
        os.environ[VARIABLE] = json.dumps(_known() | {clean: full})
    return clean


def full_uri(clean: str) -> str:
    """A URI with its credentials: those that `clean_uri` met, or those of the same URI in MLFLOW_TRACKING_URI."""
    named = split_uri(os.environ.get("MLFLOW_TRACKING_URI", ""))
    return _known().get(clean) or (named[1] if named[0] == clean else clean)


def clean_arguments(arguments: Sequence[str]) -> list[str]:
    """A command line whose `tracking.uri=...` holds no credentials; they are kept as `clean_uri` keeps them."""

    def clean(match: re.Match[str]) -> str:
        key, quote, uri = match.groups()
        return f"{key}{quote}{clean_uri(uri.replace(f'{chr(92)}{quote}', quote) if quote else uri)}{quote}"

    return [re.sub(r"^(\+{0,2}tracking\.uri=)(['\"]?)(.*)\2$", clean, text, flags=re.DOTALL) for text in arguments]


def credentials_environment() -> dict[str, str]:
    """What the environment of a worker on another host must hold besides its own, so that it can open the stores."""
    names = (VARIABLE, "MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
    return {name: os.environ[name] for name in (*names, "MLFLOW_TRACKING_TOKEN") if name in os.environ}


def redact(value: Any) -> Any:
    """The same value without user names and passwords, through dicts, lists and strings."""
    if isinstance(value, str):
        return _redacted(value) if "://" in value or VARIABLE in os.environ else value
    if isinstance(value, Mapping):
        return {key: redact(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact(item) for item in value]
    return value


def _redacted(text: str) -> str:
    known = _secrets(os.environ.get(VARIABLE, ""), os.environ.get("MLFLOW_TRACKING_URI", ""))
    for full, clean in known.uris:
        text = text.replace(full, clean)
    if whole := _WHOLE.fullmatch(text):
        start = whole.start(1)
        text = text[:start] + split_uri(text[start:])[0]
    else:
        text = _URI.sub(lambda found: split_uri(found[0])[0], text)
    for secret in known.passwords:
        text = text.replace(secret, "***")
    return text


def _end_of_credentials(rest: str) -> int:
    """Where the `@` behind user and password stands, in a URI behind its `://`; -1 where there are none."""
    head, _, _ = rest.partition("?")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in head and ("@" in authority or ":" in authority):
        return head.rfind("@")
    raw = re.match(r"[^:/?#@\s]+:(?!\d*(?:[/?#]|$))", rest)  # no port: a password that holds a ?
    return rest.rfind("@") if raw and "@" not in head else -1


def _encoded(text: str, safe: str = "") -> str:
    return urllib.parse.quote(urllib.parse.unquote(text), safe=safe)


def _known() -> dict[str, str]:
    try:
        values = json.loads(os.environ.get(VARIABLE) or "{}")
    except ValueError:
        return {}
    return {str(key): str(value) for key, value in values.items()} if isinstance(values, dict) else {}


class _Secrets:
    """URIs with their clean form, longest first, and passwords in all forms that are not plain words."""

    def __init__(self, uris: Mapping[str, str]) -> None:
        self.uris = sorted(((full, clean) for clean, full in uris.items()), key=lambda pair: -len(pair[0]))
        found: set[str] = set()
        for full, _ in self.uris:
            parts = urllib.parse.urlsplit(full)
            password = urllib.parse.unquote(parts.password or "")
            texts = {password, parts.password or ""}
            for key, value in urllib.parse.parse_qsl(parts.query):
                texts |= {value, urllib.parse.quote(value, safe="")} if key.lower() in _SECRET_KEYS else set()
            texts |= {json.dumps(text)[1:-1] for text in texts} | {text.replace("'", "\\'") for text in texts}
            found |= {text for text in texts if len(text) >= 6 and not (text.isalpha() and text.islower())}
        self.passwords = sorted(found, key=len, reverse=True)


@functools.lru_cache(maxsize=8)
def _secrets(variable: str, named: str) -> _Secrets:
    """What is known now; a function of the environment's text."""
    clean, full = split_uri(named)
    return _Secrets(_known() | ({clean: full} if clean != full else {}))
