"""Texts for the likelihood: the bundled ones, a file of one's own, and every bad file in one line."""

import gzip
import json

import pytest

from llmbench.data import heldout
from llmbench.errors import WorkloadError


def test_heldout_is_a_fixed_modest_set_of_short_texts_of_every_source():
    found = heldout.heldout()
    assert found == heldout.heldout()
    assert len(found) == len(set(found)) == 24
    assert all(text == text.strip() and 60 <= len(text.split()) <= 80 for text in found)
    assert heldout.load("bundled:heldout").texts == tuple(found)


def test_fewer_heldout_texts_are_taken_in_turn_from_every_source_and_more_than_all_are_refused():
    found = heldout.heldout()
    assert heldout.heldout(24) == found
    assert heldout.heldout(6) == found[::4]
    assert heldout.heldout(8) == [*found[:2], *found[4:6], *found[8::4]]
    with pytest.raises(WorkloadError, match=r"metric\.likelihood_texts=25, but there are 24"):
        heldout.heldout(25)


def test_a_text_file_is_divided_by_blank_lines_and_jsonl_by_lines(tmp_path):
    plain, lines = tmp_path / "own.txt", tmp_path / "own.jsonl"
    plain.write_bytes("\ufeffOne\nline more.\r\n \r\n\r\nTwo é.\n".encode())
    rows = [{"text": "One\nline more.", "source": "x"}, {"text": " Two é. "}]
    lines.write_text("\n\n".join(map(json.dumps, rows)))
    expected = ("One\nline more.", "Two é.")
    assert heldout.load(str(plain)).texts == heldout.load(str(lines)).texts == expected
    assert heldout.load(str(plain)).digest == heldout.load(str(lines)).digest
    assert heldout.load(str(plain), 1).texts == expected[:1]
    assert heldout.load(str(plain), 1).digest != heldout.load(str(plain)).digest
    assert heldout.load(str(plain)).name == "own.txt"
    packed = tmp_path / "own.jsonl.gz"
    packed.write_bytes(gzip.compress(lines.read_bytes()))
    assert heldout.load(str(packed)).texts == expected


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", b"", "is empty; write some text"),
        ("a.txt", b" \n\n \n", "is empty"),
        ("a.jsonl", b"\n", 'is empty; write one JSON object a line: {"text": "..."}'),
        ("a.txt", b"fine\nnot \xff", "line 2: byte 0xff is not UTF-8"),
        ("a.jsonl", b'{"text": "a"}\nplain', "line 2: not JSON"),
        ("a.jsonl", b'{"prompt": "a"}', 'line 1: no "text"'),
        ("a.jsonl", b'{"text": 3}', 'line 1: no "text"'),
        ("a.jsonl", b'{"text": " "}', 'line 1: "text" is empty'),
        ("a.jsonl", b'{"text": "\\ud800"}', "half of a character"),
        ("a.jsonl", b'{"text": "a", "text": "b"}', "line 1: 'text' stands 2 times"),
        ("a.txt", b"one\n\ntwo", "likelihood_texts=3, but"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WorkloadError) as raised:
        heldout.load(str(tmp_path / name), 3)
    assert says in str(raised.value)
    assert str(tmp_path / name) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_source_that_is_not_there_is_named(tmp_path):
    with pytest.raises(WorkloadError, match=r"missing\.txt does not exist; give a \.jsonl or text file"):
        heldout.load(str(tmp_path / "missing.txt"))
    with pytest.raises(WorkloadError, match="is a folder"):
        heldout.load(str(tmp_path))
