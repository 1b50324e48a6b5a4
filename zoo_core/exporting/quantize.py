"""An ONNX file in eight bits, and how a classifier does on images before and after."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo_core.embedding.embed import labelled_sources
from zoo_core.errors import ImageError, NotSupported, UsageError
from zoo_core.images.loading import load_images
from zoo_core.images.read import read
from zoo_core.images.transforms import transforms
from zoo_core.surgery.head.sites import classes_by_head
from zoo_core.surgery.metadata import anatomy_of, class_names_of, knowledge_of, unwrap

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from torch import Tensor, nn

_CALIBRATED_WITH = 128
"""Images whose activations say the ranges; more change them little."""


@dataclass(frozen=True)
class Quantized:
    """How a classifier does on images before and after it was quantized.

    Attributes:
        images: How many.
        before: The share that was named as its folder is; None where folders are not called as the classes are.
        after: The same, in eight bits.
        agreement: The share that gets the same class before and after.
    """

    images: int
    before: float | None
    after: float | None
    agreement: float

    def __str__(self) -> str:
        right = "" if self.before is None else f"top-1 {self.before:.4f} before and {self.after:.4f} after, "
        return f"int8 on {self.images} images: {right}the same class for {self.agreement:.4f}"


def require_quantizable(
    model: nn.Module, suffix: str, images: str | os.PathLike[str], *, with_preprocessing: bool
) -> None:
    """Refuse what is not quantized here, before a minute of exporting.

    Raises:
        ImageError: There are no images.
        UsageError: The format is not ONNX, or the graph takes bytes.
        NotSupported: The model is no classifier of one head.
    """
    if suffix != ".onnx":
        raise UsageError("int8 is for ONNX", got=f"a {suffix} file", hint='to="onnx"')
    if with_preprocessing:
        raise UsageError(
            "int8 and with_preprocessing exclude each other", hint="normalize outside the graph, or in float"
        )
    card = knowledge_of(model).card
    if (card is not None and card.task != "classification") or classes_by_head(unwrap(model), anatomy_of(model).main):
        raise NotSupported("only classifiers of one head are quantized", cause="accuracy is counted by class")
    next(labelled_sources(images))


def quantize(
    model: nn.Module, path: Path, images: str | os.PathLike[str], size: int | Sequence[int] | None
) -> Quantized:
    """Quantize the ONNX file at ``path``: weights by channel, activations by their ranges on some of the images.

    Raises:
        ImageError: The folder has no image, or one that cannot be read.
        NotSupported: Nothing says how images are prepared for the model.
    """
    batches = [*_prepared(model, images, size)]
    before = _classes(path, batches)
    _write(path, batches)
    after = _classes(path, batches)
    names, labels = class_names_of(model), [label for _, label in batches]

    def right(classes: list[int]) -> float | None:
        if not set(labels) <= set(names):
            return None
        return _share([names[i] == label for i, label in zip(classes, labels, strict=True)])

    return Quantized(
        len(batches), right(before), right(after), _share([a == b for a, b in zip(before, after, strict=True)])
    )


def _share(hits: list[bool]) -> float:
    return sum(hits) / len(hits)


def _prepared(
    model: nn.Module, images: str | os.PathLike[str], size: int | Sequence[int] | None
) -> Iterator[tuple[Tensor, str]]:
    labels: list[str] = []

    def named() -> Iterator[Any]:
        for source, label in labelled_sources(images):
            labels.append(label)
            yield source

    like = next(model.parameters())
    for i, each in enumerate(load_images(named(), read, transforms(model, size=size))):
        if each.tensor is None:
            raise each.error or ImageError(f"{each.name} cannot be read", name=each.name)
        yield each.tensor[None].to("cpu", like.dtype), labels[i]


def _classes(path: Path, batches: list[tuple[Tensor, str]]) -> list[int]:
    from zoo_core.exporting.formats import FORMATS

    run = FORMATS["onnx"].open(path)
    return [int(run(x)[0].argmax(1)) for x, _ in batches]


def _write(path: Path, batches: list[tuple[Tensor, str]]) -> None:
    import onnx
    from onnxruntime import quantization

    model = onnx.load(path)
    name = model.graph.input[0].name
    every = max(1, len(batches) // _CALIBRATED_WITH)
    feeds = iter([{name: x.numpy()} for x, _ in batches[::every]])

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
        def get_next(self) -> dict[str, Any] | None:
            return next(feeds, None)

    with _quiet():
        quantization.quantize_static(
            model,
            path,
            Reader(),
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
    result = onnx.load(path)
    if not result.metadata_props:
        result.metadata_props.extend(model.metadata_props)
        onnx.save(result, path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice that onnxruntime gives on the root logger."""
    logger = logging.getLogger()
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
