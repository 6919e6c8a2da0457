"""Reading, selecting and cutting prompts; every fault of a file is one line with file and line number."""

import bz2
import gzip
import json
import lzma
import re
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest

from llmbench.config.job import WorkloadConfig
from llmbench.data import workloads
from llmbench.errors import WorkloadError
from llmbench.metrics.answers import final_number, is_right
from llmbench.system import digests


def config(source, prompts=1, prompt_words=None, reference_words=None, tasks=None):
    return WorkloadConfig(
        tasks=tasks,
        source=str(source),
        prompts=prompts,
        prompt_words=prompt_words,
        reference_words=reference_words,
        diversity_tokens=32,
    )


@pytest.fixture
def write(tmp_path):
    def write(*rows: object) -> Path:
        path = tmp_path / "prompts.jsonl"
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
        return path

    return write


def test_the_default_workload_is_twelve_of_each_of_four_tasks():
    workload = workloads.load(config("bundled:continuation", 48, 24, 48))
    assert Counter(prompt.task for prompt in workload.prompts) == dict.fromkeys(["story", "speech", "chat", "poem"], 12)
    assert workload.name == "continuation"
    assert all(len(prompt.text.split()) == 24 for prompt in workload.prompts)
    assert all(0 < len(prompt.reference.split()) <= 48 for prompt in workload.prompts)
    workload.require_references("bertscore")
    whole = workloads.load(config("bundled:continuation", 406, 10, 48)).prompts
    assert whole[:48] == workloads.load(config("bundled:continuation", 48, 10, 48)).prompts
    assert all(prompt.document for prompt in whole)
    assert {len(prompt.reference.split()) for prompt in whole} == {48}


def test_tasks_take_turns_in_file_order_and_a_spent_task_is_passed_over(write):
    rows = [
        {"id": f"{task}{i}", "task": task, "prompt": f"{task} {i}"}
        for task, n in (("a", 3), ("b", 1), ("c", 2))
        for i in range(n)
    ]
    path = write(*rows)
    order = [prompt.id for prompt in workloads.load(config(path, 6)).prompts]
    assert order == ["a0", "b0", "c0", "a1", "c1", "a2"]
    assert [prompt.id for prompt in workloads.load(config(path, 4)).prompts] == order[:4]


def test_cutting_counts_words_and_keeps_the_whitespace_between_them(write):
    path = write({"prompt": "  one two\n\tthree  four\n", "reference": "five\n six\tseven eight "})
    (prompt,) = workloads.load(config(path, 1, 3, 2)).prompts
    assert (prompt.text, prompt.reference) == ("two\n\tthree  four", "five\n six")
    (whole,) = workloads.load(config(path, 1, 4, 9)).prompts
    assert (whole.text, whole.reference) == ("one two\n\tthree  four", "five\n six\tseven eight")
    assert workloads.load(config(path)).prompts == (whole,)


@pytest.mark.parametrize(
    ("prompt", "gap"),
    [("She went home.", " "), ("A rose\nis a rose", "\n"), ("A: hi\nB: hello\nA:", " ")],
)
def test_the_gap_before_a_reference_is_a_line_end_after_verse(write, prompt, gap):
    path = write({"prompt": prompt, "reference": "x"})
    assert workloads.load(config(path, 1, 1)).prompts[0].gap == gap  # decided before the prompt is cut


def test_the_tail_is_as_long_as_the_reference_or_the_whole_prompt(write):
    path = write(
        {"prompt": "a b\nc d", "reference": "x y"}, {"prompt": "a b", "reference": "x y z"}, {"prompt": "a  b c"}
    )
    assert [prompt.tail for prompt in workloads.load(config(path, 3)).prompts] == ["c d", "a b", "a  b c"]


def test_the_digest_is_of_what_is_used(write):
    path = write({"id": "1", "prompt": "a b c", "reference": "d"}, {"id": "2", "prompt": "e"})
    digest = workloads.load(config(path, 1, 2)).digest
    assert re.fullmatch("[0-9a-f]{12}", digest)
    same = write({"id": "1", "prompt": "z b c", "reference": "d", "source": "somewhere"}, {"id": "3", "prompt": "f"})
    assert workloads.load(config(same, 1, 2)).digest == digest
    assert workloads.load(config(same, 1, 3)).digest != digest
    assert workloads.load(config(same, 2, 2)).digest != digest


def test_a_document_is_kept_and_belongs_to_the_digest_only_where_there_is_one(write):
    rows = [{"prompt": "a b c", "document": " Emma "}, {"prompt": "d e", "document": "Emma"}, {"prompt": "f"}]
    workload = workloads.load(config(write(*rows), 3, 2))
    assert [(p.text, p.document) for p in workload.prompts] == [("b c", "Emma"), ("d e", "Emma"), ("f", None)]
    assert workload.notes == ()
    assert (
        workload.digest != workloads.load(config(write(rows[0] | {"document": "Persuasion"}, *rows[1:]), 3, 2)).digest
    )
    plain = workloads.load(config(write({"prompt": "f", "id": "1"}))).digest
    content = [["1", "all", "f", None, " "]]  # as before there were documents
    assert plain == digests.digest(json.dumps(content))
    assert plain == workloads.load(config(write({"prompt": "f", "id": "1", "document": None}))).digest
    answered = {"prompt": "f", "id": "1", "answer": "4"}
    assert (
        workloads.load(config(write(answered))).digest
        != workloads.load(config(write({"prompt": "f", "id": "1", "document": "4"}))).digest
    )
    with pytest.raises(WorkloadError, match=r'line 1: "document" must be a text, not 7'):
        workloads.load(config(write({"prompt": "a", "document": 7})))


def test_two_prompts_of_equal_text_are_refused_by_name_where_both_are_selected(write):
    path = write({"prompt": "x b c", "id": "one"}, {"prompt": "other"}, {"prompt": "y b  c"}, {"prompt": "z b c"})
    assert [p.text for p in workloads.load(config(path, 3, 2)).prompts] == ["b c", "other", "b  c"]
    assert len(workloads.load(config(path, 4)).prompts) == 4  # uncut they differ
    with pytest.raises(WorkloadError) as raised:
        workloads.load(config(path, 4, 2))
    assert str(raised.value) == (
        f"{path}: prompts 'one' and 'line-4' are the same text after cutting, and would count twice; "
        "remove one of them, or raise workload.prompt_words (null keeps all)"
    )


def test_ids_tasks_and_references_may_be_missing(write):
    path = write(
        {"prompt": "a"}, "", {"prompt": "b", "id": None, "task": None, "reference": ""}, {"prompt": "c", "id": 7}
    )
    prompts = workloads.load(config(path, 3)).prompts
    assert [(p.id, p.task, p.reference) for p in prompts] == [
        ("line-1", "all", None),
        ("line-3", "all", None),
        ("7", "all", None),
    ]


def test_a_byte_order_mark_windows_line_ends_and_exotic_separators_are_read(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_bytes('\ufeff{"prompt": "a\u2028b"}\r\n{"prompt": "é"}\r\n'.encode())
    assert [prompt.text for prompt in workloads.load(config(path, 2)).prompts] == ["a\u2028b", "é"]


def test_a_missing_reference_is_refused_with_prompt_and_remedy():
    workload = workloads.load(config("bundled:instruct", 4))
    with pytest.raises(WorkloadError, match=r"instruct: prompt 'chat-000' has no reference.*metric\.bertscore=null"):
        workload.require_references("bertscore")


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ('{"prompt": "a"', "line 2: not JSON: Expecting ',' delimiter at column 15"),
        ("prompt: a", "line 2: not JSON"),
        ("[" * 100_000, "line 2: not"),
        ('["a"]', "line 2: list instead of an object"),
        ('"a"', "line 2: str instead of an object"),
        ('{"text": "a"}', "line 2: no \"prompt\"; the keys are 'text'"),
        ("{}", 'line 2: no "prompt"; the keys are none'),
        ('{"prompt": " \\n"}', 'line 2: "prompt" is empty'),
        ('{"prompt": null}', 'line 2: "prompt" must be a text, not null'),
        ('{"prompt": ["a"]}', 'line 2: "prompt" must be a text, not ["a"]'),
        ('{"prompt": "a", "reference": 5}', 'line 2: "reference" must be a text, not 5'),
        ('{"prompt": "a", "reference": " "}', 'line 2: "reference" is empty; leave it out'),
        ('{"prompt": "a", "id": true}', 'line 2: "id" must be a text, not true'),
        ('{"prompt": "a", "task": 1}', 'line 2: "task" must be a text, not 1'),
        ('{"prompt": "a", "reference": "b", "prompt": "c"}', "line 2: 'prompt' stands 2 times in one object; keep one"),
        ('{"prompt": "a", "id": "one"}', "line 2: \"id\" 'one' is already on line 1"),
        ('{"prompt": "a\\ud83d"}', 'line 2: "prompt" holds half of a character (\\ud83d)'),
    ],
)
def test_a_bad_line_is_named_with_its_number_even_when_it_is_not_selected(write, bad, says):
    path = write({"prompt": "fine", "id": "one"}, bad)
    with pytest.raises(WorkloadError) as raised:
        workloads.load(config(path, 1))
    assert str(raised.value).startswith(f"{path}, {says}")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "has no prompts; write one JSON object a line"),
        (b"\n \n", "has no prompts"),
        (gzip.compress(b'{"prompt": "a"}\n', mtime=0)[:-9], "is compressed and damaged: "),
        (lzma.compress(b'{"prompt": "a"}\n')[:-9], "is compressed and damaged: "),
        (b"\x28\xb5\x2f\xfd\x04", "is compressed; unpack it: unzstd "),
        (b"PK\x03\x04", "is compressed; unpack it: unzip "),
        (b'{"prompt": "a"}\n{"prompt": "b\xff"}\n', "line 2: byte 0xff is not UTF-8"),
        (b'{"prompt": "a"}\n{"prompt": "b"}\n', "has only 2; set workload.prompts=2"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path, content, says):
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(content)
    with pytest.raises(WorkloadError) as raised:
        workloads.load(config(path, 3))
    assert str(path) in str(raised.value)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_source_that_is_not_there_is_named(tmp_path):
    with pytest.raises(WorkloadError, match=r"missing\.jsonl does not exist"):
        workloads.load(config(tmp_path / "missing.jsonl"))
    with pytest.raises(WorkloadError, match="is a folder; give a JSONL file"):
        workloads.load(config(tmp_path))
    with pytest.raises(WorkloadError, match=r"bundled:heldout: no such .* bundled:continuation, bundled:edit"):
        workloads.load(config("bundled:heldout"))


def synthetic(prompts=3, tokens=5, seed=0):
    return workloads.load(
        WorkloadConfig(
            source="synthetic",
            prompts=prompts,
            prompt_words=None,
            reference_words=None,
            diversity_tokens=32,
            prompt_tokens=tokens,
            seed=seed,
        )
    )


def test_synthetic_prompts_are_equally_long_draws_without_text():
    workload = synthetic()
    assert [len(prompt.draws) for prompt in workload.prompts] == [5, 5, 5]
    assert {(prompt.text, prompt.reference) for prompt in workload.prompts} == {("", None)}
    assert len({prompt.draws for prompt in workload.prompts}) == 3
    assert len({prompt.id for prompt in workload.prompts}) == 3


def test_synthetic_prompts_depend_on_seed_and_size_and_keep_their_beginnings():
    assert synthetic() == synthetic()
    assert len({synthetic(**change).digest for change in ({}, {"seed": 1}, {"tokens": 6}, {"prompts": 4})}) == 4
    longer = synthetic(prompts=4, tokens=6).prompts
    assert [prompt.draws[:5] for prompt in longer[:3]] == [prompt.draws for prompt in synthetic().prompts]


def test_some_tasks_and_their_answers(write):
    workload = workloads.load(config("bundled:instruct", 80, tasks=["math"]))
    assert {prompt.task for prompt in workload.prompts} == {"math"}
    assert all(is_right(prompt.reference, prompt.answer) for prompt in workload.prompts)

    path = write({"prompt": "x", "task": "a", "answer": 4}, {"prompt": "y", "task": "b"})
    assert [prompt.answer for prompt in workloads.load(config(path, 2)).prompts] == ["4", None]
    plain = write({"prompt": "x", "task": "a"})
    without = workloads.load(config(plain, 1)).digest
    assert without != workloads.load(config(write({"prompt": "x", "task": "a", "answer": 4}), 1)).digest
    with pytest.raises(WorkloadError, match=r"workload.tasks: .* has no task 'c'; there are a"):
        workloads.load(config(plain, 1, tasks=["c"]))
    with pytest.raises(WorkloadError, match="has only 1 of these tasks"):
        workloads.load(config(plain, 2, tasks=["a"]))
    with pytest.raises(WorkloadError, match='line 1: "answer" must be one plain number'):
        workloads.load(config(write({"prompt": "x", "answer": "blue"}), 1))


@pytest.mark.parametrize(
    "answer",
    [
        r"\frac{3}{4}", "3/4", "1 3/4", r"2\sqrt{13}", r"\boxed{7}", "$7$", "x^2", "5 m2", "18 dollars", "12 o'clock",
        "[1, 2)", "3-4", "1, 2", "1,2", "12,34", "1 000", "3,14", "1.234,5", "1e-05", "0x1F", "+-3", "--3", "B", "C4",
        "٣", "²", "-", "$", ".", "5.", "1.2.3", "7 or 8", "50 %", "∞", "NaN",
    ],
)  # fmt: skip
def test_an_answer_that_is_not_one_plain_number_is_refused_in_one_line(write, answer):
    with pytest.raises(WorkloadError, match='line 1: "answer" must be one plain number') as caught:
        workloads.load(config(write({"prompt": "x", "answer": answer})))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("18", "18"), ("-7", "-7"), ("−12.5", "-12.5"), ("$1,234.50", "1234.5"), ("-$5", "-5"), (".5", "0.5"),
        ("50%", "50"), ("1,00,000", "100000"), ("€3", "3"), (" 42 ", "42"),
        ("1e-05", "0.00001"), ("1e16", "10000000000000000"), ("-2.5E-7", "-0.00000025"), ("18.0", "18"),
    ],
)  # fmt: skip
def test_plain_numbers_are_read_as_what_they_are(write, given, value):
    """Texts as they stand, JSON numbers in full."""
    number = "e" in given.lower()
    path = write(f'{{"prompt": "x", "answer": {given if number else json.dumps(given)}}}')
    (prompt,) = workloads.load(config(path)).prompts
    assert final_number(prompt.answer) == Decimal(value)
    assert is_right(f"so it is {value}", prompt.answer)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_json_numbers_that_are_none_are_refused(write, number):
    with pytest.raises(WorkloadError, match='"answer" must be one plain number'):
        workloads.load(config(write(f'{{"prompt": "x", "answer": {number}}}')))


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        ("either\n#### 1,2", None),
        ("a half\n#### 1/2", None),
        ("#### ٣", None),
        ("6 * 7 = 42\n#### 42", "42"),
        ("a\n#### 1,000 \n", "1,000"),
        ("a loss\n#### -$5", "-$5"),
        ("#### Step 2\nmore", None),
        ("the 42nd", None),
    ],
)
def test_a_reference_that_ends_as_gsm8ks_do_brings_its_answer(write, reference, answer):
    (prompt,) = workloads.load(config(write({"prompt": "x", "reference": reference}), reference_words=1)).prompts
    assert prompt.answer == answer
    (prompt,) = workloads.load(config(write({"prompt": "x", "reference": reference, "answer": 3}))).prompts
    assert prompt.answer == "3"


def test_no_tasks_at_all_are_refused_by_name(write):
    with pytest.raises(WorkloadError, match=r"^workload.tasks is empty; null keeps all$"):
        workloads.load(config(write({"prompt": "x"}), tasks=[]))


def test_a_file_of_another_kind_is_told_what_a_line_looks_like(write, tmp_path):
    with pytest.raises(
        WorkloadError, match=r'line 1: not JSON: .*looks like \{"prompt": .*Parquet and CSV: .*=dataset'
    ):
        workloads.load(config(write("Once upon a time")))
    with pytest.raises(WorkloadError) as caught:
        workloads.load(config(write('{"prompt": "x"')))
    assert "looks like" not in str(caught.value)
    table = tmp_path / "mine.parquet"
    table.write_bytes(b"PAR1\xff")
    with pytest.raises(WorkloadError, match=r"mine.parquet is no JSONL file.*workload=dataset"):
        workloads.load(config(table))


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_compressed_file_is_read_as_what_is_in_it(tmp_path, pack):
    lines = b'{"prompt": "a"}\n{"prompt": "b\xc3\xbc"}\n'
    (tmp_path / "p.jsonl").write_bytes(lines)
    (tmp_path / "p.jsonl.packed").write_bytes(pack(lines))
    plain, packed = (workloads.load(config(tmp_path / name, 2)) for name in ("p.jsonl", "p.jsonl.packed"))
    assert packed.prompts == plain.prompts
    assert packed.digest == plain.digest


@pytest.mark.parametrize(
    ("text", "last", "first"),
    [
        ("他有三个儿子。他很老了", "很老了", "他有三"),
        ("我喜欢 GPT-4 和 Python3。", "GPT-4 和 Python3。", "我喜欢"),
        ("おじいさんが、いました。", "ました。", "おじい"),
        ("𠮷野家、です", "家、です", "𠮷野家、"),
        ("옛날 옛적에 왕이 살았습니다", "옛적에 왕이 살았습니다", "옛날 옛적에 왕이"),
        ("a b\nc  d", "b\nc  d", "a b\nc"),
    ],
)
def test_a_word_stands_between_blanks_and_in_chinese_and_japanese_is_a_character(write, text, last, first):
    path = write({"prompt": text, "reference": text})
    (prompt,) = workloads.load(config(path, 1, prompt_words=3, reference_words=3)).prompts
    assert (prompt.text, prompt.reference) == (last, first)
    assert prompt.tail == last


def test_a_script_without_blanks_is_named_where_its_words_are_counted(write):
    path = write(
        {"prompt": "กาลครั้งหนึ่งนานมาแล้ว"}, {"prompt": "ไทย is short", "reference": "ព្រះមហាក្សត្រ"}, {"prompt": "北京 ไทย"}
    )
    (note,) = workloads.load(config(path, 3, prompt_words=3)).notes
    assert note.startswith(f"{path}: prompts in a script without blanks between words: 2; workload.prompt_words")
    assert workloads.load(config(path, 3)).notes == ()


def test_keys_that_are_not_read_are_named_with_what_was_meant(write):
    workload = workloads.load(config(path := write({"prompt": "x", "refrence": "y", "source": "z"}, {"prompt": "a"})))
    assert workload.notes == (f"{path}: keys that are not read: 'refrence' (did you mean 'reference'?), 'source'",)
    assert workloads.load(config(write({"prompt": "x", "id": 1, "task": "t", "answer": 3}))).notes == ()
    assert workloads.load(config("bundled:instruct")).notes == ()
