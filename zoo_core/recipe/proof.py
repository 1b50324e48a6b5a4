"""The proof of a recipe: what it makes is compared with the model that is saved, module by module."""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from types import CellType, FunctionType
from typing import TYPE_CHECKING

from torch import nn

from zoo_core.errors import NotSupported, ZooError
from zoo_core.recipe.edits import edit_to_plain, repeat
from zoo_core.recipe.edits_by_hand import changes_by_hand, kind_of, settings_of
from zoo_core.recipe.rebuild import rebuild
from zoo_core.surgery.editing import BY_HAND
from zoo_core.surgery.features.forward import without_wrappers
from zoo_core.surgery.head.describe import Custom
from zoo_core.surgery.head.multi_head import Heads
from zoo_core.surgery.head.scores import scoring_part
from zoo_core.surgery.metadata import Edit, Metadata, unwrap
from zoo_core.utils.attributes import own_methods

if TYPE_CHECKING:
    from zoo_core.recipe.record import Recipe

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_NOTHING = "nothing: it would not be there"
_OTHERWISE = (
    "layers that are none of torch.nn were put in by hand, or it was adopted under another name or with other options",
    'a function that builds and changes it, under @zoo.register("mine/net"), is a model that can be saved',
)
_TOOLS = (
    (
        "weight_mask",
        "torch.nn.utils.prune masks its weights",
        "torch.nn.utils.prune.remove(layer, 'weight') of each makes it plain",
    ),
    (
        "parametrizations",
        "its weights are parametrized",
        "torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight') of each makes it plain",
    ),
    (
        "weight_g",
        "torch.nn.utils.weight_norm computes its weights",
        "torch.nn.utils.remove_weight_norm(layer) of each makes it plain",
    ),
    (
        "weight_u",
        "torch.nn.utils.spectral_norm computes its weights",
        "torch.nn.utils.remove_spectral_norm(layer) of each makes it plain",
    ),
    (
        "fake_quantizer",
        "torchao has prepared it for training that knows of quantization",
        "torchao's quantize_(model, QATConfig(step='convert')) makes plain layers of it; or save its state dict",
    ),
    (
        "_orig_mod",
        "torch.compile wraps some of its layers",
        "layer.compile() in place of model.layer = torch.compile(model.layer) leaves no wrapper",
    ),
    (
        "FrozenBatchNorm",
        "its batch norms were converted to frozen ones",
        "zoo.freeze(model) holds batch norms as they are, and keeps their class; leave the conversion out",
    ),
)
"""What tools leave in a model, why a recipe cannot make that, and what can be done."""


def proven(model: nn.Module, known: Metadata, recipe: Recipe, *, custom: bool) -> tuple[Recipe, nn.Module | None]:
    """Prove a recipe: build from it, and compare every shape, and the class and settings of every module.

    Args:
        model: The model, without wrappers.
        known: What zoo knows of it.
        recipe: What would be saved.
        custom: Whether heads of their own code, which only their owner can build, may be saved.

    Returns:
        The recipe, with what was changed by hand as its last edit; and what it makes, whose parameters have no values,
        or None where only a caller who has the code of its heads can build that.

    Raises:
        NotSupported: The recipe makes another model, or none.
    """
    heads = {
        name: head for edit in known.edits for value in edit.arguments.values() for name, head in customs_in(value)
    }
    if heads and not custom:
        name = next(iter(heads))
        raise NotSupported(
            f"the head {name!r} is a {heads[name].kind}, which a recipe cannot build",
            expected="layers of torch.nn, alone or in a Sequential, or a zoo.mlp_head(...)",
            hint=f'zoo.save(..., custom_heads=True), and then zoo.load(folder, heads={{"{name}": module}})',
            name=name,
        )
    try:
        recipe, twin = _recipe_and_twin(model, known, recipe, heads)
        following = {
            *known.anatomy.channel_attributes,
            *(path for head in known.anatomy.heads for path in head.attributes),
        }
        if changes := changes_by_hand(model, twin, following):
            edit = edit_to_plain(Edit(BY_HAND, changes))
            recipe, twin = replace(recipe, edits=[*recipe.edits, edit]), repeat(twin, edit)
    except ZooError as error:
        if heads:
            return recipe, None
        raise NotSupported(
            f"{recipe.id} cannot be built again as it is now",
            got=error.summary,
            cause=str(error.__cause__ or "") or "layers have other widths, as structured pruning leaves them",
            hint='a function that builds and prunes it, under @zoo.register("mine/net"), is a model that can be saved',
        ) from error
    _compare(model, "tensors", _shapes(model), _shapes(twin))
    _compare(model, "modules", *_settings(model, twin, following))
    return recipe, twin


def _recipe_and_twin(
    model: nn.Module, known: Metadata, recipe: Recipe, heads: Mapping[str, Custom]
) -> tuple[Recipe, nn.Module]:
    """Recipe to prove, and what it makes; without heads put in by hand where they need other changes before."""
    given = {name: copy.deepcopy(_head(model, known, name)).cpu() for name in heads}
    try:
        return recipe, unwrap(rebuild(recipe, given, options=known.options))
    except ZooError:
        own = [
            plain
            for edit, plain in zip(known.edits, recipe.edits, strict=True)
            if edit.verb == BY_HAND or not edit.by_hand
        ]
        if len(own) == len(recipe.edits):
            raise
        recipe = replace(recipe, edits=own)
        return recipe, unwrap(rebuild(recipe, given, options=known.options))


def _head(model: nn.Module, known: Metadata, name: str) -> nn.Module:
    site = model.get_submodule(known.anatomy.main.path if known.anatomy.main else "")
    return scoring_part(site[name]) if isinstance(site, Heads) and name in site else site


def _shapes(model: nn.Module) -> dict[str, str]:
    return {name: f"of the shape {tuple(tensor.shape)}" for name, tensor in model.state_dict().items()}


def _settings(model: nn.Module, twin: nn.Module, following: Collection[str]) -> tuple[dict[str, str], dict[str, str]]:
    """For the proof, the class of each module and what it says of itself: a dropout rate shows in no tensor."""
    ours, theirs = (dict(each.named_modules(remove_duplicate=False)) for each in (model, twin))
    said = [
        {path or "the model itself": _described_module(each) for path, each in some.items()} for some in (ours, theirs)
    ]
    for path in ours.keys() & theirs.keys():
        now, then = settings_of(ours[path]), settings_of(theirs[path])
        dot = f"{path}." if path else ""
        for name in now.keys() & then.keys() - {each.removeprefix(dot) for each in following if each.startswith(dot)}:
            said[0][f"{dot}{name}"], said[1][f"{dot}{name}"] = f"= {now[name]!r}", f"= {then[name]!r}"
        made = own_methods(theirs[path])
        for name, method in own_methods(ours[path]).items():
            if _function(method) not in (_function(getattr(type(ours[path]), name)), _function(made.get(name))):
                said[0][f"{dot}{name}"] = "is a function of its own"
    return said[0], said[1]


def _function(method: object) -> object:
    """For the proof, what a method does that may only bind or wrap another, as mixed precision does.

    Not the function: a library may define one for each model that it makes. Its code, and the plain values that it
    holds as defaults or from where it was defined.
    """
    inner = without_wrappers(method)
    return _held(getattr(inner, "__func__", inner)) or inner


def _held(value: object, depth: int = 4) -> object:
    """For the proof, a value that a function holds, or code and values of a function; None where it is not plain."""
    if isinstance(value, bool | int | float | complex | str | bytes | None):
        return repr(value)
    if isinstance(value, tuple | list) and depth:
        return [_held(each, depth - 1) for each in value]
    if isinstance(value, dict) and depth:
        return {name: _held(each, depth - 1) for name, each in value.items()}
    if isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if cell != CellType()]
        inside = [*cells, value.__defaults__, value.__kwdefaults__]
        return value.__code__, _held(inside, depth - 1) if depth else None
    return getattr(value, "__code__", None)


def _described_module(module: nn.Module) -> str:
    """Description of a module by itself, for the proof to compare it with the one that the recipe makes."""
    # some libraries say what their layers are in repr, and not in extra_repr where torch looks for it
    said = module.extra_repr() if next(module.children(), None) else repr(module)
    if isinstance(module, nn.Sequential | nn.ModuleList):
        return f"a {kind_of(module)} of {', '.join(name for name, _ in module.named_children())}"
    if kind_of(module).startswith("a "):
        return f"{kind_of(module)} ({module.extra_repr()})"
    return f"a {kind_of(module)}: {_ADDRESS.sub('', said)}"


def _compare(model: nn.Module, what: str, now: Mapping[str, str], then: Mapping[str, str]) -> None:
    """Refuse a recipe whose proof fails: the model differs from what it makes; with the likely cause."""
    differing = [name for name in {**now, **then} if now.get(name) != then.get(name)]
    if differing:
        name = differing[0]
        kinds = {type(each).__name__ for each in model.modules()}
        said = " ".join([*differing, *(now[each] for each in differing if each in now), *kinds])
        cause, hint = next(((cause, hint) for word, cause, hint in _TOOLS if word in said), _OTHERWISE)
        raise NotSupported(
            f"{len(differing)} {what} of this {type(model).__name__} are not what its recipe makes",
            expected=f"{name} {then.get(name, _NOTHING)}",
            got=f"{name} {now.get(name, _NOTHING)}",
            cause=cause,
            hint=hint,
            names=tuple(differing),
        )


def customs_in(value: object, name: str = "main") -> Iterator[tuple[str, Custom]]:
    """The modules in an edit to prove that only their own code can build, by the name of their head."""
    if isinstance(value, Custom):
        yield name, value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from customs_in(each, str(key))
