"""Whether signals vanish or explode through the depth of a model."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from zoo_core.errors import UnknownPart, UsageError, ZooError
from zoo_core.recipe.open_model import open_model, require_values
from zoo_core.surgery.features.forward import run_forward
from zoo_core.surgery.inputs import naming_wrong_input
from zoo_core.surgery.metadata import unwrap
from zoo_core.text import close_matches, did_you_mean, table
from zoo_core.utils.arguments import strict_arguments
from zoo_core.utils.atomic_write import image_file
from zoo_core.utils.random_state import unmoved

_WIDTH = 80
_LABELS = 48
"""Up to so many layers fit on the axis of a plot by name."""
_FUNCTIONS = frozenset(
    name
    for names in (
        "celu celu_ elu elu_ gelu glu hardsigmoid hardswish hardtanh hardtanh_ leaky_relu leaky_relu_ log_softmax",
        "logsigmoid mish prelu relu relu6 relu_ rrelu selu selu_ sigmoid silu softmax softplus softsign tanh",
    )
    for name in names.split()
)
"""Activations that a forward may call as functions, of ``torch``, ``torch.nn.functional`` or a tensor."""
_FAINT, _LOUD = 1e-6, 1e6
"""Standard deviations outside of which single precision loses what a layer adds to its input."""


@dataclass(frozen=True)
class Activation:
    """What one layer gave, the first time that it ran or another.

    Attributes:
        layer: Dotted path of the module; for an activation called as a function, that of the module whose forward calls
            it, and the function's name with ``()``.
        call: 1 for the first time that it ran in this forward pass, 2 for the second.
        kind: Class of the module, or ``"function"``.
        shape: Of what it gave.
        mean: Of all its values.
        std: Standard deviation of all its values, with Bessel's correction, as ``Tensor.std()`` has it.
        peak: Largest absolute value.
        zeros: Share of values that are exactly zero, from 0 to 1.
    """

    layer: str
    call: int
    kind: str
    shape: tuple[int, ...]
    mean: float
    std: float
    peak: float
    zeros: float

    @property
    def label(self) -> str:
        """The path, with the number of the call where it is not the first."""
        return self.layer if self.call == 1 else f"{self.layer} #{self.call}"

    @property
    def problem(self) -> str:
        """Of its values: ``"nan"``, ``"infinite"``, ``"constant"``, ``"vanishes"``, ``"explodes"``, or empty."""
        if math.isnan(self.peak):
            return "nan"
        if math.isinf(self.peak):
            return "infinite"
        if self.std == 0 and math.prod(self.shape) > 1:
            return "constant"
        return "vanishes" if 0 < self.std < _FAINT else "explodes" if self.std > _LOUD else ""


@dataclass(frozen=True)
class ActivationStats:
    """What each layer of a model gave, in the order in which they ran; ``print`` shows it as a table.

    Attributes:
        model: Class of the model.
        rows: One for each time that a layer ran.
    """

    model: str
    rows: tuple[Activation, ...]

    @property
    def first_bad(self) -> Activation | None:
        """The first layer with a problem; a constant one only where no other has any, for branches begin so."""
        bad = [row for row in self.rows if row.problem]
        return min(bad, key=lambda row: row.problem == "constant", default=None)

    def __str__(self) -> str:
        cells = [("layer", "kind", "output", "mean", "std", "peak", "zeros"), *(_cells(row) for row in self.rows)]
        lines = [*table(cells, columns=_WIDTH, figures=range(3, len(cells[0])))]
        first, last = self.rows[0], self.rows[-1]
        lines.append(f"std from {first.std:.3g} at {first.label} to {last.std:.3g} at {last.label}")
        bad = self.first_bad
        return "\n".join([*lines, *([] if bad is None else [f"first bad layer: {bad.label}, {bad.problem}"])])

    def plot(self, path: str | os.PathLike[str]) -> Path:
        """Draw the standard deviation over the depth, on a logarithmic scale unless all is zero.

        The first bad layer is marked.

        Args:
            path: Where to; its suffix says the format, such as ``.png`` or ``.svg``.

        Returns:
            The path.

        Raises:
            ZooError: matplotlib is not installed, or cannot write such a file there.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ZooError("a plot needs matplotlib", hint="pip install 'zoo-core[inspect]'") from error
        names = [row.label for row in self.rows]
        figure = Figure(figsize=(max(6.0, 0.22 * min(len(names), _LABELS)), 4.2), layout="constrained")
        axes = figure.subplots()
        axes.plot(range(len(names)), [row.std for row in self.rows], marker="o", markersize=4, linewidth=1.2)
        if any(row.std > 0 for row in self.rows):
            axes.set_yscale("log")
        bad = self.first_bad
        if bad is not None:
            axes.axvline(self.rows.index(bad), color="#c0392b", linewidth=1.2)
            axes.text(0.01, 0.97, f"{bad.label}: {bad.problem}", transform=axes.transAxes, va="top", color="#c0392b")
        axes.set_ylabel("standard deviation")
        axes.set_title(f"What the layers of {self.model} give")
        if len(names) <= _LABELS:
            axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
        else:
            axes.set_xlabel("layer, in the order of running")
        axes.grid(alpha=0.3)
        with image_file(path) as new:
            figure.savefig(new, format=Path(path).suffix[1:] or "png")
        return Path(path)


@strict_arguments
def activation_stats(
    model: nn.Module | str | os.PathLike[str],
    x: Any,
    *,
    layers: str | Sequence[str] | None = None,
    stop: bool | str = False,
) -> ActivationStats:
    """Mean, standard deviation, peak and share of zeros of what every layer gives, for one batch.

    A standard deviation that shrinks towards zero from layer to layer is a signal that vanishes, one that grows is one
    that explodes. The model runs once, without gradients and in the mode that it is in, and is left as it was: no hooks
    stay, and running statistics and the random state are put back.

    Args:
        model: Any module; DDP and ``torch.compile`` wrappers are looked through. Or a name, or the folder of a save.
        x: What the model takes: a batch such as ``[N, 3, H, W]``, a tuple of several arguments, or a dict of them by
            name.
        layers: Module paths or glob patterns over them, such as ``"layer*"``. None for every module without children,
            and every activation that a forward calls as a function, such as ``x.relu()``.
        stop: ``"nan"`` ends the rows at the first layer with nan or an infinity, for all after it are as bad.

    Returns:
        One row for each time that a layer ran. ``print`` shows a table and names the first bad layer, ``.plot(path)``
        draws it and marks that layer.

    Raises:
        UnknownPart: A pattern matches no module.
        UsageError: None of the layers ran, or none gave a tensor of floating point; ``x`` is none that the model takes;
            or ``stop`` is something else.
        NotSupported: The model is on the meta device.

    Example:
        >>> import torch, zoo_core as zoo
        >>> model = zoo.get("tiny/glyphnet", weights=None)
        >>> stats = zoo.activation_stats(model, torch.randn(8, 1, 32, 32), layers="*conv1")
        >>> [(row.label, row.shape) for row in stats.rows]
        [('layer1.conv1', (8, 16, 16, 16)), ('layer2.conv1', (8, 32, 8, 8)), ('layer3.conv1', (8, 64, 4, 4))]
    """
    if stop not in (False, True, "nan"):
        raise UsageError(f"stop cannot be {stop!r}", expected="'nan', or False")
    opened = open_model(model)
    require_values(opened)
    bare = unwrap(opened)
    chosen = _measured_modules(bare, (layers,) if isinstance(layers, str) else layers)
    rows: list[Activation] = []
    calls: Counter[str] = Counter()

    def measure(path: str, kind: str, output: object) -> None:
        values = output[0] if isinstance(output, tuple | list) and output else output
        has_ended = bool(stop and rows and rows[-1].problem in ("nan", "infinite"))
        if isinstance(values, Tensor) and values.is_floating_point() and values.numel() and not has_ended:
            calls[path] += 1
            rows.append(_statistics(path, calls[path], kind, values))

    watched = _watched(bare, chosen, measure, functions=layers is None)
    with naming_wrong_input(bare, x, "activation_stats"), _undisturbed(bare), torch.no_grad(), watched:
        run_forward(bare, x)
    if not rows:
        raise UsageError(
            "none of the layers gave anything to measure",
            got=f"{len(chosen)} layers: {', '.join(list(chosen)[:4])}",
            cause="the model's forward does not call them, or they give no tensor of floating point",
        )
    return ActivationStats(type(bare).__name__, tuple(rows))


@contextmanager
def _watched(
    model: nn.Module, chosen: dict[str, nn.Module], measure: Callable[[str, str, object], None], *, functions: bool
) -> Iterator[None]:
    """Inside the block, measure the activations that these modules and functions they call give."""
    handles = [module.register_forward_hook(_measuring(path, measure)) for path, module in chosen.items()]
    mode = _Functions(measure) if functions else nullcontext()
    if isinstance(mode, _Functions):
        for path, module in model.named_modules():
            entered = partial(mode.enter, None if path in chosen else path)
            handles.append(module.register_forward_pre_hook(entered, prepend=True))
            handles.append(module.register_forward_hook(mode.leave))
    try:
        with mode:
            yield
    finally:
        for handle in handles:
            handle.remove()


def _measuring(path: str, measure: Callable[[str, str, object], None]) -> Any:
    return lambda module, _, output: measure(path, type(module).__name__, output)


class _Functions(TorchFunctionMode):
    """Measures activations that are called as functions, by the module whose forward calls them."""

    def __init__(self, measure: Callable[[str, str, object], None]) -> None:
        super().__init__()
        self._measure = measure
        self._running: list[str | None] = []

    def enter(self, path: str | None, *_: object) -> None:
        """A module begins; None for one that is measured itself."""
        self._running.append(path)

    def leave(self, *_: object) -> None:
        """It has ended."""
        self._running.pop()

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run a function of torch, and measure what it gives where it is an activation."""
        output = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name in _FUNCTIONS and None not in self._running:
            path = self._running[-1] if self._running else ""
            self._measure(f"{path}.{name}()".removeprefix("."), "function", output)
        return output


def _measured_modules(model: nn.Module, patterns: Sequence[str] | None) -> dict[str, nn.Module]:
    """Modules whose activations are measured: those that match, or all without children."""
    modules = {path: module for path, module in model.named_modules() if path}
    if patterns is None:
        # Attention has a child, its output projection, which it never calls as a module.
        whole = {
            path: module
            for path, module in modules.items()
            if isinstance(module, nn.MultiheadAttention) or not list(module.children())
        }
        return whole or {"": model}
    result: dict[str, nn.Module] = {}
    for pattern in patterns:
        matching = {path: module for path, module in modules.items() if fnmatchcase(path, pattern)}
        if not matching:
            raise UnknownPart(
                f"no module of this {type(model).__name__} is called {pattern!r}",
                hint=did_you_mean(close_matches(pattern, modules), "print(model) shows every module path"),
                part=pattern,
                parts=tuple(modules),
            )
        result |= matching
    return result


def _statistics(path: str, call: int, kind: str, output: Tensor) -> Activation:
    """Statistics of one activation: mean, std, peak and share of zeros."""
    values = output.detach().float()
    std = values.std().item() if values.numel() > 1 else 0.0
    return Activation(
        layer=path,
        call=call,
        kind=kind,
        shape=tuple(values.shape),
        mean=values.mean().item(),
        std=std,
        peak=values.abs().max().item(),
        zeros=(values == 0).float().mean().item(),
    )


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Put buffers and the random state back after measuring activations: a pass in train mode moves both."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with unmoved(model):
        try:
            yield
        finally:
            with torch.no_grad():
                for name, buffer in model.named_buffers():
                    if name in before:
                        buffer.copy_(before[name])


def _cells(row: Activation) -> tuple[str, ...]:
    figures = (f"{row.mean:.3g}", f"{row.std:.3g}", f"{row.peak:.3g}", f"{row.zeros:.0%}")
    return (row.label, row.kind, "x".join(map(str, row.shape)), *figures)
