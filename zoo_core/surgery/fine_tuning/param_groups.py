"""Parameter groups for any torch optimizer: rates by part and by depth, and no decay where it does harm."""

from __future__ import annotations

import gc
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn

from zoo_core.errors import NotSupported, UsageError, ZooWarning
from zoo_core.surgery.distributed import in_shards
from zoo_core.surgery.layers import is_bias, is_norm
from zoo_core.surgery.metadata import anatomy_of, unwrap
from zoo_core.surgery.select import depths, in_head, patterns_in, select
from zoo_core.utils.arguments import strict_arguments

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

NO_DECAY = ("vector", "position", "declared")
"""What is not decayed unless told otherwise: timm's rule, made the same in every family."""

_POSITIONS = (
    "*pos_embed*",
    "*position_embedding*",
    "*position_bias_table",
    "*class_token",
    "*cls_token",
    "*dist_token",
    "*reg_token",
)

_WITH_AXES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers whose weight is never a vector."""
_RATES = ("lr", "initial_lr", "max_lr", "min_lr", "swa_lr")
"""What torch's schedulers keep of the learning rate in a group."""
_LISTS_OF_RATES = ("base_lrs", "max_lrs", "min_lrs", "_last_lr")
"""What they keep of it themselves, with an entry for each group."""
_LISTS = ("lr_lambdas", "base_momentums", "max_momentums")
"""What else they keep with an entry for each group."""


@dataclass(frozen=True)
class _Plan:
    """The learning rates and the weight decay that were requested for parameter groups."""

    lr: float
    head_lr: float | None
    bias_lr_scale: float
    weight_decay: float | None
    layer_decay: float | None


class _Part(NamedTuple):
    """A part of the model whose parameter groups have a learning rate, and its place between input and output."""

    place: int
    name: str
    lr: float


@strict_arguments
def param_groups(
    model: nn.Module,
    *,
    lr: float,
    head_lr: float | None = None,
    bias_lr_scale: float = 1.0,
    weight_decay: float | None = None,
    no_decay: str | Sequence[str] = NO_DECAY,
    layer_decay: float | None = None,
) -> list[dict[str, Any]]:
    """The trainable parameters of ``model`` in groups, each with its learning rate and weight decay.

    Every parameter that requires a gradient is in exactly one group, one that is shared once, and frozen ones in none.
    By default biases, norms, layer scales, position embeddings and class tokens are not decayed, as in timm; a
    decay that the library of the model declares itself, in ``no_weight_decay()``, counts as well.

    Args:
        model: A model from ``zoo.get`` or ``zoo.adopt``, with DDP or ``torch.compile`` around it or not.
        lr: Learning rate.
        head_lr: Learning rate of the head sites, usually a larger one; ``lr`` unless told otherwise.
        bias_lr_scale: The learning rate of biases is this many times that of their layer; 2 is Caffe's recipe.
        weight_decay: Of all that is decayed; the optimizer's own when None.
        no_decay: What is not decayed: ``"vector"`` for all that has at most one axis, biases and norms among it;
            ``"bias"``; ``"norm"``; ``"position"`` for position embeddings and class tokens; ``"declared"`` for what the
            library names; and all that :func:`freeze` understands, such as ``"head"`` or ``"layer1.*"``. ``()`` decays
            everything.
        layer_decay: The learning rate shrinks by this factor with each stage down from the head, as in BEiT and MAE:
            ``lr`` for the head and what is before it, ``lr * layer_decay`` for the last stage, and so on to the stem.

    Returns:
        Groups for the optimizer, from the input to the output. Beside ``params`` and ``lr``, each has a ``name`` such
        as ``"layer3, no decay"``, and under ``plan`` what this function was given: ``zoo.unfreeze(..., optimizer=...)``
        puts new parameters where they belong by it. An optimizer takes further plain groups beside them.

    Raises:
        UsageError: Nothing is trainable, ``head_lr`` has nothing to act on, or a number is impossible.
        UnknownPart: An entry of ``no_decay`` matches nothing.
        NotSupported: ``layer_decay`` for a model whose anatomy has no stages.
        NotAZooModel: zoo knows nothing about the model.

    Example:
        >>> import torch, zoo_core as zoo
        >>> model = zoo.get("resnet18", weights=None, num_classes=9, freeze={"until": "layer4"})
        >>> groups = zoo.param_groups(model, lr=1e-3, head_lr=1e-2, weight_decay=0.05)
        >>> for group in groups:
        ...     print(f"{group['name']}: {len(group['params'])} at lr {group['lr']}, decay {group['weight_decay']}")
        backbone: 5 at lr 0.001, decay 0.05
        backbone, no decay: 10 at lr 0.001, decay 0.0
        head: 1 at lr 0.01, decay 0.05
        head, no decay: 1 at lr 0.01, decay 0.0
        >>> optimizer = torch.optim.AdamW(groups)
    """
    _check(lr=lr, head_lr=head_lr, bias_lr_scale=bias_lr_scale, weight_decay=weight_decay, layer_decay=layer_decay)
    words = patterns_in("no_decay", no_decay)
    plan = _Plan(lr, head_lr, bias_lr_scale, weight_decay, layer_decay)
    bare = in_shards(model)
    warn_of_others(model, bare, "are in no group", "give the optimizer a group of their own for them")
    trainable = {name: parameter for name, parameter in bare.named_parameters() if parameter.requires_grad}
    if not trainable:
        raise UsageError(
            f"there is nothing to train: every parameter of this {type(bare).__name__} is frozen",
            hint='zoo.unfreeze(model, "head") trains the head, zoo.unfreeze(model) everything',
        )
    _require_axes(bare, trainable)
    kept_whole = _not_decayed(model, words)
    part_of = _parts(model, plan, trainable)
    groups: dict[str, dict[str, Any]] = {}
    for name in sorted(trainable, key=lambda name: part_of[name].place):
        new = _group(name, part_of[name], plan, decays=name not in kept_whole)
        groups.setdefault(new["name"], new)["params"].append(trainable[name])
    return [{**group, "plan": {**asdict(plan), "no_decay": words}} for group in groups.values()]


def _require_axes(model: nn.Module, trainable: Iterable[str]) -> None:
    """Refuse parameters that ``FullyShardedDataParallel`` made vectors of: of a vector no part would be decayed.

    Raises:
        NotSupported: A layer has a weight with fewer axes than such a layer has, or is in one parameter with others.
    """
    for name in trainable:
        path, _, own = name.rpartition(".")
        module = model.get_submodule(path)
        is_flat = isinstance(module, _WITH_AXES) and own == "weight" and module.weight.ndim == 1
        if is_flat or own == "_flat_param":
            raise NotSupported(
                f"FullyShardedDataParallel has made a vector of {name}",
                cause="nothing distinguishes weights, which are decayed, from biases and norms, which are not",
                hint="zoo.param_groups(model, ...) before the model is wrapped (use_orig_params=True keeps its "
                "parameters), or torch's fully_shard instead",
            )


def add_to_optimizer(model: nn.Module, optimizer: Optimizer) -> None:
    """Give an optimizer the trainable parameters of ``model`` that it lacks, at the rates of its other groups.

    Args:
        model: A model from ``zoo.get`` or ``zoo.adopt``.
        optimizer: One made from :func:`param_groups`, whose groups say how rates and decay were chosen, also after a
            scheduler has changed them; or one with a single rate and decay, which go to all.

    Raises:
        UsageError: The optimizer has several rates, and nothing says which is right.
    """
    present = {id(each) for group in optimizer.param_groups for each in group["params"]}
    lacking = [each for each in in_shards(model).parameters() if each.requires_grad and id(each) not in present]
    if not lacking:
        return
    planned = next((group for group in optimizer.param_groups if "plan" in group), None)
    if planned is None:
        optimizer.add_param_group({**_shared_settings(optimizer), "params": lacking})
        return
    rates = _planned_rates(model, planned["plan"])
    by_name = {group.get("name"): group for group in optimizer.param_groups}
    ids = {id(each) for each in lacking}
    for group in param_groups(model, **planned["plan"]):
        new = [each for each in group["params"] if id(each) in ids]
        if new and group["name"] in by_name:
            by_name[group["name"]]["params"].extend(new)
        elif new:
            sibling = _group_of_same_part(optimizer, group["name"]) or planned
            _add_param_group(optimizer, sibling, {**group, "params": new}, group["lr"] / rates[sibling["name"]])


def _planned_rates(model: nn.Module, plan: Mapping[str, Any]) -> dict[str, float]:
    """Name to learning rate of each group that ``param_groups`` makes by this plan, with those of frozen parameters."""
    rates = _Plan(**{name: each for name, each in plan.items() if name != "no_decay"})
    names = [name for name, _ in in_shards(model).named_parameters()]
    groups = [
        _group(name, part, rates, decays=decays)
        for name, part in _parts(model, rates, names).items()
        for decays in (True, False)
    ]
    return {group["name"]: group["lr"] for group in groups}


def _group_of_same_part(optimizer: Optimizer, name: str) -> dict[str, Any] | None:
    """The group that ``param_groups`` gave to an optimizer for the part of the model that this name is of."""
    part = name.partition(", ")[0]
    of_plan = [group for group in optimizer.param_groups if "plan" in group]
    return next((group for group in of_plan if group["name"].partition(", ")[0] == part), None)


def _add_param_group(optimizer: Optimizer, sibling: Mapping[str, Any], group: Mapping[str, Any], ratio: float) -> None:
    """Add a group of ``param_groups`` to an optimizer, at ``ratio`` times the rates of another, as they are since.

    A scheduler keeps the rates between which it moves in the groups, in lists of its own, or in both.
    """
    count = len(optimizer.param_groups)
    place = next(i for i, each in enumerate(optimizer.param_groups) if each is sibling)
    rates = {name: sibling[name] * ratio for name in _RATES if name in sibling}
    kept = {name: each for name, each in sibling.items() if name != "weight_decay"}
    optimizer.add_param_group({**kept, **group, **rates})
    for scheduler in _schedulers_of_groups(optimizer):
        for name in (*_LISTS_OF_RATES, *_LISTS):
            values = getattr(scheduler, name, None)
            if isinstance(values, list) and len(values) == count:
                values.append(values[place] * ratio if name in _LISTS_OF_RATES else values[place])


def _schedulers_of_groups(optimizer: Optimizer) -> list[LRScheduler]:
    """The schedulers of the rates of these parameter groups; the optimizer that has them does not know those."""
    from torch.optim.lr_scheduler import LRScheduler

    every = [each for each in gc.get_objects() if issubclass(type(each), LRScheduler)]
    return [each for each in every if getattr(each, "optimizer", None) is optimizer]


def _shared_settings(optimizer: Optimizer) -> dict[str, Any]:
    """The settings that all parameter groups of an optimizer share, for one to add.

    Raises:
        UsageError: They differ.
    """
    every = [{name: each for name, each in group.items() if name != "params"} for group in optimizer.param_groups]
    if any(each != every[0] for each in every):
        raise UsageError(
            "the groups of this optimizer differ, and nothing says which settings new parameters get",
            got=f"rates {', '.join(str(each['lr']) for each in every)}",
            hint="make the optimizer of zoo.param_groups(model, ...), or leave optimizer= out and call "
            "optimizer.add_param_group yourself",
        )
    return every[0]


def warn_of_others(model: nn.Module, bare: nn.Module, outcome: str, hint: str) -> None:
    """Warn of trainable parameters in no group, or left out by another verb: a module has them around the model in it.

    Args:
        model: What the verb was given.
        bare: The model in it.
        outcome: What becomes of such parameters, such as ``"are in no group"``.
        hint: What to do.
    """
    inside = {id(each) for each in bare.parameters()}
    others = [name for name, each in model.named_parameters() if each.requires_grad and id(each) not in inside]
    if others:
        warnings.warn(
            f"{len(others)} trainable parameters outside of the {type(bare).__name__} {outcome}, such as "
            f"{others[0]!r}: {hint}",
            ZooWarning,
            stacklevel=4,  # past strict_arguments
        )


def _parts(model: nn.Module, plan: _Plan, names: Iterable[str]) -> dict[str, _Part]:
    """The part that each parameter is grouped by, as far as parts differ in their learning rate."""
    if plan.head_lr is None and plan.layer_decay is None:
        return dict.fromkeys(names, _Part(0, "all", plan.lr))
    backbone = _by_depth(model, plan)
    deepest = len(backbone) - 1
    head = _Part(len(backbone), "head", plan.lr if plan.head_lr is None else plan.head_lr)
    in_the_head, by_depth = in_head(model), depths(model)
    result = {name: head if name in in_the_head else backbone[min(by_depth[name], deepest)] for name in names}
    if plan.head_lr is not None and head not in result.values():
        raise UsageError(
            f"head_lr={plan.head_lr} has nothing to act on",
            cause="the head is frozen" if in_the_head else "the model has no head",
            hint='zoo.unfreeze(model, "head"), or leave head_lr out' if in_the_head else "leave head_lr out",
        )
    return result


def _by_depth(model: nn.Module, plan: _Plan) -> list[_Part]:
    """The parts before the head to group parameters by, from the input on; a single one without layer decay."""
    if plan.layer_decay is None:
        return [_Part(0, "backbone", plan.lr)]
    stages = anatomy_of(model).stages
    if not stages:
        raise NotSupported(
            f"layer_decay needs to know how deep layers are, and this {type(unwrap(model)).__name__} has no stages",
            hint="leave layer_decay out; head_lr works for every model that has a head",
        )
    names = ("stem", *(stage.name for stage in stages), "neck")
    return [_Part(i, name, plan.lr * plan.layer_decay ** (len(stages) + 1 - i)) for i, name in enumerate(names)]


def _group(name: str, part: _Part, plan: _Plan, *, decays: bool) -> dict[str, Any]:
    """An empty parameter group of the kind that one parameter goes to."""
    is_scaled = plan.bias_lr_scale != 1 and is_bias(name)
    title = part.name + (", biases" if is_scaled else "") + ("" if decays else ", no decay")
    lr = part.lr * plan.bias_lr_scale if is_scaled else part.lr
    group = {"params": [], "lr": lr, "name": title}
    decay = plan.weight_decay if decays else 0.0
    return group if decay is None else {**group, "weight_decay": decay}


def _not_decayed(model: nn.Module, what: Iterable[str]) -> set[str]:
    """Names of the parameters that go to groups without weight decay."""
    result: set[str] = set()
    for word in what:
        result |= _OF_WORD[word](unwrap(model)) if word in _OF_WORD else select(model, [word])
    return result


def _of_norms(model: nn.Module) -> set[str]:
    """Names of the parameters of norms, for groups without weight decay."""
    norms = [(path, module) for path, module in model.named_modules() if is_norm(module)]
    return {f"{path}.{name}".lstrip(".") for path, norm in norms for name, _ in norm.named_parameters(recurse=False)}


def _declared(model: nn.Module) -> set[str]:
    """What the model's own library puts in groups without weight decay, as the models of timm say."""
    declare = getattr(model, "no_weight_decay", None)
    return _matching(model, declare()) if callable(declare) else set()


def _matching(model: nn.Module, patterns: Iterable[str]) -> set[str]:
    """Names of the parameters that fit one of these patterns, for groups without weight decay."""
    patterns = tuple(patterns)
    return {name for name, _ in model.named_parameters() if any(fnmatchcase(name, pattern) for pattern in patterns)}


_OF_WORD: dict[str, Callable[[nn.Module], set[str]]] = {
    "vector": lambda model: {name for name, each in model.named_parameters() if each.dim() <= 1},
    "bias": lambda model: {name for name, _ in model.named_parameters() if is_bias(name)},
    "norm": _of_norms,
    "position": lambda model: _matching(model, _POSITIONS),
    "declared": _declared,
}


def _check(**numbers: float | None) -> None:
    """Refuse learning rates and a weight decay that no parameter group can have."""
    for name, value in numbers.items():
        if value is None:
            continue
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not is_number or value < 0 or (value == 0 and name != "weight_decay"):
            hint = "zoo.freeze stops a part from training" if value == 0 else None
            expected = "a number of at least 0" if name == "weight_decay" else "a number above 0"
            raise UsageError(f"{name} cannot be {value!r}", expected=expected, hint=hint)
