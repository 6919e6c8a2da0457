"""The pages of `--help`: the commented files of `conf/` as they stand. Nothing heavy is imported."""

from llmbench.config.conf_files import conf_folder, groups

_HEAD = """\
llmbench: at what number of diffusion steps does LLaDA match LLaMA's quality, and is it faster there?

  llmbench -m model=llama,llada steps=8,16,32,64     the sweep and its parity verdict
  llmbench model=llada steps=16                      one job
  llmbench -m ... dry_run=true                       the plan, and nothing runs
  llmbench --help workload                           the settings of a group, with their defaults
  llmbench report parity                             a table again, from what was recorded
  llmbench ui                                        MLflow's pages
  llmbench sync FOLDER                               what an MLflow store lacks of the Records in a folder
  llmbench eval run --model llmbench --tasks ...     tasks of lm-evaluation-harness
  llmbench --cfg job                                 the composed configuration
  llmbench version

With a job or a sweep: -q prints errors and the verdict alone, -v every table and note, --json the result as one JSON
document on standard output. llmbench.log in its folder has everything. NO_COLOR=1: no colours.

`python -m llmbench` is the same. `eval "$(llmbench -sc install=bash)"` completes keys and choices in this shell (also
zsh, fish). In Python: `import llmbench; help(llmbench.sweep)`. Definitions of all numbers: docs/metrics.md.

Groups, chosen with group=choice (with -m also group=a,b):"""


def help_page() -> str:
    """The text of `--help`."""
    lines = [_HEAD]
    for group, choices in groups().items():
        lines += [f"  {group}", *_choices(choices)]
    lines += ["", "Settings, changed with key=value (with -m also key=a,b), and their defaults:", ""]
    return "\n".join([*lines, _settings()])


def topic_page(topic: str) -> str | None:
    """The text of `--help TOPIC`: a group with its files, or a key of conf/config.yaml; None if there is none."""
    if topic in groups():
        lines = [f"{topic}, chosen with {topic}=choice (with -m also {topic}=a,b):", *_choices(groups()[topic])]
        for choice, _ in groups()[topic]:
            text = (conf_folder() / topic / f"{choice}.yaml").read_text().strip()
            lines += ["", f"With {topic}={choice}, changed with {topic}.KEY=value:", text]
        return "\n".join(lines)
    own = _section(topic)
    return f"Changed with key=value (with -m also key=a,b):\n{own}" if own else None


def _choices(choices: list[tuple[str, str]]) -> list[str]:
    width = max(len(name) for name, _ in choices) + 2
    return [f"    {name:<{width}}{comment}".rstrip() for name, comment in choices]


def _settings() -> str:
    """conf/config.yaml without what is Hydra's."""
    text = (conf_folder() / "config.yaml").read_text()
    return text.partition("\n\n")[2].partition("\nhydra:")[0].strip()


def _section(key: str) -> str:
    """The lines of one key at the top of conf/config.yaml; "" where it is not there."""
    lines = _settings().splitlines()
    begin = next((i for i, line in enumerate(lines) if line.startswith(f"{key}:")), None)
    if begin is None:
        return ""
    inside = [lines[begin]]
    for line in lines[begin + 1 :]:
        if not line.startswith(" "):
            break
        inside.append(line)
    return "\n".join(inside)
