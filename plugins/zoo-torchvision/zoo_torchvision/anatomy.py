"""Where the parts of a built torchvision model are, by the class of the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torchvision import models

from zoo_core.plugin import Anatomy, AnatomyError
from zoo_torchvision import convnets, detection, segmentation, transformers, video

if TYPE_CHECKING:
    from torch import nn


_RULES: Mapping[type[nn.Module], Callable[[Any], Anatomy]] = {
    models.AlexNet: convnets.sequential,
    models.ConvNeXt: convnets.sequential,
    models.DenseNet: convnets.densenet,
    models.EfficientNet: convnets.sequential,
    models.GoogLeNet: convnets.googlenet,
    models.Inception3: convnets.inception,
    models.MNASNet: convnets.mnasnet,
    models.MaxVit: transformers.maxvit,
    models.MobileNetV2: convnets.sequential,
    models.MobileNetV3: convnets.mobilenet_v3,
    models.RegNet: convnets.regnet,
    models.ResNet: convnets.resnet,
    models.ShuffleNetV2: convnets.shufflenet,
    models.SqueezeNet: convnets.squeezenet,
    models.SwinTransformer: transformers.swin,
    models.VGG: convnets.sequential,
    models.VisionTransformer: transformers.vision_transformer,
    models.detection.FCOS: detection.dense,
    models.detection.FasterRCNN: detection.rcnn,
    models.detection.RetinaNet: detection.dense,
    models.detection.ssd.SSD: detection.ssd,
    models.optical_flow.RAFT: video.raft,
    models.segmentation.DeepLabV3: segmentation.two_classifiers,
    models.segmentation.FCN: segmentation.two_classifiers,
    models.segmentation.LRASPP: segmentation.lraspp,
    models.video.MViT: video.mvit,
    models.video.S3D: video.s3d,
    models.video.SwinTransformer3d: video.swin,
    models.video.VideoResNet: video.resnet,
}


def anatomy(model: nn.Module) -> Anatomy:
    """The anatomy of a torchvision model: its heads, stem and stages, and how its forward splits.

    Everything is read from the model as it is now, so that it stays true for other options, another head or stem.

    Args:
        model: A model of torchvision, or of a class derived from one of its.

    Raises:
        AnatomyError: The model is of no class of torchvision's, or was changed beyond recognition.

    Example:
        >>> from torchvision.models import resnet18
        >>> found = anatomy(resnet18())
        >>> found.main.path, found.main.in_features, [stage.stride for stage in found.stages]
        ('fc', 512, [4, 8, 16, 32])
    """
    if _is_quantized(model):
        return _of_quantized(model)
    for kind in type(model).__mro__:
        if kind in _RULES:
            return _read(model, kind)
    raise AnatomyError(
        f"{type(model).__name__} is not a model of torchvision that zoo knows",
        expected=", ".join(sorted(kind.__name__ for kind in _RULES)),
        got=f"{type(model).__module__}.{type(model).__name__}",
    )


def _read(model: nn.Module, kind: type[nn.Module]) -> Anatomy:
    """The anatomy of a torchvision model, by the rule for its class."""
    try:
        return _RULES[kind](model)
    except (AttributeError, ValueError) as error:
        if isinstance(error, AnatomyError):
            raise
        raise AnatomyError(
            f"{type(model).__name__} no longer has the layout of torchvision's {kind.__name__}",
            cause=str(error),
            hint="give zoo the model as the library built it, and change its head with zoo.swap_head",
        ) from error


_QUANTIZED = "torch.ao.nn.quantized"


def _is_quantized(model: nn.Module) -> bool:
    """Whether the anatomy of a torchvision model is that of a quantised one, however it came to be quantised.

    One that only can be quantised has its own.

    Example:
        >>> from torch import nn
        >>> _is_quantized(nn.Linear(2, 2))
        False
    """
    # FloatFunctional, which a model that can be quantised has too, is of the same package.
    kinds = {type(module) for module in model.modules()}
    return any(kind.__module__.startswith(_QUANTIZED) and kind.__name__ != "FloatFunctional" for kind in kinds)


def _of_quantized(model: nn.Module) -> Anatomy:
    """The anatomy of a quantised torchvision model: no head, stem or stages, as its layers hold packed integers.

    Args:
        model: A quantised model.
    """
    return Anatomy(
        heads=(),
        headless=(
            f"the layers of this {type(model).__name__} are quantised and have no parameters; change the float model "
            "and quantise that: the name without quantized_, or for a quantized_ name options={'quantize': False} "
            "with weights=None"
        ),
    )
