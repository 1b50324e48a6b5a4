"""Changing the number of input channels."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations

import zoo_core as zoo
from zoo_core import errors
from zoo_core.surgery.inputs import example_input
from zoo_core.surgery.metadata import Metadata, attach, metadata_of
from zoo_core.surgery.stem.filters import Order, order_of


def resnet18():
    return zoo.get("resnet18", weights=None, seed=0)


def glyphnet():
    return zoo.get("tiny/glyphnet").eval()


def told(model, *stem, **anatomy):
    """A model of the test's own that carries an anatomy."""
    attach(model, Metadata(zoo.Anatomy(heads=(), stem=stem, **anatomy), zoo.Receipt("own")))
    return model


def recipe(model, weight):
    """What people do by hand: a new convolution in the place of the first."""
    old = model.conv1
    model.conv1 = nn.Conv2d(
        weight.shape[1], old.out_channels, old.kernel_size, old.stride, old.padding, bias=old.bias is not None
    )
    with torch.no_grad():
        model.conv1.weight.copy_(weight)
    return model.eval()


def same(ours, by_hand, channels):
    x = torch.randn(2, channels, 64, 64)
    return torch.equal(ours.eval()(x), by_hand(x))


def test_mean_for_one_channel_equals_the_recipe_that_sums_the_filters():
    model = resnet18()
    by_hand = recipe(resnet18(), model.conv1.weight.sum(dim=1, keepdim=True))
    assert same(zoo.adapt_stem(model, 1, policy="mean"), by_hand, 1)


def test_mean_for_more_channels_equals_the_recipe_that_shares_the_sum_out():
    model = resnet18()
    by_hand = recipe(resnet18(), (model.conv1.weight.sum(dim=1, keepdim=True) / 4).expand(-1, 4, -1, -1))
    assert same(zoo.adapt_stem(model, 4, policy="mean"), by_hand, 4)


def test_repeat_equals_the_recipe_that_copies_the_filters_and_rescales_them():
    model = resnet18()
    old = model.conv1.weight.detach()
    copies = torch.cat([old, old[:, :1]], dim=1)
    by_hand = recipe(resnet18(), copies * (old.norm() / copies.norm()))
    assert same(zoo.adapt_stem(model, 4, policy="repeat"), by_hand, 4)


def test_zero_equals_the_recipe_that_appends_silent_filters():
    model = resnet18()
    by_hand = recipe(resnet18(), torch.cat([model.conv1.weight, torch.zeros(64, 1, 7, 7)], dim=1))
    assert same(zoo.adapt_stem(model, 4, policy="zero"), by_hand, 4)


def test_random_equals_the_recipe_that_makes_a_new_layer():
    model, by_hand = resnet18(), resnet18()
    torch.manual_seed(3)
    by_hand.conv1 = nn.Conv2d(4, 64, 7, stride=2, padding=3, bias=False)
    assert same(zoo.adapt_stem(model, 4, policy="random", seed=3), by_hand.eval(), 4)


def test_a_map_equals_the_recipe_that_picks_filters():
    model = resnet18()
    old = model.conv1.weight.detach()
    near_infrared = old[:, [0, 1]].mean(dim=1, keepdim=True)
    by_hand = recipe(resnet18(), torch.cat([old[:, [2, 1, 0]], near_infrared, torch.zeros(64, 1, 7, 7)], dim=1))
    assert same(zoo.adapt_stem(model, 5, map={0: 2, 1: 1, 2: 0, 3: (0, 1)}), by_hand, 5)


def test_the_default_is_the_mean_for_one_channel_and_repeat_for_more():
    for channels, policy in ((1, "mean"), (4, "repeat")):
        ours, named = zoo.adapt_stem(resnet18(), channels), zoo.adapt_stem(resnet18(), channels, policy=policy)
        assert torch.equal(ours.conv1.weight, named.conv1.weight)


def test_as_many_channels_as_there_are_changes_nothing():
    model = resnet18()
    weight = model.conv1.weight
    assert zoo.adapt_stem(model, 3).conv1.weight is weight
    assert metadata_of(model).edits == ()


def test_get_adapts_the_stem_and_keeps_the_rest_as_it_was_loaded():
    model = zoo.get("tiny/glyphnet", in_channels=4)
    receipt = zoo.receipt(model)
    assert receipt.names("adapted") == ("stem.0.weight",)
    assert receipt.counts["loaded"] == len(model.state_dict()) - 1
    assert torch.equal(model.stem[0].weight, zoo.adapt_stem(glyphnet(), 4).stem[0].weight)


def test_get_reads_a_file_of_ones_own_that_was_trained_on_other_channels(tmp_path):
    torch.save(zoo.get("tiny/glyphnet", in_channels=4, seed=1).state_dict(), tmp_path / "own.pth")
    model = zoo.get("tiny/glyphnet", weights=tmp_path / "own.pth", in_channels=4)
    assert zoo.receipt(model).counts == {"loaded": len(model.state_dict())}


def test_the_receipt_says_that_random_filters_were_initialized():
    model = zoo.adapt_stem(glyphnet(), 3, policy="random")
    assert zoo.receipt(model).names("initialized") == ("stem.0.weight",)


def test_the_seed_leaves_the_global_random_state_alone():
    state = torch.get_rng_state()
    zoo.adapt_stem(resnet18(), 4, policy="random", seed=1)
    assert torch.equal(torch.get_rng_state(), state)


# --- what the policies promise


CHANNELS = st.integers(1, 16)


@settings(max_examples=25, deadline=None)
@given(CHANNELS, st.integers(0, 2**31))
def test_repeat_keeps_the_size_of_responses_to_white_noise(channels, seed):
    layer = glyph_stem(seed)
    before = response(layer.stem, 3, seed)
    after = response(zoo.adapt_stem(layer, channels, policy="repeat").stem, channels, seed + 1)
    assert after == pytest.approx(before, rel=0.05)


@settings(max_examples=25, deadline=None)
@given(CHANNELS, st.integers(0, 2**31))
def test_mean_gives_the_same_response_to_an_image_whose_channels_are_equal(channels, seed):
    layer = glyph_stem(seed)
    grey = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(seed))
    before = layer.stem(grey.expand(-1, 3, -1, -1))
    after = zoo.adapt_stem(layer, channels, policy="mean").stem(grey.expand(-1, channels, -1, -1))
    torch.testing.assert_close(after, before)


@settings(max_examples=25, deadline=None)
@given(st.integers(4, 16), st.integers(0, 2**31))
def test_zero_gives_the_same_response_whatever_the_new_channels_show(channels, seed):
    layer = glyph_stem(seed)
    image = torch.randn(1, channels, 16, 16, generator=torch.Generator().manual_seed(seed))
    before = layer.stem(image[:, :3])
    torch.testing.assert_close(zoo.adapt_stem(layer, channels, policy="zero").stem(image), before)


@settings(max_examples=25, deadline=None)
@given(st.permutations([0, 1, 2]), st.integers(0, 2**31))
def test_a_map_that_permutes_gives_the_same_response_to_the_permuted_image(order, seed):
    layer = glyph_stem(seed)
    image = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    before = layer.stem(image)
    after = zoo.adapt_stem(layer, 3, map=dict(enumerate(order))).stem(image[:, order])
    torch.testing.assert_close(after, before)


def glyph_stem(seed):
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model = nn.Module()
        model.stem = nn.Conv2d(3, 16, 3, bias=False)
    return told(model, "stem")


@torch.no_grad()
def response(layer, channels, seed):
    noise = torch.randn(16, channels, 64, 64, generator=torch.Generator().manual_seed(seed))
    return layer(noise).std().item()


# --- stems of other kinds


class After(nn.Module):
    """A first layer after something that moves pixels."""

    def __init__(self, layer, move):
        super().__init__()
        self.layer, self.move = layer, move

    def forward(self, x):
        return self.layer(self.move(x))


def block_major(x):
    """Space-to-depth with the channels of one pixel together, as in TResNet."""
    n, c, h, w = x.shape
    return x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4).reshape(n, 4 * c, h // 2, w // 2)


def patches(x):
    """``[N, C, H, W]`` to patches ``[N, L, 16 C]`` of 4 by 4 pixels, the channels of one pixel together."""
    n, c, h, w = x.shape
    return x.view(n, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(n, -1, 16 * c)


def patches_by_channel(x):
    """The same with the pixels of one channel together, as a convolution would flatten them."""
    return patches(x).unflatten(2, (16, -1)).transpose(2, 3).flatten(2)


STEMS = {
    "pixel unshuffle": (lambda: nn.Conv2d(12, 8, 3), nn.PixelUnshuffle(2)),
    "space to depth": (lambda: nn.Conv2d(12, 8, 3), block_major),
    "linear patches": (lambda: nn.Linear(48, 8), patches),
    "linear patches by channel": (lambda: nn.Linear(48, 8), patches_by_channel),
    "grouped": (lambda: nn.Conv2d(3, 12, 3, groups=3), nn.Identity()),
    "grouped space to depth": (lambda: nn.Conv2d(12, 8, 3, groups=4), nn.PixelUnshuffle(2)),
}


@pytest.mark.parametrize("kind", STEMS)
@pytest.mark.parametrize("channels", [1, 4, 6])
def test_a_grey_image_means_what_it_meant(kind, channels):
    layer, move = STEMS[kind]
    model = told(After(layer(), move), "layer")
    grey = torch.randn(2, 1, 32, 32)
    before = model(grey.expand(-1, 3, -1, -1))
    after = zoo.adapt_stem(model, channels, policy="mean")(grey.expand(-1, channels, -1, -1))
    torch.testing.assert_close(after, before)


@pytest.mark.parametrize("kind", STEMS)
def test_a_map_moves_whole_channels(kind):
    layer, move = STEMS[kind]
    model = told(After(layer(), move), "layer")
    image = torch.randn(2, 4, 32, 32)
    before = model(image[:, [3, 0, 2]])
    after = zoo.adapt_stem(model, 4, map={3: 0, 0: 1, 2: 2})(image)
    torch.testing.assert_close(after, before)


def test_the_order_of_inputs_is_found_by_lighting_one_channel_at_a_time():
    for kind, order in {"pixel unshuffle": Order(3, 4), "space to depth": Order(3, 1)}.items():
        layer, move = STEMS[kind]
        model = After(layer(), move)
        assert order_of(model, model.layer, 3, (32, 32)) == order


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("kind", STEMS)
def test_an_image_to_try_a_model_with_has_the_channels_of_its_images(kind, device):
    layer, move = STEMS[kind]
    model = told(After(layer(), move), "layer")
    assert example_input(model.to(device)).shape == (1, 3, 224, 224)
    if device == "cpu":
        assert example_input(zoo.adapt_stem(model, 5)).shape == (1, 5, 224, 224)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_an_image_to_try_a_model_with_has_the_channels_that_its_constructor_was_given(device):
    assert example_input(told(nn.Sequential(nn.Conv2d(5, 4, 3)), "0").to(device)).shape == (1, 5, 224, 224)


def test_a_model_built_with_other_channels_is_adapted_from_those():
    model = zoo.get("tiny/glyphnet", weights=None, options={"in_channels": 2})
    assert zoo.adapt_stem(model, 5)(torch.zeros(1, 5, 32, 32)).shape == (1, 114)


def test_a_stem_can_be_adapted_twice():
    model = zoo.adapt_stem(zoo.adapt_stem(told(After(nn.Conv2d(12, 8, 3), block_major), "layer"), 1), 6)
    assert model(torch.zeros(1, 6, 32, 32)).shape == (1, 8, 14, 14)


def test_every_layer_that_sees_the_image_is_adapted():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.fine, self.coarse = nn.Conv2d(3, 4, 3, padding=1), nn.Sequential(nn.Identity(), nn.Conv2d(3, 4, 1))

        def forward(self, x):
            return self.fine(x) + self.coarse(x)

    model = zoo.adapt_stem(told(Twice(), "fine", "coarse"), 5)
    assert (model.fine.in_channels, model.coarse[1].in_channels) == (5, 5)
    assert model(torch.zeros(1, 5, 8, 8)).shape == (1, 4, 8, 8)


def test_filters_over_frames_are_adapted_too():
    model = told(nn.Sequential(nn.Conv3d(3, 4, 3)), "0")
    assert zoo.adapt_stem(model, 2)(torch.zeros(1, 2, 4, 8, 8)).shape == (1, 4, 2, 6, 6)


def test_numbers_that_a_model_keeps_for_each_channel_follow():
    model = told(nn.Sequential(nn.Conv2d(3, 4, 3)), "0", per_channel=("means",))
    model.means = [0.25, 0.5, 0.75]
    assert copy.deepcopy(zoo.adapt_stem(model, 1)).means == [0.5]
    other = told(nn.Sequential(nn.Conv2d(3, 4, 3)), "0", per_channel=("means",))
    other.means = [0.25, 0.5, 0.75]
    assert zoo.adapt_stem(other, 4, map={0: 2, 3: (0, 1)}).means == [0.75, 0.5, 0.5, 0.375]


# --- the input transform of GoogLeNet and Inception


@pytest.mark.parametrize(("name", "side"), [("googlenet", 64), ("inception_v3", 96)])
def test_the_input_transform_is_folded_into_the_filters_and_the_norm(name, side):
    options = {"transform_input": True, "aux_logits": False, "init_weights": False}
    model = zoo.get(name, weights=None, options=options, seed=0).eval()
    stem = zoo.anatomy(model).stem[0].rpartition(".")[0]
    image = torch.randn(1, 4, side, side)
    before = model.get_submodule(stem)(model._transform_input(image[:, :3]))
    zoo.adapt_stem(model, 4, policy="zero")
    after = model.get_submodule(stem)(image)
    assert model.transform_input is False
    # a padded image was padded after the transform, and is now padded before it
    torch.testing.assert_close(after[..., 2:-2, 2:-2], before[..., 2:-2, 2:-2], rtol=1e-4, atol=1e-5)
    assert model(image).shape == (1, 1000)


def test_a_model_without_the_transform_is_adapted_as_any_other():
    model = zoo.get("googlenet", weights=None, options={"aux_logits": False, "init_weights": False})
    mean = model.conv1.bn.running_mean.clone()
    zoo.adapt_stem(model, 1)
    assert torch.equal(model.conv1.bn.running_mean, mean)


# --- what stays as it was


def test_class_keys_and_everything_else_stay():
    model = resnet18()
    kinds, keys = (type(model), type(model.conv1)), list(model.state_dict())
    others = {name: tensor.data_ptr() for name, tensor in model.state_dict().items() if name != "conv1.weight"}
    zoo.adapt_stem(model, 4)
    assert (type(model), type(model.conv1)) == kinds
    assert list(model.state_dict()) == keys
    now = {name: tensor.data_ptr() for name, tensor in model.state_dict().items() if name != "conv1.weight"}
    assert now == others


def test_a_frozen_stem_stays_frozen():
    model = zoo.freeze(glyphnet(), "stem")
    assert not zoo.adapt_stem(model, 3).stem[0].weight.requires_grad


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_the_dtype_stays(dtype):
    assert zoo.adapt_stem(resnet18().to(dtype), 4).conv1.weight.dtype == dtype


@pytest.mark.parametrize("policy", ["mean", "repeat", "zero", "random"])
def test_the_device_stays(policy):
    assert zoo.adapt_stem(resnet18().to("meta"), 4, policy=policy).conv1.weight.device.type == "meta"


def test_the_memory_format_stays():
    weight = zoo.adapt_stem(resnet18().to(memory_format=torch.channels_last), 4).conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()


def test_deepcopy_and_pickle_keep_it():
    model = zoo.adapt_stem(glyphnet(), 3)
    x = torch.randn(2, 3, 32, 32)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(x), model(x))
        assert metadata_of(twin).edits == metadata_of(model).edits


def test_it_compiles_without_a_graph_break():
    model = zoo.adapt_stem(glyphnet(), 3)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(torch.compile(model, fullgraph=True, backend="eager")(x), model(x))


@pytest.mark.gpu
def test_new_filters_are_made_on_the_gpu():
    model = zoo.adapt_stem(resnet18().cuda(), 4, policy="random", seed=0)
    assert model(torch.zeros(1, 4, 64, 64, device="cuda")).shape == (1, 1000)


# --- bad input


@pytest.mark.parametrize("channels", [0, -1, True, 1.5, "4", None])
def test_an_impossible_number_of_channels_is_refused(channels):
    with pytest.raises(errors.UsageError, match="in_channels cannot be"):
        zoo.adapt_stem(glyphnet(), channels)


def test_get_refuses_it_before_it_fetches_anything():
    with pytest.raises(errors.UsageError, match="in_channels cannot be 0"):
        zoo.get("resnet18", in_channels=0)


def test_an_unknown_policy_names_the_close_match():
    with pytest.raises(errors.UsageError, match="did you mean 'repeat'"):
        zoo.adapt_stem(glyphnet(), 3, policy="repeated")


@pytest.mark.parametrize("wrong", [{}, {3: 0}, {0: 1}, {0: -1}, {0: ()}, {"0": 0}, {0: "0"}, {True: 0}, [0]])
def test_a_map_that_names_no_channel_is_refused(wrong):
    model = glyphnet()
    with pytest.raises(errors.UsageError, match="new channels from 0 to 2, each with an old one from 0 to 0"):
        zoo.adapt_stem(model, 3, map=wrong)
    assert model.stem[0].in_channels == 1


def test_a_map_and_a_policy_together_are_refused():
    with pytest.raises(errors.UsageError, match="policy and map"):
        zoo.adapt_stem(glyphnet(), 3, map={0: 0}, policy="zero")


def test_a_model_without_a_stem_is_refused():
    with pytest.raises(errors.NotSupported, match="names no stem"):
        zoo.adapt_stem(told(nn.Sequential(nn.Conv2d(3, 4, 3))), 1)


def test_a_stem_that_is_no_convolution_is_refused():
    with pytest.raises(errors.NotSupported, match="BatchNorm2d"):
        zoo.adapt_stem(told(nn.Sequential(nn.BatchNorm2d(3)), "0"), 1)


def test_a_weight_that_is_computed_is_refused():
    model = told(nn.Sequential(parametrizations.weight_norm(nn.Conv2d(3, 4, 3))), "0")
    with pytest.raises(errors.NotSupported, match="parametrizations"):
        zoo.adapt_stem(model, 1)


def test_inputs_that_no_number_of_channels_explains_are_refused():
    model = told(After(nn.Conv2d(6, 4, 1), torch.fft.ifftshift), "layer")  # 3, 4, 5, 0, 1, 2
    with pytest.raises(errors.NotSupported, match="comes from which channel"):
        zoo.adapt_stem(model, 1)


def test_a_layer_that_standardises_its_filters_cannot_have_silent_channels():
    class Standardised(nn.Conv2d):
        def forward(self, x):
            return self._conv_forward(x, self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True), self.bias)

    model = told(nn.Sequential(Standardised(3, 4, 3)), "0")
    with pytest.raises(errors.NotSupported, match="start silent"):
        zoo.adapt_stem(model, 4, policy="zero")
    assert zoo.adapt_stem(model, 4)[0].in_channels == 4


# --- every architecture


ARCHITECTURES = [
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3"),
    *("maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_y_400mf", "resnet18", "resnext50_32x4d"),
    *("shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11", "vit_b_32"),
]

OTHER_FAMILIES = [
    "tiny/glyphnet",
    "efficientnet_pytorch/efficientnet-b0",
    *(
        f"pretrainedmodels/{name}"
        for name in (
            *("alexnet", "bninception", "cafferesnet101", "densenet121", "dpn68", "fbresnet152", "inceptionresnetv2"),
            *("inceptionv3", "inceptionv4", "nasnetamobile", "polynet", "resnext101_32x4d", "se_resnext50_32x4d"),
            *("squeezenet1_1", "vgg11_bn", "xception"),
        )
    ),
]


@pytest.mark.full
@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("name", [*(f"torchvision/{name}" for name in ARCHITECTURES), *OTHER_FAMILIES])
def test_every_architecture_runs_on_other_channels(name, channels):
    family = name.partition("/")[0]
    if family != "tiny":
        pytest.importorskip(family)
    card = zoo.info(name)
    options = {"init_weights": False} if name.endswith(("googlenet", "inception_v3")) else None
    model = zoo.get(name, weights=None, in_channels=channels, options=options).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, channels, *card.input_size[1:])).shape[:2] == (1, card.num_classes)


@pytest.mark.full
@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("name", ["ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn"])
def test_detectors_normalize_as_many_channels(name, channels):
    model = zoo.get(name, weights=None, in_channels=channels).eval()
    assert len(model.transform.image_mean) == channels
    with torch.no_grad():
        assert set(model([torch.rand(channels, 96, 96)])[0]) == {"boxes", "labels", "scores"}
