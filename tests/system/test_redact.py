"""No user name and no password of a URI is shown, whatever characters it holds and wherever it stands."""

import json
from urllib.parse import quote

import pytest

from llmbench.system.redact import (
    VARIABLE,
    clean_arguments,
    clean_uri,
    credentials_environment,
    full_uri,
    redact,
    split_uri,
)

PASSWORDS = [
    "pa55word",
    "pa/55",
    "pa 55 word",
    "pa'55\"word",
    "p@ss@55",
    "pa?55",
    "pa#55",
    "pa:55",
    "5000/pa55",
    "%2Fpa55",
    "pä55",
]


@pytest.fixture(autouse=True)
def _nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("place", ["host:5000", "host/db", "[::1]:5432/db?sslmode=require", "127.0.0.1"])
def test_a_password_of_any_characters_is_taken_out_and_read_by_libraries(password: str, place: str) -> None:
    import sqlalchemy

    clean, full = split_uri(f"postgresql://ml:{password}@{place}")
    assert clean == f"postgresql://{place}"
    url = sqlalchemy.make_url(full)
    decoded = "/pa55" if password == "%2Fpa55" else password
    assert (url.username, url.password) == ("ml", decoded)
    assert redact(f"postgresql://ml:{password}@{place}") == clean
    assert redact({"a": [f"tracking.uri=postgresql://ml:{password}@{place}"]}) == {"a": [f"tracking.uri={clean}"]}


@pytest.mark.parametrize("password", PASSWORDS)
def test_a_password_of_any_characters_in_a_query_is_taken_out_and_read_by_libraries(password: str) -> None:
    import sqlalchemy

    uri = f"postgresql://host:5432/db?user=ml&password={password}"
    clean, full = split_uri(uri)
    assert clean == "postgresql://host:5432/db"
    decoded = "/pa55" if password == "%2Fpa55" else password
    assert dict(sqlalchemy.make_url(full).query) == {"user": "ml", "password": decoded}
    assert redact([f"tracking.uri={uri}"]) == [f"tracking.uri={clean}"]


@pytest.mark.parametrize("password", PASSWORDS)
def test_a_password_that_was_met_is_found_in_any_text(password: str) -> None:
    decoded = "/pa55" if password == "%2Fpa55" else password
    clean_uri(f"postgresql://ml:{password}@host/db")
    for text in (f"error: ml:{password} at host", json.dumps({"uri": f"see postgresql://ml:{password}@host/db x"})):
        if len(password) >= 6:
            assert decoded not in redact(text)
            assert password not in redact(text)


@pytest.mark.parametrize(
    ("uri", "clean"),
    [
        ("postgresql://host/db?user=ml&password=pa55&sslmode=x", "postgresql://host/db?sslmode=x"),
        ("postgresql://host/db?sslmode=x&user=ml&password=pa55", "postgresql://host/db?sslmode=x"),
        ("postgresql://host/db?password=pa/5@5", "postgresql://host/db"),
        ("postgresql:///db?host=/run&Password=pa55", "postgresql:///db?host=/run"),
        ("mysql+pymysql://ml:pa55@host/db?user=x@y", "mysql+pymysql://host/db"),
        ("https://tok55@host/x", "https://host/x"),
    ],
)
def test_credentials_in_a_query_are_taken_out(uri: str, clean: str) -> None:
    assert split_uri(uri)[0] == clean
    assert redact(f"cannot open {uri}") == f"cannot open {clean}"


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:////a/b@c.db",
        "file:///a@b/c",
        "http://host:5000/#/experiments/1/runs",
        "http://host/x@y",
        "http://[::1]:5000",
        "databricks",
        "hub:org/name@1234",
        "a mail to a@b.c",
    ],
)
def test_what_holds_no_credentials_stays_as_it_is(text: str) -> None:
    assert redact(text) == text
    assert split_uri(text) == (text, text)


def test_text_around_uris_stays() -> None:
    value = {"list": ["see https://tok@host, or sqlite:////a/b@c.db"], "n": 3, "t": ("http://u:p@h",)}
    assert redact(value) == {"list": ["see https://host, or sqlite:////a/b@c.db"], "n": 3, "t": ["http://h"]}


def test_credentials_travel_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert clean_uri("http://ml:pa/55@host:5000") == "http://host:5000"
    assert clean_uri("http://other:5000") == "http://other:5000"
    assert full_uri("http://host:5000") == "http://ml:pa%2F55@host:5000"
    assert full_uri("http://other:5000") == "http://other:5000"
    assert "pa%2F55" in credentials_environment()[VARIABLE]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://ml:pa55@host/db")
    assert full_uri("postgresql://host/db") == "postgresql://ml:pa55@host/db"
    monkeypatch.setenv(VARIABLE, "{damaged")
    assert full_uri("http://host:5000") == "http://host:5000"


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("form", ["tracking.uri={}", "+tracking.uri={}", "++tracking.uri={}", "tracking.uri='{}'"])
def test_a_command_line_loses_its_password_before_hydra_reads_it(form: str, password: str) -> None:
    uri = f"http://ml:{password}@host:5000"
    typed = form.format(uri.replace("'", "\\'") if "'" in form else uri)
    assert clean_arguments(["-m", typed, "steps=8"]) == ["-m", form.format("http://host:5000"), "steps=8"]
    decoded = "/pa55" if password == "%2Fpa55" else password
    assert full_uri("http://host:5000") == f"http://ml:{quote(decoded, safe='')}@host:5000"
    untouched = ["tracking.uri=sqlite:///a@b.db", "workload.source=http://a:b@c", "tracking.uri=null"]
    assert clean_arguments(untouched) == untouched
