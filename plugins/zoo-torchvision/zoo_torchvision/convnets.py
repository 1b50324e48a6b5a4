"""Where the parts of torchvision's convolutional classifiers are: one short function an architecture."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from torch.nn import functional
from torchvision.models import (
    ConvNeXt,
    DenseNet,
    GoogLeNet,
    Inception3,
    MNASNet,
    MobileNetV3,
    RegNet,
    ResNet,
    ShuffleNetV2,
    SqueezeNet,
)

from zoo_core.plugin import Anatomy, Chain, Head, InputScaling, flatten
from zoo_torchvision.measure import by_resolution, first_convolution, head_at, in_sequence

if TYPE_CHECKING:
    from torch import Tensor, nn

Rows = tuple[tuple[str, tuple[str, ...]], ...]

_SHUFFLENET: Rows = (
    ("stem", ("conv1", "maxpool")),
    *((name, (name,)) for name in ("stage2", "stage3", "stage4", "conv5")),
)

_GOOGLENET: Rows = (
    ("conv1", ("conv1",)),
    ("conv3", ("maxpool1", "conv2", "conv3")),
    ("inception3", ("maxpool2", "inception3a", "inception3b")),
    ("inception4", ("maxpool3", *(f"inception4{letter}" for letter in "abcde"))),
    ("inception5", ("maxpool4", "inception5a", "inception5b")),
)

_INCEPTION: Rows = (
    ("Conv2d_2", ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3")),
    ("Conv2d_4", ("maxpool1", "Conv2d_3b_1x1", "Conv2d_4a_3x3")),
    ("Mixed_5", ("maxpool2", *(f"Mixed_5{letter}" for letter in "bcd"))),
    ("Mixed_6", tuple(f"Mixed_6{letter}" for letter in "abcde")),
    ("Mixed_7", tuple(f"Mixed_7{letter}" for letter in "abc")),
)

_TRANSFORM_INPUT = InputScaling(
    "transform_input",
    scale=tuple(std / 0.5 for std in (0.229, 0.224, 0.225)),
    shift=tuple((mean - 0.5) / 0.5 for mean in (0.485, 0.456, 0.406)),
    norm="conv1.bn",
)
"""From ImageNet's means and deviations to the ones that GoogLeNet and Inception were trained with."""


def resnet(model: ResNet) -> Anatomy:
    """ResNet, ResNeXt and Wide ResNet of torchvision: four layers after a stem that ends with a pool."""
    return Anatomy(
        heads=(head_at(model, "fc"),),
        stem=first_convolution(model),
        stages=in_sequence(model, resnet_rows())[1:],
        features=Chain(*_row_paths(resnet_rows())),
        pool=Chain("avgpool", flatten),
    )


def sequential(model: Any) -> Anatomy:
    """Convnets of ``features``, a pool and a ``classifier`` that ends with the head, as VGG, MobileNet or ConvNeXt.

    What comes before the head in the classifier, AlexNet's and VGG's hidden layers among it, belongs to the pool.
    """
    *before, head = (f"classifier.{name}" for name, _ in model.classifier.named_children())
    flat = isinstance(model, ConvNeXt)  # it flattens inside its classifier, after a normalization that wants a map
    return Anatomy(
        heads=(head_at(model, head),),
        stem=first_convolution(model),
        stages=by_resolution(model, "features"),
        features=Chain("features"),
        pool=Chain("avgpool" if hasattr(model, "avgpool") else average, *(() if flat else (flatten,)), *before),
    )


def mobilenet_v3(model: MobileNetV3) -> Anatomy:
    """MobileNetV3 of torchvision: as the other convnets, but dilated in the library's own way."""
    return replace(sequential(model), dilates_strided=True)


def squeezenet(model: SqueezeNet) -> Anatomy:
    """SqueezeNet of torchvision: the head is a convolution on the map, and a ReLU and the pool come after it."""
    return Anatomy(
        heads=(head_at(model, "classifier.1"),),
        stem=first_convolution(model),
        stages=by_resolution(model, "features"),
        features=Chain("features"),
        pool=Chain("classifier.0"),
        classify=Chain("classifier.1", "classifier.2", "classifier.3", flatten),
    )


def mnasnet(model: MNASNet) -> Anatomy:
    """MNASNet of torchvision: one flat sequence of layers."""
    return Anatomy(
        heads=(head_at(model, "classifier.1"),),
        stem=first_convolution(model),
        stages=by_resolution(model, "layers"),
        features=Chain("layers"),
        pool=Chain(spatial_mean, "classifier.0"),
    )


def shufflenet(model: ShuffleNetV2) -> Anatomy:
    """ShuffleNet v2 of torchvision: its stages are numbered from 2, and a convolution follows the last."""
    return Anatomy(
        heads=(head_at(model, "fc"),),
        stem=first_convolution(model),
        stages=in_sequence(model, _SHUFFLENET)[1:],
        features=Chain(*_row_paths(_SHUFFLENET)),
        pool=Chain(spatial_mean),
    )


def regnet(model: RegNet) -> Anatomy:
    """RegNet of torchvision: a stem and the blocks of the trunk."""
    blocks = tuple((name, (f"trunk_output.{name}",)) for name, _ in model.trunk_output.named_children())
    return Anatomy(
        heads=(head_at(model, "fc"),),
        stem=first_convolution(model),
        stages=in_sequence(model, (("stem", ("stem",)), *blocks))[1:],
        features=Chain("stem", "trunk_output"),
        pool=Chain("avgpool", flatten),
    )


def densenet(model: DenseNet) -> Anatomy:
    """DenseNet of torchvision: the transition that makes the map smaller opens a stage, and a dense block ends it."""
    names = [name for name, _ in model.features.named_children()]
    ends = [index + 1 for index, name in enumerate(names) if name.startswith("denseblock")]
    ends[-1] = len(names)  # norm5
    starts = [names.index("denseblock1"), *ends]
    rows = (
        ("stem", tuple(names[: starts[0]])),
        *((f"denseblock{n}", tuple(names[a:b])) for n, (a, b) in enumerate(zip(starts, ends, strict=False), start=1)),
    )
    return Anatomy(
        heads=(head_at(model, "classifier"),),
        stem=first_convolution(model),
        stages=in_sequence(model, [(name, tuple(f"features.{path}" for path in paths)) for name, paths in rows])[1:],
        features=Chain("features", functional.relu),
        pool=Chain(average, flatten),
    )


def googlenet(model: GoogLeNet) -> Anatomy:
    """GoogLeNet of torchvision: named layers in a row, and two auxiliary heads if it was built with them."""
    return Anatomy(
        heads=(head_at(model, "fc"), *_auxiliary(model, aux1="aux1.fc2", aux2="aux2.fc2")),
        stem=first_convolution(model),
        stages=in_sequence(model, _GOOGLENET),
        features=partial(after_transform, Chain(*_row_paths(_GOOGLENET))),
        pool=Chain("avgpool", flatten, "dropout"),
        scaling=_TRANSFORM_INPUT,
    )


def inception(model: Inception3) -> Anatomy:
    """Inception v3 of torchvision: named layers in a row, and an auxiliary head if it was built with one."""
    return Anatomy(
        heads=(head_at(model, "fc"), *_auxiliary(model, AuxLogits="AuxLogits.fc")),
        stem=first_convolution(model),
        stages=in_sequence(model, _INCEPTION),
        features=partial(after_transform, Chain(*_row_paths(_INCEPTION))),
        pool=Chain("avgpool", "dropout", flatten),
        scaling=replace(_TRANSFORM_INPUT, norm="Conv2d_1a_3x3.bn"),
    )


def resnet_rows(prefix: str = "") -> Rows:
    """Names and paths of the stem and layers of torchvision's ResNet, alone or as a backbone.

    Args:
        prefix: Where the ResNet is in the model, such as ``"backbone."``.
    """
    start = tuple(f"{prefix}{name}" for name in ("conv1", "bn1", "relu", "maxpool"))
    return (("stem", start), *((f"layer{number}", (f"{prefix}layer{number}",)) for number in (1, 2, 3, 4)))


def average(x: Tensor) -> Tensor:
    """``[N, C, H, W]`` to ``[N, C, 1, 1]``, as torchvision's convnets do that have no module for it."""
    return functional.adaptive_avg_pool2d(x, (1, 1))


def spatial_mean(x: Tensor) -> Tensor:
    """``[N, C, H, W]`` to ``[N, C]``, as some of torchvision's convnets do; not the same bits as a pooling layer."""
    return x.mean([2, 3])


def after_transform(chain: Chain, model: GoogLeNet | Inception3, x: Tensor) -> Tensor:
    """Run GoogLeNet or Inception on images that are normalized once more, if the weights were trained that way."""
    return chain(model, model._transform_input(x))  # noqa: SLF001 - the split does what the library's forward does


def _row_paths(rows: Rows) -> tuple[str, ...]:
    """The paths of all modules in the rows of one of torchvision's convnets, as they run."""
    return tuple(path for _, paths in rows for path in paths)


def _auxiliary(model: nn.Module, **sites: str) -> tuple[Head, ...]:
    """The auxiliary heads of GoogLeNet or Inception v3, where the model was built with them."""
    return tuple(head_at(model, path, "aux") for name, path in sites.items() if getattr(model, name) is not None)
