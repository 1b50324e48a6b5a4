"""EfficientNet in the family of its own library: what the plugin declares, measured on models that really run."""

import hashlib
import pickle
import subprocess
import sys
from dataclasses import replace

import efficientnet_pytorch
import pytest
import torch
from efficientnet_pytorch import EfficientNet
from torch import nn
from zoo_efficientnet_pytorch import index
from zoo_efficientnet_pytorch.anatomy import anatomy
from zoo_efficientnet_pytorch.catalog import cards, version

import zoo_core as zoo
from zoo_core.errors import AnatomyError
from zoo_core.registry.zoo import Zoo

CARDS = {card.name: card for card in cards()}

every_model = pytest.mark.parametrize("name", CARDS)
models_that_run = pytest.mark.parametrize(
    "name",
    [
        "efficientnet-b0",
        "efficientnet-b2",
        *(pytest.param(f"efficientnet-b{n}", marks=pytest.mark.full) for n in "1345678"),
    ],
)


def build(name, device="meta", **options):
    with torch.device(device):
        return EfficientNet.from_name(name, **options).eval()


def shapes(model, paths, side):
    """The shape that each of these modules gives, from a forward pass that only computes shapes."""
    found = {}
    for path in paths:
        model.get_submodule(path).register_forward_hook(lambda *call, path=path: found.update({path: call[2].shape}))
    model(torch.empty(1, 3, side, side, device="meta"))
    return [tuple(found[path]) for path in paths]


# The catalogue


def test_the_shipped_catalogue_is_what_the_installed_library_says():
    assert version() == efficientnet_pytorch.__version__
    assert cards() == index.cards()


def test_there_are_ten_models_and_seventeen_files():
    assert len(CARDS) == 10
    tags = [tag for card in CARDS.values() for tag in card.tags]
    assert (tags.count("imagenet"), tags.count("advprop")) == (8, 9)


def test_b8_was_trained_with_advprop_alone_and_l2_has_no_weights():
    assert (CARDS["efficientnet-b8"].default, CARDS["efficientnet-b8"].tags) == ("advprop", ("advprop",))
    assert (CARDS["efficientnet-l2"].default, CARDS["efficientnet-l2"].tags) == (None, ())


def test_every_file_has_the_digest_that_its_name_ends_with():
    for card in CARDS.values():
        for weights in card.weights:
            assert weights.strength == "weak"
            assert weights.file_name.endswith(f"-{weights.sha256}.pth")


def test_advprop_scales_images_to_minus_one_to_one_and_imagenet_does_not():
    by_tag = {weights.tag: weights.preprocessing for weights in CARDS["efficientnet-b0"].weights}
    assert (by_tag["advprop"].mean, by_tag["advprop"].std) == ((0.5,) * 3, (0.5,) * 3)
    assert by_tag["imagenet"].mean == (0.485, 0.456, 0.406)


def test_every_file_has_the_names_of_its_classes():
    names = {weights.class_names for card in CARDS.values() for weights in card.weights}
    assert [(len(each), each[1]) for each in names] == [(1000, "goldfish")]


@every_model
def test_the_card_states_the_size_and_the_parameters_of_the_model(name):
    side = EfficientNet.get_image_size(name)
    assert CARDS[name].input_size == (3, side, side)
    assert all(weights.preprocessing.crop == (side, side) for weights in CARDS[name].weights)
    assert CARDS[name].parameters == sum(parameter.numel() for parameter in build(name).parameters())


def test_the_catalogue_is_read_without_torch_and_without_the_library():
    code = (
        "import zoo_efficientnet_pytorch.catalog as c, sys; c.cards();"
        "assert not {'torch', 'efficientnet_pytorch'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# The anatomy


@models_that_run
def test_the_split_gives_the_scores_of_the_whole_bit_for_bit(name):
    torch.manual_seed(0)
    model = build(name, "cpu")
    parts, x = anatomy(model), torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        features = parts.features(model, x)
        pooled = parts.pool(model, features)
        assert torch.equal(model.get_submodule("_fc")(pooled), model(x))
    assert pooled.shape == (2, parts.main.in_features)
    assert features.ndim == 4


@every_model
def test_the_stages_have_the_channels_and_strides_that_a_forward_pass_shows(name):
    model = build(name)
    parts = anatomy(model)
    side = -(-CARDS[name].input_size[1] // 32) * 32
    measured = [
        (c, side // height) for _, c, height, _ in shapes(model, [stage.output for stage in parts.stages], side)
    ]
    assert measured == [(stage.channels, stage.stride) for stage in parts.stages]
    assert [stage.stride for stage in parts.stages] == [2, 4, 8, 16, 32]


def test_the_stages_are_the_endpoints_that_the_library_names():
    torch.manual_seed(0)
    model = build("efficientnet-b0", "cpu")
    outputs = {}
    for stage in anatomy(model).stages:
        model.get_submodule(stage.output).register_forward_hook(
            lambda *call, name=stage.name: outputs.update({name: call[2]})
        )
    with torch.inference_mode():
        endpoints = model.extract_endpoints(torch.randn(1, 3, 224, 224))
    assert all(torch.equal(output, endpoints[name]) for name, output in outputs.items())
    assert set(outputs) == set(endpoints) - {"reduction_6"}


@every_model
def test_every_block_is_in_exactly_one_stage(name):
    model = build(name)
    modules = [path for stage in anatomy(model).stages for path in stage.modules]
    assert modules == [f"_blocks.{number}" for number, _ in model.get_submodule("_blocks").named_children()]


@every_model
def test_only_the_head_depends_on_the_number_of_classes(name):
    nine, ten = ({key: value.shape for key, value in build(name, num_classes=n).state_dict().items()} for n in (9, 10))
    assert {key for key in nine if nine[key] != ten[key]} == {"_fc.weight", "_fc.bias"}
    assert anatomy(build(name, num_classes=9)).main.num_classes == 9


def test_a_model_without_its_top_has_no_head_but_still_splits():
    model = build("efficientnet-b0", "cpu", include_top=False)
    parts, x = anatomy(model), torch.randn(1, 3, 64, 64)
    assert parts.heads == ()
    with torch.inference_mode():
        assert torch.equal(parts.pool(model, parts.features(model, x)), model(x))


def test_the_widths_of_a_head_that_somebody_put_there_are_read_from_it():
    model = build("efficientnet-b0")
    model.set_submodule("_fc", nn.Sequential(nn.Linear(1280, 16), nn.ReLU(), nn.Linear(16, 5)))
    assert (anatomy(model).main.in_features, anatomy(model).main.num_classes) == (1280, 5)


def test_an_anatomy_can_be_pickled():
    parts = anatomy(build("efficientnet-b0"))
    assert pickle.loads(pickle.dumps(parts)) == parts


def test_a_module_of_another_library_is_refused():
    with pytest.raises(AnatomyError, match="Linear is not a model of efficientnet_pytorch"):
        anatomy(nn.Linear(1, 1))


def test_a_head_without_a_width_is_refused():
    model = build("efficientnet-b0")
    model.set_submodule("_fc", nn.Identity())
    with pytest.raises(AnatomyError, match="does not say how many features"):
        anatomy(model)


# Through zoo


@pytest.fixture
def published(tmp_path, monkeypatch):
    """The registry as it is, except that b0's two files of weights are real ones on this disk."""
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    own = Zoo()
    card = CARDS["efficientnet-b0"]
    torch.manual_seed(0)
    path = tmp_path / "efficientnet-b0.pth"
    torch.save(EfficientNet.from_name(card.name).state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path = path.rename(tmp_path / f"efficientnet-b0-{digest[:8]}.pth")
    weights = tuple(replace(item, urls=(path.as_uri(),), sha256=digest[:8]) for item in card.weights)
    own.add(replace(card, weights=weights))
    with zoo.use(own):
        yield path


def test_get_loads_every_tensor_but_those_of_the_new_head(published):
    model = zoo.get("efficientnet_pytorch/efficientnet-b0", num_classes=9)
    state = torch.load(published, weights_only=True)
    assert zoo.receipt(model).names("initialized") == ("_fc.weight", "_fc.bias")
    assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items() if not name.startswith("_fc."))
    assert type(model) is EfficientNet


def test_a_frozen_backbone_leaves_gradients_in_the_head_alone(published):
    model = zoo.get("efficientnet_pytorch/efficientnet-b0@advprop", num_classes=9, freeze="backbone").train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model(torch.randn(2, 3, 64, 64)).sum().backward()
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == {
        "_fc.weight",
        "_fc.bias",
    }
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


def test_the_split_of_a_swapped_model_gives_its_scores(published):
    model = zoo.get("efficientnet_pytorch/efficientnet-b0", head=zoo.mlp_head(9, hidden=(16,))).eval()
    backbone, head = zoo.split(model)
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(head(backbone(x)), model(x))


CONTAINERS = {
    "zip": lambda state: (state, {}),
    "old-pickle": lambda state: (state, {"_use_new_zipfile_serialization": False}),
    "state_dict": lambda state: ({"state_dict": state, "epoch": 3, "arch": "efficientnet-b0"}, {}),
    "data-parallel": lambda state: ({"model": {f"module.{name}": value for name, value in state.items()}}, {}),
    "averaged": lambda state: ({"model": {"fc": torch.zeros(1)}, "state_dict_ema": state}, {}),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_served_file_is_loaded_from_any_container_and_accounted_for(container, tmp_path, file_server):
    torch.manual_seed(0)
    state = EfficientNet.from_name("efficientnet-b0").state_dict()
    content, options = CONTAINERS[container](state)
    torch.save(content, tmp_path / "net.pth", **options)
    digest = hashlib.sha256((tmp_path / "net.pth").read_bytes()).hexdigest()
    card, own = CARDS["efficientnet-b0"], Zoo()
    entry = replace(card.find("advprop"), urls=(f"{file_server(tmp_path).url}/net.pth",), sha256=digest)
    own.add(replace(card, weights=(entry,), default="advprop"))
    with zoo.use(own):
        model = zoo.get("efficientnet_pytorch/efficientnet-b0")
    assert zoo.receipt(model).tensors == dict.fromkeys(state, "loaded")
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert zoo.class_names(model)[1] == "goldfish"
