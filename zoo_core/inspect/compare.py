"""``zoo.compare``: what models cost here, measured, beside what their publishers say of them."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from weakref import WeakSet, finalize

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode  # where torch's own flop counter has it from
from torch.utils._pytree import tree_leaves

from zoo_core.build.costs import CostCounter
from zoo_core.build.get import get
from zoo_core.errors import UsageError, ZooError
from zoo_core.registry.choose import ACCURACY
from zoo_core.surgery.inputs import example_input
from zoo_core.surgery.metadata import metadata_of, unwrap
from zoo_core.text import html_table, in_three_digits, table
from zoo_core.utils.arguments import check_count, strict_arguments
from zoo_core.utils.atomic_write import image_file
from zoo_core.utils.device import usable_device
from zoo_core.utils.eval_mode import inferring
from zoo_core.utils.only_errors import only_errors

_HEADER = ("model", "Mparams", "GMACs", "ms", "MB", "acc@1", "licence")
_WIDTH = 80
_SECONDS = 0.3
"""How long a forward is measured at least, in which its median settles."""


@dataclass(frozen=True)
class Measured:
    """What one model costs on a device, in a comparison.

    Attributes:
        name: ``family/name``, or the class of a module of one's own.
        parameters: How many there are.
        multiply_adds: Of an image, in convolutions, matrix products and attention.
        latency: Median seconds of a forward of the batch, in eval mode.
        memory: Peak bytes of tensors during it, parameters and buffers included; None where that cannot be measured.
        accuracy: Published acc@1 on ImageNet-1K of the default weights, in percent; None where there is none.
        license: Of the default weights; None where it is not known.
        error: Why nothing was measured.
    """

    name: str
    parameters: int = 0
    multiply_adds: int | None = None
    latency: float | None = None
    memory: int | None = None
    accuracy: float | None = None
    license: str | None = None
    error: str | None = None

    @property
    def cells(self) -> tuple[str, ...]:
        """Cells of this row in the table of ``zoo.compare``."""
        if self.error is not None:
            return (self.name, *("-",) * 6)
        return (
            self.name,
            f"{self.parameters / 1e6:.1f}",
            _scaled(self.multiply_adds, 1e9),
            _scaled(self.latency, 1e-3),
            _scaled(self.memory, 1e6),
            _scaled(self.accuracy, 1),
            self.license or "?",
        )


def _scaled(value: float | None, unit: float) -> str:
    return "?" if value is None else in_three_digits(value / unit)


@dataclass(frozen=True)
class Comparison:
    """Models side by side; ``print`` shows a table, ``.plot(path)`` draws accuracy over time.

    Attributes:
        rows: One for each model, in the order in which they were named.
        device: What it was measured on, in words.
        batch_size: Images in a forward.

    Example:
        >>> row = Measured("tiny/net", parameters=1_500_000, latency=0.002, license="mit")
        >>> print(Comparison((row,), device="cpu", batch_size=1))
        model     Mparams  GMACs  ms  MB  acc@1  licence
        tiny/net      1.5      ?   2   ?      ?  mit
        a forward of 1 image on cpu
    """

    rows: tuple[Measured, ...]
    device: str
    batch_size: int

    def __str__(self) -> str:
        rows = [_HEADER, *(row.cells for row in self.rows)]
        lines = table(rows, columns=_WIDTH, figures=range(1, len(_HEADER) - 1))
        failed = [f"{row.name}: {row.error}" for row in self.rows if row.error is not None]
        return "\n".join([*lines, self._measured, *failed])

    def _repr_html_(self) -> str:
        return html_table("Models side by side", _HEADER, (row.cells for row in self.rows), self._measured)

    @property
    def _measured(self) -> str:
        images = "image" if self.batch_size == 1 else "images"
        return f"a forward of {self.batch_size} {images} on {self.device}"

    def to_records(self) -> list[dict[str, Any]]:
        """The rows as plain data, for JSON or a data frame."""
        return [asdict(row) for row in self.rows]

    def plot(self, path: str | os.PathLike[str]) -> Path:
        """Draw accuracy over time, or over parameters where no accuracy is known; the size of a dot is its memory.

        Returns:
            The path.

        Raises:
            UsageError: Nothing was measured.
            ZooError: matplotlib is not installed, or cannot write such a file there.
        """
        rows = [row for row in self.rows if row.latency is not None]
        if not rows:
            raise UsageError("there is nothing to draw", cause="no model was measured")
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ZooError("a plot needs matplotlib", hint="pip install 'zoo-core[inspect]'") from error
        has_accuracy = any(row.accuracy is not None for row in rows)
        shown = [row for row in rows if row.accuracy is not None] if has_accuracy else rows
        figure = Figure(figsize=(7, 4.6), layout="constrained")
        axes = figure.subplots()
        for row in shown:
            x = 1e3 * (row.latency or 0)
            y = row.parameters / 1e6 if row.accuracy is None else row.accuracy
            axes.scatter(x, y, s=20 + (row.memory or 0) / 1e6, alpha=0.7)
            axes.annotate(row.name, (x, y), textcoords="offset points", xytext=(6, 4), fontsize=7)
        axes.set_xlabel(f"milliseconds for {self.batch_size} on {self.device}")
        axes.set_ylabel("published ImageNet-1K acc@1, percent" if has_accuracy else "million parameters")
        axes.grid(alpha=0.3)
        with image_file(path) as new:
            figure.savefig(new, dpi=150, format=Path(path).suffix[1:] or "png")
        return Path(path)


@strict_arguments
def compare(
    models: Sequence[str | nn.Module] | str | nn.Module,
    *,
    device: str | torch.device | None = None,
    batch_size: int = 1,
) -> Comparison:
    """Measure models side by side: parameters, multiply-adds, time and memory of a forward, accuracy, licence.

    Named models are built untrained, which costs the same and fetches nothing; their accuracy and licence are those of
    their default weights. One that cannot be built or run has the reason in its row.

    Args:
        models: Names, or models of one's own, which are measured where they are.
        device: Where named models are measured; the CPU unless given.
        batch_size: Images in a forward.

    Raises:
        UsageError: There is no model, or ``batch_size`` is no count.

    Example:
        >>> import zoo_core as zoo
        >>> zoo.compare(["tiny/glyphnet"]).rows[0].parameters
        84514
    """
    check_count("batch_size", batch_size)
    is_one = isinstance(models, str | nn.Module) or not isinstance(models, Iterable)
    listed: list[Any] = [models] if is_one else [*models]  # type: ignore[misc]  # narrowed above
    if not listed or not all(isinstance(each, str | nn.Module) for each in listed):
        raise UsageError(f"there is nothing to compare in {models!r:.60}", expected="such as ['resnet18', 'resnet50']")
    if device is not None:
        usable_device(device)
    rows = tuple(_measure_row(model, device, batch_size) for model in listed)
    where = torch.device(device or "cpu")
    threads = torch.get_num_threads()
    words = torch.cuda.get_device_name(where) if where.type == "cuda" else f"{platform.machine()}, {threads} threads"
    return Comparison(rows, f"{where} ({words})", batch_size)


def _measure_row(model: str | nn.Module, device: str | torch.device | None, batch_size: int) -> Measured:
    """Row of ``zoo.compare``: the measured costs of one model, or the reason why there are none."""
    name = model if isinstance(model, str) else type(unwrap(model)).__name__
    try:
        built = get(model, weights=None, device=device) if isinstance(model, str) else model
        return _measure(built, batch_size)
    except UsageError as error:
        if isinstance(model, str) and not isinstance(error, KeyError):
            return Measured(name, error=error.summary)
        raise  # a name that does not exist is a slip of the caller
    except (ZooError, RuntimeError, ValueError, TypeError) as error:
        reason = error.summary if isinstance(error, ZooError) else f"{type(error).__name__}: {error}".partition("\n")[0]
        return Measured(name, error=reason)


def _measure(model: nn.Module, batch_size: int) -> Measured:
    """Measure the costs of one model to compare."""
    bare, card = unwrap(model), metadata_of(model).card
    x = example_input(model)
    inputs: tuple[Any, ...] = (x.expand(batch_size, *x.shape[1:]).contiguous(),)
    if card is not None and card.task in ("detection", "keypoints"):
        inputs = ([x[0]] * batch_size,)
    elif card is not None and card.task == "optical_flow":
        inputs = inputs * 2
    with inferring(bare), torch.inference_mode(mode=False), torch.no_grad():  # in inference mode nothing is taken apart
        with CostCounter() as counter:
            bare(*inputs)
        memory = _peak(bare, inputs, x.device)
    with only_errors("torch.utils.cpp_extension"):  # on a machine with CUDA and no GPU, the import logs that
        from torch.utils import benchmark

    with inferring(bare):
        timer = benchmark.Timer(
            "model(*inputs)", globals={"model": bare, "inputs": inputs}, num_threads=torch.get_num_threads()
        )
        latency = timer.blocked_autorange(min_run_time=_SECONDS).median
    weights = next((each for each in card.weights if each.tag == card.default), None) if card else None
    return Measured(
        card.id if card else type(bare).__name__,
        sum(p.numel() for p in bare.parameters()),
        counter.cost.multiply_adds // batch_size,
        latency,
        memory,
        weights.metrics.get(ACCURACY) if weights else None,
        weights.licenses.weights if weights else None,
    )


def _peak(model: nn.Module, inputs: tuple[Any, ...], device: torch.device) -> int | None:
    """Peak bytes of tensors in a forward of a model to compare, and of the model."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        model(*inputs)
        return int(torch.cuda.max_memory_allocated(device))
    if device.type != "cpu":
        return None
    with _LiveTensors() as live:
        model(*inputs)
    tensors = {id(each): each for each in (*model.parameters(), *model.buffers())}.values()
    return int(live.most) + sum(each.numel() * each.element_size() for each in tensors)


class _LiveTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's __init_subclass__
    """Measure, for a comparison, the bytes of tensors made and not freed inside the block; ``most`` is their peak."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.now: int = 0
        self.most: int = 0
        self._seen: WeakSet[torch.UntypedStorage] = WeakSet()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operation, and count the storages that it made."""
        output = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage() not in self._seen:
                storage = tensor.untyped_storage()
                self._seen.add(storage)
                self.now += storage.nbytes()
                finalize(storage, self._free, storage.nbytes())
        self.most = max(self.most, self.now)
        return output

    def _free(self, size: int) -> None:
        self.now -= size
