"""Files in the layout in which they were published go through the whole path, and every tensor is accounted for."""

import hashlib
import re
from dataclasses import replace

import pytest
import torch
from torchvision import models
from zoo_pretrainedmodels.build import build
from zoo_pretrainedmodels.catalog import cards
from zoo_pretrainedmodels.library import InceptionV4, Xception, library, quiet

import zoo_core as zoo
from zoo_core.errors import LoadMismatch, UsageError

CARDS = {card.name: card for card in cards()}


@pytest.fixture
def publish(tmp_path, file_server):
    """Serve a state dict as the file of all weights of one model: ``publish(name, state)``."""
    own, folder = zoo.Zoo(), tmp_path / "published"
    folder.mkdir()
    server = file_server(folder)

    def as_file(name, state):
        path = folder / "file.pth"
        torch.save(state, path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        urls = (f"{server.url}/{path.name}",)
        weights = tuple(replace(item, urls=urls, sha256=digest) for item in CARDS[name].weights)
        own.add(replace(CARDS[name], weights=weights))

    with zoo.use(own):
        yield as_file


def as_published(name):
    """A network of torchvision as the library loads its file, before it renames the modules."""
    torch.manual_seed(0)
    options = {"init_weights": True} if name == "inceptionv3" else {}
    return getattr(models, {"inceptionv3": "inception_v3"}.get(name, name))(**options).eval()


def of_the_library(name, state):
    """What the library makes of a file: its own code, with its download replaced by the state dict."""
    with quiet(), pytest.MonkeyPatch.context() as patch:
        module = library.models.torchvision_models
        patch.setattr(module.model_zoo, "load_url", lambda _url: dict(state))
        return getattr(library, name)(pretrained="imagenet").eval()


HEAD = ("last_linear.weight", "last_linear.bias")


def assert_accounted(model, *, initialized=(), ignored=()):
    """The receipt tells of every tensor of the model, and of those that only the file has."""
    expected = dict.fromkeys(model.state_dict(), "loaded") | dict.fromkeys(initialized, "initialized")
    assert zoo.receipt(model).tensors == expected | dict.fromkeys(ignored, "ignored")


@pytest.mark.parametrize(
    "name",
    [
        "alexnet",
        "densenet121",
        "inceptionv3",
        "resnet18",
        "squeezenet1_1",
        pytest.param("vgg11_bn", marks=pytest.mark.full),
    ],
)
def test_files_of_torchvision_load_as_the_library_loads_them(name, publish):
    state = as_published(name).state_dict()
    publish(name, state)
    model = zoo.get(f"pretrainedmodels/{name}").eval()
    assert_accounted(model)
    x = torch.randn(1, *CARDS[name].input_size)
    with torch.inference_mode():
        assert torch.equal(model(x), of_the_library(name, state)(x))


def test_an_inception_without_auxiliary_head_leaves_that_of_its_file_alone(publish):
    publish("inceptionv3", as_published("inceptionv3").state_dict())
    model = zoo.get("pretrainedmodels/inceptionv3", num_classes=9, options={"aux_logits": False})
    assert [head.path for head in zoo.anatomy(model).heads] == ["last_linear"]
    left = [name for name in as_published("inceptionv3").state_dict() if name.startswith("AuxLogits.")]
    assert_accounted(model, initialized=HEAD, ignored=left)


def test_another_model_has_no_auxiliary_head_to_leave_out():
    with pytest.raises(UsageError, match="resnet18 has no auxiliary head"):
        zoo.get("pretrainedmodels/resnet18", weights=None, options={"aux_logits": False})


def test_the_old_names_of_densenet_load_too(publish):
    state = as_published("densenet121").state_dict()
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", name): tensor for name, tensor in state.items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    publish("densenet121", old)
    model = zoo.get("pretrainedmodels/densenet121", num_classes=9)
    backbone = {name: tensor for name, tensor in model.state_dict().items() if name not in HEAD}
    assert [name for name, tensor in backbone.items() if not torch.equal(tensor, state[name])] == []
    assert_accounted(model, initialized=HEAD)


def test_xceptions_file_calls_the_head_fc(publish):
    torch.manual_seed(0)
    state = Xception().state_dict()
    publish("xception", state)
    model = zoo.get("pretrainedmodels/xception")
    renamed = {name.replace("fc.", "last_linear."): tensor for name, tensor in state.items()}
    assert [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, renamed[name])] == []
    assert_accounted(model)


@pytest.fixture
def with_background(publish):
    torch.manual_seed(0)
    state = InceptionV4(num_classes=1001).state_dict()
    publish("inceptionv4", state)
    return state


def test_the_background_class_is_dropped_from_the_default_weights(with_background):
    model = zoo.get("pretrainedmodels/inceptionv4")
    assert torch.equal(model.last_linear.weight, with_background["last_linear.weight"][1:])
    assert torch.equal(model.last_linear.bias, with_background["last_linear.bias"][1:])
    assert_accounted(model)


def test_the_background_class_is_kept_where_the_tag_asks_for_it(with_background):
    model = zoo.get("pretrainedmodels/inceptionv4@imagenet+background")
    assert torch.equal(model.last_linear.weight, with_background["last_linear.weight"])
    assert_accounted(model)


@pytest.mark.full
@pytest.mark.parametrize("name", ["inceptionresnetv2", "nasnetalarge", "pnasnet5large"])
def test_the_other_files_with_a_background_class_load_under_both_tags(name, publish):
    # as the library's constructor does: built with 1001 classes, then the first row is dropped
    torch.manual_seed(0)
    state = build(name, num_classes=1001).state_dict()
    publish(name, state)
    short, whole = zoo.get(f"pretrainedmodels/{name}"), zoo.get(f"pretrainedmodels/{name}@imagenet+background")
    for model, rows in ((short, slice(1, None)), (whole, slice(None))):
        assert_accounted(model)
        assert torch.equal(model.last_linear.weight, state["last_linear.weight"][rows])
        assert len(zoo.class_names(model)) == model.last_linear.out_features
        assert all(torch.equal(t, state[key]) for key, t in model.state_dict().items() if "last_linear" not in key)


def test_a_new_head_takes_the_place_of_one_with_a_background_class(with_background):
    model = zoo.get("pretrainedmodels/inceptionv4", num_classes=9)
    assert model.last_linear.out_features == 9
    assert_accounted(model, initialized=HEAD)


def test_the_auxiliary_head_is_swapped_with_the_main_one(publish):
    publish("inceptionv3", as_published("inceptionv3").state_dict())
    model = zoo.get("pretrainedmodels/inceptionv3", num_classes=9, freeze="backbone").train()
    scores, auxiliary = model(torch.randn(2, 3, 299, 299))
    assert scores.shape == auxiliary.shape == (2, 9)


def test_a_file_that_lacks_a_layer_is_refused_by_name(publish):
    state = as_published("resnet18").state_dict()
    del state["layer3.0.conv1.weight"]
    publish("resnet18", state)
    with pytest.raises(LoadMismatch, match=r"layer3\.0\.conv1\.weight"):
        zoo.get("pretrainedmodels/resnet18", num_classes=9)
