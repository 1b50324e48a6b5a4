"""Encoders: feature maps of several sizes, without pool and classifier, dilated where that was requested."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from support.architectures import every_architecture, every_layout, model_under_test
from torch import nn
from torchvision.models import resnet50
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.mobilenetv3 import MobileNetV3, _mobilenet_v3_conf

import zoo_core as zoo
from zoo_core import errors
from zoo_core.surgery.features.encoder import as_map
from zoo_core.surgery.metadata import Metadata, attach
from zoo_core.surgery.receipt import Receipt

X = torch.randn(1, 3, 64, 64)
LAYERS = ("layer1", "layer2", "layer3", "layer4")


def resnet18():
    return zoo.get("resnet18", weights=None, seed=0).eval()


def test_it_equals_the_recipe_by_hand():
    model = zoo.freeze(resnet18(), stages=1)
    enc, by_hand = zoo.encoder(model), IntermediateLayerGetter(model, {name: name for name in LAYERS})
    assert all(torch.equal(f, g) for f, g in zip(enc(X), by_hand(X).values(), strict=True))
    assert [p.requires_grad for p in enc.parameters()] == [p.requires_grad for p in by_hand.parameters()]


@pytest.mark.parametrize(("output_stride", "replace"), [(16, (False, False, True)), (8, (False, True, True))])
def test_a_dilated_resnet_is_that_of_torchvision(output_stride, replace):
    model = zoo.get("resnet50", weights=None, seed=0).eval()
    theirs = resnet50(replace_stride_with_dilation=replace).eval()
    theirs.load_state_dict(model.state_dict())
    enc = zoo.encoder(model, output_stride=output_stride, at=LAYERS)
    by_hand = IntermediateLayerGetter(theirs, {name: name for name in LAYERS})
    assert all(torch.equal(f, g) for f, g in zip(enc(X), by_hand(X).values(), strict=True))


@pytest.mark.parametrize(
    ("name", "blocks"), [("mobilenet_v3_large", (1, 3, 6, 12, 16)), ("mobilenet_v3_small", (0, 1, 3, 8, 12))]
)
def test_a_dilated_mobilenet_v3_is_that_of_torchvision(name, blocks):
    model = zoo.get(name, weights=None, seed=0).eval()
    theirs = MobileNetV3(*_mobilenet_v3_conf(name, dilated=True)).eval()
    theirs.load_state_dict(model.state_dict())
    expected, x = [], X
    for block in theirs.features:
        x = block(x)
        expected.append(x)
    enc = zoo.encoder(model, output_stride=16)
    assert all(torch.equal(f, expected[block]) for f, block in zip(enc(X), blocks, strict=True))
    assert enc.strides == (2, 4, 8, 16, 16)


@pytest.mark.parametrize(
    ("output_stride", "strides"), [(None, (2, 4, 8, 16, 32)), (16, (2, 4, 8, 16, 16)), (8, (2, 4, 8, 8, 8))]
)
def test_the_maps_are_those_of_the_same_stages_whatever_the_output_stride(output_stride, strides):
    model = zoo.get("mobilenet_v3_large", weights=None, seed=0).eval()
    enc = zoo.encoder(model, output_stride=output_stride)
    assert (enc.channels, enc.strides) == ((16, 24, 40, 112, 960), strides)
    assert [f.shape[-1] for f in enc(X)] == [64 // stride for stride in strides]


@pytest.mark.parametrize("output_stride", [16, 8])
@pytest.mark.parametrize(
    "name",
    [
        "torchvision/resnet18",
        "torchvision/regnet_x_400mf",
        "torchvision/mobilenet_v2",
        "torchvision/mnasnet0_5",
        "torchvision/shufflenet_v2_x0_5",
        "timm/test_convnext",
    ],
)
def test_every_output_of_the_original_is_among_those_of_the_dilated_network(name, output_stride):
    model, x = model_under_test(name)
    plain = zoo.encoder(model)
    dilated = zoo.encoder(model, output_stride=output_stride, at=plain.names)
    with torch.no_grad():
        for f, g, stride, kept in zip(plain(x), dilated(x), plain.strides, dilated.strides, strict=True):
            assert kept == min(stride, output_stride)
            torch.testing.assert_close(g[..., :: stride // kept, :: stride // kept], f, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["torchvision/efficientnet_b0", "efficientnet_pytorch/efficientnet-b0"])
def test_squeeze_and_excitation_does_not_hinder_dilation(name):
    model, _ = model_under_test(name)
    with torch.no_grad():
        maps = zoo.encoder(model, output_stride=16)(torch.randn(1, 3, 224, 224))
    assert maps[-1].shape[-2:] == (14, 14)


@every_architecture
def test_on_any_family_channels_and_strides_are_those_of_the_maps(name):
    model, x = model_under_test(name)
    if not zoo.anatomy(model).stages:
        pytest.skip("no stages")
    enc = zoo.encoder(model)
    with torch.no_grad():
        maps = enc(x)
        again = pickle.loads(pickle.dumps(copy.deepcopy(enc)))(x)
    assert [f.shape[1] for f in maps] == list(enc.channels)
    assert sorted(set(enc.strides)) == list(enc.strides)
    # Convolutions without padding cut up to four steps off.
    assert all(f.dim() == 4 and abs(x.shape[-1] / s - f.shape[-1]) <= 4 for f, s in zip(maps, enc.strides, strict=True))
    assert all(torch.equal(f, g) for f, g in zip(maps, again, strict=True))


@every_architecture
def test_on_any_family_an_output_stride_is_kept_or_refused_with_the_reason(name):
    model, x = model_under_test(name)
    if not zoo.anatomy(model).stages:
        pytest.skip("no stages")
    try:
        enc = zoo.encoder(model, output_stride=16)
    except errors.NotSupported as error:
        assert "likely cause" in str(error)  # noqa: PT017 - one of two good outcomes
        assert "RegNet" in str(error)  # noqa: PT017
        return
    assert enc.strides[-1] <= 16
    with torch.no_grad():
        assert abs(x.shape[-1] / enc.strides[-1] - enc(x)[-1].shape[-1]) <= 2


@pytest.mark.parametrize(("output_stride", "strides"), [(None, (2, 4, 8, 32)), (16, (2, 4, 8, 16)), (8, (2, 4, 8, 8))])
def test_modules_can_be_asked_for_by_their_paths(output_stride, strides):
    paths = ["features.1", "features.3", "features.6", "features.16"]
    model = zoo.get("mobilenet_v3_large", weights=None, seed=0).eval()
    enc = zoo.encoder(model, at=paths, output_stride=output_stride)
    assert (enc.names, enc.channels, enc.strides) == (tuple(paths), (16, 24, 40, 960), strides)
    stages = zoo.encoder(model, at=["stage1", "stage2", "stage3", "stage5"], output_stride=output_stride)
    assert all(torch.equal(f, g) for f, g in zip(enc(X), stages(X), strict=True))


@pytest.mark.parametrize("at", [["layer2", "layer3.0.conv1"], ["layer3.0.conv1", "layer3.0"], ["maxpool"]])
def test_modules_inside_and_outside_stages_equal_hooks(at):
    model = resnet18()
    enc, expected = zoo.encoder(model, at=at), zoo.features(model, X, at=at)
    assert all(torch.equal(f, expected[path]) for path, f in zip(at, enc(X), strict=True))
    assert [(f.shape[1], 64 // f.shape[-1]) for f in enc(X)] == list(zip(enc.channels, enc.strides, strict=True))
    assert not any(name.startswith("body.layer4") for name in enc.state_dict())
    assert all(torch.equal(f, g) for f, g in zip(copy.deepcopy(enc)(X), enc(X), strict=True))


@pytest.mark.parametrize("at", ["fc", "avgpool"])
def test_a_module_behind_the_features_gives_no_map(at):
    with pytest.raises(errors.NotSupported, match="no feature map"):
        zoo.encoder(resnet18(), at=at)


@pytest.mark.parametrize("at", [3, [], [None]])
def test_an_encoder_of_something_else_than_names_is_refused(at):
    with pytest.raises(errors.UsageError):
        zoo.encoder(resnet18(), at=at)


def test_tokens_come_as_maps():
    model, x = model_under_test("torchvision/vit_b_32")
    enc = zoo.encoder(model, at=["encoder_layer_2", "encoder_layer_11"])
    found, tokens = enc(x), zoo.features(model, x, at="encoder_layer_2")["encoder_layer_2"]
    assert [tuple(f.shape) for f in found] == [(1, 768, 7, 7)] * 2
    assert torch.equal(found[0][0, :, 2, 3], tokens[0, 1 + 2 * 7 + 3])


class Level(nn.Module):
    """A block of tokens that gives something else beside them, as those of timm's MViT do."""

    def __init__(self, width, out):
        super().__init__()
        self.linear = nn.Linear(width, out)

    def forward(self, x):
        return "beside", self.linear(x)


class Levels(nn.Module):
    """Two such blocks, after a class token."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 4, 1, stride=16)
        self.first, self.second = Level(4, 6), Level(6, 8)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([x[:, :1], x], dim=1)
        return self.second(self.first(x)[1])[1].mean(1)


def tokens_of(_model, output):
    return output[1]


def levels():
    model = Levels()
    widths = {"first": 6, "second": 8}
    stages = tuple(zoo.Stage(name, (name,), width, 16, read=tokens_of) for name, width in widths.items())
    attach(model, Metadata(zoo.Anatomy((), stem=("patches",), stages=stages, layout="NLC"), Receipt("own")))
    return model


def test_a_stage_that_gives_several_things_is_read_as_its_anatomy_says():
    model = levels()
    enc = pickle.loads(pickle.dumps(zoo.encoder(model, at=["first", "second"])))
    first, second = enc(X)
    assert torch.equal(first[0, :, 2, 3], zoo.features(model, X, at="first")["first"][0, 1 + 2 * 4 + 3])
    assert (first.shape, second.shape) == ((1, 6, 4, 4), (1, 8, 4, 4))


def test_tokens_of_a_border_that_does_not_fill_a_step_belong_to_the_map():
    assert zoo.encoder(levels())(torch.randn(1, 3, 72, 40))[0].shape == (1, 8, 5, 3)


def test_it_holds_nothing_behind_the_last_map():
    enc = zoo.encoder(resnet18(), at=["layer2"]).train()
    enc(torch.cat([X, X]))[0].sum().backward()
    assert [name for name, p in enc.named_parameters() if p.grad is None] == []
    assert not any(name.startswith(("body.layer3", "body.layer4", "body.fc")) for name in enc.state_dict())


def test_making_it_runs_a_model_whose_forward_ends_in_an_error_a_few_times_alone():
    model = zoo.get("timm/efficientvim_m1", weights=None, seed=0)
    runs = []
    next(module for module in model.modules() if isinstance(module, nn.Conv2d)).register_forward_hook(
        lambda *_: runs.append(1)
    )
    zoo.encoder(model)
    assert 0 < len(runs) <= 5


def test_the_model_it_was_made_from_stays_as_it_is():
    model = resnet18()
    before = model(X)
    zoo.encoder(model, output_stride=8)(X)
    assert torch.equal(model(X), before)
    assert model.layer4[0].conv1.stride == (2, 2)


def test_it_can_be_built_by_name_for_other_channels():
    enc = zoo.encoder("resnet18", weights=None, in_channels=4, freeze="stem")
    assert enc.eval()(torch.zeros(1, 4, 64, 64))[0].shape == (1, 64, 16, 16)
    assert not enc.body.conv1.weight.requires_grad


@pytest.mark.parametrize("output_stride", [None, 16])
def test_it_compiles_without_a_graph_break(output_stride):
    torch._dynamo.reset()
    enc = zoo.encoder(resnet18(), output_stride=output_stride)
    compiled = torch.compile(enc, fullgraph=True, backend="eager")
    assert all(torch.equal(f, g) for f, g in zip(compiled(X), enc(X), strict=True))
    assert all(torch.equal(f, g) for f, g in zip(compiled(X), enc(X), strict=True))


@pytest.mark.filterwarnings("ignore:While compiling, we found certain side effects")
@pytest.mark.parametrize("strict", [True, False])
def test_it_exports(strict):
    enc = zoo.encoder(resnet18())
    exported = torch.export.export(enc, (X,), strict=strict).module()
    assert all(torch.allclose(f, g, atol=1e-5) for f, g in zip(exported(X), enc(X), strict=True))


@pytest.mark.filterwarnings("ignore:`torch.jit.trace", "ignore:.*torch.jit")
def test_it_is_traced_by_jit():
    enc = zoo.encoder(resnet18())
    traced = torch.jit.trace(enc, X, strict=False, check_trace=False)
    assert all(torch.allclose(f, g, atol=1e-5) for f, g in zip(traced(X), enc(X), strict=True))


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (torch.zeros(1, 4, 64, 64), r"3 channels(.|\n)*zoo.adapt_stem"),
        (torch.zeros(1, 64, 64, 3), r"3 channels(.|\n)*movedim"),
        (torch.zeros(3, 64, 64), r"a batch(.|\n)*unsqueeze"),
        (X.double(), "torch.float32, as the model has"),
        (None, "a tensor"),
    ],
    ids=["channels", "channels last", "no batch", "dtype", "nothing"],
)
def test_it_says_what_is_wrong_with_its_input(x, expected):
    with pytest.raises(
        errors.UsageError, match=f"this ResNet cannot run on what the encoder was given(.|\n)*{expected}"
    ):
        zoo.encoder(resnet18())(x)


def test_moving_the_encoder_moves_all_of_it():
    enc = zoo.encoder(resnet18(), output_stride=8).to(torch.float64)
    assert all(f.dtype == torch.float64 for f in enc(X.double()))


@pytest.mark.parametrize("name", ["densenet121", "vgg11", "googlenet"])
def test_pooling_cannot_be_dilated(name):
    with pytest.raises(errors.NotSupported, match=r"by pooling(.|\n)*ResNet, ResNeXt"):
        zoo.encoder(name, weights=None, output_stride=16)


@pytest.mark.parametrize("name", ["swin_t", "vit_b_32"])
def test_tokens_cannot_be_dilated(name):
    with pytest.raises(errors.NotSupported, match="tokens"):
        zoo.encoder(name, weights=None, output_stride=8)


@pytest.mark.parametrize("output_stride", [0, 12, -8, 8.0, True, "16"])
def test_an_impossible_output_stride_is_refused(output_stride):
    with pytest.raises(errors.UsageError, match="power of two"):
        zoo.encoder(resnet18(), output_stride=output_stride)


def test_a_stem_that_strides_too_far_is_refused():
    with pytest.raises(errors.NotSupported, match="stride of 4"):
        zoo.encoder(resnet18(), output_stride=2)


def test_a_stage_that_does_not_exist_lists_the_stages():
    with pytest.raises(errors.UnknownPart, match="layer1, layer2, layer3, layer4"):
        zoo.encoder(resnet18(), at=["layer7"])


def test_building_arguments_cannot_be_given_with_a_built_model():
    with pytest.raises(errors.UsageError, match="in_channels cannot be requested of a model that is already built"):
        zoo.encoder(resnet18(), in_channels=4)


def test_a_detector_is_refused_with_the_way_out():
    detector = zoo.get("fasterrcnn_mobilenet_v3_large_320_fpn", weights=None, options={"weights_backbone": None})
    with pytest.raises(errors.NotSupported, match=r"zoo.encoder\("):
        zoo.encoder(detector)


def test_a_module_zoo_knows_nothing_about_is_refused():
    with pytest.raises(errors.NotAZooModel):
        zoo.encoder(nn.Conv2d(3, 3, 1))


@pytest.mark.parametrize(
    "verb", [lambda part: zoo.freeze(part, "stem"), lambda part: zoo.init_weights(part, "xavier_uniform", where="new")]
)
@pytest.mark.parametrize("part", [lambda model: zoo.split(model)[0]], ids=["backbone"])
def test_surgery_on_a_part_points_to_the_model_it_shares_its_parameters_with(part, verb):
    with pytest.raises(errors.NotAZooModel, match=r"do it to the model(.|\n)*share their parameters"):
        verb(part(resnet18()))


def test_what_is_frozen_in_the_model_afterwards_is_frozen_in_its_parts():
    model = resnet18()
    enc, (backbone, _) = zoo.encoder(model), zoo.split(model)
    zoo.freeze(model, "backbone")
    assert not any(p.requires_grad for part in (enc, backbone) for p in part.parameters())


@pytest.mark.gpu
@pytest.mark.parametrize("output_stride", [None, 8])
def test_it_works_on_the_gpu(output_stride):
    enc = zoo.encoder("resnet18", weights=None, device="cuda", output_stride=output_stride)
    assert {f.device.type for f in enc(X.cuda())} == {"cuda"}


@pytest.mark.sweep
def test_the_maps_of_a_video_keep_its_time():
    model, x = zoo.get("torchvision/mvit_v1_b", weights=None, seed=0).eval(), torch.randn(1, 3, 16, 224, 224)
    with torch.no_grad():
        maps = zoo.encoder(model)(x)
        tokens = zoo.features(model, x, at=["stage4"])["stage4"]
    assert [tuple(each.shape[2:]) for each in maps] == [(8, 56, 56), (8, 28, 28), (8, 14, 14), (8, 7, 7)]
    assert torch.equal(maps[-1].flatten(2), tokens[:, 1:].transpose(1, 2))


def test_tokens_that_are_no_grid_are_an_error_and_not_cut():
    with pytest.raises(errors.NotSupported, match="100 tokens are no map of an input of 32x32 at stride 16"):
        as_map(torch.zeros(1, 100, 8), torch.zeros(1, 3, 32, 32), "NLC", 16)


def test_the_tokens_of_a_video_are_places_in_time():
    tokens = torch.arange(1.0, 18).view(1, 17, 1)  # one of the whole, and 4 steps of 2 x 2 places
    found = as_map(tokens, torch.zeros(1, 3, 8, 32, 32), "NLC", 16)
    assert found.shape == (1, 1, 4, 2, 2)
    assert found.flatten().tolist() == list(range(2, 18))


@every_layout
def test_on_any_family_it_is_saved_loaded_and_filled_as_the_model_it_came_from(name, tmp_path):
    model, x = model_under_test(name)
    enc = zoo.freeze(zoo.encoder(model), stages=1)
    again = zoo.load(zoo.save(enc, tmp_path / "save"))
    assert (again.names, again.channels, again.strides) == (enc.names, enc.channels, enc.strides)
    assert all(torch.equal(f, g) for f, g in zip(again(x), enc(x), strict=True))
    assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in enc.parameters()]
    assert set(zoo.receipt(enc).tensors) == set(enc.body.state_dict()) <= set(model.state_dict())
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.zero_()
    zoo.load_partial(again, model.state_dict())
    assert all(torch.equal(f, g) for f, g in zip(again(x), enc(x), strict=True))


def test_a_file_of_a_segmentation_network_loads_by_its_prefix():
    """RobustVideoMatting's backbone is torchvision's MobileNetV3, under this name."""
    enc, other = (zoo.encoder("mobilenet_v3_large", weights=None, seed=seed) for seed in (0, 1))
    file = {f"backbone.{name}": tensor for name, tensor in other.body.state_dict().items()}
    zoo.load_partial(enc, {**file, "aspp.aspp1.0.weight": torch.zeros(128, 960, 1, 1)})
    assert all(torch.equal(a, b) for a, b in zip(enc.state_dict().values(), other.state_dict().values(), strict=True))


def test_verbs_without_a_head_take_it():
    enc = zoo.encoder("tiny/glyphnet", in_channels=3)
    assert zoo.transforms(enc)(torch.zeros(3, 40, 40, dtype=torch.uint8)).shape == (3, 32, 32)
    assert zoo.class_names(enc) == ()
    assert zoo.freeze(enc, until="layer3").train().body.layer1.bn1.training is False
    assert {name.partition(".")[0] for name, p in enc.body.named_parameters() if p.requires_grad} == {"layer3"}
    assert list(zoo.features(enc, torch.zeros(1, 3, 32, 32), at=["layer1"])) == ["layer1"]
    assert zoo.encoder(enc, at=["layer2"]).channels == (32,)
    with pytest.raises(errors.NotSupported, match="the model has the head"):
        zoo.swap_head(enc, 9)


def test_another_stem_of_an_encoder_is_that_of_its_model_too():
    model = zoo.get("mobilenet_v3_small", weights=None).eval()
    enc = zoo.adapt_stem(zoo.encoder(model), 1)
    assert enc(X[:, :1])[0].shape[1] == 16
    assert zoo.swap_head(model, 4)(X[:, :1]).shape == (1, 4)


def test_a_module_that_holds_a_model_and_its_encoder_stands_for_the_model():
    holder = nn.ModuleDict({"encoder": zoo.encoder(model := resnet18()), "model": model})
    zoo.freeze(holder)
    assert [name for name, p in holder.named_parameters() if p.requires_grad] == ["model.fc.weight", "model.fc.bias"]
    assert not holder.train()["encoder"].body.bn1.training


@every_layout
def test_on_any_family_depth_gives_the_image_and_each_stride(name):
    model, x = model_under_test(name)
    strides = {stage.stride for stage in zoo.anatomy(model).stages}
    deepest = max(strides).bit_length() - 1
    if strides == {12}:  # of CrossViT, whose patches have 12 pixels
        with pytest.raises(errors.NotSupported, match="no maps of the strides 2, 4, 8"):
            zoo.encoder(model, depth=deepest)
        return
    enc = zoo.encoder(model, depth=deepest)
    maps = enc(x)
    assert maps[0] is x
    assert (enc.depth, len(maps), enc.out_channels) == (deepest, deepest + 1, [f.shape[1] for f in maps])
    assert enc.strides == tuple(2**level for level in range(deepest + 1))
    assert all(abs(f.shape[-1] - x.shape[-1] / s) <= 4 for f, s in zip(maps, enc.strides, strict=True))


def test_the_stem_of_a_resnet_is_what_comes_before_its_pooling():
    model = resnet18()
    stem, _ = zoo.encoder(model, at=["stem", "layer4"])(X)
    assert torch.equal(stem, model.relu(model.bn1(model.conv1(X))))
    deep = zoo.encoder(model, depth=5)
    assert torch.equal(deep(X)[1], stem)
    assert deep.out_channels == [3, 64, 64, 128, 256, 512]


def test_depth_with_an_output_stride_keeps_the_number_of_maps():
    enc = zoo.encoder(resnet18(), depth=5, output_stride=16)
    assert (enc.strides, enc.output_stride) == ((1, 2, 4, 8, 16, 16), 16)
    assert [f.shape[-1] for f in enc(X)] == [64, 32, 16, 8, 4, 4]


@pytest.mark.parametrize(("depth", "message"), [(0, "depth cannot be 0"), (6, "at most 5"), ("5", "without quotes")])
def test_an_impossible_depth_is_refused(depth, message):
    with pytest.raises(errors.UsageError, match=message):
        zoo.encoder(resnet18(), depth=depth)


def test_depth_and_names_at_once_are_refused():
    with pytest.raises(errors.UsageError, match="both say"):
        zoo.encoder(resnet18(), depth=5, at=["layer1"])


def test_a_model_that_resizes_its_images_says_which_size_gives_maps():
    enc = zoo.encoder("timm/crossvit_tiny_240", weights=None).eval()
    with pytest.raises(errors.NotSupported, match="images of 240x240 give maps"):
        enc(torch.zeros(1, 3, 192, 192))
    assert [f.shape[-1] for f in enc(torch.zeros(1, 3, 240, 240))] == [20]


@pytest.mark.extra
@pytest.mark.parametrize("name", ["resnet18", "timm/test_convnext", "mobilenet_v3_small", "densenet121"])
def test_it_is_the_encoder_of_a_u_net(name):
    smp = pytest.importorskip("segmentation_models_pytorch")
    enc = zoo.encoder(name, weights=None, depth=5).eval()
    decoder = smp.decoders.unet.decoder.UnetDecoder(enc.out_channels, (64, 32, 16, 16, 8), n_blocks=enc.depth).eval()
    assert decoder(enc(X)).shape == (1, 8, 64, 64)


@pytest.mark.parametrize("name", ["timm/test_resnet", "timm/test_convnext"])
def test_fx_traces_it_with_the_same_maps(name):
    enc = zoo.encoder(name, weights=None, depth=5).eval()
    x = torch.randn(1, 3, 160, 160)
    with torch.no_grad():
        assert all(torch.equal(f, g) for f, g in zip(torch.fx.symbolic_trace(enc)(x), enc(x), strict=True))


def test_the_stem_goes_with_modules_that_are_named():
    enc = zoo.encoder(resnet18(), at=["stem", "layer1.0", "layer2"])
    assert (enc.names, enc.channels, enc.strides) == (("stem", "layer1.0", "layer2"), (64, 64, 128), (2, 4, 8))
