"""Saving buffers that no state dict has: those that a constructor would give other values come back too."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import zoo_core as zoo
from zoo_core.errors import Unreadable


class Projecting(nn.Module):
    """A network with a random projection, and a table that it computes, in no state dict."""

    def __init__(self, num_classes=3):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.fc = nn.Linear(8, num_classes)
        self.register_buffer("projection", torch.randn(8, 8), persistent=False)
        self.register_buffer("table", torch.arange(8).sin(), persistent=False)
        self.register_buffer("cache", None, persistent=False)

    def forward(self, x):
        pooled = self.conv(x).relu().mean((2, 3)) + self.table
        return self.fc(pooled @ self.projection)


@pytest.fixture(autouse=True)
def _own_zoo():
    with zoo.use(zoo.Zoo(plugins=())):
        zoo.register("mine/projecting", input_size=(3, 16, 16))(Projecting)
        yield


def network(seed=1):
    return zoo.get("mine/projecting", weights=None, seed=seed).eval()


def recorded(folder):
    return json.loads((folder / "recipe.json").read_text())["tensors"].get("buffers", [])


def test_a_buffer_that_was_drawn_at_random_comes_back(tmp_path):
    model, x = network(), torch.randn(2, 3, 16, 16)
    folder = zoo.save(model, tmp_path / "save")
    assert torch.equal(zoo.load(folder)(x), model(x))
    assert recorded(folder) == ["projection"]


def test_a_buffer_that_was_set_by_hand_comes_back_in_its_shape(tmp_path):
    model, x = network(), torch.randn(2, 3, 16, 16)
    model.table = torch.ones(2, 1)
    loaded = zoo.load(zoo.save(model, tmp_path / "save"))
    assert torch.equal(loaded(x), model(x))
    assert "table" not in loaded.state_dict()


def test_it_comes_back_from_a_save_of_what_was_loaded(tmp_path):
    model, x = network(), torch.randn(2, 3, 16, 16)
    loaded = zoo.load(zoo.save(model, tmp_path / "first"))
    assert torch.equal(zoo.load(zoo.save(zoo.swap_head(loaded, 5, seed=0), tmp_path / "second"))(x), loaded(x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_table_that_a_load_computes_anew_is_not_written_in_another_dtype(dtype, tmp_path):
    model, x = network().to(dtype), torch.randn(2, 3, 16, 16).to(dtype)
    folder = zoo.save(model, tmp_path / "save")
    assert recorded(folder) == ["projection"]
    assert torch.equal(zoo.load(folder)(x), model(x))


def test_a_dtype_that_only_a_buffer_has_comes_back(tmp_path):
    model = network()
    model.table = model.table.double()
    assert zoo.load(zoo.save(model, tmp_path / "save")).table.dtype == torch.float64


def test_buffers_that_two_modules_share_are_written(tmp_path):
    zoo.register("mine/twice", input_size=(3, 16, 16))(Twice)
    model, x = zoo.get("mine/twice", weights=None, seed=1).eval(), torch.randn(2, 3, 16, 16)
    assert torch.equal(zoo.load(zoo.save(model, tmp_path / "save"))(x), model(x))


class Twice(nn.Module):
    """Two layers that add one buffer, which neither saves."""

    def __init__(self, num_classes=3):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.first, self.second = Adding(), Adding()
        self.second.noise = self.first.noise
        self.fc = nn.Linear(8, num_classes)

    def forward(self, x):
        return self.fc(self.second(self.first(self.conv(x).mean((2, 3)))))


class Adding(nn.Module):
    """Adds numbers that were drawn once."""

    def __init__(self):
        super().__init__()
        self.register_buffer("noise", torch.randn(8), persistent=False)

    def forward(self, x):
        return x.relu() + self.noise


def test_a_save_that_has_a_buffer_of_no_such_name_is_refused(tmp_path):
    folder = zoo.save(network(), tmp_path / "save")
    path = folder / "recipe.json"
    path.write_text(path.read_text().replace('"projection"', '"fc.weight"'))
    with pytest.raises(Unreadable, match="has buffers that its model does not have"):
        zoo.load(folder)


@pytest.mark.parametrize("buffers", ["projection", [1]])
def test_a_recipe_whose_buffers_are_no_list_of_names_is_refused(buffers, tmp_path):
    folder = zoo.save(network(), tmp_path / "save")
    path = folder / "recipe.json"
    record = json.loads(path.read_text())
    record["tensors"]["buffers"] = buffers
    path.write_text(json.dumps(record))
    with pytest.raises(Unreadable, match="the buffers are no list of names"):
        zoo.load(folder)
