"""Where the parts of a built model of pretrainedmodels are, by the class of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torchvision import models

from zoo_core.plugin import AnatomyError
from zoo_pretrainedmodels import convnets
from zoo_pretrainedmodels import library as lib

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

    from zoo_core.plugin import Anatomy

_RULES: Mapping[type[nn.Module], Callable[[Any], Anatomy]] = {
    lib.BNInception: convnets.bninception,
    lib.CaffeResNet: convnets.resnet,
    lib.DPN: convnets.dpn,
    lib.FBResNet: convnets.resnet,
    lib.InceptionResNetV2: convnets.inception_resnet_v2,
    lib.InceptionV4: convnets.inception_v4,
    lib.NASNetALarge: convnets.nasnet_large,
    lib.NASNetAMobile: convnets.nasnet_mobile,
    lib.PNASNet5Large: convnets.pnasnet,
    lib.PolyNet: convnets.polynet,
    lib.ResNeXt101_32x4d: convnets.resnext,
    lib.ResNeXt101_64x4d: convnets.resnext,
    lib.SENet: convnets.senet,
    lib.Xception: convnets.xception,
    models.AlexNet: convnets.alexnet,
    models.DenseNet: convnets.densenet,
    models.Inception3: convnets.inception_v3,
    models.ResNet: convnets.resnet,
    models.SqueezeNet: convnets.squeezenet,
    models.VGG: convnets.vgg,
}

_HEADS = ("last_linear", "last_conv")


def anatomy(model: nn.Module) -> Anatomy:
    """The anatomy of a model of pretrainedmodels: its heads, stem and stages, and how its forward splits.

    Args:
        model: A model that this plugin or the library itself has built.

    Raises:
        AnatomyError: The model is of no class of the library's, or was changed beyond recognition.

    Example:
        >>> from zoo_pretrainedmodels.build import build
        >>> found = anatomy(build("squeezenet1_1"))
        >>> found.main.path, found.main.kind, [stage.stride for stage in found.stages]
        ('last_conv', 'conv', [2, 4, 8, 16])
    """
    rule = next((_RULES[kind] for kind in type(model).__mro__ if kind in _RULES), None)
    if rule is None or not any(hasattr(model, name) for name in _HEADS):
        raise AnatomyError(
            f"{type(model).__name__} is not a model of pretrainedmodels that zoo knows",
            expected="a model with a last_linear or a last_conv, as the library makes them",
            got=f"{type(model).__module__}.{type(model).__name__}",
            hint="torchvision's own models belong to the family torchvision",
        )
    try:
        return rule(model)
    except (AttributeError, ValueError) as error:
        if isinstance(error, AnatomyError):
            raise
        raise AnatomyError(
            f"{type(model).__name__} no longer has the layout that pretrainedmodels gave it",
            cause=str(error),
            hint="give zoo the model as the library built it, and change its head with zoo.swap_head",
        ) from error
