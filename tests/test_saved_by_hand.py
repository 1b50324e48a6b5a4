"""Models that were changed by hand before they were saved: what a save records of it, and what it refuses."""

from __future__ import annotations

import functools
import json
from types import MethodType

import pytest
import torch
from torch import nn

import zoo_core as zoo
from zoo_core import errors


def glyphnet(**arguments):
    return zoo.get("tiny/glyphnet", seed=0, **arguments).eval()


def replace_layers(model, kind, make):
    """What every recipe for small batches does: another layer where each one of a kind was."""
    for path, module in [*model.named_modules()]:
        if isinstance(module, kind):
            model.set_submodule(path, make(module))
    return model


def with_group_norms(model):
    return replace_layers(model, nn.BatchNorm2d, lambda old: nn.GroupNorm(4, old.num_features))


def noise(model):
    channels, *size = zoo.info(zoo.receipt(model).model).input_size
    return torch.rand(2, channels, *size[:-2], *(min(side, 96) for side in size[-2:]))


def assert_comes_back(model, folder, x=None):
    x = noise(model) if x is None else x
    model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) / 50)
        loaded = zoo.load(zoo.save(model, folder))
        assert torch.equal(loaded(x), model(x))
    assert str(loaded) == str(model)
    return loaded


@pytest.mark.parametrize(
    "name",
    ["tiny/glyphnet", "torchvision/resnet18", "torchvision/regnet_y_400mf", "timm/test_resnet", "timm/test_byobnet"],
)
def test_group_norms_in_the_place_of_batch_norms_come_back(name, tmp_path):
    model = with_group_norms(zoo.get(name, weights=None, num_classes=5, seed=0).eval())
    assert_comes_back(model, tmp_path / "save")


@pytest.mark.parametrize("name", ["torchvision/mobilenet_v3_small", "timm/test_vit"])
def test_other_activations_come_back(name, tmp_path):
    model = zoo.get(name, weights=None, num_classes=5, seed=0).eval()
    model = replace_layers(model, nn.Hardswish | nn.GELU, lambda _: nn.SiLU())
    x = torch.rand(1, 3, *zoo.info(name).input_size[1:])
    assert_comes_back(model, tmp_path / "save", x)


def test_layers_that_were_appended_replaced_and_taken_out_come_back(tmp_path):
    model = zoo.get("torchvision/resnet18", weights=None, seed=0).eval()
    model.layer4.append(nn.Sequential(nn.Dropout2d(0.3), nn.Conv2d(512, 64, 1)))
    model.fc = nn.Linear(64, 3)
    model.layer1 = model.layer1[:1]
    model.maxpool = nn.Identity()
    model.layer2[1].conv1 = nn.Conv2d(128, 128, 5, padding=2, bias=False)
    loaded = assert_comes_back(model, tmp_path / "save", torch.rand(2, 3, 64, 64))
    assert zoo.anatomy(loaded).main == zoo.anatomy(model).main
    assert zoo.anatomy(loaded).stages[-1].channels == 64


def test_layers_in_another_order_come_back(tmp_path):
    model = glyphnet(head=nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 4)))
    model.fc = nn.Sequential(*[model.fc[at] for at in (2, 0, 1, 3)])
    assert_comes_back(model, tmp_path / "save")


def test_a_layer_between_others_of_a_sequence_comes_back(tmp_path):
    model = zoo.get("timm/test_resnet", weights=None, num_classes=3, seed=0).eval()
    model.conv1.insert(1, nn.Dropout(0.1))
    assert_comes_back(model, tmp_path / "save")


def transform_input(model):
    model.transform_input = True


def global_pool(model):
    model.reset_classifier(3, "avg")


def drop_rate(model):
    model.drop_rate = 0.7


def rate_of_a_layer(model):
    model.fc[2].p = 0.5


def dilation(model):
    model.layer2.conv1.dilation, model.layer2.conv1.padding = (2, 2), (2, 2)


@pytest.mark.parametrize(
    ("make", "change"),
    [
        (lambda: zoo.get("torchvision/googlenet", weights=None, seed=0), transform_input),
        (lambda: zoo.get("timm/test_vit", weights=None, seed=0), global_pool),
        (lambda: zoo.get("timm/test_resnet", weights=None, seed=0), drop_rate),
        (lambda: glyphnet(head=zoo.mlp_head(9, hidden=(16,), dropout=0.2)), rate_of_a_layer),
        (glyphnet, dilation),
    ],
    ids=lambda each: getattr(each, "__name__", "") if "lambda" not in str(each) else "",
)
def test_settings_that_were_changed_by_hand_come_back(make, change, tmp_path):
    model = make().eval()
    change(model)
    x = torch.rand(1, *zoo.info(zoo.receipt(model).model).input_size)
    loaded = assert_comes_back(model, tmp_path / "save", x)
    assert getattr(loaded, "drop_rate", None) == getattr(model, "drop_rate", None)


@pytest.mark.parametrize("name", ["torchvision/googlenet", "torchvision/inception_v3"])
def test_a_main_head_beside_auxiliary_ones_comes_back(name, tmp_path):
    model = zoo.get(name, weights=None, seed=0).eval()
    model.fc = nn.Linear(model.fc.in_features, 7)
    x = torch.rand(1, *zoo.info(name).input_size)
    loaded = assert_comes_back(model, tmp_path / "save", x)
    assert zoo.anatomy(loaded).main.num_classes == 7


def test_a_model_without_its_auxiliary_heads_comes_back(tmp_path):
    model = zoo.get("torchvision/googlenet", weights=None, seed=0).eval()
    model.aux_logits, model.aux1, model.aux2 = False, None, None
    loaded = assert_comes_back(model, tmp_path / "save", torch.rand(2, 3, 64, 64))
    assert isinstance(loaded.train()(torch.rand(2, 3, 64, 64)), torch.Tensor)


def test_the_image_size_that_timm_sets_comes_back(tmp_path):
    model = zoo.get("timm/test_vit", weights=None, num_classes=3, seed=0).eval()
    model.set_input_size((96, 96))
    assert_comes_back(model, tmp_path / "save", torch.rand(1, 3, 96, 96))


def test_what_was_changed_by_hand_goes_with_all_other_surgery(tmp_path):
    model = with_group_norms(zoo.get("torchvision/resnet18", weights=None, num_classes=3, in_channels=4, seed=0))
    model = zoo.freeze(model, until="layer4")
    loaded = assert_comes_back(model.eval(), tmp_path / "save", torch.rand(2, 4, 64, 64))
    assert [p.requires_grad for p in loaded.parameters()] == [p.requires_grad for p in model.parameters()]
    again = assert_comes_back(zoo.swap_head(loaded, 4), tmp_path / "again", torch.rand(2, 4, 64, 64))
    assert zoo.anatomy(again).main.num_classes == 4


def test_an_encoder_with_other_norms_comes_back(tmp_path):
    model = with_group_norms(zoo.get("torchvision/resnet18", weights=None, seed=0).eval())
    encoder, x = zoo.encoder(model), torch.rand(1, 3, 64, 64)
    loaded = zoo.load(zoo.save(encoder, tmp_path / "save"))
    assert all(map(torch.equal, loaded(x), encoder(x)))


def test_other_norms_beside_a_head_of_ones_own_code_come_back(tmp_path):
    class Cosine(nn.Linear):
        def forward(self, x):
            return nn.functional.normalize(x) @ nn.functional.normalize(self.weight).T

    model = with_group_norms(glyphnet(head=Cosine(64, 4)))
    folder = zoo.save(model, tmp_path / "save", custom_heads=True)
    loaded, x = zoo.load(folder, heads={"main": Cosine(64, 4)}), torch.rand(2, 1, 32, 32)
    assert torch.equal(loaded(x), model(x))


def test_a_layer_that_only_its_own_code_can_build_is_saved_as_a_registered_model(tmp_path):
    class Mine(nn.ReLU):
        pass

    model = glyphnet(num_classes=4)
    model.layer1.relu = Mine()
    with pytest.raises(errors.NotSupported, match=r"layer1\.relu(.|\n)*@zoo\.register\(\"mine/net\"\)"):
        zoo.save(model, tmp_path / "save")

    @zoo.register("mine/net", input_size=(1, 32, 32))
    def net(num_classes=4):
        built = zoo.get("tiny/glyphnet", weights=None, num_classes=num_classes)
        built.layer1.relu = Mine()
        return built

    own = zoo.get("mine/net", weights=None).eval()
    own.load_state_dict(model.state_dict())
    assert_comes_back(own, tmp_path / "save", torch.rand(2, 1, 32, 32))


def test_a_module_that_became_a_plain_value_is_refused(tmp_path):
    from timm.utils.model import reparameterize_model

    model = reparameterize_model(zoo.get("timm/repghostnet_050", weights=None))  # which leaves lists in their places
    with pytest.raises(errors.NotSupported, match="fusion"):
        zoo.save(model, tmp_path / "model")


def test_a_forward_of_ones_own_is_refused(tmp_path):
    model = glyphnet()
    model.forward = lambda x: x
    with pytest.raises(errors.NotSupported, match="forward"):
        zoo.save(model, tmp_path / "save")


@pytest.mark.parametrize("method", ["forward", "_forward_impl"])
def test_a_function_that_wraps_a_method_and_doubles_its_scores_is_refused(method, tmp_path):
    model = zoo.get("torchvision/resnet18", weights=None)
    single = getattr(model, method)

    @functools.wraps(single)  # as decorators do, so that it looks like what it wraps
    def double(x):
        return 2 * single(x)

    setattr(model, method, double)
    with pytest.raises(errors.NotSupported, match=f"{method} is a function of its own"):
        zoo.save(model, tmp_path / "save")


def test_a_method_that_a_builder_defines_for_each_model_comes_back(tmp_path):
    @zoo.register("mine/halved", input_size=(1, 32, 32))
    def halved(num_classes=3):
        net = glyphnet()

        def forward(self, x):
            return type(self).forward(self, x) / 2

        net.forward = MethodType(forward, net)
        return net

    model = zoo.get("mine/halved", weights=None).eval()
    zoo.save(model, tmp_path / "save")
    x = torch.rand(1, 1, 32, 32)
    assert torch.equal(zoo.load(tmp_path / "save").eval()(x), model(x))


@pytest.mark.parametrize("way", ["closure", "default"])
def test_a_method_of_the_same_code_and_other_values_is_refused(way, tmp_path):
    def times(factor, net):
        def scaled(x):
            return type(net).forward(net, x) * factor

        return scaled if way == "closure" else lambda x, factor=factor: type(net).forward(net, x) * factor

    @zoo.register(f"mine/scaled-by-{way}", input_size=(1, 32, 32))
    def build(num_classes=3):
        net = glyphnet()
        net.forward = times(2.0, net)
        return net

    model = zoo.get(f"mine/scaled-by-{way}", weights=None)
    zoo.save(model, tmp_path / "as it is made")
    model.forward = times(3.0, model)
    with pytest.raises(errors.NotSupported, match="forward is a function of its own"):
        zoo.save(model, tmp_path / "save")


@pytest.mark.parametrize("name", ["torchvision/resnet18", "pretrainedmodels/resnet18"])
def test_a_method_that_was_put_in_by_hand_is_refused(name, tmp_path):
    model = zoo.get(name, weights=None)
    method = "_forward_impl" if hasattr(model, "_forward_impl") else "features"  # the library binds its own
    zoo.save(model, tmp_path / "whole")
    setattr(model, method, MethodType(lambda _, x: x, model))
    with pytest.raises(errors.NotSupported, match=f"{method} is a function of its own"):
        zoo.save(model, tmp_path / "changed")


@pytest.mark.parametrize(
    "change",
    [
        {"layers": [[None, ["nowhere.at.all"]]]},
        {"layers": [["cat", ["fc"]]]},
        {"shapes": {"fc.weight": [-1, 4]}},
        {"shapes": {"fc.bias": [1 << 40]}},
        {"shapes": {"fc.nothing": [3]}},
        {"settings": {"": {"forward": "cat"}}},
        {"settings": {"layer1": {"relu": 3}}},
        {"settings": {"": {"training": 3}}},
        {"settings": {"layer1.conv1": {"stride": "/etc/passwd"}}},
    ],
)
def test_a_folder_can_change_by_hand_nothing_but_layers_shapes_and_plain_settings(change, tmp_path):
    folder = zoo.save(glyphnet(), tmp_path / "save")
    recipe = json.loads((folder / "recipe.json").read_text())
    recipe["edits"] = [{"verb": "by_hand", **change}]
    (folder / "recipe.json").write_text(json.dumps(recipe))
    with pytest.raises(errors.ZooError):
        zoo.load(folder)


def test_the_receipt_says_that_other_layers_have_new_values():
    model = with_group_norms(zoo.get("tiny/glyphnet"))
    receipt = zoo.receipt(model)
    assert receipt.tensors["stem.1.weight"] == "adapted"
    assert receipt.notes["stem.1.weight"] == "changed by hand"
    assert receipt.tensors["layer1.conv1.weight"] == "loaded"


def test_a_layer_changed_by_hand_inside_a_branch_is_saved(tmp_path):
    model = zoo.branch(zoo.get("tiny/glyphnet", seed=0), at="layer3", heads={"a": 2, "b": 3}).eval()
    model.set_submodule("fc.a.body.fc", nn.Linear(64, 7))
    loaded, x = zoo.load(zoo.save(model, tmp_path / "save")), torch.rand(1, 1, 32, 32)
    assert {name: torch.equal(out, model(x)[name]) for name, out in loaded(x).items()} == {"a": True, "b": True}
