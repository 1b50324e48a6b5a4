"""Detectors, built as the library builds them for trained weights, without a download of the library's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn
from torchvision.models import get_model_builder
from torchvision.ops import FrozenBatchNorm2d

_FROZEN_NORMS = {
    # The second versions, SSD and SSDlite train their norms, if they have any.
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_resnet50_fpn",
    "fcos_resnet50_fpn",
    "keypointrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn",
    "retinanet_resnet50_fpn",
}


def build(name: str, *, trained: bool = False, epsilon: float | None = None, **options: Any) -> nn.Module:
    """Build a detector of torchvision, ready for trained weights or untrained.

    Given weights, the library's constructors build another model than without: with frozen norms in the backbone, and
    with its first layers fixed. They decide that by the weights that they are about to download, so that only this
    function can do both: have that model, and leave the download to zoo.

    Args:
        name: The library's name for the model.
        trained: Whether trained weights will be loaded.
        epsilon: What frozen norms add to the variance, where a file needs another value than the library's.
        **options: For the library's own constructor.

    Raises:
        ValueError: The library has no model of that name.

    Example:
        >>> model = build("ssdlite320_mobilenet_v3_large", trained=True, weights_backbone=None)
        >>> type(model).__name__
        'SSD'
    """
    model: nn.Module = get_model_builder(name)(weights=None, **options)
    if trained:
        backbone = model.get_submodule("backbone")
        if name in _FROZEN_NORMS:
            _freeze_norms(backbone.get_submodule("body"), epsilon)
        for parameter in _frozen_parts(name, backbone):
            parameter.requires_grad_(False)  # noqa: FBT003 - torch takes it by position only
    return model


def _freeze_norms(body: nn.Module, epsilon: float | None) -> None:
    """Build a detector's backbone with frozen batch norms, as torchvision does for trained weights."""
    norms = [(path, module) for path, module in body.named_modules() if isinstance(module, nn.BatchNorm2d)]
    for path, norm in norms:
        frozen = FrozenBatchNorm2d(norm.num_features, eps=norm.eps if epsilon is None else epsilon)
        body.set_submodule(path, frozen.train(norm.training))


def _frozen_parts(name: str, backbone: nn.Module) -> Iterator[nn.Parameter]:
    """What is frozen as a detector is built: all before the last three stages, or the first stage of a VGG."""
    if name.startswith("ssdlite"):
        return
    if name.startswith("ssd"):
        first, trunk = "4", backbone.get_submodule("features")  # 4 is the first pool
    else:
        first, trunk = ("7" if "mobilenet" in name else "layer2"), backbone.get_submodule("body")
    for child, module in trunk.named_children():
        if child == first:
            return
        yield from module.parameters()
