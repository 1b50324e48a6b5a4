"""Models that their owner, or another library, has changed since zoo last looked: right, or a ZooError that says so."""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch
import torchvision
from torch import nn

import zoo_core as zoo
from zoo_core import errors
from zoo_core.surgery.metadata import metadata_of

X = torch.randn(2, 3, 64, 64)


def trainable(model):
    return sorted(name for name, parameter in model.named_parameters() if parameter.requires_grad)


def build(name, **arguments):
    return zoo.get(name, weights=None, seed=0, **arguments).eval()


OWN_HEADS = {
    "torchvision/resnet18": "fc",
    "torchvision/mobilenet_v3_small": "classifier",
    "torchvision/shufflenet_v2_x0_5": "fc",
    "torchvision/regnet_y_400mf": "fc",
    "torchvision/squeezenet1_1": "classifier.1",
    "timm/test_resnet": "fc",
    "timm/test_vit": "head",
    "timm/test_efficientnet": "classifier",
    "tiny/glyphnet": "fc",
}


def own_head(model, path):
    layers = [each for each in model.get_submodule(path).modules() if isinstance(each, nn.Linear | nn.Conv2d)]
    on_map = isinstance(layers[0], nn.Conv2d)
    model.set_submodule(path, nn.Conv2d(layers[0].in_channels, 9, 1) if on_map else nn.Linear(layers[0].in_features, 9))
    return model


@pytest.mark.parametrize("name", OWN_HEADS)
def test_freezing_leaves_a_classifier_put_in_by_hand_trainable(name):
    path = OWN_HEADS[name]
    model = zoo.freeze(own_head(build(name), path))
    assert trainable(model) == [f"{path}.bias", f"{path}.weight"]
    assert zoo.anatomy(model).main.num_classes == 9
    assert zoo.receipt(model).notes == {f"{path}.{each}": "changed by hand" for each in ("bias", "weight")}


@pytest.mark.parametrize("name", ["torchvision/mobilenet_v3_small", "timm/test_resnet"])
def test_a_head_put_in_by_hand_is_split_and_swapped_as_one_of_ours(name):
    model = own_head(build(name), OWN_HEADS[name])
    backbone, head = zoo.split(model)
    assert torch.equal(head(backbone(X)), model(X))
    assert zoo.swap_head(model, 5)(X).shape == (2, 5)


def test_a_new_classifier_of_several_layers_is_the_head_as_a_whole():
    model = build("torchvision/mobilenet_v3_small")
    model.classifier = nn.Sequential(nn.Linear(576, 32), nn.ReLU(), nn.Linear(32, 9))
    zoo.freeze(model)
    assert trainable(model) == ["classifier.0.bias", "classifier.0.weight", "classifier.2.bias", "classifier.2.weight"]


def test_a_head_put_in_by_hand_is_saved_as_if_swap_head_had_put_it_there(tmp_path):
    model = own_head(build("torchvision/resnet18"), "fc")
    again = zoo.load(zoo.save(model, tmp_path / "save"))
    assert torch.equal(again(X), model(X))


def test_class_names_of_the_old_head_are_gone_with_it():
    model = zoo.get("tiny/glyphnet")
    model.fc = nn.Linear(64, 9)
    assert zoo.class_names(model) == ()


def test_class_names_stay_where_an_activation_comes_after_the_old_head():
    model = zoo.get("tiny/glyphnet")
    names = zoo.class_names(model)
    zoo.swap_head(model, nn.Sequential(model.fc, nn.Softmax(dim=1)))
    assert zoo.class_names(model) == names


class PooledLinear(nn.Module):
    """A classifier that zoo cannot look into."""

    def __init__(self):
        super().__init__()
        self.score = nn.Linear(512, 9)

    def forward(self, x):
        return self.score(x.mean((2, 3)))


def test_a_part_that_is_gone_is_an_error_whose_advice_works():
    model = build("torchvision/squeezenet1_1")
    model.classifier = PooledLinear()
    with pytest.raises(zoo.ZooError, match=r"what took its place is unclear(?s:.)*zoo.adopt\(model, example=x\)"):
        zoo.freeze(model)
    assert trainable(zoo.freeze(zoo.adopt(model, example=X))) == ["classifier.score.bias", "classifier.score.weight"]
    swapped = zoo.swap_head(build("torchvision/squeezenet1_1"), PooledLinear(), at="features")
    assert swapped(X).shape == (2, 9)
    assert trainable(zoo.freeze(swapped)) == ["classifier.1.score.bias", "classifier.1.score.weight"]


CLASSIFIERS = {
    "pooled first": lambda: [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 9)],
    "convolution and linear": lambda: [
        *(nn.Dropout(), nn.Conv2d(512, 16, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 9))
    ],
    "two convolutions": lambda: [nn.Dropout(), nn.Conv2d(512, 16, 1), nn.Conv2d(16, 9, 1), nn.AdaptiveAvgPool2d(1)],
}


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_a_classifier_of_other_layers_is_split_frozen_swapped_and_saved(kind, tmp_path):
    model = build("torchvision/squeezenet1_1")
    model.classifier = nn.Sequential(*CLASSIFIERS[kind]()).eval()
    backbone, head = zoo.split(model)
    assert torch.equal(head(backbone(X)), model(X))
    new = [name for name, _ in model.named_parameters() if name.startswith("classifier.")]
    assert trainable(zoo.freeze(model)) == sorted(new)
    rates = {id(each): group["lr"] for group in zoo.param_groups(model, lr=0.1, head_lr=1) for each in group["params"]}
    assert {rates[id(each)] for each in model.classifier.parameters()} == {1}
    assert torch.equal(zoo.load(zoo.save(model, tmp_path / "save")).eval()(X), model(X))
    assert zoo.swap_head(model, 5)(X).shape == (2, 5)


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_a_classifier_of_other_layers_is_adopted(kind):
    model = torchvision.models.squeezenet1_1().eval()
    model.classifier = nn.Sequential(*CLASSIFIERS[kind]()).eval()
    if kind != "pooled first":
        with pytest.raises(errors.AnatomyError, match=r'zoo.adopt\(model, family="torchvision", name=...\)'):
            zoo.adopt(model, family="torchvision")
    zoo.adopt(model, family="torchvision", name="squeezenet1_1")
    backbone, head = zoo.split(model)
    assert torch.equal(head(backbone(X)), model(X))
    assert trainable(zoo.freeze(model)) == sorted(
        f"classifier.{name}" for name, _ in model.classifier.named_parameters()
    )


def test_a_classifier_that_begins_with_another_shape_has_its_last_layer_as_the_site():
    model = build("torchvision/mobilenet_v3_small")
    layers = nn.Unflatten(1, (576, 1, 1)), nn.Conv2d(576, 8, 1), nn.Flatten(), nn.Linear(8, 9)
    model.classifier = nn.Sequential(*layers)
    assert zoo.anatomy(model).main.path == "classifier.3"
    assert trainable(zoo.freeze(model)) == [f"classifier.{i}.{name}" for i in (1, 3) for name in ("bias", "weight")]
    assert zoo.swap_head(model, 5)(X).shape == (2, 5)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "squeezenet1_1"])
def test_an_activation_after_the_classifier_is_in_the_head(name):
    model = build(f"torchvision/{name}")
    model.classifier.append(nn.Softmax(1))
    backbone, head = zoo.split(model)
    assert torch.equal(head(backbone(X)), model(X))


@pytest.mark.parametrize("name", ["resnet18", "timm/test_resnet"])
def test_strides_follow_a_stem_for_small_images(name):
    model = build(name)
    model.maxpool = nn.Identity()
    before = zoo.encoder(build(name)).strides[-1]
    encoder = zoo.encoder(model)
    assert encoder.strides[-1] == before // 2
    assert [64 // stride for stride in encoder.strides] == [found.shape[-1] for found in encoder(X)]
    model.conv1 = nn.Conv2d(4, 64, 3, 1, 1, bias=False) if name == "resnet18" else model.conv1
    assert zoo.encoder(model).strides[-1] == before // (4 if name == "resnet18" else 2)


def test_strides_follow_those_of_a_convolution():
    model = build("resnet18")
    model.layer4[0].conv1.stride = model.layer4[0].downsample[0].stride = (1, 1)
    assert [stage.stride for stage in zoo.anatomy(model).stages] == [4, 8, 16, 16]


def test_a_stage_that_was_taken_out_gives_what_it_is_given():
    model = build("resnet18")
    model.layer4, model.fc = nn.Identity(), nn.Linear(256, 9)
    assert zoo.encoder(model, at=["layer3", "layer4"]).channels == (256, 256)
    assert zoo.anatomy(model).stages[-1].stride == 16


def test_timm_resets_the_classifier():
    model = build("timm/test_resnet")
    model.reset_classifier(7)
    assert zoo.anatomy(zoo.freeze(model)).main.num_classes == 7
    assert trainable(model) == ["fc.bias", "fc.weight"]
    model.reset_classifier(0)
    assert zoo.swap_head(model, 3)(X).shape == (2, 3)


def test_where_timm_took_the_pool_out_too_a_head_scores_each_place():
    model = build("timm/test_resnet")
    model.reset_classifier(0, "")
    assert zoo.features(model, X)["layer4"].shape == model(X).shape
    assert zoo.swap_head(model, 3)(X).shape == (2, 3, 2, 2)


def test_timm_fuses_the_branches_of_a_model():
    from timm.utils.model import reparameterize_model

    model = reparameterize_model(build("timm/repvgg_a0", num_classes=9))
    assert zoo.swap_head(copy.deepcopy(model), 5)(X).shape == (2, 5)
    assert zoo.adapt_stem(copy.deepcopy(model), 4)(torch.randn(2, 4, 64, 64)).shape == (2, 9)
    assert trainable(zoo.freeze(model)) == ["head.fc.bias", "head.fc.weight"]


def test_narrower_layers_are_measured_again():
    model = build("tiny/glyphnet", num_classes=9)
    narrow = nn.BatchNorm2d(32)
    block = model.layer3
    block.conv2 = nn.Conv2d(64, 32, 3, padding=1, bias=False)
    block.bn2, block.shortcut = narrow, nn.Sequential(nn.Conv2d(32, 32, 1, stride=2, bias=False), nn.BatchNorm2d(32))
    model.fc = nn.Linear(32, 9)
    assert zoo.anatomy(model).main.in_features == 32
    assert zoo.anatomy(model).stages[-1].channels == 32


def test_a_branched_model_with_a_head_changed_by_hand_keeps_its_branches():
    model = zoo.branch(build("tiny/glyphnet"), at="layer3", heads={"a": 2, "b": 3})
    model.fc.a.body.fc = nn.Linear(64, 4)
    zoo.freeze(model)
    assert "fc.a.body.fc.weight" in trainable(model)
    assert "stem.0.weight" not in trainable(model)


def test_what_a_verb_does_itself_is_not_taken_for_an_edit_by_hand():
    model = build("tiny/glyphnet")
    for verb in (lambda: zoo.swap_head(model, 9), lambda: zoo.adapt_stem(model, 3), lambda: zoo.freeze(model)):
        verb()
        assert not zoo.receipt(model).notes
    assert [edit.verb for edit in metadata_of(model).edits] == ["swap_head", "adapt_stem"]


@pytest.mark.parametrize(
    ("name", "path", "width"),
    [
        ("mobilenet_v3_small", "classifier", 576),
        ("mnasnet0_5", "classifier", 1280),
        ("efficientnet_b0", "classifier", 1280),
    ],
)
def test_a_linear_layer_where_a_classifier_of_several_was_is_adopted(name, path, width):
    model = getattr(torchvision.models, name)().eval()
    model.set_submodule(path, nn.Linear(width, 5))
    zoo.adopt(model, family="torchvision", name=name)
    site = zoo.anatomy(model).main
    assert (site.path, site.in_features, site.num_classes) == (path, width, 5)
    x = torch.randn(1, 3, 64, 64)
    backbone, head = zoo.split(model)
    assert torch.equal(head(backbone(x)), model(x))
    assert zoo.swap_head(model, 3)(x).shape == (1, 3)


def test_a_changed_classifier_without_a_name_says_to_give_it():
    model = torchvision.models.mobilenet_v3_small()
    model.classifier = nn.Linear(576, 5)
    with pytest.raises(errors.AnatomyError, match=r'zoo.adopt\(model, family="torchvision", name=...\)'):
        zoo.adopt(model, family="torchvision")


def test_more_than_another_classifier_is_not_adopted():
    model = torchvision.models.mobilenet_v3_small()
    model.classifier = nn.Linear(576, 5)
    model.features[0] = nn.Conv2d(3, 16, 3, 2, 1)
    with pytest.raises(errors.AnatomyError):
        zoo.adopt(model, family="torchvision", name="mobilenet_v3_small")


@pytest.mark.parametrize("how", ["save", "load_partial"])
def test_hidden_layers_put_in_by_hand_are_head_whatever_was_loaded_since(how, tmp_path):
    model = build("squeezenet1_1")
    model.classifier = nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 8), nn.ReLU(), nn.Linear(8, 5)
    )
    if how == "save":
        model = zoo.load(zoo.save(model, tmp_path))
    else:
        zoo.load_partial(model, {name: tensor.clone() for name, tensor in model.state_dict().items()})
    layers = [f"classifier.{layer}.{tensor}" for layer in (2, 4) for tensor in ("bias", "weight")]
    assert trainable(zoo.freeze(model)) == layers


class Cosines(nn.Module):
    """A head that says its width in no layer, as those of ArcFace and CosFace."""

    def __init__(self, width):
        super().__init__()
        self.directions = nn.Parameter(torch.randn(7, width))

    def forward(self, x):
        return nn.functional.linear(nn.functional.normalize(x), nn.functional.normalize(self.directions))


@pytest.mark.parametrize(
    ("name", "path"),
    [("torchvision/resnet18", "fc"), ("timm/test_convnext", "head.fc"), ("torchvision/mobilenet_v2", "classifier.1")],
)
def test_a_head_of_ones_own_code_put_in_by_hand_is_the_head(name, path):
    model = zoo.get(name, weights=None, seed=0).eval()
    model.set_submodule(path, Cosines(model.get_submodule(path).in_features))
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    zoo.freeze(model)
    assert [each for each, value in model.named_parameters() if value.requires_grad] == [f"{path}.directions"]
    assert zoo.anatomy(model).main.num_classes == 7
    backbone, head = zoo.split(model)
    torch.testing.assert_close(head(backbone(x)), model(x))
    assert zoo.swap_head(model, 3)(x).shape == (2, 3)


def test_a_head_of_ones_own_code_that_takes_something_else_is_refused():
    model = zoo.get("torchvision/resnet18", weights=None)
    model.fc = Cosines(100)
    with pytest.raises(zoo.AnatomyError, match="'fc'"):
        zoo.freeze(model)


def test_a_layer_that_is_put_after_the_head_is_no_part_of_the_backbone():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    model = zoo.adopt(net, example=X)
    model.append(nn.ReLU()).append(nn.Linear(3, 2))
    with pytest.raises(zoo.AnatomyError, match="'5' was put after the head '3'"):
        zoo.freeze(model)
    assert trainable(zoo.freeze(zoo.adopt(model, example=X))) == ["5.bias", "5.weight"]


class Signals(nn.Module):
    """A 1-D network whose forward walks through a list of stages."""

    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList(nn.Sequential(nn.Conv1d(i, o, 3, 2, 1), nn.ReLU()) for i, o in [(2, 8), (8, 16)])
        self.out = nn.Linear(16, 6)

    def forward(self, x):
        for stage in self.stages:
            x = stage(x)
        return self.out(x.mean(-1))


SIGNAL = torch.randn(2, 2, 64)


@pytest.fixture
def signals():
    torch.manual_seed(0)
    return zoo.adopt(Signals().eval(), example=SIGNAL)


def test_a_stage_appended_to_a_traced_list_runs_in_the_backbone_that_is_split_off(signals):
    signals.stages.append(nn.Sequential(nn.Conv1d(16, 16, 3, 1, 1), nn.ReLU()))
    backbone, head = zoo.split(signals)
    assert torch.equal(head(backbone(SIGNAL)), signals(SIGNAL))


def test_a_layer_without_parameters_that_is_put_after_a_traced_head_is_not_split_away():
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 6))
    model = zoo.adopt(layers.eval(), example=X)
    model.append(nn.Softmax(1))
    with pytest.raises(errors.NotSupported, match="changed by hand"):
        zoo.split(model)


def test_strides_of_a_signal_follow_a_change_by_hand(signals):
    signals.stages[0][0].stride = (1,)
    assert [stage.stride for stage in zoo.anatomy(signals).stages] == [2]  # 4 before


class PointwiseHead(nn.Module):
    """A head of the user's own that gives its layer another shape than it is given."""

    def __init__(self, features, classes):
        super().__init__()
        self.score = nn.Conv1d(features, classes, 1)

    def forward(self, x):
        return self.score(x[..., None])[..., 0]


class RegisteredInReverse(nn.Module):
    def __init__(self, features, classes):
        super().__init__()
        self.score, self.hidden = nn.Linear(features, classes), nn.Linear(features, features)

    def forward(self, x):
        return self.score(self.hidden(x).relu())


class Halves(nn.Module):
    """Scores half as many classes as its layer has outputs."""

    def __init__(self, features, classes):
        super().__init__()
        self.score = nn.Linear(features, 2 * classes)

    def forward(self, x):
        return nn.functional.glu(self.score(x))


@pytest.mark.parametrize("head", [PointwiseHead, RegisteredInReverse, Halves])
def test_a_head_of_a_class_of_ones_own_is_known_by_what_it_takes_and_gives(signals, head):
    signals.out = head(16, 7)
    main = zoo.anatomy(signals).main
    assert (main.kind, main.in_features, main.num_classes) == ("linear", 16, 7)
    assert zoo.swap_head(signals, 3)(SIGNAL).shape == (2, 3)


class Configured(nn.Module):
    """A network whose forward reads attributes."""

    def __init__(self):
        super().__init__()
        self.body = nn.ModuleDict({"a": nn.Conv2d(3, 8, 3, 2, 1), "b": nn.Conv2d(8, 8, 3, 1, 1)})
        self.fc = nn.Linear(8, 5)
        self.order, self.gain, self.temperature, self.activation, self.calls = ["a"], 2.0, 3.0, nn.functional.relu, 0

    def forward(self, x):
        self.calls += 1
        for name in self.order:
            x = self.activation(self.body[name](x)) * self.gain
        return self.fc(x.mean((2, 3))) / self.temperature


@pytest.fixture
def configured():
    torch.manual_seed(0)
    return zoo.adopt(Configured().eval(), example=X[:1])


SETTINGS = {"order": ["a", "b"], "gain": 0.5, "temperature": 1.0, "activation": torch.tanh}


@pytest.mark.parametrize("name", SETTINGS)
def test_an_attribute_that_forward_reads_is_not_split_as_it_was(configured, name):
    setattr(configured, name, SETTINGS[name])
    with contextlib.suppress(errors.NotSupported):
        backbone, head = zoo.split(configured)
        torch.testing.assert_close(head(backbone(X)), configured(X))


def test_adopting_again_splits_what_another_attribute_made_of_a_model(configured):
    configured.order = ["a", "b"]
    with pytest.raises(errors.NotSupported, match=r"zoo\.adopt\(model, example=x\)"):
        zoo.split(configured)
    backbone, head = zoo.split(zoo.adopt(configured, example=X[:1]))
    torch.testing.assert_close(head(backbone(X)), configured(X))


def test_a_forward_that_counts_its_calls_keeps_its_split(configured):
    for _ in range(2):
        configured(X)
        backbone, head = zoo.split(configured)
    assert torch.equal(head(backbone(X)), configured(X))


def test_classes_of_one_head_of_several_changed_by_hand_are_counted(signals):
    zoo.swap_head(signals, {"a": 2, "b": 3})
    signals.out.a = nn.Linear(16, 7)
    assert zoo.anatomy(signals).main.num_classes == 10


def test_a_stage_appended_to_a_traced_list_is_as_deep_as_what_follows_the_stages(signals):
    signals.stages.append(nn.Sequential(nn.Conv1d(16, 16, 3, 1, 1), nn.ReLU()))
    rates = {
        id(each): group["lr"]
        for group in zoo.param_groups(signals, lr=1.0, layer_decay=0.5)
        for each in group["params"]
    }
    stages = [rates[id(stage[0].weight)] for stage in signals.stages]
    assert stages == sorted({*stages})
