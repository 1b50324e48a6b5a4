"""Another number of keypoints for a keypoint detector."""

from __future__ import annotations

import pytest
import torch
import torchvision

import zoo_core as zoo
from zoo_core import errors
from zoo_core.build.skip_init import without_values

NAME = "keypointrcnn_resnet50_fpn"
SITE = "roi_heads.keypoint_predictor.kps_score_lowres"


def untrained(**options):
    return zoo.get(NAME, weights=None, options={"weights_backbone": None}, **options)


def test_only_the_keypoint_layer_differs_from_what_the_library_builds():
    with without_values():
        theirs = torchvision.models.get_model(NAME, weights=None, weights_backbone=None, num_keypoints=5)
    ours = untrained(num_keypoints=5)
    shapes = [{name: t.shape for name, t in model.state_dict().items()} for model in (ours, theirs)]
    assert shapes[0] == shapes[1]
    assert zoo.receipt(ours).tensors[f"{SITE}.weight"] == "initialized"


def test_a_trained_detector_keeps_everything_else(tmp_path):
    trained = torchvision.models.get_model(NAME, weights=None, weights_backbone=None)
    torch.save(trained.state_dict(), tmp_path / "mine.pth")
    model = zoo.get(NAME, weights=tmp_path / "mine.pth", options={"weights_backbone": None}, num_keypoints=5)
    assert zoo.receipt(model).names("initialized") == (f"{SITE}.weight", f"{SITE}.bias")
    assert torch.equal(model.backbone.fpn.layer_blocks[0][0].weight, trained.backbone.fpn.layer_blocks[0][0].weight)


def test_the_same_number_keeps_the_trained_layer():
    assert zoo.anatomy(untrained(num_keypoints=17)).keypoints == SITE


def test_the_seed_makes_it_reproducible():
    first, second = (zoo.swap_keypoints(untrained(), 5, seed=1).get_submodule(SITE).weight for _ in range(2))
    assert torch.equal(first, second)


def test_freezing_can_say_the_pyramid_and_the_end_of_the_keypoint_head():
    model = zoo.freeze(untrained(num_keypoints=5), "all")
    zoo.unfreeze(model, "backbone.fpn", "roi_heads.keypoint_head[-2:]", "roi_heads.keypoint_predictor")
    trained = {name.rsplit(".", 1)[0] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert SITE in trained
    assert any(name.startswith("backbone.fpn.") for name in trained)
    assert not any(name.startswith("backbone.body.") for name in trained)


def test_a_model_without_keypoints_says_so():
    with pytest.raises(errors.NotSupported, match="finds no keypoints"):
        zoo.get("resnet18", weights=None, num_keypoints=5)


@pytest.mark.parametrize("count", [0, "5", True])
def test_an_impossible_number_is_refused(count):
    with pytest.raises(errors.UsageError, match="num_keypoints"):
        zoo.get(NAME, num_keypoints=count)
