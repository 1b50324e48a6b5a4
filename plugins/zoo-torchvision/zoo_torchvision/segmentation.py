"""Where the parts of torchvision's segmentation models are. Their splits pass dictionaries of maps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.nn import functional

from zoo_core.plugin import Anatomy, Stage
from zoo_torchvision.convnets import resnet_rows
from zoo_torchvision.measure import by_resolution, first_convolution, head_at, in_sequence

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torchvision.models.segmentation import FCN, LRASPP, DeepLabV3

_SITES = {"out": "classifier.4", "aux": "aux_classifier.4"}
"""The heads, by the name of their scores in what the model returns."""


def two_classifiers(model: FCN | DeepLabV3) -> Anatomy:
    """Segmentation by FCN and DeepLab v3: a head on the last map, and one on an earlier map that only trains."""
    auxiliary = () if model.aux_classifier is None else (head_at(model, _SITES["aux"], "aux"),)
    return Anatomy(
        heads=(head_at(model, _SITES["out"]), *auxiliary),
        stem=first_convolution(model),
        stages=_stages(model),
        features=maps,
        pool=before_heads,
        classify=scores,
    )


def lraspp(model: LRASPP) -> Anatomy:
    """Segmentation by LR-ASPP: two heads on maps of two depths, whose scores are added."""
    return Anatomy(
        heads=(
            head_at(model, "classifier.high_classifier"),
            head_at(model, "classifier.low_classifier", "summed"),
        ),
        stem=first_convolution(model),
        stages=_stages(model),
        features=maps,
        pool=lraspp_before_heads,
        classify=lraspp_scores,
    )


def maps(model: FCN | DeepLabV3 | LRASPP, x: Tensor) -> dict[str, Any]:
    """Images to the maps of a segmentation backbone, and ``"size"``: the height and width that the scores will have."""
    return {**model.backbone(x), "size": x.shape[-2:]}


def before_heads(model: FCN | DeepLabV3, found: dict[str, Any]) -> dict[str, Any]:
    """The maps of a segmentation backbone to what the heads of FCN or DeepLab v3 are given."""
    pooled = {"size": found["size"]}
    for name, path in _SITES.items():
        classifier = getattr(model, path.partition(".")[0])
        if classifier is not None:
            x = found[name]
            for layer in list(classifier)[:-1]:
                x = layer(x)
            pooled[name] = x
    return pooled


def scores(model: FCN | DeepLabV3, pooled: dict[str, Any]) -> dict[str, Tensor]:
    """What torchvision's segmentation heads are given to what the model returns: ``[N, num_classes, H, W]`` by name."""
    return {
        name: _enlarged(model.get_submodule(path)(pooled[name]), pooled["size"])
        for name, path in _SITES.items()
        if name in pooled
    }


def lraspp_before_heads(model: LRASPP, found: dict[str, Any]) -> dict[str, Any]:
    """The maps of a segmentation backbone to what the two heads of LR-ASPP are given, both of one size."""
    head = model.classifier
    x = head.cbr(found["high"]) * head.scale(found["high"])
    return {"size": found["size"], "low": found["low"], "high": _enlarged(x, found["low"].shape[-2:])}


def lraspp_scores(model: LRASPP, pooled: dict[str, Any]) -> dict[str, Tensor]:
    """What LR-ASPP's heads are given to its segmentation: ``[N, num_classes, H, W]`` under ``"out"``."""
    head = model.classifier
    return {"out": _enlarged(head.low_classifier(pooled["low"]) + head.high_classifier(pooled["high"]), pooled["size"])}


def _stages(model: nn.Module) -> tuple[Stage, ...]:
    """The stages of the backbone of a segmentation model."""
    if hasattr(model.backbone, "layer1"):
        return in_sequence(model, resnet_rows("backbone."))[1:]
    return by_resolution(model, "backbone")


def _enlarged(x: Tensor, size: Any) -> Tensor:
    """Maps or scores of torchvision's segmentation models enlarged to a height and width."""
    return functional.interpolate(x, size=size, mode="bilinear", align_corners=False)
