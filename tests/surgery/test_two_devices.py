"""Surgery on a model whose parts lie on different devices; the meta device stands in for the second one."""

from __future__ import annotations

import pytest
import torch
from support.two_devices import spread
from torch import nn

import zoo_core as zoo
from zoo_core.errors import NotSupported

X = torch.zeros(2, 1, 32, 32)
# what moves tensors from device to device is a hook on each module, and a new head has none
pytestmark = pytest.mark.filterwarnings("ignore:the hooks on 'fc' are not called any more")


@pytest.fixture
def model():
    """A net whose end is elsewhere."""
    return spread(zoo.get("tiny/glyphnet", weights=None, seed=0).eval(), "cpu", "meta")


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


def test_a_head_on_the_features_is_born_where_the_features_end(model):
    zoo.swap_head(model, nn.Conv2d(64, 3, 3, padding=1), at="features")
    assert devices(model, "fc", "layer2") == [{"meta"}, {"cpu"}]


@pytest.mark.parametrize("at", ["layer2", "layer3"])
def test_each_branch_has_its_stages_where_they_were(model, at):
    where = {path: devices(model, path) for path in ("layer2", "layer3")}
    zoo.branch(model, at=at, heads={"a": 3, "b": 5})
    stages = {"layer2": ("layer2", "layer3"), "layer3": ("layer3",)}[at]
    found = {(branch, path): devices(model, f"fc.{branch}.body.{path}") for branch in "ab" for path in stages}
    assert found == {(branch, path): where[path] for branch in "ab" for path in stages}
    assert devices(model, "fc.a.body.fc", "fc.b.body.fc") == [{"meta"}, {"meta"}]
    assert {each.device.type for each in model(X).values()} == {"meta"}


def test_an_encoder_and_features_give_each_map_where_its_stage_is(model):
    assert [each.device.type for each in zoo.encoder(model)(X)] == ["cpu", "cpu", "meta"]
    assert {name: each.device.type for name, each in zoo.features(model, X, at=["layer2", "layer3"]).items()} == {
        "layer2": "cpu",
        "layer3": "meta",
    }


def test_a_split_runs_from_one_to_the_other(model):
    backbone, head = zoo.split(model)
    assert backbone(X).device.type == head(backbone(X)).device.type == "meta"


def test_a_front_ends_on_the_device_of_its_last_stage(model):
    assert zoo.truncate(model, after="layer2")(X).device.type == "cpu"


def test_a_save_says_which_tensor_has_no_values(model, tmp_path):
    with pytest.raises(NotSupported, match=r"layer3\.conv1\.weight cannot be saved"):
        zoo.save(model, tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_freezing_and_grouping_do_not_care_where_tensors_are(model):
    groups = zoo.param_groups(zoo.freeze(model), lr=0.1)
    assert {each.device.type for group in groups for each in group["params"]} == {"meta"}


def test_get_builds_on_the_meta_device_without_memory():
    model = zoo.get("tiny/glyphnet", num_classes=9, device="meta")
    assert devices(model, "") == [{"meta"}]
    with torch.no_grad():
        assert model(torch.zeros(2, 1, 32, 32, device="meta")).shape == (2, 9)
