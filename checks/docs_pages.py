"""Pages of the site that are made when it is built: what `llmbench --help` says. A hook of MkDocs (mkdocs.yml).

Links from a page to a file outside docs/ lead to the repository.
"""

import re
from typing import Any

from mkdocs.structure.files import File, Files

from llmbench.cli import report, report_compare
from llmbench.cli.help_pages import help_page, topic_page
from llmbench.config.conf_files import groups

CONFIGURATION = "reference/configuration.md"
COMMANDS = "reference/commands.md"


def _configuration() -> str:
    lines = [
        "# Configuration",
        "",
        "Every key with its default. `key=value` changes one, `-m key=a,b` sweeps over values, `group=choice` takes a",
        "file of a group. The same text is printed by `llmbench --help` and `llmbench --help GROUP`.",
        "",
        "## All keys",
        "",
        "```yaml",
        help_page().partition("and their defaults:\n")[2].strip(),
        "```",
    ]
    for group in groups():
        page = topic_page(group)
        if page is not None:
            lines += ["", f"## {group}", "", "```yaml", page, "```"]
    return "\n".join(lines)


def _commands() -> str:
    lines = ["# Commands", "", "```text", help_page().partition("\nGroups, chosen")[0], "```"]
    for title, parser in (
        ("llmbench report", report.parser()),
        ("llmbench report compare", report_compare.parser()),
    ):
        lines += ["", f"## {title}", "", "```text", parser.format_help(), "```"]
    return "\n".join(lines)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made."""
    for path, text in ((CONFIGURATION, _configuration()), (COMMANDS, _commands())):
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links to files of the repository that are no page lead to where it is kept."""
    depth = page.file.src_uri.count("/")
    outside = r"\]\(" + r"\.\./" * (depth + 1) + r"([^)]+)\)"
    return re.sub(outside, lambda found: f"]({config.repo_url}/blob/main/{found[1]})", markdown)
