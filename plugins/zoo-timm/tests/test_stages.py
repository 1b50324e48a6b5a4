"""The stages: their maps and their order, measured while models run; and the maps against those that timm gives."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
import warnings
from functools import lru_cache

import pytest
import timm
import torch
from zoo_timm.timm_stages import layout, stages

import zoo_core as zoo

FEW = {
    "coat_tiny",
    "crossvit_tiny_240",
    "efficientvim_m1",
    "hrnet_w18_small",
    "pit_ti_224",
    "selecsls42",
    "test_byobnet",
    "test_efficientnet",
    "test_resnet",
    "test_vit",
    "vgg11",
}

MAPS = {
    # One of each class whose maps are in tuples, tokens or an order of their own: what they are built with, the side
    # of the image, and the stages whose maps timm does not give.
    "coat_lite_tiny": ({}, 224, ()),
    "coat_tiny": (
        {},
        224,
        ("serial2", "serial3", "serial4", "parallel"),
    ),  # timm's come from after the parallel blocks
    "convit_tiny": ({}, 224, ()),
    "crossvit_tiny_240": ({}, 240, ()),
    "deepseek_vit_412m_enc": ({"embed_dim": 64, "depth": 2, "num_heads": 2}, 546, ()),
    "deit_tiny_distilled_patch16_224": ({}, 224, ()),
    "efficientformer_l1": ({}, 224, ()),
    "efficientvim_m1": ({}, 224, ()),
    "eva02_tiny_patch14_224": ({}, 224, ()),
    "gemma4_vit_167m": ({"embed_dim": 64, "depth": 2, "num_heads": 1}, 96, ()),
    "hiera_tiny_224": ({}, 224, ()),
    "hieradet_small": ({}, 256, ()),
    "hrnet_w18_small": ({}, 96, ("layer1", "stage2", "stage3", "stage4")),  # timm's are the scales alone
    "levit_128s": ({}, 224, ()),
    "levit_conv_128s": ({}, 224, ()),
    "mvitv2_tiny": ({}, 224, ()),
    "naflexvit_base_patch16_gap": ({"embed_dim": 48, "depth": 2, "num_heads": 2}, 96, ()),
    "pit_ti_224": ({}, 224, ()),
    "qwen3_vit_88m": ({"embed_dim": 64, "depth": 2, "num_heads": 2}, 96, ()),
    "qwen3_vit_88m_enc": ({"embed_dim": 64, "depth": 2, "num_heads": 2}, 96, ()),
    "samvit_base_patch16_224": ({"embed_dim": 48, "depth": 2, "num_heads": 2}, 224, ()),
    "selecsls42": ({}, 64, ()),
    "sequencer2d_s": ({}, 224, ()),
    "swin_tiny_patch4_window7_224": ({}, 224, ()),
    "test_mambaout": ({}, 96, ()),
    "test_vit": ({}, 160, ()),
    "tiny_vit_5m_224": ({}, 224, ()),
    "tnt_s_legacy_patch16_224": ({}, 224, ()),
    "twins_svt_small": ({}, 224, ()),
    "volo_d1_224": ({}, 224, ()),
    "xcit_nano_12_p16_224": ({}, 224, ()),
}
FEW_MAPS = {"efficientformer_l1", "efficientvim_m1", "levit_128s", "pit_ti_224", "selecsls42", "test_mambaout"}

NAMES = timm.list_models()
in_full = {False: (), True: pytest.mark.full}
every_model = pytest.mark.parametrize("name", [pytest.param(each, marks=in_full[each not in FEW]) for each in NAMES])


@lru_cache(maxsize=16)
def build(name, **options):
    """A model without storage, in the hands of zoo; not to be changed."""
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        return zoo.adopt(timm.create_model(name, **options).eval(), family="timm")


def sizes(model):
    """The size that a model was designed for, and one that is larger by the same number of steps of every stage."""
    height, width = model.default_cfg["input_size"][1:]
    step = 4 * math.lcm(*(stage.stride for stage in zoo.anatomy(model).stages))
    return (height, width), (height + step, width + step), step


def sides_of_maps(model, size):
    """Channels and sides of the map of each stage, for an image that only has a shape."""
    names = [stage.name for stage in zoo.anatomy(model).stages]
    with torch.no_grad():
        return [
            tuple(found.shape[1:]) for found in zoo.encoder(model, at=names)(torch.empty(1, 3, *size, device="meta"))
        ]


@every_model
def test_each_stage_has_the_channels_and_the_stride_that_a_forward_pass_shows(name):
    model = build(name)
    size, larger, step = sizes(model)
    found = sides_of_maps(model, size)
    try:
        grown = sides_of_maps(model, larger)
    except (RuntimeError, AssertionError, ValueError):  # how models say that they take one size only
        grown = None
    for index, stage in enumerate(zoo.anatomy(model).stages):
        channels, *sides = found[index]
        assert channels == stage.channels, stage
        if grown:
            steps = [large - small for large, small in zip(grown[index][1:], sides, strict=True)]
            assert steps == [step // stage.stride] * 2, stage
        else:  # a convolution without padding cuts a step off
            assert all(abs(side - pixels / stage.stride) <= 1 for side, pixels in zip(sides, size, strict=True)), stage


@every_model
def test_layers_run_in_the_order_of_their_depth(name):
    model = build(name)
    rate_of = {
        id(parameter): group["lr"]
        for group in zoo.param_groups(model, lr=1.0, layer_decay=0.9)
        for parameter in group["params"]
    }
    rates = {tensor: rate_of[id(parameter)] for tensor, parameter in model.named_parameters()}
    now = 0.0
    for path in run_order(model):
        own = [rates[f"{path}.{tensor}"] for tensor, _ in model.get_submodule(path).named_parameters()]
        assert min(own) == max(own)
        if beside_the_trunk(model, path):
            continue
        assert own[0] >= now, f"{path} runs after layers that are deeper"
        now = own[0]


def beside_the_trunk(model, path):
    """The norms of EfficientViM run between its stages, and what they give goes to the heads alone."""
    return type(model).__name__.startswith("EfficientViM") and path.startswith("norm.")


def run_order(model):
    """The layers with parameters, as they first run."""
    seen = {}
    hooks = [
        layer.register_forward_hook(lambda *_, path=path: seen.setdefault(path))
        for path, layer in model.named_modules()
        if not list(layer.children()) and list(layer.parameters())
    ]
    with torch.no_grad():
        model(torch.empty(1, 3, *model.default_cfg["input_size"][1:], device="meta"))
    for hook in hooks:
        hook.remove()
    return list(seen)


@every_model
def test_stages_have_names_and_modules_of_their_own(name):
    model = build(name)
    found = zoo.anatomy(model).stages
    assert found
    assert len({stage.name for stage in found}) == len(found)
    paths = sorted(path for stage in found for path in stage.modules)
    assert all(path in dict(model.named_modules(remove_duplicate=False)) for path in paths)
    assert not any(after == before or after.startswith(f"{before}.") for before, after in itertools.pairwise(paths))
    assert [stage.stride for stage in found] == sorted(stage.stride for stage in found)


@every_model
def test_a_front_runs_without_what_comes_behind_it(name):
    model = build(name)
    first = zoo.anatomy(model).stages[0]
    enc = zoo.encoder(model, at=[first.name])
    size = model.default_cfg["input_size"][1:]
    with torch.no_grad():
        (found,) = enc(torch.empty(1, 3, *size, device="meta"))
        zoo.truncate(model, after=first.name)(torch.empty(1, 3, *size, device="meta"))
    assert found.shape[1] == first.channels
    kept = {id(parameter) for parameter in enc.parameters()}
    later = [path for stage in zoo.anatomy(model).stages[1:] for path in stage.modules]
    assert kept.isdisjoint(id(each) for path in later for each in model.get_submodule(path).parameters())


@pytest.mark.parametrize("name", [pytest.param(each, marks=in_full[each not in FEW_MAPS]) for each in MAPS])
def test_the_maps_of_an_encoder_are_those_that_timm_gives(name):
    options, side, others = MAPS[name]
    torch.manual_seed(0)
    model = zoo.adopt(timm.create_model(name, **options).eval(), family="timm")
    x = torch.randn(1, 3, side, side)
    names = [stage.name for stage in zoo.anatomy(model).stages if stage.name not in others]
    with torch.no_grad():
        ours = zoo.encoder(model, at=names)(x)
        theirs = model.forward_intermediates(x, output_fmt="NCHW", intermediates_only=True)
    for each, found in zip(names, ours, strict=True):
        assert any(found.shape == other.shape and torch.equal(found, other) for other in theirs), each


def test_a_stage_can_be_pickled_with_the_way_its_map_is_read():
    found = stages(build("hiera_tiny_224"))
    assert pickle.loads(pickle.dumps(found))[0].read.args == (0,)


def test_an_option_changes_widths_and_strides():
    assert [stage.stride for stage in stages(build("test_resnet", output_stride=16))] == [4, 8, 16, 16]
    assert {stage.stride for stage in stages(build("test_vit", patch_size=8))} == {8}


def test_names_are_those_of_the_library_or_count_from_one():
    assert [stage.name for stage in stages(build("test_resnet"))] == ["layer1", "layer2", "layer3", "layer4"]
    assert [stage.name for stage in stages(build("regnety_002"))] == ["s1", "s2", "s3", "s4"]
    assert [stage.name for stage in stages(build("test_convnext"))] == ["stage1", "stage2", "stage3", "stage4"]
    assert stages(build("test_vit"))[-1].name == f"block{len(build('test_vit').blocks)}"


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("test_resnet", {}, "NCHW"),
        ("test_mambaout", {}, "NHWC"),
        ("test_vit", {}, "NLC"),
        ("levit_128s", {}, "NLC"),
        ("levit_conv_128s", {}, "NCHW"),
    ],
)
def test_the_layout_is_that_of_the_maps(name, options, expected):
    assert layout(build(name, **options)) == expected


def test_a_front_stops_at_a_stage_that_gives_several_things():
    model = build("pit_ti_224")
    found = zoo.truncate(model, after="transformer2")(torch.empty(1, 3, 224, 224, device="meta"))
    assert found.shape[1] == zoo.anatomy(model).stages[1].channels


def test_freezing_by_depth_reaches_patches_that_were_registered_apart():
    model = zoo.freeze(copy.deepcopy(build("twins_svt_small")), stages=2)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert "patch_embeds.1.proj.weight" in frozen
    assert "pos_block.1.proj.0.weight" in frozen
    assert not any(name.startswith(("patch_embeds.2", "blocks.2", "pos_block.2")) for name in frozen)
