"""Surgery on a model whose parts lie on different devices; the meta device stands in for the second one."""

from __future__ import annotations

import pytest
import torch

import zoo_core as zoo


@pytest.fixture
def model():
    """A net whose end is elsewhere."""
    model = zoo.get("tiny/glyphnet", weights=None, seed=0)
    for part in (model.layer3, model.fc):
        part.to("meta")
    return model


def devices(model, *paths):
    return [{each.device.type for each in model.get_submodule(path).parameters()} for path in paths]


def test_a_new_head_is_born_on_the_device_of_its_site(model):
    assert devices(zoo.swap_head(model, zoo.mlp_head(3, hidden=(8,))), "fc", "layer2") == [{"meta"}, {"cpu"}]


def test_several_heads_are_born_on_the_device_of_their_site(model):
    assert devices(zoo.swap_head(model, {"a": 2, "b": 3}), "fc") == [{"meta"}]


def test_a_new_stem_is_born_on_the_device_of_the_old_one(model):
    zoo.adapt_stem(model.to("meta"), 3)
    assert devices(model, "stem", "fc") == [{"meta"}, {"meta"}]


def test_a_stem_stays_where_it_is_when_the_head_is_elsewhere(model):
    assert devices(zoo.adapt_stem(model, 3), "stem", "fc") == [{"cpu"}, {"meta"}]


def test_freezing_and_grouping_do_not_care_where_tensors_are(model):
    groups = zoo.param_groups(zoo.freeze(model), lr=0.1)
    assert {each.device.type for group in groups for each in group["params"]} == {"meta"}


def test_get_builds_on_the_meta_device_without_memory():
    model = zoo.get("tiny/glyphnet", num_classes=9, device="meta")
    assert devices(model, "") == [{"meta"}]
    with torch.no_grad():
        assert model(torch.zeros(2, 1, 32, 32, device="meta")).shape == (2, 9)
