"""Detectors are adopted: boxes and masks follow the classes, or what their library declares holds."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import zoo_core as zoo
from zoo_core.errors import NotSupported

torchvision = pytest.importorskip("torchvision")
detection = torchvision.models.detection
X = [torch.rand(3, 64, 64)]


def backbone():
    body = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 4, 1), nn.ReLU())
    body.out_channels = 16
    return body


def own(kind=detection.FasterRCNN, **options):
    anchors = detection.rpn.AnchorGenerator(((32,),), ((1.0,),))
    pool = torchvision.ops.MultiScaleRoIAlign(["0"], 3, 2)
    options = {"box_roi_pool": pool, "rpn_post_nms_top_n_test": 5, "box_score_thresh": 0.0, **options}
    return kind(backbone(), 4, rpn_anchor_generator=anchors, min_size=64, max_size=64, **options)


class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.detector = own()

    def forward(self, images):
        return self.detector(images)


@pytest.mark.parametrize("build", [own, Wrapped])
def test_boxes_follow_the_classes(build):
    model = zoo.swap_head(zoo.adopt(build().eval(), example=X), 9)
    assert [(head.role, head.num_classes) for head in zoo.anatomy(model).heads] == [("main", 9), ("box", 9)]
    predictor = getattr(model, "detector", model).roi_heads.box_predictor
    assert (predictor.cls_score.out_features, predictor.bbox_pred.out_features) == (9, 36)
    assert set(model(X)[0]) == {"boxes", "labels", "scores"}


def test_masks_follow_too():
    masks = torchvision.ops.MultiScaleRoIAlign(["0"], 4, 2)
    model = own(detection.MaskRCNN, mask_roi_pool=masks)
    zoo.swap_head(zoo.adopt(model.eval(), example=X), 9)
    assert model.roi_heads.mask_predictor.mask_fcn_logits.out_channels == 9


@pytest.mark.sweep
def test_masks_of_a_hundred_boxes_follow_too():
    model = zoo.get("torchvision/maskrcnn_resnet50_fpn", weights=None, seed=0)
    model.transform.min_size = (300,)
    found = zoo.trace(model.eval(), [torch.zeros(3, 300, 300)]).anatomy.heads  # pasted box by box, in hundreds of ops
    assert [head.role for head in found] == ["main", "box", "mask"]


def test_a_detector_is_not_split():
    with pytest.raises(NotSupported, match="scores many places"):
        zoo.split(zoo.adopt(own().eval(), example=X))


def test_of_a_dense_detector_what_its_library_declares_holds():
    model = detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4).eval()
    zoo.adopt(model, example=[torch.rand(3, 32, 32)])
    assert {head.num_classes for head in zoo.anatomy(model).heads} == {4}
