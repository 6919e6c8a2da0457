"""The Record survives the disk exactly and refuses what is not a number."""

import dataclasses
import json
import math
from pathlib import Path

import pytest

from llmbench import record
from llmbench.errors import RecordError
from records import make_record


def test_a_record_comes_back_equal(tmp_path):
    original = make_record(model="llada", steps=8)
    assert record.load(original.save(tmp_path / "job")) == original
    assert sorted(path.name for path in (tmp_path / "job").iterdir()) == ["record.json"]  # no half file


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_a_number_is_refused(value):
    with pytest.raises(RecordError, match="quality/perplexity"):
        dataclasses.replace(make_record(), metrics={"quality/perplexity": value})


def test_damaged_and_foreign_files_are_one_line(tmp_path):
    path = make_record().save(tmp_path)
    whole = {key: value for key, value in json.loads(path.read_text()).items() if key != "checksum"}
    damaged = {
        "": "not a record",
        "[]": "not a record",
        "[" * 100_000: "not a record: JSON: nested too deeply",
        json.dumps(whole | {"format_version": 99}): "record format 99",
        json.dumps({key: value for key, value in whole.items() if key != "outputs"} | {"timings": "none"}): "timings",
    }
    for text, expected in damaged.items():
        path.write_text(text)
        with pytest.raises(RecordError) as caught:
            record.load(path)
        assert expected in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(RecordError, match="cannot read"):
        record.load(tmp_path / "nowhere.json")


@pytest.mark.parametrize(("version", "label"), [(1, "llada k=4"), (4, "llada k=2")])
def test_a_record_of_an_earlier_format_still_reads(version, label):
    old = record.load(Path(__file__).parent / "fixtures" / f"record_format_{version}.json")
    assert (old.format_version, old.label, len(old.outputs)) == (version, label, 2)
    assert all(output.utf8_bytes == len(output.text.encode()) for output in old.outputs)


def test_the_engine_of_an_earlier_record_has_its_new_name(tmp_path):
    now = make_record()
    hardware = now.config["hardware"] | {"engine": "fused"}
    now = dataclasses.replace(
        now, config=now.config | {"hardware": hardware}, conditions=now.conditions | {"engine": "fused"}
    )
    values = json.loads(now.save(tmp_path).read_text())
    del values["checksum"]
    values |= {"format_version": 4, "conditions": values["conditions"] | {"engine": "graph"}}
    values["config"]["hardware"]["engine"] = "graph"
    old = record.parse(json.dumps(values).encode())
    assert (old.conditions, old.config) == ({"second_judge": "none"} | now.conditions, now.config)


def test_what_has_no_text_comes_back_without(tmp_path):
    whole = make_record()
    silent = dataclasses.replace(whole.outputs[0], prompt=None, text=None, utf8_bytes=None)
    timing = dataclasses.replace(whole.timings[0], utf8_bytes=None)
    original = dataclasses.replace(whole, outputs=(silent,), timings=(timing,))
    assert record.load(original.save(tmp_path)) == original


def test_a_total_with_an_absent_part_is_absent():
    assert record.total([1, 0, 2]) == 3
    assert record.total([1, None]) is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_sum_that_is_no_number_is_told_from_one_that_was_never_taken(tmp_path, value):
    whole = make_record()
    odd = dataclasses.replace(whole.scores[0], nll_nats=value)
    absent = dataclasses.replace(whole.scores[1], nll_nats=None)
    held = record.Likelihood(nll_nats=value, utf8_bytes=10, bound=True, standard_error_nats=value)
    original = dataclasses.replace(whole, scores=(odd, absent), likelihood=held)
    path = original.save(tmp_path)
    back = record.load(path)
    assert [repr(score.nll_nats) for score in back.scores] == [repr(value), "None"]
    assert (repr(back.likelihood.nll_nats), repr(back.likelihood.standard_error_nats)) == (repr(value), repr(value))

    def refuse(name):
        raise ValueError(name)

    json.loads(path.read_text(), parse_constant=refuse)  # JSON of any reader, not only Python's


def test_a_file_that_was_changed_by_one_byte_is_refused_and_one_without_checksum_is_read(tmp_path):
    original = make_record()
    path = original.save(tmp_path)
    whole = path.read_bytes()
    place = whole.index(b'"tokens": 20') + len(b'"tokens": ')
    path.write_bytes(whole[:place] + b"3" + whole[place + 1 :])
    with pytest.raises(RecordError, match="the checksum does not agree"):
        record.load(path)
    older = {key: value for key, value in json.loads(whole).items() if key != "checksum"}
    path.write_text(json.dumps(older))
    assert record.load(path) == original


@pytest.mark.parametrize("value", [math.nan, math.inf, -1])
@pytest.mark.parametrize("field", ["timings.0.e2e_ms", "timings.0.utf8_bytes", "duration_s", "ceilings.bytes_per_s"])
def test_a_time_or_a_size_that_cannot_be_is_refused_where_it_is_read(tmp_path, field, value):
    whole = json.loads(make_record().to_json())
    del whole["checksum"]
    room, names = whole, field.split(".")
    for name in names[:-1]:
        room = room[int(name) if name.isdigit() else name]
    room[names[-1]] = value
    path = tmp_path / "record.json"
    path.write_text(json.dumps(whole))
    with pytest.raises(RecordError, match=f"not a record: {field}: [^\n]+$"):
        record.load(path)
