"""Taking a model apart into backbone and head, which share their parameters with it."""

from __future__ import annotations

import weakref
from types import MethodType
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor, nn

from zoo_core.contract.chain import Chain
from zoo_core.errors import NotSupported
from zoo_core.surgery.features.forward import (
    COMPILED,
    Variant,
    entered,
    forward_of,
    left,
    packed,
    variant,
    without,
    without_hooks,
)
from zoo_core.surgery.head.output_activation import parameters_of, paths_of
from zoo_core.surgery.hold import is_held
from zoo_core.surgery.knowledge import ATTRIBUTE, WHOLE, anatomy_of, no_head, unwrap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from zoo_core.contract.anatomy import Anatomy, Head

Module = TypeVar("Module", bound=nn.Module)

REBINDING = (
    "module.forward = types.MethodType(function, module), with function(self, x) that calls the modules of self, "
    "runs on the parts that zoo splits off, too"
)
"""How to write a forward that is put on one module so that it runs on twins of it, too."""
_FEATURES = "zoo.features(model, x, at=[...]) gives the feature maps of its stages"


class Backbone(nn.Module):
    """Everything before the head, split off: images to what the head sites are given.

    Attributes:
        body: The model without its heads, of the same class, sharing every tensor.
        anatomy: Where the parts of ``body`` are.
    """

    _zoo_way_back = "do it to the model, before or after zoo.split(model): the two share their parameters"

    def __init__(self, model: nn.Module, anatomy: Anatomy) -> None:
        super().__init__()
        self.__dict__[WHOLE] = (model,)  # no module of this one
        self.body = replaced(model, {head.path: nn.Identity() for head in anatomy.heads})
        # what only auxiliary heads need would be parameters that get no gradient, which DDP waits for
        self.body = replaced(self.body, {path: Absent() for path in _auxiliary_towers(anatomy)})
        if of_head := parameters_of(anatomy.classify):
            mine = {name: tensor for name, tensor in model._parameters.items() if name not in of_head}  # noqa: SLF001
            self.body.__dict__["_parameters"] = mine
        self.anatomy = anatomy

    def features(self, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401 - whatever forward takes
        """Images to the last feature map, or tokens."""
        x = entered(self.body, packed(self.body, args, kwargs))
        if self.anatomy.features is None:
            result: Tensor = self.anatomy.scores_in(without_hooks(self.body, x))
        else:
            result = self.anatomy.features(self.body, x)
        return result

    def pool(self, features: Tensor) -> Tensor:
        """The last feature map to what the head is given: ``[N, in_features]`` for a linear head."""
        if self.anatomy.pool is None:
            return features
        result: Tensor = self.anatomy.pool(self.body, features)
        return result

    def forward(self, x: Any = None, *others: Any, **named: Any) -> Tensor:  # noqa: ANN401 - whatever forward takes
        """Images, or whatever the model takes, to what the head is given."""
        if isinstance(others, torch.fx.Proxy):  # FX traces a call with x alone
            others, named = (), {}
        args = () if x is None and not others else (x, *others)
        return self.pool(self.features(*args, **named))


class Classifier(nn.Module):
    """The head split off a model whose scores take more than one module: what the sites are given to scores.

    Attributes:
        body: The modules it runs, under the paths they had in the model.
        classify: ``(body, pooled)`` to the scores.
        ends: Whether the scores are what the model returns, so that its forward hooks are given them.
    """

    def __init__(
        self, model: nn.Module, classify: Callable[[nn.Module, Tensor], Tensor], paths: Iterable[str], *, ends: bool
    ) -> None:
        super().__init__()
        self.body = pruned(model, paths)
        self.classify = classify
        self.ends = ends

    def forward(self, pooled: Tensor) -> Tensor:
        """What the head sites are given to scores."""
        scores = self.classify(self.body, pooled)
        return left(self.body, pooled, scores) if self.ends else scores


class Absent(nn.Module):
    """The place of a module that was split off or cut out: what comes in goes out, and a walk through it is empty."""

    def __iter__(self) -> Iterator[nn.Module]:
        """Nothing, as checkpointing walks through the layers of a stage."""
        return iter(())

    def forward(self, x: Any, *_: Any, **__: Any) -> Any:  # noqa: ANN401 - it stands for modules of any kind
        """``x`` as it is."""
        return x


def _auxiliary_towers(anatomy: Anatomy) -> Iterator[str]:
    """Modules for auxiliary heads alone, left out of a backbone that is split off where it runs without them."""
    may_use_all = anatomy.classify is not None and paths_of(anatomy.classify) is None  # as DeepLab's, in eval mode too
    if anatomy.features is None or may_use_all:
        return
    used = [*anatomy.stem, *(path for stage in anatomy.stages for path in stage.modules)]
    used += [head.path for head in anatomy.heads if head.role != "aux"]
    for head in anatomy.heads:
        parts = head.path.split(".")
        towers = (".".join(parts[:depth]) for depth in range(1, len(parts))) if head.role == "aux" else ()
        yield from [tower for tower in towers if not any(f"{path}.".startswith(f"{tower}.") for path in used)][:1]


def split(model: nn.Module) -> tuple[Backbone, nn.Module]:
    """Take a model apart into backbone and head; both share their parameters with it, and the model stays whole.

    Args:
        model: A model from ``zoo.get`` or ``zoo.adopt``.

    Returns:
        ``backbone`` and ``head``. In eval mode ``head(backbone(x))`` equals ``model(x)`` bit for bit, or the scores in
        it where a library returns them in an object; ``backbone(x)`` is ``backbone.pool(backbone.features(x))``.
        A module that holds both stands for the model: ``zoo.freeze``, ``zoo.param_groups`` and ``zoo.save`` take it.
        Forward pre-hooks of the model itself run in ``backbone``, and its forward hooks in ``head``, on the scores.

    Raises:
        NotSupported: The model has no head.
        NotAZooModel: zoo knows nothing about the model.

    Example:
        >>> import torch, zoo_core as zoo
        >>> backbone, head = zoo.split(zoo.get("resnet18", weights=None).eval())
        >>> backbone.features(torch.zeros(2, 3, 64, 64)).shape, head
        (torch.Size([2, 512, 2, 2]), Linear(in_features=512, out_features=1000, bias=True))
    """
    anatomy, bare = anatomy_of(model), unwrap(model)
    main = anatomy.main
    if main is None:
        raise no_head(bare, "to split off")
    if anatomy.indivisible:
        raise NotSupported(
            f"this {type(bare).__name__} cannot be split",
            cause=anatomy.indivisible,
            hint=f"{REBINDING}; then {_FEATURES}" if _is_bound(bare) else _FEATURES,
        )
    backbone = Backbone(bare, anatomy)
    backbone.training = bare.training
    return backbone, _head(bare, anatomy, main)


def _head(model: nn.Module, anatomy: Anatomy, main: Head) -> nn.Module:
    """The head that is split off: the module itself, or a classifier where the scores take more than that."""
    if anatomy.classify is None and not model._forward_hooks:  # noqa: SLF001 - no public way to see them
        return model.get_submodule(main.path)
    classify = anatomy.classify or Chain(main.path)
    modules = paths_of(classify) or [head.path for head in anatomy.heads]
    head = Classifier(model, classify, [*modules, *parameters_of(classify)], ends=anatomy.scores is None)
    head.training = model.training
    return head


def replaced(model: Module, new: dict[str, nn.Module]) -> Module:
    """A twin of ``model``, as a split-off backbone is, with other modules at some paths and all else shared.

    Args:
        model: Left as it is.
        new: Dotted path to the module that stands there in the twin.
    """
    twin = _following(model)
    for path, module in new.items():
        first, _, rest = path.partition(".")
        twin._modules[first] = replaced(twin.get_submodule(first), {rest: module}) if rest else module  # noqa: SLF001
    if new and _is_bound(twin):
        twin.__dict__["forward"] = _NotOfATwin(model)
    return twin


def _is_bound(module: nn.Module) -> bool:
    """Whether a forward was put on a module that runs that very one, and not the module that it is called on."""
    own = module.__dict__.get("forward")
    return own is not None and not (isinstance(own, MethodType) and own.__self__ is module)


def pruned(model: Module, paths: Iterable[str]) -> Module:
    """A twin of ``model`` split off with only the modules, parameters and buffers at some paths, and sharing them.

    Args:
        model: Left as it is.
        paths: Dotted paths of what is kept, whole.
    """
    twin = _following(model)
    selected = list(paths)
    if "" in selected:
        return twin
    for kind, tensors in (("_parameters", model._parameters), ("_buffers", model._buffers)):  # noqa: SLF001 - as below
        twin.__dict__[kind] = {name: tensor for name, tensor in tensors.items() if name in selected}
    twin.__dict__["_modules"] = {
        name: pruned(child, [path.partition(".")[2] for path in selected if path.split(".", 1)[0] == name])
        for name, child in model.named_children()
        if any(path.split(".", 1)[0] == name for path in selected)
    }
    return twin


_WHOLE = "_zoo_whole"
"""Name of the attribute in which a twin refers to the module that it is a twin of."""


class Twin(Variant):
    """Put before the class of a twin, such as a split-off backbone, so that it and its model are in one mode.

    All below the two is shared, modes included, and a forward may read the mode of the module itself: timm's GhostNet
    drops out by it. A copy of a twin, and one whose model is gone, has a mode of its own.
    """

    __jit_unused_properties__ = ("training",)

    @property
    def training(self) -> bool:
        """Whether both are in train mode."""
        whole: nn.Module | None = self.__dict__[_WHOLE]() if _WHOLE in self.__dict__ else None
        if whole is not None:
            self.__dict__["training"] = whole.training
        return cast("bool", self.__dict__["training"])

    @training.setter
    def training(self, mode: bool) -> None:
        self.__dict__["training"] = mode
        whole: nn.Module | None = self.__dict__[_WHOLE]() if _WHOLE in self.__dict__ else None
        if whole is not None and not is_held(whole):
            whole.training = mode

    def __reduce_ex__(self, protocol: Any, /) -> Any:  # noqa: ANN401 - the signature of object
        """As for any variant; a copy follows no model."""
        new, how, state = super().__reduce_ex__(protocol)
        mode = self.training
        return new, how, {**{name: each for name, each in state.items() if name != _WHOLE}, "training": mode}


def _following(model: Module) -> Module:
    """A twin of ``model`` to split something off in, that is in its mode."""
    twin = twin_of(model)
    twin.__dict__.setdefault(_WHOLE, weakref.ref(model))  # that of a twin is the twin's own
    twin.__class__ = variant(without(type(model), Twin), Twin, ())
    return twin


def twin_of(model: Module) -> Module:
    """A module of the same class and attributes to split differently, as its table of submodules is its own.

    The tables of parameters and buffers are the very ones of ``model``: ``model.to(...)`` replaces buffers in them, and
    the twin has to see that.
    """
    twin: Module = object.__new__(model.__class__)  # the class's own would run __init__ where FSDP has sharded
    for name, value in model.__dict__.items():
        # some libraries bind forward to each instance; the twin's must run on the twin
        bound: Any = forward_of(model) if name == "forward" and not isinstance(value, MethodType) else value
        own = isinstance(bound, MethodType) and bound.__self__ is model
        twin.__dict__[name] = MethodType(bound.__func__, twin) if own else value
    twin.__dict__["_modules"] = dict(model._modules)  # noqa: SLF001 - nn.Module has no public way to share its children
    twin.__dict__.pop(ATTRIBUTE, None)
    twin.__dict__.pop(COMPILED, None)  # it runs the model
    return twin


class _NotOfATwin:
    """In the place of a forward on an instance, which would run that whole module and not what is split off it."""

    def __init__(self, model: nn.Module) -> None:
        self.kind = type(model).__name__

    def __call__(self, *_: object, **__: object) -> Any:  # noqa: ANN401 - the signature of forward
        raise NotSupported(
            f"the forward of this {self.kind} cannot run on other modules than its own",
            cause="a function is in its place that runs this very module, as a lambda and a functools.partial do",
            hint=f"{REBINDING}; a forward hook changes what a module gives, too",
        )
