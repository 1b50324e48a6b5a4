"""The stems: what depends on the number of channels when timm itself builds a model with other ones."""

from __future__ import annotations

import warnings

import pytest
import timm
import torch
from timm.utils import reparameterize_model
from torch import nn
from zoo_timm.stems import stem

import zoo_core as zoo
from zoo_core import errors
from zoo_core.build.skip_init import without_values

FEW = {
    "crossvit_9_dagger_240",
    "fastvit_t8",
    "levit_128s",
    "repvgg_a0",
    "test_efficientnet",
    "test_resnet",
    "test_vit",
    "tnt_s_legacy_patch16_224",
    "tresnet_m",
    "vit_tiny_r_s16_p8_224",
}

FREQUENCIES = {
    # They turn red, green and blue into brightness and two colours, and take no others, whatever in_chans says.
    "csatv2",
    "csatv2_21m",
}

NAMES = timm.list_models()
in_full = {False: (), True: pytest.mark.full}


def build(name, **options):
    """A model without values, or without any storage where no layer has to be watched while the model runs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.device("meta"):
            return timm.create_model(name, **options).eval()


def watched(name):
    """A model of which surgery can run the front; its weights are whatever was in the memory."""
    with without_values():
        return timm.create_model(name).eval()


def shapes(model):
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def counts(model):
    """All that the modules say about the number of channels they are given."""
    names = ("in_chans", "in_channels", "in_features", "groups")
    return {
        (path, name): vars(module)[name]
        for path, module in model.named_modules()
        for name in names
        if name in vars(module)
    }


@pytest.mark.parametrize("name", [pytest.param(name, marks=in_full[name not in FEW]) for name in NAMES])
def test_the_stem_is_all_that_depends_on_the_number_of_channels(name):
    model = build(name)
    three, five = shapes(model), shapes(build(name, in_chans=5))
    differ = {key for key in three.keys() | five.keys() if three.get(key) != five.get(key)}
    if name in FREQUENCIES:
        assert not differ
        assert [path.rpartition(".")[2] for path in stem(model)] == ["conv_y", "conv_cb", "conv_cr"]
    else:
        assert differ == {f"{path}.weight" for path in stem(model)}


@pytest.mark.parametrize(
    ("name", "channels"),
    [pytest.param(name, n, marks=in_full[name not in FEW or n == 1]) for name in NAMES for n in (4, 1)],
)
def test_a_stem_for_other_channels_is_that_of_timm_and_runs(name, channels):
    model = build(name)
    if name in FREQUENCIES:
        with pytest.raises(errors.NotSupported, match="which channel"):
            zoo.adapt_stem(zoo.adopt(watched(name), family="timm"), channels)
        return
    if any(getattr(model.get_submodule(path), "in_channels", 0) != 3 for path in stem(model)):
        model = watched(name)
    zoo.adapt_stem(zoo.adopt(model, family="timm", name=name), channels)
    theirs = build(name, in_chans=channels)
    assert shapes(model) == shapes(theirs)
    assert counts(model) == counts(theirs)
    size = theirs.default_cfg["input_size"][1:]
    with torch.no_grad():
        assert len(model.to("meta")(torch.empty(1, channels, *size, device="meta"))) == 1


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("tresnet_m", {}),
        ("naflexvit_base_patch16_gap", {"embed_dim": 48, "depth": 1, "num_heads": 2}),
        ("gemma4_vit_167m", {"embed_dim": 64, "depth": 1, "num_heads": 1}),
        ("crossvit_9_240", {}),
        ("fastvit_t8", {}),
    ],
)
def test_an_image_with_its_channels_in_another_order_means_the_same_to_a_stem_that_was_told(name, options):
    torch.manual_seed(0)
    model = zoo.adopt(timm.create_model(name, **options).eval(), family="timm")
    size = {"tresnet_m": 64, "crossvit_9_240": 240}.get(name, 96)
    x = torch.randn(1, 3, size, size)
    with torch.no_grad():
        before = model(x)
        after = zoo.adapt_stem(model, 3, map={0: 2, 1: 0, 2: 1})(x[:, [2, 0, 1]])
    assert before.std() > 0
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4)


def test_frequencies_of_other_colours_are_refused_with_the_reason():
    model = zoo.adopt(watched("csatv2"), family="timm")
    with pytest.raises(errors.NotSupported, match="no number of channels explains its 64 inputs"):
        zoo.adapt_stem(model, 1)


def test_branches_that_were_merged_are_one_stem():
    model = reparameterize_model(timm.create_model("fastvit_t8"))
    assert stem(model) == ("stem.0.reparam_conv",)


def test_an_option_moves_the_stem():
    assert stem(build("resnet18")) == ("conv1",)
    assert stem(build("resnet18", stem_type="deep")) == ("conv1.0",)


def test_a_wide_image_does_not_make_the_second_layer_one_of_the_stem():
    assert stem(build("repvgg_a0", in_chans=48)) == ("stem.conv_kxk.conv", "stem.conv_1x1.conv")
    assert stem(build("resnet18", in_chans=64)) == ("conv1",)


def test_a_model_without_any_layer_has_no_stem():
    assert stem(nn.Identity()) == ()
