"""What modules inside a model give while it runs, on a twin of the model: the model itself never gets a hook."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo_core.errors import UnknownPart, UsageError, close_matches, did_you_mean
from zoo_core.surgery.features.forward import run_on
from zoo_core.surgery.features.split import Absent, replaced, twin_of
from zoo_core.surgery.features.tap import recorded, tapped
from zoo_core.surgery.gone import copies_of, cut_of
from zoo_core.surgery.metadata import anatomy_of, knowledge_of, unwrap
from zoo_core.utils.arguments import strict_arguments

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn

    from zoo_core.contract.anatomy import Stage
    from zoo_core.surgery.features.split import Module

    Hook = Callable[[nn.Module, Any, Any], None]


@strict_arguments
def features(model: nn.Module, x: Tensor, at: str | Sequence[str] | None = None, *, return_output: bool = False) -> Any:  # noqa: ANN401 - a dict, or the output and a dict
    """What several layers of ``model`` give for one input, from one forward pass.

    Gradients, train mode and running statistics are as in ``model(x)``. What a later layer does in place to a feature
    map does not show; a module that runs several times is there with what it gave last.

    Args:
        model: A model from ``zoo.get`` or ``zoo.adopt``; not changed.
        x: What the model takes, such as ``[N, C, H, W]``; a tuple or a dict for a module that was traced with one.
        at: Names of stages and paths of modules; None for every stage.
        return_output: Also return what the model gives, from the same pass: the features are in its graph, so that
            ``torch.autograd.grad(scores[:, 7].sum(), maps["layer4"])`` is what Grad-CAM needs.

    Returns:
        Name to tensor (with ``return_output``, a tuple of the output and that), in the order that was asked for, each
        as the module gives it: ``[N, C, H, W]`` for a
        convolution, ``[N, L, C]`` for tokens. :func:`zoo_core.encoder` gives all of them as maps.

    Raises:
        UsageError: ``at`` is neither a name nor several.
        UnknownPart: There is no such stage or module; the message lists the stages.
        NotSupported: A module did not run.
        NotAZooModel: zoo knows nothing about the model.

    Example:
        >>> import torch, zoo_core as zoo
        >>> model = zoo.get("resnet18", weights=None).eval()
        >>> found = zoo.features(model, torch.zeros(1, 3, 64, 64), at=["layer2", "layer4.0.conv1"])
        >>> {name: tuple(tensor.shape) for name, tensor in found.items()}
        {'layer2': (1, 128, 8, 8), 'layer4.0.conv1': (1, 512, 2, 2)}
    """
    stages = {stage.name: stage for stage in anatomy_of(model).stages}
    names = tuple(stages) if at is None else asked_names(at)
    paths = {name: stages[name].output if name in stages else module_path(model, name) for name in names}
    example = knowledge_of(model).example
    body = tapped(unwrap(model), paths.values())
    output, maps = recorded(lambda body, x: run_on(body, x, example), body, x, list(paths.values()), whole=True)
    found = dict(zip(paths, maps, strict=True))
    return (output, found) if return_output else found


def asked_names(at: str | Sequence[str]) -> tuple[str, ...]:
    """One name or several, as several.

    Raises:
        UsageError: They are no names.
    """
    names = (at,) if isinstance(at, str) else tuple(at) if isinstance(at, Iterable) else (at,)
    if not all(isinstance(name, str) for name in names):
        raise UsageError(
            f"at cannot be {at!r}", expected="a name, or several, such as ['layer2', 'layer4']", got=_kinds(names)
        )
    return names


def stage_index(model: nn.Module, name: str) -> int:
    """Which of the model's stages has that name.

    Raises:
        UsageError: It is no name.
        UnknownPart: None; the message lists the stages.
    """
    names = tuple(stage.name for stage in anatomy_of(model).stages)
    if not isinstance(name, str):
        raise UsageError(
            f"a stage cannot be {name!r}", expected=f"the name of a stage: {', '.join(names)}", got=_kinds([name])
        )
    if name not in names:
        raise _unknown(model, name, names)
    return names.index(name)


def module_path(model: nn.Module, path: str) -> str:
    """``path`` as it is, when the model has a module there.

    Raises:
        UnknownPart: It has none; the message lists the stages.
    """
    modules = [each for each, _ in unwrap(model).named_modules(remove_duplicate=False) if each]
    if path not in modules or isinstance(unwrap(model).get_submodule(path), Absent):
        raise _unknown(model, path, tuple(modules))
    return path


def hooked(model: Module, hooks: dict[str, Hook]) -> Module:
    """A twin of ``model`` in which the modules at some paths have one forward hook more; all else is shared."""
    # Parents come first, so that a module inside another that is hooked too is replaced in the parent's twin.
    return replaced(
        model, {path: _with_hook(model.get_submodule(path), hooks[path]) for path in sorted(hooks, key=len)}
    )


@dataclass(frozen=True)
class AtStage:
    """``(model, x)`` to what one tapped module gives while ``run`` runs: the front of a model that is no chain.

    Attributes:
        path: The module, which has to be tapped.
        run: ``(model, x)`` to anything.
    """

    path: str
    run: Callable[[Any, Any], Any]

    def __call__(self, model: nn.Module, x: Tensor) -> Any:  # noqa: ANN401 - as the module gives it
        """Run the model, and take what the module gives."""
        return recorded(self.run, model, x, [self.path])[1][0]


def _with_hook(module: nn.Module, hook: Hook) -> nn.Module:
    twin = twin_of(module)
    twin.__dict__["_forward_hooks"] = OrderedDict(module._forward_hooks)  # noqa: SLF001 - the twin must not share its hooks
    twin.register_forward_hook(hook)
    return twin


def _kinds(values: Iterable[object]) -> str:
    return f"of type {', '.join(dict.fromkeys(type(value).__name__ for value in values))}"


def _unknown(model: nn.Module, name: str, known: tuple[str, ...]) -> UnknownPart:
    stages: tuple[Stage, ...] = anatomy_of(model).stages
    names = tuple(stage.name for stage in stages)
    there_are = f"one of the stages {', '.join(names)}" if names else "the path of a module; this model has no stages"
    return UnknownPart(
        f"nothing in this {type(unwrap(model)).__name__} is called {name!r}",
        expected=there_are,
        cause=cut_of(model),
        hint=copies_of(model, name)
        or did_you_mean(close_matches(name, [*names, *known]), "print(model) shows the path of every module"),
        part=name,
        parts=names,
    )
