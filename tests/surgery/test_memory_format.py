"""What comes into a model lies in memory as what was there: with its channels last, in images and in volumes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import zoo_core as zoo
from zoo_core.build.place import place

LAST = torch.channels_last
VIDEO = torch.channels_last_3d


def lies(weight, expected):
    """Whether a weight lies so by its strides: 1x1 ones count as contiguous in every format."""
    return weight.stride() == torch.empty(weight.shape, memory_format=expected).stride()


def net(name="resnet18", *, last=True, **options):
    return zoo.get(name, weights=None, channels_last=last, **options)


@pytest.fixture
def video():
    return net("s3d")


def test_the_head_of_a_video_model_lies_with_its_channels_last(video):
    assert lies(zoo.swap_head(video, 9).classifier[1].weight, VIDEO)


def test_a_head_of_layers_for_a_video_model_lies_with_its_channels_last(video):
    head = zoo.swap_head(video, zoo.mlp_head(9, hidden=(8,), batch_norm=True)).classifier[1]
    assert [lies(layer.weight, VIDEO) for layer in head if isinstance(layer, nn.Conv3d)] == [True, True]


def test_a_video_model_comes_back_with_its_channels_last(video, tmp_path):
    folder = zoo.save(video, tmp_path / "saved")
    strides = {name: each.stride() for name, each in video.named_parameters()}
    assert {name: each.stride() for name, each in zoo.load(folder).named_parameters()} == strides


HEADS = {
    "a number": 9,
    "a description": zoo.mlp_head(9, hidden=(8,)),
    "a module": nn.Sequential(nn.Conv2d(512, 9, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
}


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_a_convolution_in_the_place_of_a_linear_layer_lies_as_the_model_does(head, last):
    model = zoo.swap_head(net(last=last), copy.deepcopy(head), at="features")
    filters = [each for each in model.fc.parameters() if each.dim() == 4]
    assert filters
    assert all(lies(each, LAST) is last for each in filters)


def test_a_stem_of_more_channels_than_one_lies_as_the_model_does():
    assert lies(zoo.adapt_stem(net("tiny/glyphnet"), 3).stem[0].weight, LAST)
    assert not lies(zoo.adapt_stem(net("tiny/glyphnet", last=False), 3).stem[0].weight, LAST)


def test_keypoint_layers_lie_as_the_old_one_did():
    model = net("keypointrcnn_resnet50_fpn", options={"weights_backbone": None})
    weight = zoo.swap_keypoints(model, 5).roi_heads.keypoint_predictor.kps_score_lowres.weight
    assert lies(weight, LAST)


def test_a_head_that_does_not_know_its_shape_yet_is_fitted_all_the_same():
    model = zoo.swap_head(net("tiny/glyphnet"), nn.LazyLinear(9))
    assert model.fc.weight.shape == (9, 64)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["resnet18", "s3d"])
def test_a_model_on_a_gpu_lies_as_torch_lays_it_out(name, dtype):
    there = net(name, device="cuda", dtype=dtype, seed=0)
    here = place(net(name, last=False, dtype=dtype, seed=0), channels_last=True)
    assert all(parameter.device.type == "cuda" for parameter in there.parameters())
    for (path, ours), theirs in zip(there.named_parameters(), here.parameters(), strict=True):
        assert ours.stride() == theirs.stride(), path
        assert torch.equal(ours.cpu(), theirs), path
