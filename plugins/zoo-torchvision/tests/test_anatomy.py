"""Where the parts of the classifiers are: declared by the plugin, measured here on models that really run."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn
from zoo_torchvision.anatomy import anatomy
from zoo_torchvision.catalog import cards

from zoo_core.errors import AnatomyError

CARDS = {card.name: card for card in cards()}
CLASSIFIERS = [card.name for card in CARDS.values() if card.task == "classification"]

ONE_OF_EACH_CLASS = {
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "googlenet",
    "inception_v3",
    "maxvit_t",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_y_400mf",
    "quantized_googlenet",
    "quantized_inception_v3",
    "quantized_mobilenet_v2",
    "quantized_mobilenet_v3_large",
    "quantized_resnet18",
    "quantized_shufflenet_v2_x0_5",
    "resnet18",
    "resnet50",
    "shufflenet_v2_x0_5",
    "squeezenet1_0",
    "squeezenet1_1",
    "swin_t",
    "swin_v2_t",
    "vgg11_bn",
    "vit_b_32",
}

FIXED_SIZE = ("vit_", "maxvit_")
LARGE = {"alexnet", "maxvit_t", "vgg11_bn", "vit_b_32"}
"""Of which a part is run at each commit."""


def in_parts(name):
    mark = pytest.mark.sweep if name in LARGE else pytest.mark.full
    return name if name in ONE_OF_EACH_CLASS - LARGE else pytest.param(name, marks=mark)


every_model = pytest.mark.parametrize("name", [in_parts(name) for name in CLASSIFIERS])


def sizes(name):
    """Two heights: what a stage's map grows by between them gives its stride without what the borders add."""
    height = CARDS[name].input_size[1]
    return (height,) if name.startswith(FIXED_SIZE) else (height, height + 128)


def smallest(name):
    if name.startswith(FIXED_SIZE):
        return CARDS[name].input_size[1]
    return 96 if "inception" in name else 64


def outputs(model, paths, height):
    """The shape that each of these modules gives, from a forward pass that only computes shapes."""
    shapes = {}
    hooks = [
        model.get_submodule(path).register_forward_hook(
            lambda _module, _given, out, path=path: shapes.__setitem__(path, out.shape)
        )
        for path in paths
    ]
    model(torch.empty(2, 3, height, height, device="meta"))
    for hook in hooks:
        hook.remove()
    return [shapes[path] for path in paths]


@every_model
def test_the_split_gives_the_scores_of_the_whole_bit_for_bit(name, build, randomise):
    model = randomise(build(name))
    parts = anatomy(model)
    x = torch.randn(2, 3, smallest(name), smallest(name))
    with torch.inference_mode():
        whole = model(x)
        features = parts.features(model, x)
        pooled = parts.pool(model, features)
        scores = parts.classify(model, pooled) if parts.classify else model.get_submodule(parts.main.path)(pooled)
    assert whole.std() > 0
    assert torch.equal(scores, whole)
    assert pooled.shape[1] == parts.main.in_features
    assert pooled.ndim == {"linear": 2, "conv": 4}[parts.main.kind]


@every_model
def test_the_stages_have_the_channels_and_strides_that_a_forward_pass_shows(name, build_shapes):
    model = build_shapes(name)
    parts = anatomy(model)
    first, *second = [outputs(model, [stage.output for stage in parts.stages], height) for height in sizes(name)]
    for index, stage in enumerate(parts.stages):
        if parts.layout == "NLC":
            assert first[index] == (2, model.seq_length, stage.channels)
            assert stage.stride == model.patch_size
            continue
        channel, side = {"NCHW": (1, 2), "NHWC": (3, 1)}[parts.layout]
        assert first[index][channel] == stage.channels
        if second:
            assert 128 / (second[0][index][side] - first[index][side]) == stage.stride
        else:
            assert sizes(name)[0] / first[index][side] == stage.stride


@every_model
def test_each_head_is_a_layer_that_gives_the_class_scores(name, build_shapes):
    model = build_shapes(name, num_classes=9)
    for head in anatomy(model).heads:
        site = model.get_submodule(head.path)
        assert isinstance(site, {"linear": nn.Linear, "conv": nn.Conv2d}[head.kind])
        assert head.num_classes == 9
        assert tuple(site.weight.shape[:2]) == (9, head.in_features)
        for attribute in head.attributes:
            assert getattr(model, attribute) == 9


@every_model
def test_no_parameter_but_those_of_the_heads_depends_on_the_number_of_classes(name, build_shapes):
    models = [build_shapes(name, num_classes=n) for n in (9, 10)]
    shapes = [{key: value.shape for key, value in model.state_dict().items()} for model in models]
    differ = {key for key in shapes[0] if shapes[0][key] != shapes[1][key]}
    sites = tuple(f"{head.path}." for head in anatomy(build_shapes(name)).heads)
    assert differ
    assert all(key.startswith(sites) for key in differ)


@every_model
def test_the_stem_is_the_layer_that_sees_the_image(name, build_shapes):
    model = build_shapes(name)
    seen = []
    for path, module in model.named_modules():
        if not list(module.children()) and list(module.parameters()):
            module.register_forward_pre_hook(lambda _module, given, path=path: seen.append((path, given[0].shape[1])))
    model(torch.empty(2, 3, sizes(name)[0], sizes(name)[0], device="meta"))
    assert anatomy(model).stem == (seen[0][0],)
    assert seen[0][1] == 3


def test_auxiliary_heads_are_sites_only_where_the_model_has_them(build_shapes):
    assert [head.path for head in anatomy(build_shapes("googlenet")).heads] == ["fc", "aux1.fc2", "aux2.fc2"]
    assert [head.path for head in anatomy(build_shapes("googlenet", aux_logits=False)).heads] == ["fc"]
    assert [head.role for head in anatomy(build_shapes("inception_v3")).heads] == ["main", "aux"]
    assert [head.role for head in anatomy(build_shapes("inception_v3", aux_logits=False)).heads] == ["main"]


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_the_split_transforms_its_input_where_the_model_does(name, build, randomise):
    model = randomise(build(name, transform_input=True))
    parts = anatomy(model)
    x = torch.randn(2, 3, 96, 96)
    with torch.inference_mode():
        assert torch.equal(model.fc(parts.pool(model, parts.features(model, x))), model(x))


@pytest.mark.parametrize("name", ["alexnet", "resnet18", "vit_b_32", "squeezenet1_1"])
def test_the_widths_of_a_head_that_somebody_put_there_are_read_from_it(name, build):
    model = build(name)
    head = anatomy(model).main
    layer = nn.Conv2d(head.in_features, 16, 1) if head.kind == "conv" else nn.Linear(head.in_features, 16)
    last = nn.Conv2d(16, 5, 1) if head.kind == "conv" else nn.Linear(16, 5)
    model.set_submodule(head.path, nn.Sequential(nn.Dropout(), layer, nn.ReLU(), last))
    found = anatomy(model).main
    assert (found.path, found.in_features, found.num_classes) == (head.path, head.in_features, 5)


def test_strides_follow_a_resnet_that_was_built_with_dilation(build):
    model = build("resnet50", replace_stride_with_dilation=[False, True, True])
    assert [stage.stride for stage in anatomy(model).stages] == [4, 8, 8, 8]


@pytest.mark.parametrize("name", ["resnet18", "vit_b_32", "googlenet"])
def test_an_anatomy_can_be_pickled(name, build_shapes):
    parts = anatomy(build_shapes(name))
    assert pickle.loads(pickle.dumps(parts)).heads == parts.heads


def test_a_module_of_another_library_is_refused_with_the_classes_there_are():
    with pytest.raises(AnatomyError, match="Linear is not a model of torchvision") as caught:
        anatomy(nn.Linear(1, 1))
    assert "VisionTransformer" in str(caught.value)


def test_a_head_without_a_width_is_refused_by_its_path(build):
    model = build("resnet18")
    model.fc = nn.Identity()
    with pytest.raises(AnatomyError, match="head site 'fc' of ResNet"):
        anatomy(model)


def test_a_model_that_lost_its_layout_is_refused_with_the_reason(build):
    model = build("resnet18")
    del model.layer3
    with pytest.raises(AnatomyError, match="no longer has the layout of torchvision's ResNet") as caught:
        anatomy(model)
    assert "layer3" in str(caught.value)
