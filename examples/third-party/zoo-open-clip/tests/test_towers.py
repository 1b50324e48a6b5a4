"""Embeddings, weights and classifiers of image towers, held to the library's own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import open_clip
import pytest
import torch
from open_clip.pretrained import get_pretrained_cfg
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import save_file

import zoo_core as zoo

X = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
NAME = "open_clip/ViT-S-32-alt"


@pytest.fixture(scope="module")
def theirs():
    """The library's whole model, text and all, with noise in every parameter."""
    model = open_clip.create_model("ViT-S-32-alt").eval()
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=noise), alpha=0.02)
    return model


@pytest.fixture
def own_files(theirs, tmp_path, monkeypatch):
    """The tower's weights are a file that the library's whole model was saved to, in a cache of its own."""
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    save_file({name: tensor.clone() for name, tensor in theirs.state_dict().items()}, tmp_path / "model.safetensors")
    own = zoo.Zoo()
    vit_b_32 = own.resolve("open_clip/ViT-B-32@laion2b_s34b_b79k")[0].find("laion2b_s34b_b79k")
    card = own.resolve(NAME)[0]
    weights = replace(vit_b_32, urls=((tmp_path / "model.safetensors").as_uri(),))
    own.member("open_clip").cards = {card.name: replace(card, weights=(weights,), default=weights.tag)}
    with zoo.use(own):
        yield


def test_embeddings_are_those_of_encode_image(theirs, own_files):
    tower = zoo.get(NAME, trust="first-use").eval()
    with torch.no_grad():
        assert torch.equal(tower(X), theirs.encode_image(X))
    assert {*zoo.receipt(tower).names("ignored")} == {n for n in theirs.state_dict() if not n.startswith("visual.")}


def test_a_classifier_goes_onto_the_embedding_and_is_all_that_trains(theirs, own_files, tmp_path):
    probe = zoo.freeze(zoo.get(NAME, trust="first-use", num_classes=9)).eval()
    assert [name for name, each in probe.named_parameters() if each.requires_grad] == ["head.weight", "head.bias"]
    with torch.no_grad():
        expected = torch.nn.functional.linear(theirs.encode_image(X), probe.head.weight, probe.head.bias)
        assert torch.equal(probe(X), expected)
        zoo.save(probe, tmp_path / "probe")
        assert torch.equal(zoo.load(tmp_path / "probe").eval()(X), probe(X))


def test_the_parts_of_a_tower_are_those_of_the_whole(theirs, own_files):
    tower = zoo.get(NAME, trust="first-use", num_classes=9).eval()
    backbone, head = zoo.split(tower)
    with torch.no_grad():
        assert torch.equal(backbone(X), theirs.encode_image(X))
        assert torch.equal(head(backbone(X)), tower(X))
        maps = theirs.visual.forward_intermediates(X, indices=[11])["image_intermediates"]
        assert torch.equal(zoo.encoder(tower)(X)[-1], maps[-1])


def test_images_go_through_what_the_library_puts_them_through():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8))
    for name, tag in (("ViT-B-32", "openai"), ("ViT-B-16-SigLIP2", "webli"), ("MobileCLIP2-S0", "dfndr2b")):
        card, config = zoo.info(f"open_clip/{name}"), get_pretrained_cfg(name, tag)
        theirs = image_transform_v2(PreprocessCfg(size=card.input_size[-1], **_preprocessing(config)), is_train=False)
        ours = zoo.transforms(f"open_clip/{name}@{tag}")
        torch.testing.assert_close(ours(image), theirs(image), atol=0.02, rtol=0)


def _preprocessing(config):
    return {name: config[name] for name in ("mean", "std", "interpolation", "resize_mode")}


def test_a_tag_says_which_gelu_it_was_trained_with():
    card = zoo.info("open_clip/ViT-B-32")
    assert card.find("openai").options == {"quick_gelu": True}
    assert card.find("laion2b_s34b_b79k").options == {}


def test_every_model_of_the_library_has_a_card_and_every_tag_its_weights():
    cards = [zoo.info(name) for name in zoo.list(family="open_clip")]
    assert [card.name for card in cards] == open_clip.list_models()
    assert {(card.name, tag) for card in cards for tag in card.tags} == {*open_clip.list_pretrained()}
