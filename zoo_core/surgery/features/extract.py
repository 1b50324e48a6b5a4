"""What modules inside a model give while it runs, on a twin of the model: the model itself never gets a hook."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, overload
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from zoo_core.contract.anatomy import Stage
from zoo_core.errors import NotSupported, UnknownPart, UsageError
from zoo_core.surgery.features.forward import Variant, run_forward, variant, without_variant
from zoo_core.surgery.features.twin import REBINDING, Absent, Module, replaced
from zoo_core.surgery.inputs import example_like, naming_wrong_input
from zoo_core.surgery.metadata import ATTRIBUTE, anatomy_of, cut_of, metadata_of, unwrap
from zoo_core.surgery.select import copies_to_select
from zoo_core.text import close_matches, did_you_mean
from zoo_core.utils.arguments import strict_arguments
from zoo_core.utils.eval_mode import inferring


@dataclass
class _Recording:
    """What one call extracts.

    Attributes:
        paths: The modules to extract the outputs of.
        outputs: What they gave so far.
        early: Paths of those modules left out that ran while some of these were still to come.
        is_trial: Whether modules that were left out give something else now, to see whether it makes a difference.
    """

    paths: Sequence[str]
    outputs: dict[str, Any] = field(default_factory=dict)
    early: dict[str, None] = field(default_factory=dict)
    is_trial: bool = False

    @property
    def is_complete(self) -> bool:
        """Whether all of them gave something."""
        return all(path in self.outputs for path in self.paths)


class _Call(threading.local):
    """The features that taps extract in the call that this thread is in; None where no call listens.

    A call that checkpointing repeats during the backward pass is one of these, so that nothing is recorded twice.
    """

    recording: _Recording | None = None


_CALL = _Call()


class Tap(Variant):
    """Extracts the output of a module: put before its class, so that tracers see it as they see the module.

    What it records is what it gives, and what comes after works on a copy: a ReLU may work in place, and the scores
    still depend on what was recorded.
    """

    _zoo_key: tuple[str, ...]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the module gives."""
        output = super().__call__(*args, **kwargs)  # type: ignore[misc]  # the class after it in the order is a module's
        recording = _CALL.recording
        if recording is None:
            return output
        for path in self._zoo_key:
            recording.outputs[path] = output
        return copied(output)


def copied(output: Any) -> Any:
    """An extracted output in memory of its own, as deep as tuples and lists go."""
    if isinstance(output, Tensor | torch.fx.Proxy):
        return output.clone()
    if type(output) in {tuple, list}:
        return type(output)([copied(each) for each in output])
    return output


def tapped(model: Module, paths: Iterable[str]) -> Module:
    """Tap the modules at these paths, on a twin of ``model``: what they give can be extracted by :func:`recorded`."""
    body = model
    for path in sorted(set(paths), key=len, reverse=True):  # what is inside another is tapped first
        place = _place(body, path)
        body = replaced(body, {place: _tap(body.get_submodule(place), path)})
    return body


def tap_in_place(model: nn.Module, path: str) -> None:
    """Tap a module of ``model`` itself, for good, so that its output can be extracted."""
    place = _place(model, path)
    model.set_submodule(place, _tap(model.get_submodule(place), path))


def recorded(
    run: Callable[[Any, Any], Any],
    body: nn.Module,
    x: Any,
    paths: Sequence[str],
    *,
    whole: bool = False,
) -> tuple[Any, list[Any]]:
    """Extract what the modules at ``paths`` of a tapped model give for ``x``, beside what ``run`` gives.

    Args:
        run: ``(model, x)`` to anything.
        body: The model, with taps.
        x: What it takes.
        paths: The modules; all of them are tapped.
        whole: Whether what ``run`` gives is of use. A front has nothing after its last tap, and a forward that cannot
            go on without it, whatever it is given, has done all that it is for.

    Raises:
        NotSupported: One of them did not run.
    """
    outer, recording = _CALL.recording, _Recording(paths)
    outputs, result = recording.outputs, None
    _CALL.recording = recording
    try:
        result = run(body, x)
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, AssertionError) as error:
        _CALL.recording = None
        if recording.early and not recording.is_complete:
            raise _depends_on_left_out(recording.early) from error
        if whole or not recording.is_complete or not _ends_after_features(run, body, x, error):
            raise
    finally:
        _CALL.recording = outer
        if outer is not None:  # a front, whose features are requested
            outer.outputs.update(outputs)
    if recording.early:
        _prove_independent(run, body, x, recording)
    for path in paths:
        if path not in outputs:
            has_own = any("forward" in module.__dict__ for module in body.modules())
            raise NotSupported(
                f"the module {path!r} did not run, so there is nothing to take from it",
                hint="an auxiliary head runs in train mode only" + (f"; {REBINDING}" if has_own else ""),
            )
    return result, [outputs[path] for path in paths]


class LeftOut(Absent):
    """In the place of a module left out: tells the call that extracts features if it runs before they are complete."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, x: Any, *_: Any, **__: Any) -> Any:
        """``x`` as it is; noted where a feature to extract is still to come."""
        recording = _CALL.recording
        if recording is None or recording.is_complete:
            return x
        recording.early[self.path] = None
        return tree_map(_other_value, x) if recording.is_trial else x


def _other_value(value: Any) -> Any:
    """Another value for what a module left out gives, to see whether an extracted feature depends on it."""
    return value + 1 if isinstance(value, Tensor) and value.is_floating_point() else value


_UNNEEDED: WeakKeyDictionary[nn.Module, set[tuple[str, ...]]] = WeakKeyDictionary()
"""Of fronts with modules left out that run early: the features that were seen not to depend on them."""


def _prove_independent(run: Callable[[Any, Any], Any], body: nn.Module, x: Any, recording: _Recording) -> None:
    """See once, by two more passes, that extracted features do not depend on modules that were left out.

    The norms and decoders that models run between their stages are such. Shapes alone, and what a compiler or FX
    traces, show nothing of it.

    Raises:
        NotSupported: They do depend on them.
    """
    known, paths = _UNNEEDED.setdefault(body, set()), tuple(recording.paths)
    leaves = [leaf for leaf in tree_leaves((x, recording.outputs)) if isinstance(leaf, Tensor | torch.fx.Proxy)]
    if paths in known or any(isinstance(leaf, torch.fx.Proxy) or leaf.is_meta for leaf in leaves):
        return
    plain, moved = (_Recording(paths, is_trial=is_trial) for is_trial in (False, True))
    outer = _CALL.recording
    for each in (plain, moved):
        _CALL.recording = each
        try:
            with (
                inferring(body),
                suppress(RuntimeError, TypeError, ValueError, AttributeError, IndexError, AssertionError),
            ):
                run(body, x)
        finally:
            _CALL.recording = outer
    pairs = zip(tree_leaves(plain.outputs), tree_leaves(moved.outputs), strict=True)  # walked if both are complete
    if not (plain.is_complete and moved.is_complete) or not all(
        torch.allclose(a, b, rtol=0, atol=0, equal_nan=True) for a, b in pairs if isinstance(a, Tensor)
    ):
        raise _depends_on_left_out(recording.early)
    known.add(paths)


def _depends_on_left_out(early: Iterable[str]) -> NotSupported:
    """The error where the features to extract depend on modules that were left out."""
    names = ", ".join(map(repr, early))
    return NotSupported(
        f"this model cannot be cut there: {names} runs before that feature map, and was left out",
        cause="the anatomy of the model does not say that it does",
        hint="zoo.features(model, x, at=[...]) takes the map from the whole model",
    )


_CUT_SHORT: WeakKeyDictionary[nn.Module, tuple[type, str, int]] = WeakKeyDictionary()
"""Where the forward of a front ends: the error, the file and the line, which are the same for every input."""


def _ends_after_features(run: Callable[[Any, Any], Any], body: nn.Module, x: Any, error: Exception) -> bool:
    """Whether an error after all features were extracted may be passed over: the forward ends there for any input.

    Then the forward ends in that place for what the model is made for as well.
    """
    place = _place_of(error)
    if _CUT_SHORT.get(body) != place:  # as it is at first, and after it ran without values, where another line fails
        if ATTRIBUTE not in body.__dict__:
            return False
        try:
            with inferring(body):
                run(body, example_like(body, x))
        except Exception as other:  # noqa: BLE001 - whatever a library raises where its layers are gone
            _CUT_SHORT[body] = _place_of(other)
    return _CUT_SHORT.get(body) == place


def _place_of(error: Exception) -> tuple[type, str, int]:
    """Class, file and line of an error that stopped a forward pass after the features were extracted."""
    last = error.__traceback__
    assert last is not None  # noqa: S101 - it was raised
    while last.tb_next is not None:
        last = last.tb_next
    return type(error), last.tb_frame.f_code.co_filename, last.tb_lineno


def _place(model: nn.Module, path: str) -> str:
    """The module to extract the output of ``path`` from: checkpointing calls layers of a Sequential one by one."""
    module = model.get_submodule(path)
    plain = isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward
    hooks = module._forward_hooks or module._forward_pre_hooks  # noqa: SLF001 - no public way to see them
    if not plain or hooks or not len(module._modules):  # noqa: SLF001 - as above
        return path
    return _place(model, f"{path}.{list(module._modules)[-1]}")  # noqa: SLF001 - as above


def _tap(module: nn.Module, path: str) -> nn.Module:
    """The module again, all that it holds shared, of a class by which its output can be extracted."""
    before = type(module)._zoo_key if isinstance(module, Tap) else ()  # noqa: SLF001 - our own
    twin: nn.Module = object.__new__(variant(without_variant(type(module), Tap), Tap, (*before, path)))
    object.__setattr__(twin, "__dict__", module.__dict__)
    return twin


@overload
def features(
    model: nn.Module,
    x: Any,
    at: str | Sequence[str] | None = None,
    *,
    return_output: Literal[False] = False,
) -> dict[str, Any]: ...
@overload
def features(
    model: nn.Module,
    x: Any,
    at: str | Sequence[str] | None = None,
    *,
    return_output: Literal[True],
) -> tuple[Any, dict[str, Any]]: ...
@overload
def features(
    model: nn.Module,
    x: Any,
    at: str | Sequence[str] | None = None,
    *,
    return_output: bool,
) -> dict[str, Any] | tuple[Any, dict[str, Any]]: ...
@strict_arguments
def features(
    model: nn.Module,
    x: Any,
    at: str | Sequence[str] | None = None,
    *,
    return_output: bool = False,
) -> dict[str, Any] | tuple[Any, dict[str, Any]]:
    """Extract what several layers of ``model`` give for one input, from one forward pass.

    Gradients, train mode and running statistics are as in ``model(x)``. What a later layer does in place to a feature
    map does not show; a module that runs several times is there with what it gave last.

    Args:
        model: A model from ``zoo.get`` or ``zoo.adopt``; not changed.
        x: What the model takes, such as ``[N, C, H, W]``; a tuple or a dict for a module that was traced with one.
        at: Names of stages and paths of modules; None for every stage.
        return_output: Also return what the model gives, from the same pass: the features are in its graph, so that
            ``torch.autograd.grad(scores[:, 7].sum(), maps["layer4"])`` is what Grad-CAM needs.

    Returns:
        Name to tensor (with ``return_output``, a tuple of the output and that), in the order that was requested, each
        as the module gives it: ``[N, C, H, W]`` for a
        convolution, ``[N, L, C]`` for tokens; of a stage whose last module gives more than a map, the map alone.
        :func:`zoo_core.encoder` gives all of them as maps.

    Raises:
        UsageError: ``at`` is neither a name nor several, or ``x`` is none that the model takes.
        UnknownPart: There is no such stage or module; the message lists the stages.
        NotSupported: A module did not run; or forward runs a stage on several inputs, as a Siamese network does.
        NotAZooModel: zoo knows nothing about the model.

    Example:
        >>> import torch, zoo_core as zoo
        >>> model = zoo.get("resnet18", weights=None).eval()
        >>> found = zoo.features(model, torch.zeros(1, 3, 64, 64), at=["layer2", "layer4.0.conv1"])
        >>> {name: tuple(tensor.shape) for name, tensor in found.items()}
        {'layer2': (1, 128, 8, 8), 'layer4.0.conv1': (1, 512, 2, 2)}
    """
    stages = {stage.name: stage for stage in anatomy_of(model).stages}
    names = tuple(stages) if at is None else names_to_extract(at)
    paths = {name: stages[name].output if name in stages else module_path(model, name) for name in names}
    is_one_argument = type(x) is tuple and type(metadata_of(model).example) is not tuple
    body = tapped(unwrap(model), paths.values())
    with naming_wrong_input(model, x, "features"):
        run = (lambda body, x: body(x)) if is_one_argument else run_forward
        output, maps = recorded(run, body, x, list(paths.values()), whole=True)
    result = {
        name: stages[name].map_in(body, given) if name in stages else given
        for name, given in zip(paths, maps, strict=True)
    }
    return (output, result) if return_output else result


def names_to_extract(at: str | Sequence[str]) -> tuple[str, ...]:
    """The names of the stages or modules to extract features from, whether one or several were given.

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
    """Which of the stages whose maps can be extracted has that name.

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
    """``path`` as it is, when the model has a module there from which to extract.

    Raises:
        UnknownPart: It has none; the message lists the stages.
    """
    modules = [each for each, _ in unwrap(model).named_modules(remove_duplicate=False) if each]
    if path not in modules or isinstance(unwrap(model).get_submodule(path), Absent):
        raise _unknown(model, path, tuple(modules))
    return path


def _kinds(values: Iterable[object]) -> str:
    """The types of what was given instead of names of layers to extract from, for the error."""
    return f"of type {', '.join(dict.fromkeys(type(value).__name__ for value in values))}"


def _unknown(model: nn.Module, name: str, known: tuple[str, ...]) -> UnknownPart:
    """The error for a name from which nothing can be extracted: no stage and no module has it."""
    stages: tuple[Stage, ...] = anatomy_of(model).stages
    names = tuple(stage.name for stage in stages)
    there_are = f"one of the stages {', '.join(names)}" if names else "the path of a module; this model has no stages"
    return UnknownPart(
        f"nothing in this {type(unwrap(model)).__name__} is called {name!r}",
        expected=there_are,
        cause=cut_of(model),
        hint=copies_to_select(model, name)
        or did_you_mean(close_matches(name, [*names, *known]), "print(model) shows the path of every module"),
        part=name,
        parts=names,
    )
