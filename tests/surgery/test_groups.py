"""Parameter groups, beside the loops over named_parameters that people write for the same."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.models import VisionTransformer

import zoo_core as zoo
from zoo_core import errors
from zoo_core.surgery.fine_tuning.param_groups import param_groups
from zoo_core.surgery.metadata import Metadata, attach
from zoo_core.surgery.receipt import Receipt
from zoo_core.tracing.adopt import adopt


@pytest.fixture
def model():
    return zoo.get("tiny/glyphnet", weights=None, num_classes=9, seed=0)


@pytest.fixture
def vit():
    return adopt(VisionTransformer(32, 16, 4, 2, 8, 16, num_classes=9), family="torchvision")


def settings_of(groups):
    """What each parameter gets, whatever the groups are."""
    return {id(p): (group["lr"], group.get("weight_decay")) for group in groups for p in group["params"]}


def trained(model, groups):
    """The parameters after two steps of AdamW, which feels rate and decay."""
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(groups)
    for _ in range(2):
        optimizer.zero_grad()
        model.eval()(torch.randn(2, 1, 32, 32)).square().mean().backward()
        optimizer.step()
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def assert_same_training(model, recipe, ours):
    """Both train a copy of ``model`` to the same bits."""
    twin = copy.deepcopy(model)
    theirs, here = trained(twin, recipe(twin)), trained(model, ours(model))
    assert all(torch.equal(theirs[name], here[name]) for name in theirs)


def test_the_head_learns_ten_times_faster_as_in_the_tutorials(model):
    def recipe(m):
        head = [id(p) for p in m.fc.parameters()]
        return [
            {"params": [p for p in m.parameters() if id(p) not in head], "lr": 1e-3, "weight_decay": 0.1},
            {"params": m.fc.parameters(), "lr": 1e-2, "weight_decay": 0.1},
        ]

    assert_same_training(model, recipe, lambda m: param_groups(m, lr=1e-3, head_lr=1e-2, weight_decay=0.1, no_decay=()))


def test_biases_learn_at_twice_the_rate_and_without_decay_as_in_caffe(model):
    def recipe(m):
        biases = [p for name, p in m.named_parameters() if "bias" in name]
        others = [p for name, p in m.named_parameters() if "bias" not in name]
        return [
            {"params": biases, "lr": 2 * 1e-3, "weight_decay": 0.0},
            {"params": others, "lr": 1e-3, "weight_decay": 5e-4},
        ]

    assert_same_training(
        model, recipe, lambda m: param_groups(m, lr=1e-3, bias_lr_scale=2, weight_decay=5e-4, no_decay="bias")
    )


def test_by_default_vectors_are_not_decayed_as_in_timm(model):
    def recipe(m):
        decay = [p for name, p in m.named_parameters() if p.ndim > 1 and not name.endswith(".bias")]
        rest = [p for name, p in m.named_parameters() if p.ndim <= 1 or name.endswith(".bias")]
        return [
            {"params": rest, "lr": 1e-3, "weight_decay": 0.0},
            {"params": decay, "lr": 1e-3, "weight_decay": 0.05},
        ]

    assert_same_training(model, recipe, lambda m: param_groups(m, lr=1e-3, weight_decay=0.05))


def test_norms_alone_can_be_kept_from_decay_as_in_torchvisions_references(model):
    norms = {id(p) for m in model.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()}
    found = settings_of(param_groups(model, lr=0.1, weight_decay=1e-4, no_decay="norm"))
    assert found == {id(p): (0.1, 0.0 if id(p) in norms else 1e-4) for p in model.parameters()}


def layer_id(name, layers):
    """BEiT's and MAE's rule for a vision transformer, in the names of torchvision."""
    if name in {"class_token", "encoder.pos_embedding"} or name.startswith("conv_proj"):
        return 0
    if name.startswith("encoder.layers.encoder_layer_"):
        return int(name.split("encoder_layer_")[1].split(".")[0]) + 1
    return layers


def test_layer_decay_is_that_of_beit_and_mae(vit):
    layers, decay = 5, 0.75
    scales = [decay ** (layers - i) for i in range(layers + 1)]
    expected = {
        id(p): (1e-3 * scales[layer_id(name, layers)], 0.0 if p.ndim <= 1 or name in SKIPPED else 0.05)
        for name, p in vit.named_parameters()
    }
    assert settings_of(param_groups(vit, lr=1e-3, weight_decay=0.05, layer_decay=decay)) == expected


SKIPPED = {"class_token", "encoder.pos_embedding"}


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "mobilenet_v3_small", "swin_t", "tiny/glyphnet"])
def test_layer_decay_never_falls_with_depth(name):
    model = zoo.get(name, weights=None)
    groups = param_groups(model, lr=1.0, layer_decay=0.5)
    rates = [group["lr"] for group in groups]
    assert rates == sorted(rates)
    last = zoo.anatomy(model).stages[-1].name
    assert {group["lr"] for group in groups if group["name"].startswith(last)} == {0.5}
    assert {group["lr"] for group in groups if group["name"].startswith("head")} == {1.0}


def test_head_lr_replaces_the_rate_of_the_head_under_layer_decay(vit):
    groups = param_groups(vit, lr=1e-3, head_lr=1e-1, layer_decay=0.5)
    assert {g["lr"] for g in groups if g["name"].startswith("head")} == {1e-1}
    assert {g["lr"] for g in groups if g["name"].startswith("neck")} == {1e-3}


def names_in(model, groups):
    """Names of the parameters in these groups."""
    chosen = {id(parameter) for group in groups for parameter in group["params"]}
    return {name for name, parameter in model.named_parameters() if id(parameter) in chosen}


def test_each_group_says_what_it_is_and_what_is_in_it(model):
    groups = param_groups(model, lr=1e-3, head_lr=1e-2, bias_lr_scale=2)
    assert [group["name"] for group in groups] == [
        "backbone",
        "backbone, no decay",
        "backbone, biases, no decay",
        "head",
        "head, biases, no decay",
    ]
    assert [names_in(model, [group]) for group in groups[-2:]] == [{"fc.weight"}, {"fc.bias"}]


def test_the_optimizers_own_decay_stands_unless_told_otherwise(model):
    optimizer = torch.optim.AdamW(param_groups(model, lr=1e-3), weight_decay=0.3)
    assert {group["name"]: group["weight_decay"] for group in optimizer.param_groups} == {
        "all": 0.3,
        "all, no decay": 0.0,
    }


@pytest.mark.parametrize(
    "optimizer",
    [torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.NAdam],
    ids=lambda kind: kind.__name__,
)
def test_every_optimizer_takes_the_groups_and_gives_back_its_state(model, optimizer):
    first = optimizer(param_groups(model, lr=1e-3, head_lr=1e-2))
    second = optimizer(param_groups(model, lr=5.0, head_lr=1.0))
    second.load_state_dict(first.state_dict())
    assert [group["lr"] for group in second.param_groups] == [1e-3, 1e-3, 1e-2, 1e-2]
    assert [group["name"] for group in second.param_groups] == [group["name"] for group in first.param_groups]


def test_schedulers_scale_the_rates_of_all_groups(model):
    optimizer = torch.optim.SGD(param_groups(model, lr=1e-3, head_lr=1e-2))
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    optimizer.step()
    scheduler.step()
    assert {group["lr"] for group in optimizer.param_groups} == {5e-4, 5e-3}


def test_what_the_library_declares_is_not_decayed(model):
    model.no_weight_decay = lambda: {"layer1.conv1.weight", "layer2.*"}
    decayed = names_in(model, [group for group in param_groups(model, lr=1.0) if "no decay" not in group["name"]])
    assert decayed == {"stem.0.weight", "layer1.conv2.weight", "layer3.conv1.weight", "layer3.conv2.weight"} | {
        "layer3.shortcut.0.weight",
        "fc.weight",
    }


def test_no_decay_speaks_the_language_of_freezing(model):
    groups = param_groups(model, lr=1.0, weight_decay=0.1, no_decay=("head", "layer1.*"))
    kept = names_in(model, [group for group in groups if group["weight_decay"] == 0])
    assert kept == {name for name, _ in model.named_parameters() if name.startswith(("fc.", "layer1."))}


def test_names_are_those_of_the_model_inside_a_wrapper(model):
    plain, wrapped = param_groups(model, lr=1.0), param_groups(torch.compile(model, backend="eager"), lr=1.0)
    assert [names_in(model, [group]) for group in wrapped] == [names_in(model, [group]) for group in plain]
    assert settings_of(wrapped) == settings_of(plain)


def test_freezing_everything_and_then_asking_for_groups_says_so(model):
    with pytest.raises(errors.UsageError, match=r"every parameter of this GlyphNet is frozen(.|\n)*zoo\.unfreeze"):
        param_groups(zoo.freeze(model, "all"), lr=1e-3)


def test_a_rate_for_a_frozen_head_says_so(model):
    with pytest.raises(errors.UsageError, match=r"head_lr=0.1 has nothing to act on(.|\n)*the head is frozen"):
        param_groups(zoo.freeze(model, "head"), lr=1e-3, head_lr=0.1)


def test_a_rate_for_a_head_that_does_not_exist_says_so():
    model = nn.Sequential(nn.Linear(4, 2))
    attach(model, Metadata(zoo.Anatomy(heads=()), Receipt("mlp")))
    with pytest.raises(errors.UsageError, match="the model has no head"):
        param_groups(model, lr=1e-3, head_lr=0.1)


def test_layer_decay_without_stages_names_the_reason():
    model = nn.Sequential(nn.Linear(4, 2))
    attach(model, Metadata(zoo.Anatomy(heads=(zoo.Head("0", in_features=4, num_classes=2),)), Receipt("mlp")))
    with pytest.raises(errors.NotSupported, match="has no stages"):
        param_groups(model, lr=1e-3, layer_decay=0.9)


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr": 0},
        {"lr": -1.0},
        {"lr": "1e-3"},
        {"lr": True},
        {"lr": float("nan")},
        {"lr": 1.0, "head_lr": 0.0},
        {"lr": 1.0, "weight_decay": -0.1},
        {"lr": 1.0, "layer_decay": float("inf")},
        {"lr": 1.0, "bias_lr_scale": 0},
        {"lr": 1.0, "no_decay": ("biass",)},
        {"lr": 1.0, "headlr": 1.0},
    ],
    ids=str,
)
def test_an_impossible_argument_is_refused(model, wrong):
    with pytest.raises(errors.UsageError):
        param_groups(model, **wrong)


PARTS = ["backbone", "head", "stem", "layer1", "layer2.*", "*.bn1.*", "*.bias", "layer3[-1:]"]
RATE = st.none() | st.floats(1e-6, 10)


@settings(max_examples=40, deadline=None)
@given(
    frozen=st.lists(st.sampled_from(PARTS), max_size=3),
    tied=st.booleans(),
    head_lr=RATE,
    weight_decay=RATE,
    layer_decay=RATE,
    bias_lr_scale=st.sampled_from([1.0, 2.0]),
    no_decay=st.lists(st.sampled_from(["vector", "bias", "norm", "position", "declared", "layer1"]), max_size=3),
)
def test_groups_partition_what_is_trainable(frozen, tied, head_lr, weight_decay, layer_decay, bias_lr_scale, no_decay):
    model = copy.deepcopy(SHARED)
    if tied:
        model.layer1.conv2.weight = model.layer1.conv1.weight
    for part in frozen:
        zoo.freeze(model, part)
    if not model.fc.weight.requires_grad and not model.fc.bias.requires_grad:
        head_lr = None
    trainable = [p for p in model.parameters() if p.requires_grad]
    if not trainable:
        return
    groups = param_groups(
        model,
        lr=1e-3,
        head_lr=head_lr,
        weight_decay=weight_decay,
        layer_decay=layer_decay,
        bias_lr_scale=bias_lr_scale,
        no_decay=no_decay,
    )
    placed = [id(p) for group in groups for p in group["params"]]
    assert sorted(placed) == sorted(map(id, trainable))
    assert all(group["params"] for group in groups)
    assert len({group["name"] for group in groups}) == len(groups)
    torch.optim.SGD(groups)


SHARED = zoo.get("tiny/glyphnet", weights=None, num_classes=9, seed=0)


@pytest.mark.parametrize("wrong", [3, [3], None])
def test_what_is_not_decayed_has_to_be_named(wrong):
    with pytest.raises(errors.UsageError, match="no_decay cannot be"):
        zoo.param_groups(zoo.get("tiny/glyphnet", weights=None), lr=0.1, no_decay=wrong)


def test_an_optimizer_takes_plain_groups_beside_ours(model):
    zoo.freeze(model)
    optimizer = torch.optim.SGD(param_groups(model, lr=0.1))
    zoo.unfreeze(model, "layer3")
    optimizer.add_param_group({"params": list(model.layer3.parameters()), "lr": 1e-3})
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.1, 1e-3]


def test_unfreezing_gives_the_optimizer_what_it_lacks_at_its_own_rate_and_decay(model):
    plan = {"lr": 0.1, "head_lr": 1.0, "weight_decay": 0.05, "layer_decay": 0.5}
    optimizer = torch.optim.SGD(param_groups(zoo.freeze(model), **plan))
    zoo.unfreeze(model, "layer3", optimizer=optimizer)
    zoo.unfreeze(model, "layer2", "layer1", optimizer=optimizer)
    found = {group["name"]: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups}
    zoo.freeze(model, "stem")
    assert found == {group["name"]: (group["lr"], group["weight_decay"]) for group in param_groups(model, **plan)}
    assert names_in(model, optimizer.param_groups) == {
        name for name, parameter in model.named_parameters() if parameter.requires_grad
    }


def test_what_a_scheduler_made_of_the_rates_holds_for_new_parameters(model):
    optimizer = torch.optim.SGD(param_groups(zoo.freeze(model), lr=0.1, layer_decay=0.5))
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.1)
    optimizer.step()
    scheduler.step()
    zoo.unfreeze(model, "layer3", optimizer=optimizer)
    assert {group["name"]: group["lr"] for group in optimizer.param_groups}["layer3"] == pytest.approx(0.005)


SCHEDULERS = {
    "OneCycleLR": {"max_lr": 1.0, "total_steps": 10},
    "CyclicLR": {"base_lr": 0.1, "max_lr": 1.0},
    "LambdaLR": {"lr_lambda": lambda epoch: 0.9**epoch},
    "MultiplicativeLR": {"lr_lambda": lambda epoch: 0.9 if epoch else 1.0},
    "CosineAnnealingLR": {"T_max": 3},
    "CosineAnnealingWarmRestarts": {"T_0": 3},
    "StepLR": {"step_size": 2},
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_new_groups_follow_a_scheduler_as_the_others_do(model, name):
    optimizer = torch.optim.SGD(param_groups(zoo.freeze(model), lr=0.1, head_lr=1.0), momentum=0.9)
    scheduler = getattr(torch.optim.lr_scheduler, name)(optimizer, **SCHEDULERS[name])
    for step in range(8):
        if step == 2:
            zoo.unfreeze(model, "layer3", optimizer=optimizer)
            assert len(optimizer.param_groups) == 4
        optimizer.step()
        scheduler.step()
        head, *others = ({"lr": each["lr"], "momentum": each["momentum"]} for each in optimizer.param_groups)
        for group, each in zip(optimizer.param_groups[1:], others, strict=True):
            share = 1.0 if group["name"].startswith("head") else 0.1
            assert each == pytest.approx({**head, "lr": head["lr"] * share})


def test_new_groups_have_the_rates_of_a_plateau(model):
    optimizer = torch.optim.AdamW(param_groups(zoo.freeze(model), lr=0.1, head_lr=1.0))
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    for loss in (1.0, 2.0):
        scheduler.step(loss)
    zoo.unfreeze(model, "layer3", optimizer=optimizer)
    scheduler.step(3.0)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01, 0.01, 0.001, 0.001])


def test_new_groups_have_the_rates_of_a_drop_by_hand_also_beside_a_frozen_head(model):
    optimizer = torch.optim.AdamW(param_groups(zoo.freeze(model), lr=0.1, layer_decay=0.5, weight_decay=0.2))
    for group in optimizer.param_groups:
        group["lr"] *= 0.1
    zoo.freeze(model, "head")
    zoo.unfreeze(model, "layer3", optimizer=optimizer)
    settings = [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups]
    assert settings == [
        (pytest.approx(0.01), 0.2),
        (pytest.approx(0.01), 0.0),
        (pytest.approx(0.005), 0.2),
        (pytest.approx(0.005), 0.0),
    ]


def test_an_optimizer_with_one_rate_gets_what_it_lacks_at_that(model):
    optimizer = torch.optim.SGD(zoo.freeze(model).fc.parameters(), lr=0.3, weight_decay=0.01)
    zoo.unfreeze(model, "layer3", optimizer=optimizer)
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(0.3, 0.01)] * 2


def test_an_optimizer_with_rates_of_its_own_is_told_how_to_take_more(model):
    fc = zoo.freeze(model).fc
    optimizer = torch.optim.SGD([{"params": [fc.weight], "lr": 0.1}, {"params": [fc.bias], "lr": 0.2}])
    with pytest.raises(zoo.ZooError, match="the groups of this optimizer differ") as error:
        zoo.unfreeze(model, "layer3", optimizer=optimizer)
    assert "optimizer.add_param_group" in str(error.value)
    optimizer.add_param_group({"params": list(model.layer3.parameters())})  # what it says


def test_parameters_that_fsdp_made_vectors_of_are_refused_since_none_would_be_decayed(model):
    model.fc.weight.data = model.fc.weight.detach().flatten()  # as FullyShardedDataParallel(use_orig_params=True) does
    with pytest.raises(zoo.ZooError, match=r"made a vector of fc\.weight[\s\S]*before the model is wrapped"):
        zoo.param_groups(model, lr=1e-3)
