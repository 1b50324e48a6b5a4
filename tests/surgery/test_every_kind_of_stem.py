"""Other channels on real models, with every policy: what each promises of the stem holds of the scores."""

from __future__ import annotations

import pytest
import torch
from support.device_sample import model_under_test, scores

import zoo_core as zoo
from zoo_core.errors import NotSupported

MODELS = {
    "one convolution": "torchvision/resnet18",
    "a convolution that pads in its own way": "efficientnet_pytorch/efficientnet-b0",
    "a convolution without a norm": "pretrainedmodels/squeezenet1_1",
    "patches": "timm/test_vit",
    "two convolutions on one image": "timm/fastvit_t8",
    "two convolutions on two sizes of it": "timm/crossvit_9_240",
    "a convolution of each patch": "timm/tnt_s_legacy_patch16_224",
    "space to depth": "timm/tresnet_m",
    "a linear layer": "timm/naflexvit_base_patch16_parfac_gap",
    "frames": "torchvision/mc3_18",
    "two images": "torchvision/raft_small",
}
DEPTH = {
    "timm/crossvit_9_240": ((1, 1, 0),) * 3,
    "timm/naflexvit_base_patch16_parfac_gap": 2,
    "timm/tnt_s_legacy_patch16_224": 2,
}
"""As many blocks as show that an image arrives: what they do to it is not looked at here."""
CHANNELS = 4
LOUD = 1e3
"""What an untrained EfficientNet hears too."""


@pytest.fixture(params=MODELS.values(), ids=list(MODELS), scope="module")
def name(request):
    """All tests of one model follow on each other, so that it is built once."""
    pytest.importorskip(request.param.partition("/")[0])
    return request.param


@pytest.fixture
def model_and_x(name):
    """An untrained model, and the arguments of its forward."""
    return model_under_test(name, DEPTH.get(name))


def seen(model, x):
    with torch.no_grad():
        return scores(model, x)


def with_channels(x, of):
    """The same images, with ``of(channels of each)`` for channels."""
    return tuple(of(each) for each in x)


def grey(channels):
    return lambda x: x[:, :1].expand(-1, channels, *x.shape[2:])


def close(found, expected):
    return bool((found - expected).abs().max() <= 1e-3 * expected.std().clamp_min(1e-6))


def test_mean_sees_in_a_grey_image_what_was_seen_before(model_and_x):
    model, x = model_and_x
    before = seen(model, with_channels(x, grey(3)))
    zoo.adapt_stem(model, CHANNELS, policy="mean")
    assert close(seen(model, with_channels(x, grey(CHANNELS))), before)


def test_zero_sees_what_was_seen_before_whatever_the_new_channel_shows(model_and_x):
    model, x = model_and_x
    before = seen(model, x)
    zoo.adapt_stem(model, CHANNELS, policy="zero")
    assert close(seen(model, with_channels(x, lambda each: torch.cat([each, 9 * each[:, :1]], 1))), before)


def test_a_map_sees_in_the_image_with_its_channels_moved_what_was_seen_before(model_and_x):
    model, x = model_and_x
    before = seen(model, x)
    zoo.adapt_stem(model, CHANNELS, map={1: 0, 2: 1, 3: 2})
    unused = with_channels(x, lambda each: torch.cat([0 * each[:, :1], each], 1))
    assert close(seen(model, unused), before)


@pytest.mark.parametrize(
    "policy", ["mean", *(pytest.param(each, marks=pytest.mark.sweep) for each in ("repeat", "random"))]
)
def test_every_channel_is_heard(model_and_x, policy):
    model, x = model_and_x
    zoo.adapt_stem(model, CHANNELS, policy=policy, seed=0)
    images = with_channels(x, lambda each: torch.cat([each, each[:, :1]], 1))
    before = seen(model, images)
    for channel in range(CHANNELS):
        others = with_channels(images, lambda each, channel=channel: each.index_fill(1, torch.tensor(channel), LOUD))
        assert not torch.equal(seen(model, others), before), channel


def test_frequencies_of_colours_take_no_other_channels():
    pytest.importorskip("timm")
    model, _ = model_under_test("timm/csatv2")
    with pytest.raises(NotSupported):
        zoo.adapt_stem(model, CHANNELS)
