"""Models of which torch.compile has wrapped some layers: every verb finds the parts that were there before."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import zoo_core as zoo

SIZE = (2, 3, 64, 64)


@pytest.fixture(autouse=True)
def _without_compiling():
    """The wrappers of torch.compile, which then run what they wrap as it is: quick, and the same numbers."""
    torch.compiler.set_stance("force_eager")
    yield
    torch.compiler.set_stance("default")


class Net(nn.Module):
    """Three stages and a head, nested as a container that is compiled whole."""

    def __init__(self):
        super().__init__()
        widths = ((3, 8), (8, 16), (16, 32))
        self.body = nn.Sequential(*(nn.Sequential(nn.Conv2d(*each, 3, 2, 1), nn.ReLU()) for each in widths))
        self.fc = nn.Linear(32, 10)

    def forward(self, x):
        return self.fc(self.body(x).mean((2, 3)))


def traced(*, path="", late=False):
    torch.manual_seed(0)
    model = Net().eval()
    if path and late:
        compiled(model, path)
    zoo.adopt(model, example=torch.zeros(1, 3, 64, 64))
    return compiled(model, path) if path and not late else model


def declared(*, path="", late=False):
    torch.manual_seed(0)
    from torchvision.models import mobilenet_v2

    model = mobilenet_v2(num_classes=10).eval()
    if path and late:
        compiled(model, path)
    zoo.adopt(model, family="torchvision", name="mobilenet_v2", options={"num_classes": 10})
    return compiled(model, path) if path and not late else model


def compiled(model, path):
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, torch.compile(model.get_submodule(path), backend="eager"))
    return model


def own_names(names):
    return {name.replace("_orig_mod.", "") for name in names}


CASES = [
    (traced, "body"),
    (traced, "body.1"),
    (traced, "fc"),
    (declared, "features"),
    (declared, "features.3"),
    (declared, "classifier"),
]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0].__name__}-{case[1]}")
def case(request):
    return request.param


@pytest.mark.parametrize("late", [False, True])
def test_anatomy_is_that_of_the_model_before(case, late):
    build, path = case
    now, before = zoo.anatomy(build(path=path, late=late)), zoo.anatomy(build())
    assert now.stages == before.stages
    assert now.main == before.main


def test_freezing_up_to_a_stage_freezes_the_same_tensors(case):
    build, path = case
    frozen = []
    for model in (build(path=path), build()):
        zoo.freeze(model, until=zoo.anatomy(model).stages[1].name)
        frozen.append(own_names(name for name, each in model.named_parameters() if not each.requires_grad))
    assert frozen[0] == frozen[1] != set()


def test_parts_are_called_what_they_were_before(case):
    build, path = case
    model = zoo.freeze(build(path=path), next(name for name, _ in build().named_parameters() if name.startswith(path)))
    assert len([each for each in model.parameters() if not each.requires_grad]) == 1


def test_rates_follow_depth_as_before(case):
    build, path = case
    rates = []
    for model in (build(path=path), build()):
        names = {id(each): name for name, each in model.named_parameters()}
        groups = zoo.param_groups(model, lr=1.0, layer_decay=0.5)
        rates.append({own_names([names[id(each)]]).pop(): group["lr"] for group in groups for each in group["params"]})
    assert rates[0] == rates[1]


def test_maps_fronts_and_splits_give_what_they_gave(case):
    build, path = case
    x, outputs = torch.randn(SIZE), []
    for model in (build(path=path), build()):
        backbone, head = zoo.split(model)
        stage = zoo.anatomy(model).stages[0].name
        outputs.append([head(backbone(x)), zoo.truncate(model, after=stage)(x), *zoo.encoder(model)(x)])
    assert all(map(torch.equal, *outputs))


def test_children_of_a_compiled_container_can_be_sliced():
    model = zoo.freeze(traced(path="body"), "body[:2]")
    assert [each.requires_grad for each in model.parameters()] == [False] * 4 + [True] * 4


def test_the_receipt_still_says_what_was_loaded(case):
    build, path = case
    receipt = zoo.receipt(build(path=path))
    assert set(receipt.tensors.values()) == {"loaded"}
    assert own_names(receipt.tensors) == {*build().state_dict()}


def test_a_layer_that_is_replaced_inside_a_compiled_part_is_seen():
    model = traced(path="body")
    model.fc = nn.Linear(32, 7)
    model.body.get_submodule("2")[0] = nn.Conv2d(16, 32, 5, 2, 2)
    assert zoo.anatomy(model).main.num_classes == 7
    assert zoo.receipt(model).tensors["body._orig_mod.2.0.weight"] == "adapted"
