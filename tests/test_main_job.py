"""The main job on real files: `zoo.get("resnet18", num_classes=9)` from a real server, through the public door."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

import zoo_core as zoo
from zoo_core import errors
from zoo_core.registry.zoo import Zoo, current_zoo


@pytest.fixture(params=["zip", "old pickle"])
def resnet18_file(request, tmp_path):
    """A resnet18 checkpoint saved by torch, named with the prefix of its hash as torchvision names its own."""
    torch.manual_seed(0)
    state = torchvision.models.resnet18().state_dict()
    path = tmp_path / "resnet18.pth"
    torch.save(state, path, _use_new_zipfile_serialization=request.param == "zip")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return path.rename(tmp_path / f"resnet18-{digest[:8]}.pth")


@pytest.fixture
def served(resnet18_file, file_server):
    """The registry as it is, except that resnet18's default weights are the file on the loopback server."""
    server = file_server(resnet18_file.parent)
    with served_resnet18(f"{server.url}/{resnet18_file.name}", resnet18_file.stem.rpartition("-")[2]):
        yield server


def served_resnet18(url: str, sha256: str):
    own = Zoo()
    card = own.resolve("torchvision/resnet18")[0]
    weights = replace(card.find(), urls=(url,), sha256=sha256, size=None)
    own.add(replace(card, weights=(weights,)))
    return zoo.use(own)


def test_the_first_call_downloads_and_verifies(served, resnet18_file):
    model = zoo.get("resnet18", num_classes=9)
    state = torch.load(resnet18_file, weights_only=True)
    assert served.paths == [f"/{resnet18_file.name}"]
    assert model.fc.out_features == 9
    assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items() if not name.startswith("fc."))


def test_the_second_call_touches_no_network(served):
    zoo.get("resnet18", num_classes=9)
    served.close()
    assert zoo.get("resnet18", num_classes=9).fc.out_features == 9


def test_the_receipt_says_what_happened_to_every_tensor(served, resnet18_file):
    receipt = zoo.receipt(zoo.get("resnet18", num_classes=9))
    assert receipt.counts == {"loaded": 120, "initialized": 2}
    assert receipt.names("initialized") == ("fc.weight", "fc.bias")
    assert receipt.sha256 == hashlib.sha256(resnet18_file.read_bytes()).hexdigest()
    assert (receipt.tag, receipt.strength) == ("IMAGENET1K_V1", "weak")
    assert Path(receipt.path).read_bytes() == resnet18_file.read_bytes()


def test_the_class_count_of_the_file_keeps_its_trained_head(served, resnet18_file):
    model = zoo.get("resnet18", num_classes=1000)
    assert torch.equal(model.fc.weight, torch.load(resnet18_file, weights_only=True)["fc.weight"])


def test_a_wrong_byte_is_refused_and_nothing_is_left_under_the_final_name(served, resnet18_file, tmp_path):
    damaged = bytearray(resnet18_file.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    resnet18_file.write_bytes(damaged)
    with pytest.raises(errors.DigestMismatch, match=resnet18_file.stem.rpartition("-")[2]):
        zoo.get("resnet18", num_classes=9)
    assert not list((tmp_path / "cache").rglob("*.pth"))
    assert not list((tmp_path / "cache").rglob("resnet18@*"))


def test_a_file_that_torch_hub_already_holds_is_used_after_hashing(served, resnet18_file, tmp_path):
    held = tmp_path / "torch" / "hub" / "checkpoints" / resnet18_file.name
    held.parent.mkdir(parents=True)
    held.write_bytes(resnet18_file.read_bytes())
    assert zoo.get("resnet18", num_classes=9).fc.out_features == 9
    assert served.paths == []


def test_a_damaged_file_of_torch_hub_is_not_used(served, resnet18_file, tmp_path):
    held = tmp_path / "torch" / "hub" / "checkpoints" / resnet18_file.name
    held.parent.mkdir(parents=True)
    held.write_bytes(resnet18_file.read_bytes()[:-1])
    zoo.get("resnet18", num_classes=9)
    assert len(served.paths) == 1


def test_a_file_of_another_architecture_is_refused_and_its_tensors_are_named(file_server, tmp_path):
    path = tmp_path / "net.pth"
    torch.save(torchvision.models.resnet34().state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    own = served_resnet18(f"{file_server(tmp_path).url}/net.pth", digest)
    with own, pytest.raises(errors.LoadMismatch, match=r"unexpected \(layer1.2.conv1.weight") as caught:
        zoo.get("resnet18", num_classes=9)
    assert "layer3.5.bn2.bias" in caught.value.unexpected


def test_a_file_that_lacks_a_stage_is_refused_even_with_a_new_head(file_server, tmp_path):
    state = {k: v for k, v in torchvision.models.resnet18().state_dict().items() if not k.startswith("layer4.")}
    path = tmp_path / "net.pth"
    torch.save(state, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    own = served_resnet18(f"{file_server(tmp_path).url}/net.pth", digest)
    with own, pytest.raises(errors.LoadMismatch, match=r"missing \(layer4.0.conv1.weight"):
        zoo.get("resnet18", num_classes=9)


def test_an_unreachable_host_names_it_and_both_ways_out(closed_port):
    own = served_resnet18(f"http://127.0.0.1:{closed_port}/resnet18-5c106cde.pth", "5c106cde")
    with own, pytest.raises(errors.FetchError, match=r"127\.0\.0\.1") as caught:
        zoo.get("resnet18", num_classes=9)
    assert "weights=None" in str(caught.value)
    assert "ZOO_OFFLINE" in str(caught.value)


def test_a_file_of_the_users_own_loads_with_its_own_classes(tmp_path):
    trained = torchvision.models.resnet18(num_classes=5)
    torch.save(trained.state_dict(), tmp_path / "mine.pth")
    model = zoo.get("resnet18", weights=tmp_path / "mine.pth")
    assert torch.equal(model.fc.weight, trained.fc.weight)


def test_a_file_of_the_users_own_can_get_a_new_head(tmp_path):
    torch.save(torchvision.models.resnet18(num_classes=5).state_dict(), tmp_path / "mine.pth")
    model = zoo.get("resnet18", weights=str(tmp_path / "mine.pth"), num_classes=9)
    assert zoo.receipt(model).names("initialized") == ("fc.weight", "fc.bias")


HEADS = {
    "deep": lambda: zoo.mlp_head(9, hidden=(16,), batch_norm=True),
    "several": lambda: {"colour": 3, "shape": zoo.mlp_head(5, hidden=(16,))},
    "a module": lambda: nn.Sequential(nn.Dropout(0.1), nn.Linear(64, 9)),
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_a_trained_head_in_a_file_of_the_users_own_is_kept_when_just_such_a_head_is_asked_for(tmp_path, head):
    trained = zoo.get("tiny/glyphnet", weights=None, head=head(), seed=1)
    torch.save(trained.state_dict(), tmp_path / "mine.pth")
    model = zoo.get("tiny/glyphnet", weights=tmp_path / "mine.pth", head=head())
    assert all(torch.equal(tensor, trained.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert zoo.receipt(model).names("initialized") == ()


def test_another_head_in_a_file_of_the_users_own_is_replaced(tmp_path):
    trained = zoo.get("tiny/glyphnet", weights=None, head=zoo.mlp_head(9, hidden=(16,)))
    torch.save(trained.state_dict(), tmp_path / "mine.pth")
    model = zoo.get("tiny/glyphnet", weights=tmp_path / "mine.pth", head=zoo.mlp_head(9, hidden=(32,)))
    assert torch.equal(model.stem[0].weight, trained.stem[0].weight)
    assert set(zoo.receipt(model).names("initialized")) == {f"fc.{name}" for name in model.fc.state_dict()}


def test_a_file_of_the_users_own_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(errors.WeightsError, match=r"mine\.pth"):
        zoo.get("resnet18", weights=tmp_path / "mine.pth")


def test_the_default_registry_still_has_the_real_addresses():
    assert current_zoo().resolve("resnet18")[0].find().urls == (
        "https://download.pytorch.org/models/resnet18-f37072fd.pth",
    )


def test_freezing_an_empty_list_of_parts_freezes_nothing():
    model = zoo.get("tiny/glyphnet", freeze=[])
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("arguments", [{"num_class": 9}, {"Weights": None}, {"frozen": "backbone"}])
def test_an_unknown_argument_names_the_close_match(arguments):
    with pytest.raises(errors.UnknownArgument, match="did you mean"):
        zoo.get("tiny/glyphnet", **arguments)


@pytest.mark.parametrize("wrong", [{"weights": 7}, {"weights": "V9"}, {"head": "big"}, {"num_classes": 9, "head": 9}])
def test_an_impossible_argument_is_refused(wrong):
    with pytest.raises(errors.UsageError):
        zoo.get("tiny/glyphnet", **wrong)


def test_a_tag_in_the_name_and_another_in_the_argument_are_refused():
    with pytest.raises(errors.UsageError, match="say it in one place"):
        zoo.get("tiny/glyphnet@GLYPHS_V1", weights="GLYPHS_V0")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_model_has_the_dtype_that_was_asked_for(dtype):
    assert {p.dtype for p in zoo.get("tiny/glyphnet", dtype=dtype).parameters()} == {dtype}


def test_a_seed_makes_the_whole_model_reproducible_and_leaves_the_global_state_alone():
    state = torch.get_rng_state()
    first, second = (zoo.get("tiny/glyphnet", weights=None, num_classes=9, seed=3).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(torch.get_rng_state(), state)
