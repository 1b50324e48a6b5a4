"""The promise of each policy, measured on the responses of stems that standardize their weight."""

from __future__ import annotations

import copy

import pytest
import torch

import zoo_core as zoo
from zoo_core.errors import NotSupported

STANDARDIZED = ["timm/test_nfnet", "timm/nf_regnet_b0"]
EVERY_KIND = ["timm/dm_nfnet_f0", "timm/nfnet_l0", "timm/eca_nfnet_l0", "timm/nf_resnet26", "timm/resnetv2_50x1_bit"]
EVERY_KIND += ["timm/vit_tiny_r_s16_p8_224", "timm/skresnet18", "timm/test_resnet", "timm/tf_efficientnet_b0"]


def stem_of(model):
    return model.get_submodule(zoo.anatomy(model).stem[0])


def of_grey(stem, grey, channels):
    with torch.no_grad():
        return stem(grey.expand(-1, channels, -1, -1).contiguous())


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
@pytest.mark.parametrize("name", STANDARDIZED)
def test_a_grey_image_gives_the_same_response_under_mean(name, channels):
    model, grey = zoo.get(name, weights=None, seed=0).eval(), torch.rand(2, 1, 64, 64)
    expected = of_grey(stem_of(model), grey, 3)
    found = of_grey(stem_of(zoo.adapt_stem(copy.deepcopy(model), channels, policy="mean")), grey, channels)
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * expected.abs().max())


@pytest.mark.parametrize("channels", [1, 4, 6])
@pytest.mark.parametrize("name", STANDARDIZED)
def test_white_noise_gives_responses_of_the_same_size_under_repeat(name, channels):
    model, generator = zoo.get(name, weights=None, seed=0).eval(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        expected = stem_of(model)(torch.randn(8, 3, 64, 64, generator=generator)).std()
        adapted = zoo.adapt_stem(copy.deepcopy(model), channels, policy="repeat")
        found = stem_of(adapted)(torch.randn(8, channels, 64, 64, generator=generator)).std()
    assert found / expected == pytest.approx(1, abs=0.05)


def test_a_stem_without_a_gain_is_refused_with_advice_that_works():
    model = zoo.get("timm/vit_tiny_r_s16_p8_224", weights=None, seed=0)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(NotSupported, match="no gain") as error:
        zoo.adapt_stem(model, 4)
    assert 'policy="random"' in str(error.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert stem_of(zoo.adapt_stem(model, 4, policy="random")).in_channels == 4


def test_a_saved_model_is_loaded_with_its_gain(tmp_path):
    model = zoo.adapt_stem(zoo.get("timm/test_nfnet", weights=None, seed=0), 4).eval()
    x = torch.randn(1, 4, 64, 64)
    assert torch.equal(zoo.load(zoo.save(model, tmp_path / "save"))(x), model(x))


@pytest.mark.full
@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("name", EVERY_KIND)
def test_every_kind_of_stem_keeps_its_promise_or_refuses(name, channels):
    model, grey = zoo.get(name, weights=None, seed=0).eval(), torch.rand(1, 1, 64, 64)
    expected = of_grey(stem_of(model), grey, 3)
    try:
        adapted = zoo.adapt_stem(copy.deepcopy(model), channels, policy="mean")
    except NotSupported:
        return
    found = of_grey(stem_of(adapted), grey, channels)
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * expected.abs().max())
