"""Constructing without values: nothing but the parameters may differ from the ordinary way."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

import zoo_core as zoo
from zoo_core.build.skip_init import without_values
from zoo_core.registry.zoo import current_zoo


def writes_of(build):
    """Build a module in which every value that is written to a parameter would show."""
    with without_values():
        return build()


@pytest.mark.parametrize(
    "initialize",
    [
        nn.init.ones_,
        nn.init.normal_,
        nn.init.kaiming_uniform_,
        nn.init.trunc_normal_,
        nn.init.orthogonal_,
        lambda weight: weight.data.fill_(3),
        lambda weight: weight.data.copy_(torch.ones_like(weight)),
        lambda weight: weight.data.__setitem__(0, 3),
        lambda weight: weight.data[:1].mul_(3),
        lambda weight: torch.ones(weight.shape, out=weight.data),
        lambda weight: weight.data.view(-1).__iadd__(3),
    ],
)
def test_no_value_is_written_into_a_parameter(initialize):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.full((4, 4), 7.0))
            initialize(self.weight)

    assert torch.equal(writes_of(Net).weight, torch.full((4, 4), 7.0))


def test_buffers_get_their_values():
    norm = writes_of(lambda: nn.BatchNorm2d(3))
    assert torch.equal(norm.running_var, torch.ones(3))
    assert torch.equal(norm.running_mean, torch.zeros(3))


def test_shapes_and_flags_of_parameters_can_still_be_changed():
    layer = writes_of(lambda: nn.Linear(2, 3).requires_grad_(requires_grad=False))
    assert not layer.weight.requires_grad


def test_memory_of_a_dropped_parameter_is_not_taken_for_another_tensor():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            for _ in range(50):
                self.weight = nn.Parameter(torch.empty(1000))
                del self.weight
                self.register_buffer("kept", torch.empty(1000).fill_(1.0))
                assert self.kept.sum() == 1000

    writes_of(Net)


def test_modules_of_other_threads_are_left_alone():
    built = []
    inside, done = threading.Event(), threading.Event()

    def elsewhere():
        inside.wait(10)
        built.append(nn.BatchNorm1d(3))
        done.set()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    with without_values():
        inside.set()
        done.wait(10)
    thread.join()
    assert torch.equal(built[0].weight, torch.ones(3))


def test_modules_after_the_block_are_initialized_as_usual():
    writes_of(lambda: nn.Linear(2, 2))
    assert torch.equal(nn.BatchNorm1d(3).weight, torch.ones(3))


def test_an_error_inside_the_block_ends_it():
    with pytest.raises(ZeroDivisionError):
        writes_of(lambda: 1 / 0)
    assert torch.equal(nn.BatchNorm1d(3).weight, torch.ones(3))


MOST = 100_000_000
"""Parameters of the largest model that is built both ways."""


def check_bit_for_bit(name):
    """A model that was built without values and loaded is the one that was built the ordinary way."""
    from zoo_core.build.construct import construct
    from zoo_core.surgery.load_state_dict import load_state

    card = current_zoo().resolve(name)[0]
    quick = construct(card, card.options, values=False).eval()
    if sum(parameter.numel() for parameter in quick.parameters()) > MOST:
        pytest.skip(f"more than {MOST:,} parameters, three times over")
    ordinary = construct(card, card.options).eval()
    load_state(quick, {key: tensor.clone() for key, tensor in ordinary.state_dict().items()}, assign=True)
    theirs, ours = (dict(model.named_parameters(remove_duplicate=False)) for model in (ordinary, quick))
    assert list(theirs) == list(ours)
    assert all(torch.equal(theirs[key], ours[key]) for key in theirs)
    assert [p.requires_grad for p in theirs.values()] == [p.requires_grad for p in ours.values()]
    ties = [
        [list(found.values()).index(tensor) for tensor in found.values()] for found in map(identities, (theirs, ours))
    ]
    assert ties[0] == ties[1]
    buffers = dict(quick.named_buffers())
    assert all(torch.equal(tensor, buffers[key]) for key, tensor in ordinary.named_buffers())


def identities(tensors):
    return {key: id(tensor) for key, tensor in tensors.items()}


SAMPLE = [
    "resnet18",
    "mobilenet_v3_small",
    "squeezenet1_1",
    "densenet121",
    "inception_v3",
    "swin_t",
    "vit_b_32",
    "googlenet",
]


@pytest.mark.parametrize("name", [*(f"torchvision/{name}" for name in SAMPLE), "tiny/glyphnet"])
def test_the_result_is_bit_for_bit_that_of_the_ordinary_way(name):
    check_bit_for_bit(name)


@pytest.mark.full
@pytest.mark.parametrize("name", zoo.list(task="classification"))
def test_the_result_is_bit_for_bit_that_of_the_ordinary_way_for_every_model(name):
    check_bit_for_bit(name)


def test_loading_keeps_tied_weights_tied():
    from zoo_core.surgery.load_state_dict import load_state

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)
            self.two.weight = self.one.weight

    model = Tied()
    load_state(model, {key: tensor.clone() for key, tensor in Tied().state_dict().items()}, assign=True)
    assert model.two.weight is model.one.weight


def test_loading_keeps_the_dtype_of_the_model():
    from zoo_core.surgery.load_state_dict import load_state

    layer = nn.Linear(2, 2)
    load_state(layer, {key: tensor.half() for key, tensor in nn.Linear(2, 2).state_dict().items()}, assign=True)
    assert layer.weight.dtype == torch.float32


def test_two_models_from_one_file_share_nothing(tmp_path):
    first, second = (zoo.get("tiny/glyphnet") for _ in range(2))
    with torch.no_grad():
        first.fc.weight.zero_()
    assert second.fc.weight.any()
    assert zoo.get("tiny/glyphnet").fc.weight.any()


def test_training_leaves_the_file_as_it_was():
    from pathlib import Path

    model = zoo.get("tiny/glyphnet")
    path = Path(zoo.receipt(model).path)
    before = path.read_bytes()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert path.read_bytes() == before
    assert zoo.receipt(zoo.get("tiny/glyphnet")).sha256 == zoo.receipt(model).sha256


def test_a_file_of_the_users_own_can_be_written_over_while_the_model_lives(tmp_path):
    torch.save(zoo.get("tiny/glyphnet").state_dict(), tmp_path / "mine.pth")
    model = zoo.get("tiny/glyphnet", weights=tmp_path / "mine.pth")
    before = model.fc.weight.clone()
    torch.save({"other": torch.zeros(1)}, tmp_path / "mine.pth")
    assert torch.equal(model.fc.weight, before)


class Clever(nn.Module):
    """Keeps, outside its state dict, something it computes from the values of a parameter."""

    def __init__(self, *, fails=False):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        nn.init.ones_(self.fc.weight)
        if fails and self.fc.weight.sum() != 16:
            msg = "not what was drawn"
            raise ValueError(msg)
        self.register_buffer("scale", self.fc.weight.detach().sum(), persistent=False)


def clever_zoo(tmp_path, **said):
    """A registry with that one model, and a file of weights for it."""
    import hashlib

    from support.toys import zoo_of

    torch.save(Clever().state_dict(), path := tmp_path / "clever.pth")
    weights = zoo.Weights("V1", (path.as_uri(),), hashlib.sha256(path.read_bytes()).hexdigest())
    card = zoo.Card("toy", "toy", f"{__name__}:Clever", weights=(weights,), default="V1", **said)
    return zoo_of(lambda _: zoo.Anatomy(heads=()), card)


@pytest.fixture
def _dirty_memory(monkeypatch):
    """What is not written to is noise, as it may be anywhere."""
    usual = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *sizes, **named: usual(*sizes, **named).fill_(7))


@pytest.mark.usefixtures("_dirty_memory")
def test_a_constructor_whose_card_says_so_draws_its_values_and_the_receipt_says_why(tmp_path):
    with zoo.use(clever_zoo(tmp_path, needs_values="scale is computed from fc")):
        model = zoo.get("toy/toy")
    assert model.scale == 16
    assert "built with values: scale is computed from fc" in str(zoo.receipt(model))


@pytest.mark.usefixtures("_dirty_memory")
def test_a_constructor_that_fails_without_values_is_called_the_ordinary_way(tmp_path):
    with zoo.use(clever_zoo(tmp_path, options={"fails": True})):
        model = zoo.get("toy/toy")
    assert model.scale == 16
    assert zoo.receipt(model).needed_values == "its constructor fails without them"


def test_a_constructor_that_needs_no_values_has_nothing_on_its_receipt():
    assert zoo.receipt(zoo.get("tiny/glyphnet")).needed_values == ""
