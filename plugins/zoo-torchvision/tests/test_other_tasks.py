"""Where the parts are of what is no image classifier: quantised, segmentation, detection, video and flow models."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from zoo_torchvision.anatomy import anatomy
from zoo_torchvision.catalog import cards

CARDS = {card.name: card for card in cards()}
QUICK = {
    "deeplabv3_mobilenet_v3_large",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "fcn_resnet50",
    "fcos_resnet50_fpn",
    "keypointrcnn_resnet50_fpn",
    "lraspp_mobilenet_v3_large",
    "maskrcnn_resnet50_fpn_v2",
    "r2plus1d_18",
    "raft_small",
    "retinanet_resnet50_fpn",
    "s3d",
    "ssdlite320_mobilenet_v3_large",
    "swin3d_t",
}
LARGE = {"mvit_v1_b", "ssd300_vgg16"}
"""Of which a part is run at each commit."""


def in_parts(name):
    mark = pytest.mark.sweep if name in LARGE else pytest.mark.full
    return name if name in QUICK else pytest.param(name, marks=mark)


def models_of(*tasks):
    names = [card.name for card in CARDS.values() if card.task in tasks]
    return pytest.mark.parametrize("name", [in_parts(name) for name in names])


def shape_of(output):
    return output[0].shape if isinstance(output, tuple) else output.shape


def measured(model, paths, run):
    shapes = {}
    hooks = [
        model.get_submodule(path).register_forward_hook(
            lambda _module, _given, out, path=path: shapes.__setitem__(path, shape_of(out))
        )
        for path in paths
    ]
    run()
    for hook in hooks:
        hook.remove()
    return [shapes[path] for path in paths]


def run_on_empty_images(card, model, side):
    images = torch.empty(2, 3, side, side, device="meta")
    if card.task in {"detection", "keypoints"}:
        return lambda: model.backbone(images)
    if card.task == "optical_flow":
        return lambda: model.feature_encoder(images)
    if card.task == "video":
        return lambda: model(torch.empty(2, 3, 16, side, side, device="meta"))
    return lambda: model(images)


def tensors(output):
    return output if isinstance(output, dict) else {"scores": output}


def paths_of_class_counts(model):
    """Path of every integer attribute of a module, with its value, but for the widths of layers."""
    return {
        f"{path}.{name}".lstrip("."): value
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if type(value) is int and name not in {"out_features", "out_channels"}
    }


@models_of("segmentation", "detection", "keypoints", "video")
def test_exactly_the_parameters_of_the_heads_depend_on_the_number_of_classes(name, build_shapes):
    models = [build_shapes(name, num_classes=n) for n in (9, 10)]
    shapes = [{key: value.shape for key, value in model.state_dict().items()} for model in models]
    differ = {key for key in shapes[0] if shapes[0][key] != shapes[1][key]}
    sites = [head.path for head in anatomy(build_shapes(name)).heads]
    assert differ == {f"{site}.{kind}" for site in sites for kind in ("weight", "bias")}


@models_of("segmentation", "detection", "keypoints", "video")
def test_the_heads_have_the_widths_and_the_attributes_that_follow_the_number_of_classes(name, build_shapes):
    model, other = build_shapes(name, num_classes=9), build_shapes(name, num_classes=10)
    heads = anatomy(model).heads
    for head in heads:
        site = model.get_submodule(head.path)
        assert isinstance(site, {"linear": nn.Linear, "conv": nn.Conv2d, "conv3d": nn.Conv3d}[head.kind])
        assert head.num_classes == 9
        assert tuple(site.weight.shape[:2]) == (9 * head.per_class, head.in_features)
    counts, others = paths_of_class_counts(model), paths_of_class_counts(other)
    assert {path for path in counts if counts[path] != others[path]} == {
        attribute for head in heads for attribute in head.attributes
    }
    assert [head.role for head in heads].count("main") == 1
    assert heads[0].role == "main"


@models_of("segmentation", "detection", "keypoints", "video", "optical_flow")
def test_the_stages_have_the_channels_and_strides_that_a_forward_pass_shows(name, build_shapes):
    card, model = CARDS[name], build_shapes(name)
    parts = anatomy(model)
    paths = [stage.output for stage in parts.stages]
    if name.startswith("mvit"):
        for stage, shape in zip(
            parts.stages, measured(model, paths, run_on_empty_images(card, model, 224)), strict=True
        ):
            assert shape == (2, 1 + 8 * (224 // stage.stride) ** 2, stage.channels)
        return
    small, large = (measured(model, paths, run_on_empty_images(card, model, side)) for side in (512, 1024))
    channel, side = {"NCHW": (1, -1), "NHWC": (-1, -2)}[parts.layout]
    assert parts.stages
    for stage, shape, larger in zip(parts.stages, small, large, strict=True):
        assert shape[channel] == stage.channels
        assert 512 / (larger[side] - shape[side]) == stage.stride


@models_of("segmentation", "video")
def test_the_split_gives_the_scores_of_the_whole_bit_for_bit(name, build, randomise):
    options = {"aux_loss": True} if name.startswith(("fcn", "deeplab")) else {}
    model = randomise(build(name, **options))
    parts = anatomy(model)
    large = name.startswith(("s3d", "mvit"))
    size = (16, 224, 224) if large else {"segmentation": (65, 97), "video": (4, 64, 64)}[CARDS[name].task]
    x = torch.randn(1 if large else 2, 3, *size)
    with torch.inference_mode():
        whole = tensors(model(x))
        pooled = parts.pool(model, parts.features(model, x))
        classify = parts.classify or (lambda model, pooled: model.get_submodule(parts.main.path)(pooled))
        ours = tensors(classify(model, pooled))
    assert ours.keys() == whole.keys()
    for key, scores in whole.items():
        assert scores.std() > 0
        assert torch.equal(ours[key], scores)


@models_of("segmentation", "detection", "keypoints", "video")
def test_the_stem_is_the_first_layer_that_sees_the_image(name, build_shapes):
    card, model = CARDS[name], build_shapes(name)
    seen = []
    for path, module in model.named_modules():
        if not list(module.children()) and list(module.parameters()):
            module.register_forward_pre_hook(lambda _module, given, path=path: seen.append((path, given[0].shape[1])))
    run_on_empty_images(card, model, 224 if name.startswith("mvit") else 512)()
    assert (seen[0],) == tuple((path, 3) for path in anatomy(model).stem)


def test_a_detector_has_a_mean_and_a_deviation_for_each_channel(build):
    model = build("ssdlite320_mobilenet_v3_large")
    lists = [model.get_submodule("transform").__dict__[path.split(".")[1]] for path in anatomy(model).per_channel]
    assert lists == [[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]


def test_raft_gives_the_motion_of_every_pixel(build):
    image = torch.rand(1, 3, 128, 128)
    with torch.inference_mode():
        flows = build("raft_small")(image, image)
    assert {flow.shape for flow in flows} == {(1, 2, 128, 128)}


def test_both_encoders_of_raft_see_an_image_and_it_has_no_head(build):
    model = build("raft_small")
    parts = anatomy(model)
    assert parts.heads == ()
    assert "no scores of classes" in parts.headless
    assert [model.get_submodule(path).in_channels for path in parts.stem] == [3, 3]


def test_the_auxiliary_head_of_a_segmentation_is_a_site_only_where_there_is_one(build_shapes):
    assert [head.path for head in anatomy(build_shapes("fcn_resnet50")).heads] == ["classifier.4"]
    both = anatomy(build_shapes("fcn_resnet50", aux_loss=True)).heads
    assert [(head.path, head.role) for head in both] == [("classifier.4", "main"), ("aux_classifier.4", "aux")]


def test_the_number_of_keypoints_changes_no_head_site(build_shapes):
    assert (
        anatomy(build_shapes("keypointrcnn_resnet50_fpn", num_keypoints=5)).heads
        == anatomy(build_shapes("keypointrcnn_resnet50_fpn")).heads
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.ao.quantization announces its own end
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "name",
    [
        name
        if name in {"quantized_resnet18", "quantized_mobilenet_v3_large"}
        else pytest.param(name, marks=pytest.mark.full)
        for name in CARDS
        if name.startswith("quantized_")
    ],
)
def test_a_quantised_model_has_no_head_and_says_what_to_change_instead(name, build):
    model = build(name, **CARDS[name].find().options)
    parts = anatomy(model)
    assert parts.heads == ()
    assert "change the float model" in parts.headless
    assert "quantize" in parts.headless
    assert model(torch.randn(1, *CARDS[name].input_size)).shape == (1, 1000)
