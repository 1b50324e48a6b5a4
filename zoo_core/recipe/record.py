"""The recipe: everything but the tensors that it takes to build a saved model again, as JSON."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from zoo_core.contract.card_file import preprocessing_from_record
from zoo_core.errors import Unreadable, ZooWarning
from zoo_core.registry.zoo import current_zoo
from zoo_core.text import visible

FORMAT = 2
"""The newest of the file that this zoo reads: 1 holds all tensors, 2 may leave out what published weights have."""

FILE = "recipe.json"
ANY_NUMBER = "an image has any number of them, and zoo.predict gives those of at least 0.5"
"""What is said of the classes of a save that is ``multi_label``."""

_DEEPEST = 64
"""A head of layers in layers in layers has about ten containers inside each other."""
_MOST_EDITS = 1000
_MOST_VALUES = 20_000
"""In all edits: a head of a hundred layers has about a thousand, and each is a layer to build at worst."""


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


def recipe_of(record: object, path: Path) -> Recipe:
    """The recipe that a record from JSON is, once nothing is wrong with it.

    Raises:
        Unreadable: It is damaged, or a newer zoo wrote it.
    """
    if not isinstance(record, Mapping):
        raise damaged(path, f"a {type(record).__name__} instead of an object")
    _check_format(path, record.get("format"))
    if problem := _excess(record) or next(_record_problems(record), None):
        raise damaged(path, problem)
    return Recipe(**record)


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


def damaged(path: Path, got: str) -> Unreadable:
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
