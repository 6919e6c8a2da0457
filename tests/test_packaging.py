"""What a person sees of the package without its repository, and that the same facts stand in one way everywhere."""

import re
import tomllib
from pathlib import Path

import yaml

import llmbench

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
REPOSITORY = "https://github.com/llmbench/llmbench"


def test_every_address_is_absolute_and_in_the_same_repository():
    urls = PROJECT["project"]["urls"]
    assert {"Homepage", "Documentation", "Issues", "Changelog"} <= set(urls)
    assert all(url == REPOSITORY or url.startswith(f"{REPOSITORY}/") for url in urls.values())
    files = [url.partition("/blob/main/")[2] for url in urls.values() if "/blob/main/" in url]
    assert all((ROOT / file).is_file() for file in files)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["repository-code"] == REPOSITORY


def test_the_readme_of_the_package_leads_nowhere_inside_it():
    text = (ROOT / "README.md").read_text()
    for rule in PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(rule["pattern"], rule["replacement"], text)
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert len(targets) > 10
    assert all(target.startswith("https://") for target in targets)
    assert "](https://raw.githubusercontent.com/" in text


def test_one_version_is_stated():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    newest = re.search(r"^## \[(\d+\.\d+\.\d+)\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert newest
    assert citation["version"] == newest[1] == llmbench.__version__


def test_every_extra_is_named_in_the_readme():
    text = (ROOT / "README.md").read_text()
    for extra in set(PROJECT["project"]["optional-dependencies"]) - {"dev"}:
        assert re.search(rf"^\| .*`{extra}`.* \|", text, flags=re.MULTILINE), extra


def test_every_supported_python_is_tested():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    tested = workflow["jobs"]["tests"]["strategy"]["matrix"]["python"]
    named = [c.rpartition(" ")[2] for c in PROJECT["project"]["classifiers"] if re.search(r":: 3\.\d+$", c)]
    assert tested == named
    assert PROJECT["project"]["requires-python"] == f">={named[0]}"
