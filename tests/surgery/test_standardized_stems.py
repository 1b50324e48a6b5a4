"""The promise of each policy, measured on the responses of stems that standardize their weight."""

from __future__ import annotations

import copy
import itertools
import re

import pytest
import torch

import zoo_core as zoo
from zoo_core.errors import NotSupported

STANDARDIZED = ["timm/test_nfnet", "timm/nf_regnet_b0"]
NAMES = ["dm_nfnet_f", "eca_nfnet_l", "nf_ecaresnet", "nf_regnet_b", "nf_resnet", "nf_seresnet", "nfnet_", "test_nfnet"]
NAMES += ["resnetv2_*_bit", "vit_*_r26_s", "vit_*_r50_s", "vit_*_r_s"]


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


@pytest.mark.parametrize("arguments", [{"policy": "zero"}, {"map": {0: 1, 1: 0}}])
def test_filters_that_lose_a_channel_are_refused_and_an_order_is_not(arguments):
    model, x = zoo.get("timm/test_nfnet", weights=None, seed=0).eval(), torch.randn(1, 3, 64, 64)
    with pytest.raises(NotSupported, match="channel by channel") as error:
        zoo.adapt_stem(model, 2, **arguments)
    follow_the_hint(error.value, model, 2)
    turned = zoo.adapt_stem(copy.deepcopy(model), 3, map={0: 2, 1: 1, 2: 0})
    assert torch.allclose(stem_of(turned)(x.flip(1)), stem_of(model)(x), atol=1e-4)


def test_a_saved_model_is_loaded_with_its_gain(tmp_path):
    model = zoo.adapt_stem(zoo.get("timm/test_nfnet", weights=None, seed=0), 4).eval()
    x = torch.randn(1, 4, 64, 64)
    assert torch.equal(zoo.load(zoo.save(model, tmp_path / "save"))(x), model(x))


def standardized():
    """The models of timm whose first convolution standardizes its weight; without values but in that layer."""
    for name in sorted({each for pattern in NAMES for each in zoo.list(f"timm/{pattern}*")}):
        model = zoo.get(name, weights=None, device="meta").eval()
        stem = stem_of(model).to_empty(device="cpu")
        with torch.no_grad():
            for key, parameter in stem.named_parameters():
                parameter.uniform_(0.5, 1.5) if key == "gain" else parameter.normal_(0.05, 0.1)
        yield name, model


def responses(stem, x, policy, channels):
    """To the input that a policy makes a promise about: a grey image, noise, or nothing but the first channel."""
    silent = torch.zeros_like(x[:, 1:channels])
    images = {"mean": x[:, :1].expand(-1, channels, -1, -1), "repeat": x[:, :channels]}
    with torch.no_grad():
        return stem(images.get(policy, torch.cat([x[:, :1], silent], 1)).contiguous())


def follow_the_hint(error, model, channels):
    """Do what the error says: take another policy."""
    policy = re.search(r'policy="(\w+)"', str(error)).group(1)
    assert stem_of(zoo.adapt_stem(copy.deepcopy(model), channels, policy=policy)).weight.shape[1] == channels


@pytest.mark.full
@pytest.mark.timeout(1200)
def test_all_stems_that_standardize_keep_the_promise_of_each_policy_or_refuse():
    torch.manual_seed(0)
    x, off, names = torch.randn(4, 6, 64, 64), {}, set()
    for name, model in standardized():
        names.add(name)
        for policy, channels in itertools.product(["mean", "repeat", "zero"], [1, 2, 4, 6]):
            try:
                stem = stem_of(zoo.adapt_stem(copy.deepcopy(model), channels, policy=policy))
            except NotSupported as error:
                follow_the_hint(error, model, channels)
                continue
            found, expected = responses(stem, x, policy, channels), responses(stem_of(model), x, policy, 3)
            close = [found.std(), expected.std(), 0.1] if policy == "repeat" else [found, expected, 1e-3]
            if not torch.allclose(close[0], close[1], rtol=close[2], atol=1e-3 * expected.abs().max()):
                off[name, policy, channels] = (found - expected).abs().max() if policy != "repeat" else close[:2]
    assert off == {}
    assert len(names) == 51
