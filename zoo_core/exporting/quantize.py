"""An exported file in eight bits, and how a classifier does on images before and after."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from zoo_core.embedding.embed import labelled_sources
from zoo_core.errors import ImageError, NotSupported, UsageError, ZooError
from zoo_core.exporting.formats import FORMATS, METADATA, archive_file
from zoo_core.images.loading import load_images
from zoo_core.images.preprocessing import transforms
from zoo_core.images.read import read
from zoo_core.surgery.head.scores import classes_by_head
from zoo_core.surgery.metadata import anatomy_of, class_names_of, metadata_of, unwrap
from zoo_core.utils.only_errors import PYTREE, only_errors

_CALIBRATED_WITH = 128
"""Images whose activations say the ranges; more change them little."""


@dataclass(frozen=True)
class Quantized:
    """How an exported classifier does on images before and after it was quantized.

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
    model: nn.Module, suffix: str, images: str | os.PathLike[str], *, with_preprocessing: bool, dynamic: bool
) -> None:
    """Refuse what is not quantized here, before a minute of exporting.

    Raises:
        ImageError: There are no images.
        UsageError: The format is not ONNX or pt2, the graph takes bytes, or its batch has one length.
        NotSupported: The model is no classifier of one head.
        ZooError: torchao is needed and missing.
    """
    if suffix not in (".onnx", ".pt2"):
        raise UsageError("int8 is for ONNX and pt2", got=f"a {suffix} file", hint='to="onnx"')
    if suffix == ".pt2":
        _require_torchao()
    if not dynamic:
        raise UsageError("int8 takes a batch of any length", hint="leave dynamic, --static on the command line, out")
    if with_preprocessing:
        raise UsageError(
            "int8 and with_preprocessing exclude each other", hint="normalize outside the graph, or in float"
        )
    card = metadata_of(model).card
    if (card is not None and card.task != "classification") or classes_by_head(unwrap(model), anatomy_of(model).main):
        raise NotSupported("only classifiers of one head are quantized", cause="accuracy is counted by class")
    next(labelled_sources(images))


def quantize(
    model: nn.Module, path: Path, images: str | os.PathLike[str], size: int | Sequence[int] | None
) -> Quantized:
    """Quantize the file at ``path``: weights by channel, activations by their ranges on some of the images.

    An ONNX file is quantized by onnxruntime; one of ``torch.export`` by torchao.

    Raises:
        ImageError: The folder has no image, or one that cannot be read.
        NotSupported: Nothing says how images are prepared for the model.
    """
    batches = [*_labelled_images(model, images, size)]
    before = _classes(path, batches)
    every = max(1, len(batches) // _CALIBRATED_WITH)
    write = _write_pt2 if path.suffix == ".pt2" else _write_onnx
    write(path, [x for x, _ in batches[::every]])
    after = _classes(path, batches)
    names, labels = class_names_of(model), [label for _, label in batches]

    def right(classes: list[int]) -> float | None:
        if not set(labels) <= set(names):
            return None
        return fmean(names[i] == label for i, label in zip(classes, labels, strict=True))

    same = fmean(a == b for a, b in zip(before, after, strict=True))
    return Quantized(len(batches), right(before), right(after), same)


def _labelled_images(
    model: nn.Module, images: str | os.PathLike[str], size: int | Sequence[int] | None
) -> Iterator[tuple[Tensor, str]]:
    """Labelled images, prepared for the model: to quantize it by them, and to test the classifier on them."""
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
    run = FORMATS["pt2" if path.suffix == ".pt2" else "onnx"].open(path)
    return [int(run(x)[0].argmax(1)) for x, _ in batches]


def _write_onnx(path: Path, batches: list[Tensor]) -> None:
    """Quantize an ONNX file, by the static quantization of onnxruntime."""
    import onnx
    from onnxruntime import quantization

    model = onnx.load(path)
    name = model.graph.input[0].name
    feeds = iter([{name: x.numpy()} for x in batches])

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
        def get_next(self) -> dict[str, Any] | None:
            return next(feeds, None)

    with only_errors():
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


def _write_pt2(path: Path, batches: list[Tensor]) -> None:
    """Quantize weights and inputs of convolutions and linear layers, by the export quantization of torchao.

    Where an operation's input is quantized is all that is said here, and not which operations a processor fuses, as
    torchao's own quantizer for x86 does: that one fails on a ReLU that a model uses twice.
    """
    from torchao.quantization.pt2e import quantize_pt2e

    files = {METADATA: ""}
    with path.open("rb") as file:
        program = torch.export.load(file, extra_files=files)
    with warnings.catch_warnings(action="ignore"), torch.no_grad():  # of torch and torchao, about each other
        prepared = quantize_pt2e.prepare_pt2e(program.module(), _quantizer())
        for x in batches:
            prepared(x)
        module = quantize_pt2e.convert_pt2e(prepared)
        used = {node.target for node in module.graph.nodes if node.op == "get_attr"}
        for name, _ in [*module.named_parameters(), *module.named_buffers()]:
            if name not in used:  # what was quantized is beside it in float
                owner, _, leaf = name.rpartition(".")
                delattr(module.get_submodule(owner), leaf)
        example = (torch.cat([batches[0], batches[0]]),)
        small = torch.export.export(module, example, dynamic_shapes=({0: torch.export.Dim("batch")},))
    with archive_file(path) as file:
        torch.export.save(small, file, extra_files=files)


def _quantizer() -> Any:
    """The quantizer of torchao for convolutions and linear layers."""
    from torchao.quantization import pt2e
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, QuantizationSpec, Quantizer

    inputs = QuantizationSpec(
        dtype=torch.uint8,
        quant_min=0,
        quant_max=255,
        qscheme=torch.per_tensor_affine,
        observer_or_fake_quant_ctr=pt2e.HistogramObserver,
    )
    weights = QuantizationSpec(
        dtype=torch.int8,
        quant_min=-127,
        quant_max=127,
        qscheme=torch.per_channel_symmetric,
        ch_axis=0,
        observer_or_fake_quant_ctr=pt2e.PerChannelMinMaxObserver,
    )
    operations = {torch.ops.aten.conv2d.default, torch.ops.aten.conv3d.default, torch.ops.aten.linear.default}

    class InputsAndWeights(Quantizer):  # type: ignore[misc]  # torchao ships no types
        def annotate(self, model: Any) -> Any:
            for node in model.graph.nodes:
                if node.target in operations and node.args[1].op == "get_attr":
                    specs = {node.args[0]: inputs, node.args[1]: weights}
                    node.meta["quantization_annotation"] = QuantizationAnnotation(specs, _annotated=True)
            return model

        def validate(self, model: Any) -> None:  # noqa: ARG002 - torchao's signature
            return

    return InputsAndWeights()


def _require_torchao() -> None:
    """Refuse to quantize pt2 without torchao."""
    try:
        with only_errors(PYTREE):
            import torchao.quantization.pt2e.quantize_pt2e  # noqa: F401 - looked for
    except ImportError as error:
        raise ZooError("eight bits for pt2 need torchao", hint="pip install 'zoo-core[torchao]'") from error
