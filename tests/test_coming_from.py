"""What the pages under ``docs/coming_from`` say of fastai and transformers, with those libraries."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import zoo_core as zoo
from zoo_core.registry.plugins import Plugin

pytestmark = [
    pytest.mark.extra,
    pytest.mark.filterwarnings("ignore"),  # those of the libraries
]
ROOT = Path(__file__).parent.parent
PAGES = ROOT / "docs" / "coming_from"


def says(page, *lines):
    """Hold the page to the lines that a test runs."""
    text = (PAGES / page).read_text(encoding="utf-8")
    for line in lines:
        assert f"`{line}`" in text


def trained(model):
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


@pytest.fixture
def learner(tmp_path):
    """A fastai learner of a resnet18 on four images of two classes."""
    vision = pytest.importorskip("fastai.vision.all")
    for number in range(4):
        path = tmp_path / "data" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), (60 * number, 90, 20)).save(path)
    data = vision.ImageDataLoaders.from_folder(tmp_path / "data", valid_pct=0.5, seed=0, bs=2, num_workers=0)
    return vision.vision_learner(data, vision.resnet18, pretrained=False)


@pytest.fixture
def model():
    return zoo.get("resnet18", weights=None, seed=0).eval()


def test_the_body_of_fastai_gives_what_the_front_of_the_model_gives(model):
    vision = pytest.importorskip("fastai.vision.all")
    says("fastai.md", "create_body(resnet18())", 'zoo.truncate(model, after="layer4")')
    x = torch.rand(2, 3, 64, 64)
    body = vision.create_body(model).eval()
    assert torch.equal(body(x), zoo.truncate(model, after="layer4").eval()(x))


def test_the_head_of_fastai_is_taken_as_it_is(model):
    vision = pytest.importorskip("fastai.vision.all")
    says("fastai.md", 'zoo.swap_head(model, create_head(512, 9), at="features")')
    zoo.swap_head(model, vision.create_head(512, 9), at="features")
    assert model.eval()(torch.rand(2, 3, 64, 64)).shape == (2, 9)


def test_freezing_leaves_the_same_convolutions_to_train(model, learner):
    says("fastai.md", "learn.freeze_to(-2)", 'zoo.freeze(model, until="layer3")', 'zoo.freeze(model, "backbone")')

    def convolutions(net):
        return [module.weight.requires_grad for module in net.modules() if isinstance(module, nn.Conv2d)]

    learner.freeze()
    zoo.freeze(model, "backbone")
    assert convolutions(model) == convolutions(learner.model)
    assert not any(convolutions(model))
    zoo.unfreeze(model)
    learner.freeze_to(-2)
    zoo.freeze(model, until="layer3")
    assert convolutions(model) == convolutions(learner.model)
    assert any(convolutions(model))
    learner.unfreeze()
    zoo.unfreeze(model)
    assert all(convolutions(model))
    assert all(convolutions(learner.model))


def test_the_rates_of_a_slice_end_where_those_of_the_depths_do(model, learner):
    says("fastai.md", "slice(1e-5, 1e-3)", "zoo.param_groups(model, lr=1e-3, layer_decay=0.4)")
    learner.create_opt()
    learner.opt.set_hyper("lr", slice(1e-5, 1e-3))
    theirs = [group["lr"] for group in learner.opt.hypers]
    ours = [group["lr"] for group in zoo.param_groups(model, lr=1e-3, layer_decay=0.4)]
    assert [min(ours), max(ours)] == pytest.approx([theirs[0], theirs[-1]], rel=0.05)


def test_what_fastai_exports_is_a_pickle_and_a_save_is_none(model, learner, tmp_path):
    says("fastai.md", 'learn.export("model.pkl")', 'zoo.save(model, "model/")')
    learner.export(tmp_path / "model.pkl")
    assert learner.predict(next(tmp_path.rglob("*.png")))[0] in ("a", "b")
    folder = zoo.save(model, tmp_path / "model")
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}


@pytest.fixture
def theirs(tmp_path):
    """A folder that transformers saved: a small ViT of 1,000 classes, and how its images are prepared."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768, "num_labels": 1000}
    torch.manual_seed(0)
    transformers.ViTForImageClassification(transformers.ViTConfig(**sizes)).save_pretrained(tmp_path / "vit")
    transformers.ViTImageProcessor(image_mean=(0.485, 0.456, 0.406), image_std=(0.229, 0.224, 0.225)).save_pretrained(
        tmp_path / "vit"
    )
    return tmp_path / "vit"


@pytest.fixture
def family(monkeypatch):
    """The plugin for transformers, from its folder."""
    pytest.importorskip("transformers")
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "third-party" / "zoo-transformers"))
    from zoo_transformers import zoo_families

    with zoo.use(zoo.Zoo(plugins=(Plugin("transformers", "this test", families=tuple(zoo_families())),))):
        yield
    for name in [name for name in sys.modules if name.startswith("zoo_transformers")]:
        del sys.modules[name]


NAME = "transformers/deit-tiny-patch16-224"


def test_weights_of_a_folder_give_the_logits_of_the_library(theirs, family):
    from transformers import AutoModelForImageClassification

    says("transformers.md", 'zoo.get(name, weights="runs/checkpoint-500")')
    x = torch.rand(1, 3, 224, 224)
    expected = AutoModelForImageClassification.from_pretrained(theirs).eval()(x).logits
    torch.testing.assert_close(zoo.get(NAME, weights=theirs).eval()(x).logits, expected)


def test_other_classes_leave_all_but_the_head_alone(theirs, family):
    from transformers import AutoModelForImageClassification

    says("transformers.md", "zoo.get(name, num_classes=9)")
    expected = AutoModelForImageClassification.from_pretrained(theirs, num_labels=9, ignore_mismatched_sizes=True)
    ours = zoo.get(NAME, weights=theirs, num_classes=9)
    assert {key: value.shape for key, value in ours.state_dict().items()} == {
        key: value.shape for key, value in expected.state_dict().items()
    }
    for key, value in expected.state_dict().items():
        assert key.startswith("classifier.") or torch.equal(ours.state_dict()[key], value)


def test_an_encoder_gives_maps_where_a_backbone_gives_them(family):
    says("transformers.md", "zoo.encoder(name)")
    maps = zoo.encoder("transformers/convnext-tiny-224", weights=None)(torch.rand(1, 3, 64, 64))
    assert [each.shape[1:] for each in maps] == [(96, 16, 16), (192, 8, 8), (384, 4, 4), (768, 2, 2)]


def test_a_model_that_the_library_built_is_adopted(theirs):
    from transformers import AutoModelForImageClassification

    model = zoo.adopt(AutoModelForImageClassification.from_pretrained(theirs), example=torch.rand(1, 3, 224, 224))
    zoo.swap_head(model, 9)
    assert model(torch.rand(2, 3, 224, 224)).logits.shape == (2, 9)
