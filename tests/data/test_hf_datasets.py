"""Prompts from a data set: from files on this machine, and from a hub that stands here, with the real client."""

import datetime
import decimal
import json
import os
import subprocess
import sys
from pathlib import Path

import dataset_hub
import pytest

from llmbench.config.job import WorkloadConfig
from llmbench.data import workloads
from llmbench.errors import WorkloadError
from llmbench.system.offline import why_unreachable

pandas = pytest.importorskip("pandas")
pytest.importorskip("datasets")

ROWS = [
    {"question": "What is 40 + 2?", "answer": "40 + 2 = <<40+2=42>>42\n#### 42", "level": 1, "number": 7},
    {"question": " \n", "answer": "nothing was asked", "level": 1, "number": 0},
    {"question": "And ten hundred?", "answer": "A lot: 10 * 100\n#### 1,000", "level": 2, "number": 7},
    {"question": "Who knows?", "answer": "", "level": 2, "number": 8},
]


def load(source, prompts=1, **settings):
    given = {"prompt_field": "question", "prompt_words": None, "reference_words": None} | settings
    return workloads.load(WorkloadConfig(source=str(source), prompts=prompts, diversity_tokens=32, **given))


def refusal(source, **settings):
    with pytest.raises(WorkloadError) as caught:
        load(source, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def write(path, rows=ROWS):
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = pandas.DataFrame(rows)
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "json", "csv"])
def test_rows_become_prompts_and_gsm8ks_answers_are_read_from_its_solutions(tmp_path, ending):
    path = write(tmp_path / f"rows.{ending}")
    workload = load(path, 3, reference_field="answer")
    assert [(p.id, p.text, p.answer) for p in workload.prompts] == [
        ("row-1", "What is 40 + 2?", "42"),
        ("row-3", "And ten hundred?", "1,000"),
        ("row-4", "Who knows?", None),
    ]
    assert workload.prompts[0].reference == ROWS[0]["answer"]
    assert workload.prompts[2].reference is None
    assert workload.name == f"rows.{ending} train"
    cut = load(path, 1, reference_field="answer", prompt_words=3, reference_words=2)
    (prompt,) = cut.prompts
    assert (prompt.text, prompt.reference, prompt.answer) == ("40 + 2?", "40 +", "42")
    assert cut.digest != load(path, 1, reference_field="answer").digest


def test_tasks_take_turns_and_an_answer_has_its_own_field(tmp_path):
    path = write(tmp_path / "rows.parquet")
    prompts = load(path, 3, task_field="level", answer_field="number").prompts
    assert [(p.id, p.task, p.answer) for p in prompts] == [
        ("row-1", "1", "7"),
        ("row-3", "2", "7"),
        ("row-4", "2", "8"),
    ]
    assert [p.id for p in load(path, 1, task_field="level", tasks=["2"]).prompts] == ["row-3"]


def test_a_document_has_its_own_field_and_equal_prompts_are_refused(tmp_path):
    path = write(tmp_path / "rows.parquet", [*ROWS, ROWS[0]])
    assert [p.document for p in load(path, 3, document_field="level").prompts] == ["1", "2", "2"]
    assert [p.document for p in load(path, 3).prompts] == [None] * 3
    assert "workload.document_field=book: rows.parquet has no such field" in refusal(path, document_field="book")
    assert "rows.parquet train: prompts 'row-1' and 'row-5' are the same text" in refusal(path, prompts=4)


def test_the_digest_is_of_what_is_read_from_whatever_kind_of_file_and_follows_it(tmp_path):
    first, second = write(tmp_path / "rows.parquet"), write(tmp_path / "rows.jsonl")
    digest = load(first, 2).digest
    assert load(second, 2).digest == digest
    write(second, [ROWS[3], *ROWS[1:]])
    assert load(second, 2).digest != digest


def test_a_folder_has_splits(tmp_path):
    write(tmp_path / "set" / "train.parquet", ROWS[:1])
    write(tmp_path / "set" / "test.parquet", ROWS[2:])
    assert load(tmp_path / "set", split="test").prompts[0].text == "And ten hundred?"
    assert "workload.split is not set; set has " in refusal(tmp_path / "set")
    message = refusal(tmp_path / "set", split="dev")
    assert "workload.split=dev" in message
    assert "train" in message
    assert "test" in message


def test_what_is_not_there_is_named_with_what_is(tmp_path):
    path = write(tmp_path / "rows.parquet")
    assert "there are question, answer, level, number" in refusal(path, prompt_field="text")
    assert "workload.answer_field=solution" in refusal(path, answer_field="solution")
    assert "has only 3; set workload.prompts=3" in refusal(path, prompts=4)
    assert "row 1, field 'level': \"prompt\" must be a text, not 1" in refusal(path, prompt_field="level")
    said = refusal(path, reference_field="level")
    assert '"reference" must be a text, not 1; answers that are numbers go into workload.answer_field' in said
    assert "does not exist; give hf:ORG/NAME" in refusal(tmp_path / "nowhere.parquet")
    assert "give a .parquet, .json, .jsonl, .ndjson, .csv, .tsv file" in refusal(write(tmp_path / "rows.txt"))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no PAR1")
    assert "broken.parquet: " in refusal(tmp_path / "broken.parquet")
    assert "no row with a prompt" in refusal(write(tmp_path / "blank.jsonl", [{"question": ""}]))


@pytest.mark.parametrize("where", ["rows.csv", "set"])
def test_missing_words_of_pandas_are_texts_in_csv_and_rows_without_a_prompt_are_counted(tmp_path, where):
    path = tmp_path / where / "rows.csv" if where == "set" else tmp_path / where
    path.parent.mkdir(exist_ok=True)
    path.write_text("question,answer\nNA,N/A\n,lost\nnull,\nNone,None\n")
    workload = load(tmp_path / where, 3, reference_field="answer")
    assert [(p.text, p.reference) for p in workload.prompts] == [("NA", "N/A"), ("null", None), ("None", "None")]
    assert [note.partition(": ")[2] for note in workload.notes] == ["rows without a prompt, left out: 1"]
    assert load(tmp_path / where, 1).notes == ()


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("rows.jsonl", '{"question": "a", "answer": "2024-01-01"}\n', ["a", "2024-01-01"]),
        (
            "rows.jsonl",
            '\n{"question": "10:00:00", "answer": "2024-01-01T00:00:00Z"}',
            ["10:00:00", "2024-01-01T00:00:00Z"],
        ),
        ("rows.json", '[{"question": "2024-01-01"},\n {"answer": "b"}]', ["2024-01-01", None]),
        ("rows.csv", "question,answer\n007,1e5\n", ["007", "1e5"]),
        ("rows.csv", '\ufeffquestion,answer\r\n"a, ""b""\n", true\r\n', ['a, "b"', "true"]),
        ("rows.tsv", "question\tanswer\nNA, nan\t#N/A\n", ["NA, nan", "#N/A"]),
        ("set/train.csv", "question,answer\n007,1e5\n", ["007", "1e5"]),
    ],
)
def test_texts_that_look_like_dates_or_numbers_stay_texts(tmp_path, name, content, texts):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content, "utf-8", newline="")
    (prompt,) = load(path if path.parent == tmp_path else path.parent, reference_field="answer").prompts
    assert [prompt.text, prompt.reference] == texts


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (
            "rows.jsonl",
            '{"question": "a"}\n\n{"question": "b", "question": "c"}\n',
            ", line 3: 'question' stands 2 times",
        ),
        ("rows.json", '[{"question": "a"},\n{"question": "b", "x": {"y": 1, "y": 2}}]', ", 'y' stands 2 times"),
        ("rows.json", '[{"question": "a"}, 3]', ", item 2: int instead of an object"),
        (
            "rows.json",
            '[{"question": "a"},\n {"question" 3}]',
            ", not JSON: Expecting ':' delimiter at line 2, column 14",
        ),
        ("rows.csv", "question,question\na,b\n", ": two columns are called 'question'; rename one"),
        (
            "rows.csv",
            "question,answer\n\na,b,c\n",
            ", line 3: 3 values for 2 columns; put a value that holds ',' between",
        ),
        ("rows.csv", 'question,answer\n"a,b\n', ", line 2: not CSV: unexpected end of data"),
        ("rows.csv", "", " has no rows"),
    ],
)
def test_a_file_that_would_be_read_in_part_is_refused_by_file_and_line(tmp_path, name, content, says):
    (tmp_path / name).write_text(content)
    assert f"{tmp_path / name}{says}" in refusal(tmp_path / name)


@pytest.mark.parametrize("column", ["day", "time", "raw", "list", "object", "days", "number", "span"])
def test_what_is_no_text_is_named_with_row_and_column_in_one_line(tmp_path, column):
    day = datetime.date(2024, 1, 1)
    row = {"question": "6 * 7?", "number": decimal.Decimal("42.5"), "day": day, "raw": b"x\xff", "list": ["a"]}
    row |= {
        "object": {"a": "b"},
        "days": [day],
        "time": datetime.datetime(2024, 1, 1, 3),
        "span": datetime.timedelta(1),
    }
    path = write(tmp_path / "rows.parquet", [row])
    assert load(path, answer_field="number").prompts[0].answer == "42.5"
    said = refusal(path, reference_field=column)
    assert f'rows.parquet train, row 1, field {column!r}: "reference" must be a text, not ' in said
    assert ("workload.answer_field" in said) == (column == "number")


def test_times_that_the_library_made_of_texts_are_refused_with_a_way_round(tmp_path):
    write(tmp_path / "set" / "train.jsonl", [{"question": "a", "answer": "2024-01-01"}])
    said = refusal(tmp_path / "set", reference_field="answer")
    assert (
        "must be a text, not datetime 2024-01-01 00:00:00; was it a text of a JSON file? workload.source=FILE" in said
    )


def test_a_value_that_the_library_cannot_decode_is_one_line(tmp_path):
    """A picture that is none: the error comes when the row is asked for."""
    import datasets

    features = datasets.Features({"question": datasets.Image()})
    table = datasets.Dataset.from_dict({"question": [{"bytes": b"no picture", "path": None}]}, features=features)
    table.to_parquet(tmp_path / "rows.parquet")
    assert "rows.parquet: row 1 cannot be read: " in refusal(tmp_path / "rows.parquet")


def test_a_name_on_the_hub_never_means_what_lies_here(tmp_path, monkeypatch):
    """The library takes a path, or a folder that happens to have the name, for the data set."""
    (tmp_path / "openai" / "gsm8k").mkdir(parents=True)
    write(tmp_path / "openai" / "gsm8k" / "rows.jsonl")
    monkeypatch.chdir(tmp_path)
    assert "there is a openai/gsm8k here, which would be read in its place" in refusal("hf:openai/gsm8k")
    for name in ("", "../../etc", "/etc", "a/b/c"):
        assert "write hf:ORG/NAME" in refusal(f"hf:{name}")


def test_without_the_library_one_line_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert 'not installed; pip install "llmbench[datasets]"' in refusal(write(tmp_path / "rows.parquet"))
    assert load(write(tmp_path / "rows.jsonl")).prompts[0].text == ROWS[0]["question"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"source": "hf:a/b"}, "hf:ORG/NAME is for data sets; use workload=dataset"),
        ({"source": "x.jsonl", "split": "test"}, "split is for data sets"),
        ({"source": "x.parquet", "prompt_field": "q", "revision": "main"}, "revision is for data sets of the hub"),
    ],
)
def test_settings_of_another_kind_of_source(settings, says):
    with pytest.raises(ValueError, match=says):
        WorkloadConfig(prompts=1, prompt_words=None, reference_words=None, diversity_tokens=32, **settings)


READ = """
import json, sys
from test_hf_datasets import load
from llmbench.errors import WorkloadError

for settings in json.loads(sys.argv[1]):
    try:
        workload = load(**settings)
        print(json.dumps([workload.name, workload.digest, workload.prompts[0].text]))
    except WorkloadError as error:
        print(json.dumps(str(error)))
"""


def read(home, *asked, endpoint="http://127.0.0.1:9", offline="0", **more):
    """What each of several reads gives, in a process of its own: the client reads its environment when imported."""
    here = Path(__file__).parent
    environment = os.environ | {
        "HF_HOME": str(home),
        "HF_ENDPOINT": endpoint,
        "HF_HUB_OFFLINE": offline,
        "PYTHONPATH": f"{here.parent}{os.pathsep}{here}",
        **more,
    }
    environment.pop("HF_DATASETS_CACHE", None)
    run = subprocess.run(
        [sys.executable, "-c", READ, json.dumps(asked)], capture_output=True, text=True, env=environment, timeout=240
    )
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


CARD = """---
configs:
- config_name: main
  data_files: [{split: test, path: main/test*}, {split: train, path: main/train*}]
- config_name: socratic
  data_files: [{split: test, path: main/test*}]
---
"""


def test_the_hub_at_a_commit_online_and_from_the_cache(tmp_path):
    root = tmp_path / "repository"
    write(root / "main" / "test-00000-of-00001.parquet")
    write(root / "main" / "train-00000-of-00001.parquet", ROWS[2:])
    (root / "README.md").write_text(CARD)
    hub, pinned = f"hf:{dataset_hub.REPO}", {"revision": dataset_hub.SHA}
    plain = {"source": hub, "subset": "main", "split": "test"}
    with dataset_hub.serving(root) as endpoint:
        newest, same, *refused = read(
            tmp_path / "home",
            plain,
            plain | pinned,
            plain | {"revision": "f" * 40},
            {"source": hub},
            plain | {"subset": "nope"},
            plain | {"split": "dev"},
            plain | {"prompt_field": "text"},
            {"source": "hf:nobody/nothing"},
            endpoint=endpoint,
        )
        (root / "gsm8k.py").write_text("raise SystemExit('the script of the data set was run')")
        (script,) = read(tmp_path / "another", plain, endpoint=endpoint)
    assert newest[0] == f"{hub}@{dataset_hub.SHA} main/test"
    assert newest[2] == "What is 40 + 2?"
    assert same == newest
    expected = [
        "ffffffff",
        "several subsets; set workload.subset to one of ['main', 'socratic']",
        "workload.subset=nope: no such subset; there are ['main', 'socratic']",
        "workload.split=dev: ",
        "there are question, answer, level, number",
        "'nobody/nothing' doesn't exist on the Hub or cannot be accessed",
    ]
    for message, words in zip(refused, expected, strict=True):
        assert words in message
        assert "\n" not in message
    assert "scripts are no longer supported, but found gsm8k.py" in script

    cached, exact, other, branch, absent = read(
        tmp_path / "home",
        plain,
        plain | pinned,
        plain | {"revision": "f" * 40},
        plain | {"revision": "main"},
        {"source": "hf:nobody/nothing"},
        offline="1",
    )
    assert cached == exact == newest
    assert f"the cache has {dataset_hub.REPO} at {dataset_hub.SHA}" in other
    assert "workload.revision=main" in branch
    assert "not in the cache, and HF_HUB_OFFLINE is set" in absent


@pytest.mark.parametrize(
    ("offline", "more", "says"),
    [
        ("on", {}, "HF_HUB_OFFLINE is set; unset it once"),
        ("0", {"HF_DATASETS_OFFLINE": "yes"}, "HF_DATASETS_OFFLINE is set; unset it once"),
    ],
)
def test_offline_is_what_the_hubs_library_takes_for_it(tmp_path, offline, more, says):
    (absent,) = read(tmp_path, {"source": "hf:nobody/nothing"}, offline=offline, **more)
    assert f"not in the cache, and {says}" in absent


def test_every_other_value_keeps_nobody_off_the_network(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "off")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "0")
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    assert why_unreachable("no route", "HF_DATASETS_OFFLINE") == "the hub cannot be reached (no route)"
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "yes")
    assert why_unreachable("no route", "HF_DATASETS_OFFLINE") == "HF_DATASETS_OFFLINE is set; unset it once"
