"""Files in the layouts in which they were published go through the whole path, and come out as timm loads them."""

from __future__ import annotations

import re
import tarfile
from dataclasses import replace

import pytest
import timm
import torch
from support.loopback import status
from support.old_tar import old_tar
from support.timm_files import assert_same, by_timm, fresh, randomised

import zoo_core as zoo
from zoo_core.errors import FetchError, LoadMismatch
from zoo_core.registry.zoo import current_zoo

ARCHIVE = "vit_tiny_patch16_224@augreg_in21k_ft_in1k"


@pytest.mark.parametrize(
    "name",
    [
        "test_resnet.r160_in1k",  # no function
        "test_convnext.r160_in1k",  # one that lets it pass
        "test_vit.r160_in1k",
        pytest.param("test_efficientnet.r160_in1k", marks=pytest.mark.full),
        pytest.param("resnetv2_50x1_bit.goog_in21k_ft_in1k", marks=pytest.mark.full),  # says that it has its own loader
        pytest.param("deit3_small_patch16_224.fb_in1k", marks=pytest.mark.full),  # one with options of its own
        pytest.param("vit_base_patch16_siglip_gap_224.webli", marks=pytest.mark.full),  # loosely, in timm
    ],
)
def test_a_file_of_the_hub_is_loaded_as_it_is(hub, name):
    architecture, _, tag = name.partition(".")
    path = hub(name, randomised(architecture, pretrained_cfg=tag))
    model = zoo.get(f"timm/{architecture}@{tag}")
    assert_same(model, by_timm(architecture, tag, path))
    receipt = zoo.receipt(model)
    assert set(receipt.counts) == {"loaded"}
    assert receipt.strength == "declared"


def test_a_new_head_takes_the_place_of_the_one_in_the_file(hub):
    state = randomised("test_resnet")
    hub("test_resnet.r160_in1k", state)
    model = zoo.get("timm/test_resnet", num_classes=9)
    assert zoo.receipt(model).names("initialized") == ("fc.weight", "fc.bias")
    assert torch.equal(model.conv1[0].weight, state["conv1.0.weight"])


def test_another_number_of_channels_is_made_from_the_filters_in_the_file(hub):
    path = hub("test_vit.r160_in1k", randomised("test_vit"))
    model = zoo.get("timm/test_vit", in_channels=1)
    theirs = by_timm("test_vit", "r160_in1k", path, in_chans=1)
    torch.testing.assert_close(model.patch_embed.proj.weight, theirs.patch_embed.proj.weight)


def test_positions_are_resampled_for_another_size(hub):
    path = hub("test_vit.r160_in1k", randomised("test_vit"))
    model = zoo.get("timm/test_vit", options={"img_size": 96})
    assert_same(model, by_timm("test_vit", "r160_in1k", path, img_size=96))


def test_a_file_that_lacks_a_layer_is_refused_even_with_a_new_head(hub):
    state = randomised("test_resnet")
    hub("test_resnet.r160_in1k", {name: tensor for name, tensor in state.items() if not name.startswith("layer4")})
    with pytest.raises(LoadMismatch, match=r"layer4\.0\.conv1"):
        zoo.get("timm/test_resnet", num_classes=9)


def test_the_other_file_is_loaded_where_the_hub_has_none(server, url, monkeypatch):
    name = "timm/convnext_atto"
    card = zoo.info(name)
    content = {"model": as_facebook_published(randomised("convnext_atto"))}
    path = url("convnext_atto@d2_in1k", lambda path: torch.save(content, path))
    served = zoo.info(name).find()
    hub_url = card.find().urls[0]
    monkeypatch.setenv("HF_ENDPOINT", server.url(""))
    server.always[hub_url.removeprefix("https://huggingface.co")] = status(404)
    weights = replace(served, urls=(hub_url, *served.urls), sha256="", digests={path.name: served.sha256})
    current_zoo().add(replace(card, weights=(weights,)))
    model = zoo.get(name)
    assert_same(model, by_timm("convnext_atto", "d2_in1k", path))
    assert (zoo.receipt(model).strength, zoo.receipt(model).source) == ("weak", server.url(f"/{path.name}"))


def in_parallel(state):
    """Names as data-parallel training writes them."""
    return {f"module.{name}": tensor for name, tensor in state.items()}


def test_a_function_of_one_argument_renames_too(url):
    state = {name: t for name, t in randomised("densenet121").items() if not name.endswith("num_batches_tracked")}
    state = {re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", name): tensor for name, tensor in state.items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in state
    path = url("densenet121@tv_in1k", lambda path: torch.save(state, path))
    assert_same(zoo.get("timm/densenet121@tv_in1k"), by_timm("densenet121", "tv_in1k", path))


def test_a_function_inside_an_entrypoint_renames_too(url):
    state = {re.sub(r"^(pos_embed|cls_token)_", r"\1.", name): t for name, t in randomised("crossvit_9_240").items()}
    assert "pos_embed.0" in state
    path = url("crossvit_9_240@in1k", lambda path: torch.save(state, path))
    assert_same(zoo.get("timm/crossvit_9_240"), by_timm("crossvit_9_240", "in1k", path))


def as_facebook_published(state):
    """A ConvNeXt under the names and in the shapes of the paper's own code."""
    found = {}
    for own, tensor in state.items():
        name = re.sub(r"^stages\.(\d+)\.downsample\.", r"downsample_layers.\1.", own)
        name = re.sub(r"^stages\.(\d+)\.blocks\.", r"stages.\1.", name)
        name = name.replace("stem.", "downsample_layers.0.").replace("conv_dw", "dwconv")
        name = name.replace("mlp.grn.bias", "grn.beta").replace("mlp.grn.weight", "grn.gamma")
        name = name.replace("mlp.fc", "pwconv").replace("head.fc", "head").replace("head.norm", "norm")
        found[name] = tensor.reshape(1, 1, 1, -1) if "grn" in name else tensor
    return found


def test_names_shapes_and_wrappers_of_another_code_base_are_undone(url):
    state = as_facebook_published(randomised("convnextv2_atto"))
    assert state["stages.0.0.grn.beta"].shape == (1, 1, 1, 160)
    path = url("convnextv2_atto@fcmae_ft_in1k", lambda path: torch.save({"model": state}, path))
    model = zoo.get("timm/convnextv2_atto@fcmae_ft_in1k")
    assert_same(model, by_timm("convnextv2_atto", "fcmae_ft_in1k", path))


def test_a_norm_that_was_never_trained_starts_as_it_is_built(url):
    state = randomised("convnextv2_atto", num_classes=0)
    state = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
    path = url("convnextv2_atto@fcmae", lambda path: torch.save({"model": as_facebook_published(state)}, path))
    model = zoo.get("timm/convnextv2_atto@fcmae")
    assert_same(model, by_timm("convnextv2_atto", "fcmae", path))
    assert zoo.receipt(model).names("initialized") == ("head.norm.weight", "head.norm.bias")


def test_tensors_that_nothing_uses_are_told_of(url):
    state = {**randomised("dla46_c"), "level3.tree2.project.0.weight": torch.zeros(1)}
    path = url("dla46_c@in1k", lambda path: torch.save(state, path))
    model = zoo.get("timm/dla46_c")
    assert_same(model, by_timm("dla46_c", "in1k", path))
    assert zoo.receipt(model).names("ignored") == ("level3.tree2.project.0.weight",)


def test_a_checkpoint_of_several_networks_gives_the_encoder(url):
    state = randomised("vit_tiny_patch16_224")
    content = {"encoder": in_parallel(state), "predictor": {"w": torch.zeros(1)}, "opt": {"step": 3}, "epoch": 300}
    path = url(ARCHIVE, lambda path: torch.save(content, path), called="IN1K-vit-300e.pth.tar")
    model = zoo.get(f"timm/{ARCHIVE}")
    assert_same(model, by_timm("vit_tiny_patch16_224", "augreg_in21k_ft_in1k", path))


def test_a_trainer_that_splits_trunk_and_head_is_understood(url):
    state = randomised("regnety_002")
    trunk = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
    heads = {name.replace("head.fc", "0.clf.0"): tensor for name, tensor in state.items() if name.startswith("head.")}
    content = {"classy_state_dict": {"base_model": {"model": {"trunk": trunk, "heads": heads}}}}
    path = url("regnety_002@pycls_in1k", lambda path: torch.save(content, path))
    assert_same(zoo.get("timm/regnety_002"), by_timm("regnety_002", "pycls_in1k", path))


def test_a_tar_archive_of_torchs_first_versions_is_read(url):
    path = url("test_resnet@r160_in1k", lambda path: old_tar(path, in_parallel(randomised("test_resnet"))))
    assert tarfile.is_tarfile(path)
    model = zoo.get("timm/test_resnet")
    expected = randomised("test_resnet")
    assert [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, expected[name])] == []
    assert zoo.receipt(model).counts == {"loaded": len(expected)}


def of_a_training_run():
    """What timm's own trainer leaves: the last weights, and after them the average that it meant to be used."""
    last, averaged = randomised("test_resnet"), fresh("test_resnet").state_dict()
    return {"epoch": 3, "arch": "test_resnet", "state_dict": last, "state_dict_ema": in_parallel(averaged)}


def test_the_averaged_weights_of_a_training_run_are_taken_as_timm_takes_them(tmp_path):
    torch.save(of_a_training_run(), tmp_path / "run.pth.tar")
    model = zoo.get("timm/test_resnet", weights=tmp_path / "run.pth.tar")
    assert_same(model, timm.create_model("test_resnet", checkpoint_path=str(tmp_path / "run.pth.tar")))


def test_the_averaged_weights_of_a_training_run_that_was_published_are_taken_too(url):
    path = url("test_resnet@r160_in1k", lambda path: torch.save(of_a_training_run(), path))
    model = zoo.get("timm/test_resnet")
    assert_same(model, by_timm("test_resnet", "r160_in1k", path))
    assert zoo.receipt(model).counts == {"loaded": len(model.state_dict())}


def test_a_hub_that_cannot_be_reached_names_all_the_places(server, monkeypatch, closed_port):
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed_port}")
    monkeypatch.setenv("ZOO_REWRITE", f"https://github.com=http://127.0.0.1:{closed_port}")
    with pytest.raises(FetchError) as caught:
        zoo.get("timm/resnet18@a1_in1k")
    assert len(caught.value.attempts) == 2
