"""The recipe: everything but the tensors that it takes to build a saved model again, as JSON."""

from __future__ import annotations

import json
import re
import stat
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_origin, get_type_hints

from zoo_core.contract.card_file import preprocessing_from_record, preprocessing_to_record
from zoo_core.errors import Unreadable, ZooWarning
from zoo_core.images.preprocessing import preprocessing_of_save
from zoo_core.registry.zoo import current_zoo
from zoo_core.text import visible
from zoo_core.utils.no_follow import real
from zoo_core.utils.paths import expand, is_written_as_path
from zoo_core.weights.formats.memory_limits import TooMuchMemory, not_read, require_small_json
from zoo_core.weights.formats.plain_pickle import NotPlain
from zoo_core.weights.hub_folder import fetch_folder, is_hub_name

if TYPE_CHECKING:
    import os

FORMAT = 2
"""The newest of the file that this zoo reads: 1 holds all tensors, 2 may leave out what published weights have."""

FILE = "recipe.json"
ANY_NUMBER = "an image has any number of them, and zoo.predict gives those of at least 0.5"
"""What is said of the classes of a save that is ``multi_label``."""
_OF_TIMM = re.compile(r"hf[-_]hub:([\w.-]+/[\w.-]+)(?:@[\w.-]+)?$")

_LARGEST = 16 << 20
_DEEPEST = 64
"""A head of layers in layers in layers has about ten containers inside each other."""
_MOST_EDITS = 1000
_MOST_VALUES = 20_000
"""In all edits: a head of a hundred layers has about a thousand, and each is a layer to build at worst."""
_BLOBS = "blobs"
"""Where the Hugging Face cache keeps what the links in a ``snapshots/<revision>`` folder point to."""


@dataclass(frozen=True)
class Recipe:
    """What a save records of a model beside its tensors.

    Attributes:
        family: Name of the family.
        name: Name of the model in it.
        versions: Distribution to version: zoo, the plugin, its library and torch.
        tensors: ``file``, ``sha256`` and ``size`` of the safetensors beside the recipe; ``buffers``, the names in it
            that no state dict has; and ``multi_label``, true where their scores are of labels that are likely each by
            itself. These are here since older zoos, which refuse a field that they do not know, pass over them.
        weights: ``tag``, ``source`` and ``sha256`` of what the model began with; empty for none.
        options: What its constructor is given.
        edits: Acts of surgery, first to last, each with its ``verb`` and what that was given besides the model.
        frozen: Tensors without gradients, or modules in which all are.
        held: Norms that stay in eval mode, or modules in which all do.
        switched: Modules, other than those held, that are in another mode than the module around them.
        ties: Tensor name to the name under which the file has the same tensor.
        class_names: What the classes are called, in the order of the scores.
        preprocessing: What an image goes through on its way in, as the weights that the model began with want it;
            empty when unknown.
        dtype: Of the floating-point tensors; empty when they differ.
        channels_last: Whether filters lie with their channels last.
        training: Whether the model was in train mode.
        registered: What ``zoo.register`` was put over, such as ``"my_models:LeNet"``, for people to read: nothing is
            imported because of it. Empty for a model of a plugin.
        from_base: Tensors that are as the published weights of ``weights`` have them and were left out of the file, or
            modules in which all are.
        format: Of this file.
    """

    family: str
    name: str
    versions: dict[str, str]
    tensors: dict[str, Any]
    weights: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    edits: list[dict[str, Any]] = field(default_factory=list)
    frozen: list[str] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    switched: list[str] = field(default_factory=list)
    ties: dict[str, str] = field(default_factory=dict)
    class_names: list[str] = field(default_factory=list)
    preprocessing: dict[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    channels_last: bool = False
    training: bool = True
    registered: str = ""
    from_base: list[str] = field(default_factory=list)
    format: int = 1

    @property
    def id(self) -> str:
        """The qualified name of the model."""
        return f"{self.family}/{self.name}"

    @property
    def buffers(self) -> list[str]:
        """Names of buffers in the file that are in no state dict, as the constructor gives them other values."""
        return list(self.tensors.get("buffers", ()))

    @property
    def multi_label(self) -> bool:
        """Whether an image has any number of the classes."""
        return bool(self.tensors.get("multi_label"))

    def text(self) -> str:
        """The recipe as JSON, the format first."""
        record = asdict(self)
        text = json.dumps({"format": record.pop("format"), **record}, indent=2, ensure_ascii=False) + "\n"
        return text.encode("utf-8", "backslashreplace").decode()  # names of folders need not be UTF-8


def read_recipe(path: Path) -> Recipe:
    """Read the record of a recipe in a file.

    Raises:
        Unreadable: There is none, or it is damaged, or a newer zoo wrote it.
    """
    if path.parent.is_file():
        raise Unreadable(
            f"{path.parent} is not a model that zoo saved",
            expected=f"a folder with a {FILE}",
            got="a file",
            hint="zoo.get(name, weights=path) takes a file of weights; zoo inspect says what it is",
            path=path.parent,
        )
    try:
        check_plain_file(path, limit=_LARGEST)
        text = path.read_bytes()
        require_small_json(text, len(text))
        record = json.loads(text)
    except FileNotFoundError as error:
        raise Unreadable(
            f"{path.parent} is not a model that zoo saved",
            expected=f"a folder with a {FILE}",
            got="a folder without one" if path.parent.is_dir() else "no such folder",
            hint=_hint_without_recipe(path.parent),
            path=path.parent,
        ) from error
    except TooMuchMemory as error:
        raise not_read(path, error) from error
    except (OSError, ValueError, RecursionError, NotPlain) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    if not isinstance(record, Mapping):
        raise _damaged(path, f"a {type(record).__name__} instead of an object")
    _check_format(path, record.get("format"))
    if problem := _excess(record) or next(_record_problems(record), None):
        raise _damaged(path, problem)
    return Recipe(**record)


def _hint_without_recipe(folder: Path) -> str:
    """The hint where a folder has no recipe on record; a repository on the hub for timm gets one of its own."""
    if named := _OF_TIMM.search(folder.as_posix()):
        save = f"zoo.load('hf://{named[1]}') loads a save that zoo.push shared there"
        return f"{save}; zoo.get({named[0]!r}) says which model has the weights of a repository for timm"
    return "zoo.save(model, folder) makes one"


def _excess(record: Mapping[str, Any]) -> str:
    """What the JSON record of a recipe has too much of, if anything."""
    edits = record.get("edits", [])
    is_long = isinstance(edits, list) and len(edits) > _MOST_EDITS
    if is_long or _depth_and_count(edits)[1] > _MOST_VALUES:
        return f"with more than {_MOST_EDITS} edits, or {_MOST_VALUES} values in them"
    return "nested too deeply" if _depth_and_count(record)[0] > _DEEPEST else ""


def _depth_and_count(value: object) -> tuple[int, int]:
    """Depth and number of the values in the JSON record of a recipe, which have limits; counted without recursion."""
    deepest, count, waiting = 0, 0, [(value, 1)]
    while waiting:
        each, level = waiting.pop()
        deepest, count = max(deepest, level), count + 1
        if isinstance(each, Mapping | list):
            waiting += [(child, level + 1) for child in (each.values() if isinstance(each, Mapping) else each)]
    return deepest, count


def _check_format(path: Path, number: object) -> None:
    """Refuse the record of a recipe in a format that only a newer zoo reads."""
    if isinstance(number, int) and number > FORMAT:
        raise Unreadable(
            f"{path} was written by a newer zoo",
            expected=f"format {FORMAT} or older",
            got=f"format {number}",
            hint="load it with that version of zoo, or a newer one",
            path=path,
        )


_DTYPES = {
    "",
    "bfloat16",
    *(f"float{bits}" for bits in ("16", "32", "64", "8_e4m3fn", "8_e5m2", "8_e4m3fnuz", "8_e5m2fnuz", "8_e8m0fnu")),
}
"""What the floating-point tensors of a save may have in common."""


def _record_problems(record: Mapping[str, Any]) -> Iterator[str]:
    """Problems in the JSON record of a recipe, each relying on there being none before it."""
    hints = get_type_hints(Recipe)
    needed = {"format", "family", "name", "versions", "tensors"}
    if missing := sorted(needed - set(record)):
        yield f"without {', '.join(missing)}"
    if unknown := sorted(set(record) - {spec.name for spec in fields(Recipe)}):
        yield f"with {', '.join(unknown)}, which no recipe has"
    for name, value in record.items():
        kind = get_origin(hints[name]) or hints[name]
        if type(value) is not kind:
            yield f"where {name} is a {type(value).__name__} and not a {kind.__name__}"
    entries = [record["tensors"].get("file"), record["tensors"].get("sha256")]
    entries += [edit.get("verb") if isinstance(edit, dict) else None for edit in record.get("edits", [])]
    texts = [
        each for name in ("frozen", "held", "switched", "class_names", "from_base") for each in record.get(name, [])
    ]
    texts += [*record["versions"].values(), *record.get("ties", {}).values(), *record.get("weights", {}).values()]
    if any(not isinstance(each, str) for each in [*entries, *texts]):
        yield "with an entry that is no text"
    yield from _value_problems(record)
    try:
        preprocessing_from_record(record.get("preprocessing", {}))
    except (TypeError, ValueError) as error:
        yield f"where the preprocessing is none: {error}"


def _value_problems(record: Mapping[str, Any]) -> Iterator[str]:
    """Problems with single values in the record of a recipe, of which the types are right."""
    tensors = record["tensors"]
    if not isinstance(tensors.get("multi_label", False), bool):
        yield "where multi_label is neither true nor false"
    buffers = tensors.get("buffers", [])
    if not isinstance(buffers, list) or any(not isinstance(each, str) for each in buffers):
        yield "where the buffers are no list of names"
    size = tensors.get("size", 0)
    if type(size) is not int or size < 0:
        yield "where the size of the tensors is no number of bytes"
    if record["format"] < 1:
        yield "of a format that there never was"
    if record.get("dtype", "") not in _DTYPES:
        yield f"with the dtype {visible(record['dtype'])}"


def _damaged(path: Path, got: str) -> Unreadable:
    """The error for the record of a recipe that cannot be read."""
    return Unreadable(
        f"{path} is not a recipe that can be read",
        got=got,
        cause="the file is damaged, or was changed by hand",
        path=path,
    )


_COMPARED_BY_FORMAT = {"zoo-core", "torch"}
"""Not compared: the format number speaks for zoo, and torch keeps reading what older ones computed."""


def versions_for(family: str) -> dict[str, str]:
    """The versions that a recipe records: zoo, torch, the plugin of that family and the library it builds with."""
    member = current_zoo().member(family)
    plugin, _, number = member.plugin.origin.rpartition(" ")
    result = {name: _version(name) for name in ("zoo-core", "torch", member.family.requires) if name}
    return {**result, **({plugin: number} if plugin else {})}


def _version(name: str) -> str:
    """The installed version of a distribution, for a recipe to record."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def warn_of_others(recipe: Recipe, stacklevel: int) -> None:
    """Warn of other versions of a family's library or plugin than the recipe has on record."""
    now = versions_for(recipe.family)
    saved = {name: number for name, number in recipe.versions.items() if name not in _COMPARED_BY_FORMAT}
    others = [f"{name} {then}, here {now[name]}" for name, then in saved.items() if now.get(name, then) != then]
    if others:
        warnings.warn(
            f"{recipe.id} was saved with {'; '.join(others)}: its scores may differ in the last digits or more",
            ZooWarning,
            stacklevel=stacklevel,
        )


_SHOWN = 10


def is_save(model: str | os.PathLike[str]) -> bool:
    """Whether something is a saved model with a recipe: a name on the hub, a path, a folder with the recipe's JSON."""
    if is_hub_name(model):
        return True
    return is_written_as_path(model) or (Path(model) / FILE).is_file()


def outline_of(name: str, *, as_json: bool = False) -> str:
    """What the recipe of a saved model has on record, in a few lines or as JSON.

    Raises:
        Unreadable: It is none.
    """
    folder = fetch_folder(name) if is_hub_name(name) else expand(name)
    recipe = read_recipe(folder / FILE)
    if as_json:
        return recipe.text().rstrip()
    names = recipe.class_names
    prepared = preprocessing_to_record(preprocessing_of_save(recipe.preprocessing, recipe.edits))
    lines = {
        "model": recipe.id + (f", from {recipe.weights['tag']}" if recipe.weights.get("tag") else ""),
        "surgery": ", ".join(str(edit["verb"]) for edit in recipe.edits),
        "classes": f"{len(names)}: {', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}"
        + (f"; {ANY_NUMBER}" if recipe.multi_label else "")
        if names
        else "",
        "preprocessing": ", ".join(f"{key} {value}" for key, value in prepared.items()),
        "frozen": ", ".join(recipe.frozen),
        "tensors": f"{recipe.tensors['file']}, {recipe.tensors.get('size', 0):,} bytes, {recipe.dtype}",
        "saved with": ", ".join(f"{key} {value}" for key, value in recipe.versions.items()),
    }
    return "\n".join(f"{key}: {value}" for key, value in lines.items() if value)


def check_plain_file(path: Path, *, limit: int | None = None) -> None:
    """Refuse the JSON of a recipe, or a file beside it, that is no ordinary file of the folder that it is in.

    Args:
        path: A file that a saved folder should have.
        limit: The most bytes that it may have.

    Raises:
        FileNotFoundError: There is none.
        Unreadable: It is a link to another place, a pipe, a device, a folder, or too large.
    """
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        if real(path).parent != real(path.parent).parent.parent / _BLOBS:
            raise _not_plain(path, "a link to another place")
        status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise _not_plain(path, "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, a socket or a device")
    if limit is not None and status.st_size > limit:
        raise _not_plain(path, f"{status.st_size} bytes, and {limit} at most are read")


def _not_plain(path: Path, got: str) -> Unreadable:
    """Error for the JSON of a recipe, or a file beside it, that is no plain file."""
    return Unreadable(
        f"{path} is not read",
        expected="an ordinary file, as zoo.save writes it",
        got=got,
        done="nothing was opened",
        hint="copy the folder with its files and not with links: cp -rL",
        path=path,
    )
