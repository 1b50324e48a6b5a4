"""Files in the layouts in which they were published go through the whole path, and come out as timm loads them."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from loopback import Server, status
from safetensors.torch import save_file

import zoo_core as zoo
from zoo_core.errors import FetchError, LoadMismatch, Untrusted
from zoo_core.registry import current_zoo

ARCHIVE = "vit_tiny_patch16_224@augreg_in21k_ft_in1k"


@pytest.fixture
def server():
    """A real web server on the loopback address."""
    running = Server()
    yield running
    running.close()


@pytest.fixture
def hub(server, monkeypatch, tmp_path):
    """Put a state dict on the hub as the file of some weights: ``hub("resnet18.a1_in1k", state)``; returns the file."""
    monkeypatch.setenv("HF_ENDPOINT", server.url(""))

    def put(name, state):
        path = tmp_path / f"{name}.safetensors"
        save_file({key: tensor.contiguous() for key, tensor in state.items()}, path)
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        location = f"/timm/{name}/resolve/main/model.safetensors"
        server.always[location] = status(
            302, Location=server.put(f"/blobs/{digest}", data), X_Linked_Etag=f'"{digest}"'
        )
        return path

    return put


@pytest.fixture
def url(server, tmp_path):
    """Serve a file at the url of some weights, whose digest is then that of the file; returns the file."""
    own = zoo.Zoo()

    def put(name, write, called=None, **changes):
        card, tag = own.resolve(f"timm/{name}")
        file = card.find(tag).files[-1]
        path = tmp_path / (called or file.file_name.replace(".safetensors", ".pth"))
        write(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8] if "sha256" not in changes else ""
        changes = {"urls": (server.put(f"/{path.name}", path.read_bytes()),), "sha256": digest, **changes}
        weights = tuple(replace(file, **changes) if each.tag == tag else each for each in card.weights)
        own.member("timm").cards[card.name] = replace(card, weights=weights)
        return path

    with zoo.use(own):
        yield put


def fresh(name, **options):
    """An untrained model of timm, for the tensors of a file."""
    torch.manual_seed(0)
    return timm.create_model(name, **options)


def randomised(name, **options):
    """The state of an untrained model whose norms and biases are not all ones and zeros."""
    state = fresh(name, **options).state_dict()
    generator = torch.Generator().manual_seed(1)
    return {
        key: torch.rand(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor + 5
        for key, tensor in state.items()
    }


def by_timm(name, tag, path, **options):
    """What timm makes of the same file."""
    custom = path.suffix == ".npz"
    overlay = {"file": str(path), "custom_load": custom}
    return timm.create_model(name, pretrained=True, pretrained_cfg=tag, pretrained_cfg_overlay=overlay, **options)


def assert_same(model, reference):
    """The same tensors, bit for bit, and a receipt that tells of each."""
    ours, theirs = model.state_dict(), reference.state_dict()
    assert list(ours) == list(theirs)
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    told = zoo.receipt(model).tensors
    assert {name for name, outcome in told.items() if outcome != "ignored"} == set(ours)


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
    assert zoo.receipt(model).names("initialised") == ("fc.weight", "fc.bias")
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
    current_zoo().member("timm").cards["convnext_atto"] = replace(card, weights=(weights,))
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
    assert zoo.receipt(model).names("initialised") == ("head.norm.weight", "head.norm.bias")


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


def as_flax_published(model):
    """A vision transformer, with a stem of convolutions or without, under the names and in the layouts of flax."""
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    dim, heads = model.embed_dim, model.blocks[0].attn.num_heads
    found = {
        "cls": state["cls_token"],
        "embedding/kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
        "head/kernel": state["head.weight"].T,
        "head/bias": state["head.bias"],
        "pre_logits/bias": np.zeros(dim, dtype=np.float32),
    }
    for index in range(len(model.blocks)):
        own, flax = f"blocks.{index}.", f"Transformer/encoderblock_{index}/"
        attention = f"{flax}MultiHeadDotProductAttention_1/"
        for number, part in enumerate(("query", "key", "value")):
            rows = slice(number * dim, (number + 1) * dim)
            found[f"{attention}{part}/kernel"] = state[f"{own}attn.qkv.weight"][rows].T.reshape(dim, heads, -1)
            found[f"{attention}{part}/bias"] = state[f"{own}attn.qkv.bias"][rows].reshape(heads, -1)
        found[f"{attention}out/kernel"] = state[f"{own}attn.proj.weight"].T.reshape(heads, -1, dim)
        found[f"{attention}out/bias"] = state[f"{own}attn.proj.bias"]
        for theirs, ours in (("LayerNorm_0", "norm1"), ("LayerNorm_2", "norm2")):
            found[f"{flax}{theirs}/scale"] = state[f"{own}{ours}.weight"]
            found[f"{flax}{theirs}/bias"] = state[f"{own}{ours}.bias"]
        for number in (0, 1):
            found[f"{flax}MlpBlock_3/Dense_{number}/kernel"] = state[f"{own}mlp.fc{number + 1}.weight"].T
            found[f"{flax}MlpBlock_3/Dense_{number}/bias"] = state[f"{own}mlp.fc{number + 1}.bias"]
    if "patch_embed.backbone.conv.weight" in state:
        found["conv_root/kernel"] = state["patch_embed.backbone.conv.weight"].transpose(2, 3, 1, 0)
        found["gn_root/scale"] = state["patch_embed.backbone.norm.weight"].reshape(1, 1, 1, -1)
        found["gn_root/bias"] = state["patch_embed.backbone.norm.bias"].reshape(1, 1, 1, -1)
    return found


def flax_file(name, **options):
    """Writes an archive in the layout of flax."""

    def write(path):
        model = fresh(name, **options)
        model.load_state_dict(randomised(name, **options))
        with path.open("wb") as file:
            np.savez(file, **as_flax_published(model))

    return write


@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
        pytest.param("vit_tiny_r_s16_p8_224.augreg_in21k_ft_in1k", marks=pytest.mark.full),
    ],
)
def test_an_archive_of_flax_is_loaded_by_the_models_own_loader(url, name):
    architecture, _, tag = name.partition(".")
    path = url(f"{architecture}@{tag}", flax_file(architecture))
    assert path.suffix == ".npz"
    model = zoo.get(f"timm/{architecture}@{tag}")
    assert_same(model, by_timm(architecture, tag, path))
    assert set(zoo.receipt(model).counts) == {"loaded"}


def test_what_an_archive_of_flax_lacks_is_named(url):
    url("test_vit@r160_in1k", flax_file("test_vit", num_classes=7))
    with pytest.raises(LoadMismatch, match=r"2 missing \(head\.weight, head\.bias\)"):
        zoo.get("timm/test_vit")


def test_an_archive_that_nobody_vouches_for_needs_a_word_of_trust(url):
    url("test_vit@r160_in1k", flax_file("test_vit"), sha256="")
    with pytest.raises(Untrusted, match=r'trust="first-use"'):
        zoo.get("timm/test_vit")
    assert zoo.receipt(zoo.get("timm/test_vit", trust="first-use")).strength == "first-use"


def test_the_averaged_weights_of_a_training_run_are_taken_as_timm_takes_them(tmp_path):
    last, averaged = randomised("test_resnet"), fresh("test_resnet").state_dict()
    content = {"epoch": 3, "arch": "test_resnet", "state_dict": last, "state_dict_ema": in_parallel(averaged)}
    torch.save(content, tmp_path / "run.pth.tar")
    model = zoo.get("timm/test_resnet", weights=tmp_path / "run.pth.tar")
    assert_same(model, timm.create_model("test_resnet", checkpoint_path=str(tmp_path / "run.pth.tar")))


def test_a_hub_that_cannot_be_reached_names_all_the_places(server, monkeypatch, closed_port):
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed_port}")
    monkeypatch.setenv("ZOO_REWRITE", f"https://github.com=http://127.0.0.1:{closed_port}")
    with pytest.raises(FetchError) as caught:
        zoo.get("timm/resnet18@a1_in1k")
    assert len(caught.value.attempts) == 2
