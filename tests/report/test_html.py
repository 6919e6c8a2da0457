"""The one page, read as a browser reads it: what it holds, what it loads (nothing), and that outputs stay text."""

import json
import math
import re
import shutil
import subprocess
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from llmbench.analysis.formats import number, with_interval
from llmbench.analysis.parity.analyze import verdicts
from llmbench.analysis.parity.grouping import group
from llmbench.analysis.parity.parity import Parity
from llmbench.record import Record
from llmbench.report.html import Origin, sweep_page
from llmbench.report.html_charts import charts
from llmbench.report.html_figures import Axis
from records import implementation, make_sweep, server_record, with_curve

VOID = {"meta", "link", "br", "input"}
HOSTILE = (
    "</script><script>document.title='hacked'</script>",
    "<!--<script>",
    "</script \n><p>",
    "<img src=x onerror=\"document.title='hacked'\">",
    "</pre></article><h1 id=run-x>$title ${question} %s</h1>",
    "\u2028\u2029]]> & &lt; ' \" \\u003c \u202egnp.exe",
)


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    text: str = ""
    inside: list["Element"] = field(default_factory=list)


class Page(HTMLParser):
    """The elements of a page; a wrongly closed one is refused."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[Element] = []
        self.elements: list[Element] = []
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = Element(tag, {key: value or "" for key, value in attributes})
        self.elements.append(found)
        for outer in self.open:
            outer.inside.append(found)
        if tag not in VOID:
            self.open.append(found)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element.text += data

    def all(self, tag: str, **wanted: str) -> list[Element]:
        return [
            item
            for item in self.elements
            if item.tag == tag and all(value in item.attributes.get(key, "").split() for key, value in wanted.items())
        ]

    @property
    def titles(self) -> list[str]:
        """What points say."""
        return [item.text for item in self.all("title")[1:]]

    @property
    def data(self) -> dict[str, list]:
        (script,) = self.all("script", id="texts")
        return json.loads(script.text)


def page_of(records: list[Record], **origin: str) -> Page:
    return Page(source_of(records, **origin))


def source_of(records: list[Record], **origin: str) -> str:
    runs = {record.identity: f"folder-{record.identity}" for record in records}
    return sweep_page(records, verdicts(records), Origin(**({"title": "sweep s (abc)", "runs": runs} | origin)))


@pytest.fixture(scope="module")
def judged(studied: tuple[list[Record], Parity]) -> Page:
    return page_of(studied[0])


def test_the_page_loads_nothing_and_its_links_lead_into_itself(judged: Page) -> None:
    ids = [item.attributes["id"] for item in judged.elements if "id" in item.attributes]
    assert len(ids) == len(set(ids))
    for item in judged.elements:
        assert not {"src", "srcset", "action", "style", "data", "poster"} & set(item.attributes)
        assert not [key for key in item.attributes if key.startswith(("on", "xlink"))]
        if link := item.attributes.get("href"):
            assert link == "data:," or link[1:] in ids
    assert [item.attributes["rel"] for item in judged.all("link")] == ["icon"]
    assert not re.search(r"url\(|@import", judged.all("style")[0].text)
    (policy,) = [item for item in judged.all("meta") if "http-equiv" in item.attributes]
    assert policy.attributes["content"].startswith("default-src 'none';")


def test_status_sentences_and_numbers_stand_there_with_their_runs() -> None:
    records = with_curve(make_sweep(), (0.0, 0.4, 1.0))
    (verdict,) = verdicts(records)
    page = page_of(records)
    (main,) = page.all("main")
    for line in str(verdict).splitlines():
        assert line in main.text
    (facts,) = page.all("dl")
    assert verdict.head is not None
    assert next(item.text for item in facts.inside if item.tag == "dt") == "Verdict"
    assert verdict.status.value.replace("_", " ") in facts.text
    assert f"k = {verdict.head.s_parity}" in facts.text
    named = {record.steps: f"folder-{record.identity}" for record in records if record.role == "timed"}
    for item in verdict.speedups:
        said = f"k = {item.steps}: {with_interval(item.ratio, item.low, item.high, 'x')}; "
        (title,) = [title for title in page.titles if said in title]
        assert title.endswith(f"runs {named[item.steps]}, {named[None]}")
    for k, value in verdict.head.curve.values:
        (title,) = [title for title in page.titles if f"k = {k}: perplexity {number(value)}; difference" in title]
        assert title.endswith(f"run {named[k]}")
    assert {item.text for item in page.all("code")} >= {f"folder-{record.identity}" for record in records}


def test_every_row_of_a_table_of_jobs_has_its_run() -> None:
    records = with_curve(make_sweep(), (0.0, 0.4, 1.0))
    tables = {item.inside[0].text: item for item in page_of(records).all("table")}

    def heads(title: str) -> list[str]:
        return [item.text for item in tables[title].inside if item.attributes.get("scope") == "row"]

    named = {record.steps: f"folder-{record.identity}" for record in records if record.role == "timed"}
    own = [f"{k}{named[k]}" for k in (8, 16, 32, 64)]
    references = [f"human reference{named[None]}", f"floor{named[None]}"]  # both are of the baseline's job
    assert heads("Steps to quality parity") == [
        f"llama{named[None]}",
        *(f"llada k={text}" for text in own),
        *references,
    ]
    assert heads("The tests behind the verdict") == own


def test_what_models_wrote_stays_text() -> None:
    def poisoned(record: Record) -> Record:
        outputs = tuple(
            replace(o, text=HOSTILE[i % len(HOSTILE)], prompt=HOSTILE[(i + 1) % len(HOSTILE)])
            for i, o in enumerate(record.outputs)
        )
        return replace(record, outputs=outputs)

    records = [poisoned(record) for record in make_sweep()]
    failed = replace(make_sweep((16,))[1], status="failed", reason=HOSTILE[0], identity=HOSTILE[3], metrics={})
    page = page_of([*records, failed], command=HOSTILE[2], title=HOSTILE[0], warning=HOSTILE[3])
    assert len(page.all("script")) == 2
    assert "<" not in page.all("script", id="texts")[0].text  # nothing that a browser could take for its end
    assert not page.all("img")
    assert len(page.all("h1")) == 1
    cells = page.data["cells"]
    assert [row[0][0] for row in cells] == [HOSTILE[i % len(HOSTILE)] for i in range(8)]
    assert page.data["prompts"][0] == HOSTILE[1]
    asked, *texts = page.all("pre")
    assert asked.text == HOSTILE[1]
    assert {item.text for item in texts} == {HOSTILE[0]}
    assert page.all("title")[0].text.endswith(HOSTILE[0])


def test_texts_stand_beside_each_other_with_their_own_scores(
    judged: Page, studied: tuple[list[Record], Parity]
) -> None:
    data, cards = judged.data, judged.all("article")
    names = [next(item.text for item in card.inside if item.tag == "h4") for card in cards]
    assert names[0].startswith("LLaMA, T = ")
    assert [name.partition(",")[0] for name in names[1:5]] == ["LLaDA"] * 4
    assert [re.findall(r"k = (\d+)", name) for name in names[1:5]] == [["8"], ["16"], ["32"], ["64"]]
    assert len(names) == len(set(names)) == len(data["cells"][0])
    record = next(record for record in studied[0] if record.steps == 16)
    score = next(s for s in record.scores if s.prompt_id == record.outputs[5].prompt_id and s.subject == "output")
    shown = dict(zip(data["titles"], data["cells"][5][2][1:], strict=True))
    assert shown["entropy"] == number(score.entropy_nats or 0.0)
    assert shown["tokens"] == str(record.outputs[5].tokens)
    assert shown["accuracy"] == ""  # never measured
    assert "accuracy" not in cards[0].text


@pytest.mark.parametrize(("size", "whole"), [(260, True), (4000, False)])
def test_four_hundred_prompts_fit_or_the_page_says_how_many_are_left_out(size: int, whole: bool) -> None:
    made = make_sweep(prompts=400)
    records = [
        replace(r, outputs=tuple(replace(o, text=f'{i} é"<' * (size // 6)) for i, o in enumerate(r.outputs)))
        for r in made
    ]
    source = source_of(records)
    assert len(source.encode()) < 3_000_000
    page = Page(source)
    shown = len(page.data["cells"])
    assert (shown == 400) == whole
    assert len(page.data["prompts"]) == len(page.all("option")) == shown > 20
    said = "All 400 prompts." if whole else f"The first {shown} of 400 prompts"
    assert said in page.all("main")[0].text


def test_what_was_not_measured_is_not_there() -> None:
    page = page_of(make_sweep(perplexity=None))
    assert [item.text for item in page.all("figcaption")] == [
        "end-to-end latency over k",
        "speedup over k, against LLaMA",
    ]
    assert "S_parity" not in page.all("dl")[0].text
    assert not re.search(r"\b(nan|None|inf)\b", page.all("main")[0].text)
    lone = page_of(make_sweep()[1:])
    assert lone.all("h1")[0].text.startswith("At how many diffusion steps k does LLaDA match LLaMA's quality")
    assert not lone.all("svg")


def test_each_of_several_verdicts_has_its_figures_and_texts_are_of_one() -> None:
    records = [record for batch in (2, 4) for record in make_sweep((8, 16), batch=batch)]
    page = page_of(records)
    assert [item.text.partition(",")[0] for item in page.all("h2")[:2]] == ["Verdict: temperature 0.7"] * 2
    named = {b: {f"folder-{r.identity}" for r in records if r.conditions["batch"] == b} for b in ("2", "4")}
    for batch, facts in zip(("2", "4"), page.all("dl"), strict=True):
        shown = {item.text for item in facts.inside if item.tag == "a"}
        assert shown
        assert shown <= named[batch]
    assert len(page.data["cells"][0]) == 3


def test_a_warning_stands_above_everything() -> None:
    assert [item.text for item in page_of(make_sweep(), warning="PARTIAL: 3 of 5").all("p", role="alert")] == [
        "PARTIAL: 3 of 5"
    ]


def test_equal_ratios_are_equally_far_apart() -> None:
    axis = Axis(1.0, 100.0, 200.0, 0.0, log=True)
    assert [axis.at(value) for value in (1, 10, 100)] == pytest.approx([200, 100, 0])
    assert axis.ticks == [1, 2, 5, 10, 20, 50, 100]
    assert Axis(0.0, 10.0, 0.0, 100.0, log=False).ticks == [0, 2, 4, 6, 8, 10]
    records = make_sweep()
    (verdict,) = verdicts(records)
    svg = next(item for item in page_of(records).all("figure") if item.text.startswith("speedup over k"))
    circles = [float(i.attributes["cy"]) for i in svg.inside if i.attributes.get("r") == "4.5"]
    assert circles[1] - circles[0] == pytest.approx(circles[3] - circles[2], abs=0.2)  # 2.5, 1.25; 0.625, 0.3125
    a_factor_of_two = (circles[3] - circles[0]) / 3
    bars = [item.attributes["d"] for item in svg.inside if item.attributes.get("class") == "bar"]
    for at, bar, item in zip(circles, bars, verdict.speedups, strict=True):
        low, high = (float(text) for text in re.match(r"M\S+ (\S+)V([\d.]+)", bar).groups())
        assert at - low == pytest.approx(a_factor_of_two * math.log2(item.low / item.ratio), abs=0.2)
        assert at - high == pytest.approx(a_factor_of_two * math.log2(item.high / item.ratio), abs=0.2)


def test_the_figures_show_the_test_and_what_its_bars_are(judged: Page) -> None:
    titles = [item.text for item in judged.all("figcaption")]
    assert titles[:2] == ["perplexity over k", "perplexity at equal entropy: the test"]
    assert titles[-1] == "bits per byte over k"
    for item in judged.all("figure"):
        assert any(inner.text.startswith("Bars: 95 % interval") for inner in item.inside if inner.tag == "p")


def test_a_server_and_several_implementations_bear_their_names_and_runs() -> None:
    records = [*make_sweep((8,)), implementation("autoregressive", 100.0, draft="lookup"), server_record(50.0)]
    (verdict,) = verdicts(records)
    runs = {record.identity: f"of {record.label}" for record in records}
    drawn = {chart.title: chart for chart in charts(verdict, group(records), runs)}
    times, speed = drawn["end-to-end latency over k"], drawn["speedup over k, against LLaMA"]
    assert [series.name for series in times.series] == ["LLaDA", "LLaMA with prompt lookup, our engine"]
    server = next(series for series in speed.series if "wall clock" in series.name)
    assert server.dots[0].runs == ("of llama server", "of llada k=8")


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_chromium_shows_it_without_an_error(studied: tuple[list[Record], Parity], tmp_path: Path) -> None:
    records = [
        replace(r, outputs=tuple(replace(o, text=HOSTILE[i % len(HOSTILE)]) for i, o in enumerate(r.outputs)))
        for r in studied[0]
    ]
    file = tmp_path / "page.html"
    file.write_text(source_of(records), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--user-data-dir={tmp_path}"]
    done = subprocess.run(
        ["chromium", *options, "--dump-dom", file.as_uri()], capture_output=True, text=True, timeout=100
    )
    assert "CONSOLE" not in done.stderr
    page = done.stdout
    assert '<div class="scripted">' in page  # the script has run to the texts
    assert '<th scope="col"><button' in page  # and to the tables
    assert 'aria-label="LLaDA, k = 8: perplexity' in page
    assert "<title>hacked" not in page
