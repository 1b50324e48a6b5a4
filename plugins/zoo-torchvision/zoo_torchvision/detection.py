"""Where the parts of torchvision's detectors are.

Their heads give more than one score for each class: four numbers for a box, or one score for each anchor. Keypoints
depend on no class, so their layer is no head site. Class 0 is the background, where the library has one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from torch import nn

from zoo_core.plugin import Anatomy, Head, Stage
from zoo_torchvision.convnets import resnet_rows
from zoo_torchvision.measure import by_resolution, channels, first_convolution, head_at, in_sequence, resolutions

if TYPE_CHECKING:
    from torchvision.models.detection import FCOS, SSD, FasterRCNN, RetinaNet

_PRIOR = 0.01
"""How probable an object is at an anchor before training, as in the paper of RetinaNet (arXiv:1708.02002)."""

_BOX = 4


def rcnn(model: FasterRCNN) -> Anatomy:
    """Detection by Faster, Mask and Keypoint R-CNN: scores and boxes of each proposal, and masks where drawn."""
    box, mask = "roi_heads.box_predictor", "roi_heads.mask_predictor"
    heads = [head_at(model, f"{box}.cls_score"), head_at(model, f"{box}.bbox_pred", "box", per_class=_BOX)]
    if model.roi_heads.has_mask():
        heads.append(head_at(model, f"{mask}.mask_fcn_logits", "mask"))
    result = _detector(model, tuple(heads), _pyramid_stages(model))
    drawn = "roi_heads.keypoint_predictor.kps_score_lowres" if model.roi_heads.has_keypoint() else None
    return replace(result, keypoints=drawn)


def dense(model: RetinaNet | FCOS) -> Anatomy:
    """Detection by RetinaNet and FCOS: one convolution, shared by all levels, gives the scores of every anchor."""
    path = "head.classification_head"
    head = model.get_submodule(path)
    anchors = channels(head.cls_logits) // head.num_classes
    site = head_at(model, f"{path}.cls_logits", per_class=anchors, attributes=(f"{path}.num_classes",))
    site = replace(site, prior=_PRIOR)
    return _detector(model, (site,), _pyramid_stages(model))


def ssd(model: SSD) -> Anatomy:
    """Detection by SSD and SSDlite: a convolution of its own for each level of the pyramid gives the scores."""
    nested = isinstance(model.backbone.features[0], nn.Sequential)
    trunks = [f"backbone.features.{n}" for n, _ in model.backbone.features.named_children()] if nested else []
    rows = resolutions(model, *(trunks or ["backbone.features"]))
    extra = [(f"extra{n}", (f"backbone.extra.{n}",)) for n, _ in model.backbone.extra.named_children()]
    return _detector(model, _ssd_heads(model), in_sequence(model, [*rows, *extra]))


def _detector(model: nn.Module, heads: tuple[Head, ...], stages: tuple[Stage, ...]) -> Anatomy:
    """The anatomy that torchvision's models for detection have in common, with the heads and stages of one."""
    # A detector normalizes its images itself, with one mean and one deviation a channel.
    normalization = ("transform.image_mean", "transform.image_std")
    return Anatomy(
        heads=heads,
        stem=first_convolution(model),
        stages=stages,
        indivisible="a detector scores many places of several maps, and not one vector an image",
        per_channel=normalization,
    )


def _ssd_heads(model: SSD) -> tuple[Head, ...]:
    """Head sites of an SSD for detection, one for each level of its pyramid."""
    path = "head.classification_head"
    scoring = model.get_submodule(path)
    return tuple(
        head_at(
            model,
            # SSDlite's levels are a depthwise convolution and then the head.
            f"{path}.module_list.{number}" + (f".{len(level) - 1}" if isinstance(level, nn.Sequential) else ""),
            "level" if number else "main",
            per_class=channels(level) // scoring.num_columns,
            attributes=() if number else (f"{path}.num_columns",),
        )
        for number, level in enumerate(scoring.module_list)
    )


def _pyramid_stages(model: nn.Module) -> tuple[Stage, ...]:
    """The stages of a backbone below the pyramid of a model for detection."""
    body = "backbone.body"
    if hasattr(model.get_submodule(body), "layer1"):
        return in_sequence(model, resnet_rows(f"{body}."))[1:]
    return by_resolution(model, body)
