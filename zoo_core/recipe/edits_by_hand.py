"""Edits by hand: found by comparing a model with what its recipe makes, written as its last edit, and repeated."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from zoo_core.errors import Unreadable
from zoo_core.surgery.editing import BY_HAND, editing
from zoo_core.surgery.head.describe import LAYERS, Layers, describe
from zoo_core.surgery.metadata import anatomy_after, metadata_of, owners_of
from zoo_core.surgery.structure import structure_of

_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,31}")
"""Of an activation or a kind of pooling. Nothing that fits it is a path, a url or a reference to code."""
_LARGEST = 1 << 20
"""The largest size or setting: none in any architecture comes near it."""
_BATCH_NORMS = {nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm}
_ORDERED = (nn.Sequential, nn.ModuleList)
_PLAIN = bool | int | float | str | None


def kind_of(module: nn.Module) -> str:
    """Class of a module as a dotted path, for edits by hand to be found; a synchronized batch norm counts as plain."""
    kind = type(module)
    return "a batch norm" if kind in _BATCH_NORMS else f"{kind.__module__}.{kind.__qualname__}"


def settings_of(module: nn.Module) -> dict[str, Any]:
    """The public attributes of a module that may be changed by hand: plain values, such as a dropout rate."""
    public = {name: each for name, each in vars(module).items() if not name.startswith("_") and name != "training"}
    return {name: each for name, each in public.items() if _is_plain(each)}


def changes_by_hand(model: nn.Module, made: nn.Module, following: Collection[str]) -> dict[str, Any]:
    """The edit by hand that makes ``model`` of ``made``, as far as that can be written down.

    Args:
        model: A model.
        made: What its recipe makes.
        following: Dotted paths of attributes that only repeat how many classes or channels there are.

    Returns:
        The arguments of :func:`change_by_hand`; none where nothing can or need be done.
    """
    changes = _EditByHand(following)
    changes.look(model, made, "")
    return changes.arguments()


class _EditByHand:
    """The edit by hand, as it is found: layers, shapes of tensors, and settings."""

    def __init__(self, following: Collection[str]) -> None:
        self.following = following
        self.layers: list[tuple[Layers | None, list[str]]] = []
        self.shapes: dict[str, tuple[int, ...] | None] = {}
        self.settings: dict[str, dict[str, Any]] = {}

    def arguments(self) -> dict[str, Any]:
        """What differs; those of the three that are empty are left out."""
        every = {"layers": [[layer, paths] for layer, paths in self.layers], "shapes": self.shapes}
        return {name: each for name, each in {**every, "settings": self.settings}.items() if each}

    def look(self, now: nn.Module, then: nn.Module, path: str) -> None:
        """Note what differs between two modules, and between all in them."""
        is_other = kind_of(now) != kind_of(then) or (isinstance(now, _ORDERED) and _reordered(now, then))
        shapes, before = _own_shapes(now), _own_shapes(then)
        if path and (is_other or shapes != before) and self._replace(now, path):
            return
        if is_other:
            return  # it cannot be written down, and the save is refused
        dot = f"{path}." if path else ""
        names = shapes.keys() & before.keys()
        self.shapes |= {f"{dot}{name}": shapes[name] for name in sorted(names) if shapes[name] != before[name]}
        settings, known = settings_of(now), settings_of(then)
        differing = {
            name: settings[name]
            for name in settings.keys() & known.keys()
            if repr(settings[name]) != repr(known[name])
            and f"{dot}{name}" not in self.following
            and may_be_set(settings[name])
        }
        if differing:
            self.settings[path] = dict(sorted(differing.items()))
        others = dict(then._modules.items())  # noqa: SLF001 - with those that are None; a scripted module has no get()
        for name, child in now._modules.items():  # noqa: SLF001 - as above
            other = others.get(name)
            if child is None or other is None:
                if child is not other:
                    self._replace(child, f"{dot}{name}")
            else:
                self.look(child, other, f"{dot}{name}")
        gone = [name for name, other in then.named_children() if name not in now._modules]  # noqa: SLF001 - as above
        for name in gone:
            if vars(now).get(name) is None:  # by any other value it cannot be written down, and the save is refused
                self._replace(None, f"{dot}{name}")

    def _replace(self, module: nn.Module | None, path: str) -> bool:
        layer = None if module is None else describe(module)
        if not isinstance(layer, Layers | None):
            return False
        paths = next((paths for other, paths in self.layers if other == layer), None)
        if paths is None:
            self.layers.append((layer, paths := []))
        paths.append(path)
        return True


def change_by_hand(
    model: nn.Module,
    *,
    layers: Sequence[Sequence[Any]] = (),
    shapes: Mapping[str, Sequence[int] | None] | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> nn.Module:
    """Repeat the edit by hand: change a model as it was changed by hand before it was saved.

    Args:
        model: Changed in place.
        layers: Descriptions of layers with the paths at which they stand, None where a module was taken out.
        shapes: Name of a tensor that a module has itself to its shape, None where it was taken out.
        settings: Path of a module to values of its attributes.

    Returns:
        The same model.

    Raises:
        Unreadable: It has no such place, or a value is none that a file may set.
    """
    every = {"layers": layers, "shapes": shapes, "settings": settings}
    record = {name: each for name, each in every.items() if each}
    with editing(model, BY_HAND, record=record) as edit:
        before = structure_of(edit.model)
        for layer, paths in layers:
            for path in paths:
                _put(edit.model, path, layer)
        for name, shape in (shapes or {}).items():
            _reshape(edit.model, name, shape)
        for path, values in (settings or {}).items():
            _set(edit.model.get_submodule(path), values)
        now = structure_of(edit.model)
        changed = now.changed_since(before)
        if changed:
            edit.anatomy = anatomy_after(edit.model, changed)
        own_layers = owners_of(name for name in changed if name in now.shapes)
        edit.update(own_layers=metadata_of(edit.model).own_layers | own_layers)
    return model


def _put(model: nn.Module, path: str, layer: Layers | None) -> None:
    """Repeat an edit by hand: put a layer into a model, or remove one."""
    owner, _, name = path.rpartition(".")
    parent = model.get_submodule(owner)
    if layer is not None and not isinstance(layer, Layers):
        raise _refused_edit(path, layer)
    if layer is None and isinstance(parent, (*_ORDERED, nn.ModuleDict)):
        del parent._modules[name]  # noqa: SLF001 - del parent[name] takes numbers only
    elif layer is None:
        parent._modules[name] = None  # noqa: SLF001 - a name of the parent's own forward stays
    else:
        if vars(parent).get(name, parent) is None:  # what is None when a module is made is no module
            del vars(parent)[name]
        if hasattr(parent, name) and name not in parent._modules:  # noqa: SLF001 - no public way to look there
            raise _refused_edit(path, layer)
        parent._modules[name] = layer.build().train(parent.training)  # noqa: SLF001 - add_module takes no None back


def _reshape(model: nn.Module, name: str, shape: Sequence[int] | None) -> None:
    """Repeat an edit by hand: give a tensor of a model another shape."""
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    table: dict[str, Any] = module._parameters if leaf in module._parameters else module._buffers  # noqa: SLF001 - setattr would register anew
    old = table.get(leaf)
    if leaf not in table or not (shape is None or all(type(side) is int and 0 <= side <= _LARGEST for side in shape)):
        raise _refused_edit(name, shape)
    if shape is None:
        table[leaf] = None
        return
    like = torch.empty(0, device="cpu") if old is None else old
    new = torch.empty(tuple(shape), dtype=like.dtype, device=like.device)
    table[leaf] = nn.Parameter(new) if table is module._parameters else new  # noqa: SLF001 - as above


def _set(module: nn.Module, values: Mapping[str, Any]) -> None:
    """Repeat an edit by hand: give settings of a module other values."""
    known = settings_of(module)
    for name, value in values.items():
        if name not in known or not may_be_set(value):
            raise _refused_edit(name, value)
        setattr(module, name, value)


def may_be_set(value: object) -> bool:
    """Whether an edit by hand may set an attribute to this value: a number, a short word, a layer."""
    if isinstance(value, list | tuple):
        return all(may_be_set(each) and not isinstance(each, list | tuple) for each in value)
    if isinstance(value, type):
        return value in LAYERS.values()
    if isinstance(value, str):
        return _WORD.fullmatch(value) is not None
    return value is None or isinstance(value, bool) or (isinstance(value, int | float) and abs(value) <= _LARGEST)


def _refused_edit(name: str, value: object) -> Unreadable:
    """Error for an edit by hand that a saved folder may not make."""
    return Unreadable(
        f"the recipe changes {name!r} by hand in a way that a folder may not",
        got=str(value)[:100],
        done="nothing was loaded",
        cause="it was changed by hand, or the library here is of another version",
    )


def _own_shapes(module: nn.Module) -> dict[str, tuple[int, ...] | None]:
    left_out = module._non_persistent_buffers_set  # noqa: SLF001 - torch has no public name for it
    tables: dict[str, Any] = {**module._parameters, **module._buffers}  # noqa: SLF001 - with those that are None
    return {name: None if each is None else tuple(each.shape) for name, each in tables.items() if name not in left_out}


def _reordered(now: nn.Module, then: nn.Module) -> bool:
    first, second = ([name for name, _ in each.named_children()] for each in (now, then))
    common = {*first} & {*second}
    return [name for name in first if name in common] != [name for name in second if name in common]


def _is_plain(value: object) -> bool:
    return isinstance(value, _PLAIN) or (
        isinstance(value, tuple | list) and all(isinstance(each, _PLAIN) for each in value)
    )
