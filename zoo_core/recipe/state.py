"""What is true of a model's tensors besides their values: which are one, frozen, held, and how they lie in memory."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from zoo_core.errors import NotSupported
from zoo_core.surgery.hold import hold, is_held, stateful
from zoo_core.surgery.metadata import attach, metadata_of
from zoo_core.surgery.structure import under

if TYPE_CHECKING:
    from zoo_core.recipe.record import Recipe


def tensors_of(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors in the state of a model to save, each once, and under which of these names the others are found.

    Raises:
        NotSupported: Something in the state dict is no tensor, or has no values.
    """
    kept: dict[str, Tensor] = {}
    ties: dict[str, str] = {}
    first: dict[object, str] = {}
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, Tensor) or tensor.is_meta or tensor.is_quantized:
            raise NotSupported(
                f"{name} cannot be saved",
                expected="plain tensors with values",
                got=f"a {type(tensor).__name__}" if not isinstance(tensor, Tensor) else f"one on {tensor.device}",
                cause="the model is on the meta device, is quantised, or keeps things that are no tensors",
            )
        if type(tensor) not in (Tensor, nn.Parameter):
            raise NotSupported(
                f"{name} cannot be saved",
                expected="plain tensors with values",
                got=f"a {type(tensor).__module__}.{type(tensor).__qualname__}",
                cause="another library, such as torchao, keeps its numbers in a form of its own",
                hint="zoo.save(model, folder) before that, and do it again to what zoo.load(folder) returns",
            )
        place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        if tensor.numel() and place in first:
            ties[name] = first[place]
        else:
            first[place] = name
            # a copy where it is a view: safetensors refuses tensors that share memory
            kept[name] = _own(tensor.detach())
    return kept, ties


def other_buffers(model: nn.Module, twin: nn.Module | None, dtype: str) -> dict[str, Tensor]:
    """The buffers of a model to save that are in no state dict, and that it would have other values for when loaded.

    Most are tables that the constructor computes, and a load computes them anew. Those that it draws at random, that
    were set by hand, or that another option of the library made, would be lost.

    Args:
        model: The model.
        twin: What its recipe makes, which this casts; None where that cannot be built here.
        dtype: What a load makes of floating-point tensors; empty for what they are.

    Returns:
        Copies of them, by name.
    """
    ours = {name: each for name, each in _unsaved_buffers(model).items() if type(each) is Tensor and not each.is_meta}
    if twin is None or not ours:
        return {}
    if dtype:
        twin.to(dtype=getattr(torch, dtype))  # some libraries then compute their tables anew
    theirs = _unsaved_buffers(twin)
    return {
        name: each.detach().clone(memory_format=torch.contiguous_format)
        for name, each in ours.items()
        if name in theirs and (each.dtype != theirs[name].dtype or not torch.equal(each, theirs[name].to(each.device)))
    }


def restore_buffers(model: nn.Module, tensors: dict[str, Tensor], names: Collection[str]) -> list[str]:
    """Restore those buffers of a saved model that are in no state dict: they are taken out of its tensors.

    Args:
        model: The model, as its recipe makes it.
        tensors: What the save holds; afterwards, what a state dict has.
        names: The names of the buffers.

    Returns:
        The names that the model or the save does not have.
    """
    known = _unsaved_buffers(model).keys() & tensors.keys()
    for name in known & {*names}:
        owner, leaf = _owner(model, name)
        owner._buffers[leaf] = tensors.pop(name)  # noqa: SLF001 - setattr is the library's own in some modules
    return sorted({*names} - known)


def _unsaved_buffers(model: nn.Module) -> dict[str, Tensor]:
    """The buffers of a model that are in no state dict, by name."""
    saved = model.state_dict().keys()
    return {name: each for name, each in model.named_buffers(remove_duplicate=False) if name not in saved}


def _own(tensor: Tensor) -> Tensor:
    is_whole = tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes
    return tensor if is_whole else tensor.clone(memory_format=torch.contiguous_format)


def tie(model: nn.Module, ties: dict[str, str]) -> None:
    """Restore the ties in a model's state: make the tensors of these names one again where they are not."""
    for name, other in ties.items():
        (owner, leaf), (source, kept) = _owner(model, name), _owner(model, other)
        if getattr(owner, leaf) is not getattr(source, kept):
            table = owner._parameters if leaf in owner._parameters else owner._buffers  # noqa: SLF001 - setattr would register anew
            table[leaf] = getattr(source, kept)


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return model.get_submodule(path), leaf


def dtype_of(model: nn.Module) -> str:
    """The dtype of a model's state: that of all its floating-point tensors; empty when they differ."""
    result = {tensor.dtype for tensor in model.state_dict().values() if tensor.is_floating_point()}
    return str(result.pop()).removeprefix("torch.") if len(result) == 1 else ""


def match_dtypes(model: nn.Module, state: dict[str, Tensor], dtype: str) -> None:
    """Restore the dtypes that the tensors of a saved ``state`` have in ``model``; the rest of it gets ``dtype``."""
    chosen = getattr(torch, dtype, None)
    if isinstance(chosen, torch.dtype):
        model.to(dtype=chosen)
    for name, tensor in model.state_dict(keep_vars=True).items():
        if name in state and tensor.dtype != state[name].dtype:
            tensor.data = tensor.data.to(state[name].dtype)


def frozen_in(model: nn.Module) -> list[str]:
    """The state of a model that says what is frozen: the shortest list of tensors and modules that names it all."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return covering({name for name, each in parameters.items() if not each.requires_grad}, set(parameters))


def held_in(model: nn.Module) -> list[str]:
    """The state of a model that says what is held: the shortest list with all norms that stay in eval mode."""
    modules = dict(stateful(model))
    return covering({path for path, module in modules.items() if is_held(module)}, set(modules))


def switched_in(model: nn.Module) -> list[str]:
    """State of a model to save: its modules in another train or eval mode than their parents, held norms left out."""
    modules = dict(model.named_modules())
    return [
        path
        for path, module in modules.items()
        if path and not is_held(module) and module.training != modules[path.rpartition(".")[0]].training
    ]


def covering(chosen: Collection[str], everything: Collection[str]) -> list[str]:
    """How the state of a save names tensors: the shortest list of prefixes that covers ``chosen`` and nothing else.

    Example:
        >>> covering({"a.x", "a.y", "b.x"}, {"a.x", "a.y", "b.x", "b.y"})
        ['a', 'b.x']
    """
    others = [name for name in everything if name not in chosen]
    result: list[str] = []
    for name in sorted(chosen):
        prefixes = _prefixes(name)
        if not any(prefix in result for prefix in prefixes):
            result.append(next(each for each in prefixes if not any(under(other, each) for other in others)))
    return result


def restore(model: nn.Module, recipe: Recipe) -> None:
    """Restore the state of a saved model beside its values: exactly its frozen parameters, held norms and modes."""
    model.train(recipe.training)
    frozen, held, switched = set(recipe.frozen), set(recipe.held), set(recipe.switched)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        parameter.requires_grad_(frozen.isdisjoint(_prefixes(name)))
    chosen = [(path, each) for path, each in stateful(model) if not held.isdisjoint(_prefixes(path))]
    for _, module in chosen:
        hold(module, model)
    attach(model, replace(metadata_of(model), held=frozenset(path for path, _ in chosen)))
    modules = dict(model.named_modules())
    for path, module in modules.items():
        if path and not is_held(module):
            module.training = modules[path.rpartition(".")[0]].training != (path in switched)


def _prefixes(name: str) -> list[str]:
    """Names by which a save may state that a tensor is frozen or held: its modules, outermost first, and its own."""
    parts = name.split(".")
    return [".".join(parts[: depth + 1]) for depth in range(len(parts))]
