"""Hydra's and OmegaConf's errors as one line that says what to write."""

import difflib
import re
from collections.abc import Sequence

from llmbench.config.conf_files import groups, keys, typed
from llmbench.system import shell

RENAMED = {
    "endpoint.same_hardware": "server.trust_same_hardware",
    "endpoint": "server",
    "forced_tokens_per_forward": "fixed_tokens_per_forward",
    "metric.judge": "metric.perplexity.judge",
    "parity.looks": "parity.planned_analyses",
    "scale": "pair",
    "server.same_hardware": "server.trust_same_hardware",
    "timing.marked_repeats": "timing.token_timing_repeats",
}
"""What keys were called before 0.2.0."""

_RENAMED_CHOICES = {"model=llama_endpoint": "model=llama_server", "hardware.engine=graph": "hardware.engine=fused"}


def explain(error: Exception, arguments: Sequence[str] = ()) -> str | None:
    """One line for an error of Hydra, OmegaConf or YAML; None for an error of something else.

    Args:
        error: what was raised.
        arguments: the command line, to quote from.
    """
    if not type(error).__module__.startswith(("hydra", "omegaconf", "yaml")):
        return None
    text = str(error)
    first = " ".join(text.splitlines()[0].split())
    choice = re.search(r"Could not find '(.+)/([^/']+)'", text)
    choices = re.findall(r"^\t(.+)$", text.partition("Config search path")[0], flags=re.MULTILINE)
    if choice and choices:
        return _no_such_choice(choice[1], choice[2], choices)
    if key := re.search(r"Could not (?:override|delete)(?: from config)?[^']*'([^']+)'", text):
        return unknown_key(key[1], arguments)
    if ambiguous := re.search(r"Ambiguous value for argument '([^'=]+)=?(.*)'", text):
        return _sweep_alone(ambiguous[1], ambiguous[2])
    if type(error).__name__ == "OverrideParseException":
        return _unreadable(str(getattr(error, "override", "")), first)
    return _no_launcher(text) or first


def renamed(key: str) -> str:
    """What to say of a key of an earlier version; "" for any other."""
    for old, new in RENAMED.items():
        if key == old or key.startswith(f"{old}."):
            return f"{key}: this is called {new}{key.removeprefix(old)} now; write that"
    return ""


def renamed_choice(key: str, value: object) -> str:
    """What to say of a choice, or a value, of an earlier version; "" for any other."""
    new = _RENAMED_CHOICES.get(f"{key}={value}")
    return f"{key}={value}: this is called {new} now; write that" if new else ""


def unknown_key(key: str, arguments: Sequence[str] = ()) -> str:
    """What to say of a key that the composed configuration does not have.

    Args:
        key: as Hydra names it.
        arguments: the command line, for the value that was to be set.
    """
    key = key.lstrip("+~")
    if line := renamed(key):
        return line
    known, leaf = keys(), key.rpartition(".")[2]
    if leaf in known and key.startswith("model.decoder."):
        given = [text.partition("=")[2] for text in arguments if text.partition("=")[0].lstrip("+") == key]
        say = shell.quoted(f"{leaf}={given[-1]}") if given else f"{leaf}=..."
        return f"{key}: write {say}; the models that have no use for it ignore it"
    if choices := known.get(key):
        return f"{key}: only {', '.join(choices)} {'has' if len(choices) == 1 else 'have'} it"
    meant = _meant(key)
    topic = f"see --help {key.partition('.')[0]}" if key.partition(".")[0] in _tops() else "see --help"
    return f"{key}: no such key or group; " + (f"did you mean {meant}? ({topic})" if meant else topic)


def _tops() -> set[str]:
    return {key.partition(".")[0] for key in keys()} | set(groups())


def _meant(key: str) -> str:
    """The key that was probably meant; "" for none."""
    parent, _, leaf = key.rpartition(".")
    if not parent:
        return next(iter(difflib.get_close_matches(key, _tops(), n=1)), "")
    beside = {name.rpartition(".")[2]: name for name in keys() if name.rpartition(".")[0] == parent}
    if close := difflib.get_close_matches(leaf, beside, n=1, cutoff=0.45):
        return beside[close[0]]
    anywhere = {name.rpartition(".")[2]: name for name in reversed(keys())}
    close = difflib.get_close_matches(leaf, anywhere, n=1, cutoff=0.75)
    return anywhere[close[0]] if close else ""


def _no_such_choice(group: str, name: str, choices: Sequence[str]) -> str:
    """A choice that a group does not have: renamed, from a plugin that is not installed, or misspelt."""
    if line := renamed_choice(group, name):
        return line
    plugin = name.partition("_")[0]
    from_plugin = group == "hydra/launcher" and plugin in ("joblib", "submitit", "ray", "rq")
    install = f"; {name} is a plugin of Hydra: pip install hydra-{plugin}-launcher" if from_plugin else ""
    return f"{group}={name}: no such choice; available: {', '.join(choices)}{install}"


def _no_launcher(text: str) -> str:
    """What to install for a recipe of conf/hydra/launcher; "" for any other error."""
    missing = re.search(r"(?:Could not load 'hydra/launcher/|hydra_plugins\.hydra_)([a-z]+)", text)
    if not missing:
        return ""
    extra = {"submitit": "slurm"}.get(missing[1], missing[1])
    return f'hydra/launcher: {missing[1]} is not installed; pip install "llmbench[{extra}]"'


def _sweep_alone(key: str, value: str) -> str:
    """Several values without -m; a path with a comma reads as such."""
    message = f"{key}={value} is a sweep: add -m (llmbench -m ...)"
    is_path = re.search(r"/|\.[A-Za-z]", value) and "[" not in value
    return f"{message}; one value that holds a comma stands in quotes: {typed(key, value)}" if is_path else message


def _unreadable(override: str, reason: str) -> str:
    """An override that Hydra's grammar does not take."""
    key, equals, value = override.partition("=")
    if not equals:
        return f"{reason}; an override is key=value"
    if value[:1] in ("'", '"', "[", "{", ""):
        return f"{override}: cannot be read; are all quotes and brackets closed?"
    return f"{override}: the value holds a character that needs quotes: {typed(key, value)}"
