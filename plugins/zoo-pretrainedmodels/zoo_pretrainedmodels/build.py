"""Build a model of the library, mended where it would not survive a copy, a pickle or a second model beside it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from copy import deepcopy
from operator import add
from typing import Any

import torch
from torch import nn
from torchvision import models

from zoo_pretrainedmodels import library as lib
from zoo_pretrainedmodels import picklable_models

_CLASSES: Mapping[type[nn.Module], type[nn.Module]] = {
    models.AlexNet: picklable_models.AlexNet,
    models.DenseNet: picklable_models.DenseNet,
    models.Inception3: picklable_models.Inception3,
    models.ResNet: picklable_models.ResNet,
    models.SqueezeNet: picklable_models.SqueezeNet,
    models.VGG: picklable_models.VGG,
    lib.BNInception: picklable_models.BNInception,
    lib.FBResNet: picklable_models.FBResNet,
}
"""Class that the library builds to the class the model gets instead."""

_same = picklable_models.unchanged
"""The name by which a ResNeXt that was pickled by version 0.1 looks for it."""
_PATCHED = ("features", "logits", "forward")


def build(name: str, num_classes: int = 1000, *, aux_logits: bool = True) -> nn.Module:
    """Build an untrained model of pretrainedmodels, mended where a copy or a pickle of the library's would not work.

    Args:
        name: One of ``pretrainedmodels.model_names``.
        num_classes: Outputs of the head. The library's own constructors ignore it for 21 of the models.
        aux_logits: Whether an inceptionv3 has its auxiliary head.

    Returns:
        The library's model, or one of a subclass from :mod:`zoo_pretrainedmodels.picklable_models`. It carries the
        library's own ``input_size``, ``mean`` and so on, as only its pretrained models do otherwise.

    Raises:
        ValueError: The model has no auxiliary head to leave out.

    Example:
        >>> build("resnet18", num_classes=9).last_linear
        Linear(in_features=512, out_features=9, bias=True)
    """
    with lib.quiet():
        model: Any = getattr(lib.library, name)(num_classes=num_classes, pretrained=None)
    if type(model) in _CLASSES:
        _reclass(model)
    if isinstance(model, lib.DPN):
        _concatenate_outputs(model)
    if isinstance(model, lib.ResNeXt101_32x4d | lib.ResNeXt101_64x4d):
        _own_features(model)
    if not aux_logits:
        _drop_auxiliary_head(model, name)
    _resize_head(model, num_classes)
    settings = next(iter(lib.library.pretrained_settings[name].values()))
    for key in ("input_space", "input_size", "input_range", "mean", "std"):
        setattr(model, key, settings[key])
    return model  # type: ignore[no-any-return]  # the library ships no types


def _reclass(model: nn.Module) -> None:
    """Build a model into one of a class of its own, for what the library patched on the instance."""
    for name in _PATCHED:
        model.__dict__.pop(name, None)
    model.__class__ = _CLASSES[type(model)]
    if isinstance(model, picklable_models.BNInception):
        model.add_outputs()


def _concatenate_outputs(model: Any) -> None:
    """Build a DPN with a module at the end of each resolution, so that one tensor comes out of it.

    It has no parameters.
    """
    layers: dict[str, nn.Module] = {}
    for name, block in model.features.named_children():
        if name in {"conv3_1", "conv4_1", "conv5_1"}:
            layers[f"conv{int(name[4]) - 1}_output"] = picklable_models.Concatenate()
        layers[name] = block
    model.features = nn.Sequential(OrderedDict(layers))


def _own_features(model: Any) -> None:
    """Build a ResNeXt with layers of its own: the library's are one global module, which all models of a kind share.

    Its lambdas give way to functions that can be pickled, and its weights are drawn anew, as a new model's should be.
    """
    model.features = deepcopy(model.features).to(torch.get_default_device())
    for module in model.features.modules():
        if hasattr(module, "lambda_func"):
            module.lambda_func = add if type(module).__name__ == "LambdaReduce" else picklable_models.unchanged
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()


def _drop_auxiliary_head(model: Any, name: str) -> None:
    """Build a model without its auxiliary head, for the option ``aux_logits=False``."""
    if not hasattr(model, "AuxLogits"):
        msg = f"{name} has no auxiliary head that aux_logits=False could leave out"
        raise ValueError(msg)
    model.aux_logits, model.AuxLogits = False, None


def _resize_head(model: Any, num_classes: int) -> None:
    """Build the heads for a number of classes, which many constructors of pretrainedmodels ignore."""
    if hasattr(model, "last_conv"):
        if model.last_conv.out_channels != num_classes:
            model.last_conv = nn.Conv2d(model.last_conv.in_channels, num_classes, kernel_size=1)
            model.num_classes = num_classes
    elif isinstance(model.last_linear, nn.Linear) and model.last_linear.out_features != num_classes:
        model.last_linear = nn.Linear(model.last_linear.in_features, num_classes)
    auxiliary = getattr(model, "AuxLogits", None)
    if auxiliary is not None and auxiliary.fc.out_features != num_classes:
        auxiliary.fc = nn.Linear(auxiliary.fc.in_features, num_classes)
