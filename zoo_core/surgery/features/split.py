"""Splitting a model into backbone and head, which share their parameters; also where its own forward runs the front."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from zoo_core.contract.anatomy import Anatomy, Head
from zoo_core.contract.chain import Chain
from zoo_core.errors import NotSupported
from zoo_core.surgery.changed_by_hand import OWN_FORWARD
from zoo_core.surgery.features.forward import (
    Variant,
    forward_input,
    restore_forward,
    variant,
    with_hooks,
    with_pre_hooks,
    without_hooks,
)
from zoo_core.surgery.features.twin import REBINDING, Absent, bound_methods, hooked, pruned, replaced
from zoo_core.surgery.head.mlp import WithOutput
from zoo_core.surgery.metadata import WHOLE, anatomy_with_hooks, no_head, unwrap

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
        self.body = replaced(model, {head.path: HeadSite(head.path) for head in anatomy.heads})
        # what only auxiliary heads need would be parameters that get no gradient, which DDP waits for
        self.body = replaced(self.body, {path: Absent() for path in _auxiliary_towers(anatomy)})
        if of_head := parameters_of(anatomy.classify):
            mine = {name: tensor for name, tensor in model._parameters.items() if name not in of_head}  # noqa: SLF001
            self.body.__dict__["_parameters"] = mine
        self.anatomy = anatomy

    def features(self, *args: Any, **kwargs: Any) -> Tensor:
        """Images to the last feature map, or tokens."""
        x = with_pre_hooks(self.body, forward_input(self.body, args, kwargs))
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

    def forward(self, x: Any = None, *others: Any, **named: Any) -> Tensor:
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
        return with_hooks(self.body, pooled, scores) if self.ends else scores


class _NotCalled(NotSupported, AttributeError):
    """The weight of a head site that was split off was read; ``hasattr`` is False for it."""


class HeadSite(nn.Identity):
    """Stands in a split model where a head was: gives what the head is given, and has no weight."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def __getattr__(self, name: str) -> Any:
        """What is registered under a name, and why the weight of the head is not."""
        if name in {"weight", "bias", "in_features", "out_features"}:
            raise _NotCalled(
                f"the head {self.path!r} cannot be split off",
                cause=f"forward uses {self.path}.{name} itself, and does not call the layer",
                hint=f"let forward call it, self.{self.path}(x), where it is a layer",
            )
        return super().__getattr__(name)


def _auxiliary_towers(anatomy: Anatomy) -> Iterator[str]:
    """Modules for auxiliary heads alone, left out of a backbone that is split off where it runs without them."""
    may_use_all = anatomy.classify is not None and paths_of(anatomy.classify) is None  # as DeepLab's, in eval mode too
    if anatomy.features is None or may_use_all:
        return
    used = [*anatomy.stem, *(path for stage in anatomy.stages for path in stage.modules)]
    used += [head.path for head in anatomy.heads if head.role != "aux"]
    used += [*getattr(anatomy.features, "runs", ())]  # a layer of a decoder may be used by a head beside it, too
    used += [path for piece in (anatomy.features, anatomy.pool) if piece for path in paths_of(piece) or ()]
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
        Where it returns an object, they run in neither.

    Raises:
        NotSupported: The model has no head, or a hook changes the object that it returns.
        NotAZooModel: zoo knows nothing about the model.

    Example:
        >>> import torch, zoo_core as zoo
        >>> backbone, head = zoo.split(zoo.get("resnet18", weights=None).eval())
        >>> backbone.features(torch.zeros(2, 3, 64, 64)).shape, head
        (torch.Size([2, 512, 2, 2]), Linear(in_features=512, out_features=1000, bias=True))
    """
    anatomy, bare = anatomy_with_hooks(model), unwrap(model)
    main = anatomy.main
    if main is None:
        raise no_head(bare, "to split off")
    if anatomy.indivisible:
        again = "zoo.adopt(model, example=x), with x what forward takes, finds its parts anew, or "
        hint = f"{again if anatomy.indivisible == OWN_FORWARD else ''}{_FEATURES}"
        raise NotSupported(
            f"this {type(bare).__name__} cannot be split",
            cause=anatomy.indivisible,
            hint=f"{REBINDING}; then {_FEATURES}" if bound_methods(bare) else hint,
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


_VECTORS, _TOKENS, _MAPS = 2, 3, 4


class Vectors(nn.Module):
    """The backbone of a model that is split, with maps and tokens averaged to a vector for each image, ``[N, D]``.

    It shares every tensor with the model, and is left in its mode.

    Args:
        model: A model with a head, from ``zoo.get`` or ``zoo.adopt``.

    Raises:
        NotSupported: The model has no head, or cannot be split.
        NotAZooModel: zoo knows nothing about the model.

    Example:
        >>> import torch, zoo_core as zoo
        >>> Vectors(zoo.get("tiny/glyphnet").eval())(torch.zeros(2, 1, 32, 32)).shape
        torch.Size([2, 64])
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        backbone, _ = split(model)
        self.backbone: Backbone = backbone
        self.training = backbone.training

    def forward(self, x: Tensor) -> Tensor:
        """Images to vectors."""
        pooled = self.backbone(x)
        if not isinstance(pooled, Tensor) or not _VECTORS <= pooled.ndim <= _MAPS + 1:
            raise NotSupported(
                "the head of this model is given several maps, and no vector comes of them",
                hint="zoo.features(model, x, at=[...]) gives the maps of its stages",
            )
        if pooled.ndim == _VECTORS:
            return pooled
        if pooled.ndim == _TOKENS:
            return pooled.mean(1)
        return pooled.flatten(2).mean(2)


def paths_of(piece: Callable[[Any, Any], Any]) -> list[str] | None:
    """Paths of the modules that a piece of a split forward calls; None for a function, which may call any."""
    whole = piece.whole if isinstance(piece, WithOutput) else piece
    if isinstance(whole, Chain):
        return [step for step in whole.steps if isinstance(step, str)]
    paths: list[str] | None = getattr(whole, "paths", None)  # as recorded pieces have them
    return paths


def parameters_of(piece: Callable[[Any, Any], Any] | None) -> tuple[str, ...]:
    """Names of the model's own parameters that a piece of a split forward uses, such as weights of several heads."""
    whole = piece.whole if isinstance(piece, WithOutput) else piece
    return tuple(getattr(whole, "uses", ()))


class _Stop(Exception):
    """Raised where a split has run forward to its module, with what that takes or gives."""

    def __init__(self, value: object) -> None:
        super().__init__()
        self.value = value


@dataclass(frozen=True)
class RunTo:
    """The features of a split where the model is no chain: its own forward, run to one module.

    Attributes:
        path: The module.
        before: Whether what the module is given is meant, and not what it gives.
        runs: Paths of the modules by which that is computed.
    """

    path: str
    before: bool = False
    runs: tuple[str, ...] = field(default=(), repr=False)

    def __call__(self, model: nn.Module, x: Any) -> Any:
        """Run the model as far as the module."""
        if not _has_module(model, self.path):  # a model that was cut before it, whose tap ends the pass
            body = replaced(model, {})
        elif self.before:
            body = hooked(model, {self.path: lambda *_: None})  # a twin of the module, to give it the hook below
            body.get_submodule(self.path).register_forward_pre_hook(_stop_before)
        else:
            body = replaced(model, {self.path: _ending(model.get_submodule(self.path))})
        restore_forward(body)  # one that was put together from the anatomy would come here again
        try:
            without_hooks(body, x)  # which ran where the model was entered
        except _Stop as stop:
            return stop.value
        raise NotSupported(
            f"the module {self.path!r} did not run",
            cause="forward takes another way than it took when the model was traced",
            hint="zoo.adopt(model, example=...) again, with an input and in the mode that you use",
        )


def _has_module(model: nn.Module, path: str) -> bool:
    """Whether the model has the module that a split runs forward to."""
    try:
        model.get_submodule(path)
    except AttributeError:
        return False
    return True


def _stop_before(_module: nn.Module, args: tuple[Any, ...]) -> None:
    raise _Stop(args[0])


class _Ending(Variant):
    """Put before the class of the module that a split runs forward to, which stops once its taps and hooks have run."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise _Stop(super().__call__(*args, **kwargs))  # type: ignore[misc]  # the class after it is a module's


def _ending(module: nn.Module) -> nn.Module:
    twin: nn.Module = object.__new__(variant(type(module), _Ending, ()))
    object.__setattr__(twin, "__dict__", module.__dict__)
    return twin
