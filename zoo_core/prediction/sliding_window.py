"""``zoo.sliding_window``: a model run over a large image, window by window."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from zoo_core.errors import NotSupported, UsageError
from zoo_core.images.preprocessing import numbers_of
from zoo_core.images.rows import Rows, TensorRows, open_rows
from zoo_core.recipe.open_model import open_model, require_results, require_values, running_on
from zoo_core.surgery.features.split import Vectors
from zoo_core.surgery.head.scores import Outputs
from zoo_core.surgery.metadata import class_names_of, metadata_of, unwrap
from zoo_core.utils.arguments import check_count, check_sides, strict_arguments
from zoo_core.utils.atomic_write import whole_file
from zoo_core.utils.eval_mode import inferring
from zoo_core.utils.mapped_pages import take_space
from zoo_core.utils.paths import expand, is_folder

Blend = Literal["constant", "gaussian"]
_SPREAD = 0.125
"""Of the gaussian, in sizes of the window: as in MONAI, where its weights come from."""
_LEAST = 1e-3


def _inner_starts(length: int, size: int, stride: int) -> list[int]:
    """Starts of sliding windows that lie inside, as ``nn.Unfold`` has them: a rest below a stride is left out.

    Example:
        >>> _inner_starts(10, 4, 4)
        [0, 4]
    """
    return list(range(0, length - size + 1, stride))


def _covering_starts(length: int, size: int, stride: int) -> list[int]:
    """Starts of sliding windows that cover everything: the last is moved back to the edge, as MONAI's inferer does.

    Example:
        >>> _covering_starts(10, 4, 4)
        [0, 4, 6]
    """
    starts = _inner_starts(length, size, stride)
    return starts if starts[-1] + size == length else [*starts, length - size]


def _window_weights(size: tuple[int, int], blend: Blend) -> Tensor:
    """Weight of each pixel of a sliding window, ``[H, W]``: the same, or most in the middle.

    Example:
        >>> _window_weights((3, 3), "gaussian").argmax()
        tensor(4)
    """
    if blend == "constant":
        return torch.ones(size, device="cpu")
    rows, columns = (_bell(length) for length in size)
    return (rows[:, None] * columns).clamp(min=max(float(rows.min() * columns.min()), _LEAST))


def _bell(length: int) -> Tensor:
    x = torch.arange(length, dtype=torch.float32, device="cpu") - (length - 1) / 2
    return torch.exp(x**2 / (-2 * (_SPREAD * length) ** 2))


class Blender:
    """The weighted mean of overlapping sliding windows, finished row by row from the top.

    Args:
        target: ``[K, H, W]``, written as rows are finished.
        weights: ``[h, w]``, how much each pixel of a window counts.
    """

    def __init__(self, target: Tensor, weights: Tensor) -> None:
        self._target, self._weights = target, weights
        channels, _, width = target.shape
        height = len(weights)
        self._sum = torch.zeros(channels, height, width, device="cpu")
        self._total = torch.zeros(height, width, device="cpu")
        self._top = 0

    def advance(self, top: int) -> None:
        """Begin a row of windows at ``top``; the rows above it are finished."""
        done = top - self._top
        self._finish(min(done, len(self._total)))
        if done < len(self._total):
            self._sum[:, : -done or None] = self._sum[:, done:].clone()
            self._total[: -done or None] = self._total[done:].clone()
        kept = max(len(self._total) - done, 0)
        self._sum[:, kept:], self._total[kept:] = 0, 0
        self._top = top

    def add(self, left: int, window: Tensor) -> None:
        """Add a window ``[K, h, w]`` that begins in this row at ``left``."""
        right = left + window.shape[-1]
        self._sum[:, :, left:right] += window * self._weights
        self._total[:, left:right] += self._weights

    def finish(self) -> None:
        """Finish the rows that are left."""
        self._finish(len(self._total))

    def _finish(self, count: int) -> None:
        if count:
            self._target[:, self._top : self._top + count] = self._sum[:, :count] / self._total[:count]


_VECTORS, _BATCH, _MAPS, _SIDES = 2, 4, 4, 2
_TASKS = ("classification", "segmentation")


@dataclass(frozen=True, eq=False)
class WindowScores:
    """What a model gives for the sliding windows of an image.

    Attributes:
        scores: ``[N, classes, rows, columns]``: one column a window for a classifier or embeddings, and one a pixel for
            segmentation. As the model gives them, without a softmax.
        size: Height and width of a window.
        stride: Rows and columns from one window to the next.
        names: What the classes are called; empty when that is not known.

    Example:
        >>> WindowScores(torch.zeros(1, 2, 3, 4), size=(32, 32), stride=(16, 16), names=("cat", "dog"))
        WindowScores(1 image, 2 classes, 3 rows, 4 columns)
    """

    scores: Tensor
    size: tuple[int, int]
    stride: tuple[int, int]
    names: tuple[str, ...] = ()

    def __repr__(self) -> str:
        count, classes, rows, columns = self.scores.shape
        return (
            f"WindowScores({count} image{'' if count == 1 else 's'}, {classes} classes, {rows} rows, {columns} columns)"
        )


@strict_arguments
def sliding_window(
    model: nn.Module | str | os.PathLike[str],
    image: Any,
    *,
    size: int | Sequence[int] | None = None,
    stride: int | Sequence[int] | None = None,
    blend: Blend = "constant",
    outputs: Literal["scores", "embeddings"] = "scores",
    batch_size: int = 16,
    out: str | os.PathLike[str] | None = None,
) -> WindowScores:
    """Run ``model`` over an image window by window: a map of scores, or blended logits for segmentation.

    A classifier and embeddings give one vector a window, for the windows that ``nn.Unfold`` has: what remains at the
    right and the bottom, less than a stride, is left out. Segmentation gives a vector a pixel, the weighted mean of
    the windows that see it; windows at the edge are moved back, so that everything is covered, as in MONAI's inferer.

    The image is read by rows of windows, so memory does not grow with its height: TIFF files through tifffile
    (``zoo-core[tiff]``), ``numpy.memmap`` and tensors. Other files are decoded whole.

    Args:
        model: A classifier or a model for segmentation, its name, or the folder of a save.
        image: A path, a PIL image or an array, of which each window is normalized as :func:`transforms` does, and not
            resized; or a tensor of floats, ``[C, H, W]`` or ``[N, C, H, W]``, which the model is given as it is.
        size: Height and width of a window, or one number for both; None for what the model's weights were trained with.
        stride: From one window to the next; None for ``size``.
        blend: How windows count that overlap, for segmentation: ``"constant"`` all alike, ``"gaussian"`` most in their
            middle.
        outputs: ``"embeddings"`` for what the head is given in place of what it gives.
        batch_size: Windows in one pass.
        out: A ``.npy`` file to write the scores to, instead of keeping them in memory; it is there when it is whole.

    Raises:
        ImageError: The image cannot be read.
        NotSupported: The model gives neither scores nor maps.
        UsageError: The image is smaller than a window, or an argument is impossible.
        ZooError: ``out`` cannot be written.

    Example:
        >>> import torch, zoo_core as zoo
        >>> found = zoo.sliding_window("tiny/glyphnet", torch.zeros(1, 64, 96), size=32, stride=16)
        >>> found.scores.shape
        torch.Size([1, 114, 3, 5])
    """
    opened = open_model(model)
    card = metadata_of(opened).card
    if card is not None and card.task not in _TASKS:
        raise NotSupported(
            f"a model for {card.task} has no scores for windows", expected=f"one for {' or '.join(_TASKS)}"
        )
    for name, said, known in (("blend", blend, get_args(Blend)), ("outputs", outputs, ("scores", "embeddings"))):
        if said not in known:
            raise UsageError(f"{name} cannot be {said!r}", expected=" or ".join(known))
    check_count("batch_size", batch_size)
    sides = _trained_size(opened) if size is None else check_sides("size", size)
    steps = sides if stride is None else check_sides("stride", stride)
    require_values(opened) if outputs == "embeddings" else require_results(opened)
    if outputs == "embeddings":
        runner: nn.Module = Vectors(opened)
        read: Callable[[Any], Any] = lambda output: output  # noqa: E731 - beside its other case
    else:
        runner, read = opened, Outputs.of(opened).read
    run = _Run(runner, read, sides, steps, blend, batch_size, None if out is None else _npy_file(out))
    layers = _layers(opened, image)
    try:
        with running_on(image), inferring(unwrap(runner)):
            scores = run.over(layers)
    finally:
        for layer in layers:
            layer.rows.close()
    return WindowScores(scores, sides, steps, class_names_of(opened) if outputs == "scores" else ())


@dataclass(frozen=True)
class _Layer:
    """One image of a batch that a window slides over, by its rows, and what is done to them."""

    rows: Rows
    prepare: Callable[[Tensor], Tensor]


def _layers(model: nn.Module, image: Any) -> list[_Layer]:
    """The images that a window slides over, by their rows, each with what is done to it."""
    if isinstance(image, Tensor) and image.is_floating_point():
        batch = image if image.ndim == _BATCH else image[None]
        if batch.ndim != _BATCH or not len(batch):
            raise UsageError(f"a tensor of the shape {list(image.shape)}", expected="[C, H, W] or [N, C, H, W]")
        return [_Layer(TensorRows(each), lambda x: x) for each in batch]
    from zoo_core.images.transform_steps import compose

    numbers = numbers_of(model)
    untouched = replace(numbers.preprocessing, crop=None, resize=(), fit="squash")
    name = os.fspath(image) if isinstance(image, str | os.PathLike) else "the image"
    channels = len(numbers.preprocessing.mean)
    return [_Layer(open_rows(image, name, channels), compose(untouched, numbers.task, train=False))]


class _Run:
    """One run of a sliding window over the images of a batch."""

    def __init__(
        self,
        model: nn.Module,
        read: Callable[[Any], Any],
        size: tuple[int, int],
        stride: tuple[int, int],
        blend: Blend,
        batch_size: int,
        out: Path | None,
    ) -> None:
        self.model, self.read, self.size, self.stride = model, read, size, stride
        self.blend, self.batch_size, self.out = blend, batch_size, out
        like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0, device="cpu"))
        self.device, self.dtype = like.device, like.dtype

    def over(self, layers: list[_Layer]) -> Tensor:
        """The scores of all layers, ``[N, classes, rows, columns]``."""
        for layer in layers:
            self._check(layer.rows)
        _, first = next(self._row(layers[0], 0, [0]))
        if first.ndim == _VECTORS:
            fill, counts = self._fill_map, [len(self._inner(layers[0].rows, axis)) for axis in range(_SIDES)]
        elif first.ndim == _MAPS and tuple(first.shape[2:]) == self.size:
            fill, counts = self._fill_blended, [layers[0].rows.height, layers[0].rows.width]
        else:
            raise NotSupported(
                f"no scores for windows in an output of the shape {list(first.shape)}",
                expected=f"[N, classes], or [N, classes, {self.size[0]}, {self.size[1]}]",
            )
        shape = (len(layers), first.shape[1], *counts)
        if self.out is None:
            scores = torch.empty(shape, device="cpu")
            for layer, target in zip(layers, scores, strict=True):
                fill(layer, target)
            return scores
        return self._written(self.out, layers, fill, shape)

    def _written(
        self, out: Path, layers: list[_Layer], fill: Callable[[_Layer, Tensor], None], shape: tuple[int, ...]
    ) -> Tensor:
        import numpy as np

        with whole_file(out) as new:
            mapped = np.lib.format.open_memmap(new, mode="w+", dtype=np.float32, shape=shape)
            take_space(new)
            for layer, target in zip(layers, torch.from_numpy(mapped), strict=True):
                fill(layer, target)
            mapped.flush()
        return torch.from_numpy(mapped)

    def _fill_map(self, layer: _Layer, target: Tensor) -> None:
        columns = self._inner(layer.rows, 1)
        for i, top in enumerate(self._inner(layer.rows, 0)):
            for at, scores in self._row(layer, top, columns):
                target[:, i, at : at + len(scores)] = scores.T

    def _fill_blended(self, layer: _Layer, target: Tensor) -> None:
        blender = Blender(target, _window_weights(self.size, self.blend))
        if any(step > side for step, side in zip(self.stride, self.size, strict=True)):
            raise UsageError(
                f"a stride of {self.stride} leaves pixels out between windows of {self.size}",
                expected="a stride of at most the size, so that every pixel gets scores",
            )
        columns = _covering_starts(layer.rows.width, self.size[1], self.stride[1])
        for top in _covering_starts(layer.rows.height, self.size[0], self.stride[0]):
            blender.advance(top)
            for at, scores in self._row(layer, top, columns):
                for left, window in zip(columns[at:], scores, strict=False):
                    blender.add(left, window)
        blender.finish()

    def _row(self, layer: _Layer, top: int, columns: list[int]) -> Iterator[tuple[int, Tensor]]:
        """Where a batch of one row of windows begins among its columns, and what the model gives for it."""
        band = layer.prepare(layer.rows.band(top, top + self.size[0]))
        for at in range(0, len(columns), self.batch_size):
            chosen = columns[at : at + self.batch_size]
            yield at, self._forward(torch.stack([band[..., left : left + self.size[1]] for left in chosen]))

    def _forward(self, windows: Tensor) -> Tensor:
        output = self.read(self.model(windows.to(self.device, self.dtype)))
        if not isinstance(output, Tensor):
            raise NotSupported(
                f"no scores for windows in a {type(output).__name__}",
                cause="the model has several heads, or gives something else than scores",
                hint="zoo.swap_head(model, 9) gives it one head",
            )
        if output.ndim == _MAPS and output.shape[2:].numel() == 1:
            output = output.flatten(1)
        return output.float().cpu()

    def _inner(self, rows: Rows, axis: int) -> list[int]:
        return _inner_starts((rows.height, rows.width)[axis], self.size[axis], self.stride[axis])

    def _check(self, rows: Rows) -> None:
        if rows.height < self.size[0] or rows.width < self.size[1]:
            raise UsageError(
                f"an image of {rows.height}x{rows.width} is smaller than a window of {self.size[0]}x{self.size[1]}",
                hint="a smaller size=, or zoo.predict(model, image) for the whole image",
            )


def _npy_file(out: str | os.PathLike[str]) -> Path:
    """The ``.npy`` file that ``zoo.sliding_window`` writes scores to, checked before they are computed."""
    path = expand(out)
    if path.suffix.lower() != ".npy" or is_folder(path):
        raise UsageError(f"scores are not written to {path}", expected="a file whose name ends in .npy")
    if not is_folder(path.absolute().parent):
        raise UsageError(f"{path} cannot be written", cause=f"there is no folder {path.absolute().parent}")
    return path


def _trained_size(model: nn.Module) -> tuple[int, int]:
    """Size of a sliding window where none is given: that of the images the model was trained with."""
    known = metadata_of(model)
    if known.card is None:
        raise UsageError("the size of a window is not known", hint="size=224, or what the model was trained with")
    height, width = known.designed_size(unwrap(model))[-2:]
    return height, width
