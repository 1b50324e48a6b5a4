"""Files of the user's own: whatever a trainer wrote around a state dict, the model comes back as it was trained."""

from __future__ import annotations

import copy
import datetime as dt
import json
import re
import warnings

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils import prune

import zoo_core as zoo
from zoo_core.build.file_shape import image_sizes_in_file
from zoo_core.errors import LoadMismatch, Unreadable, UsageError, ZooWarning
from zoo_core.weights.checkpoint.candidates import candidates
from zoo_core.weights.formats.plain_pickle import Foreign

NAME = "tiny/glyphnet"


@pytest.fixture(scope="module")
def net():
    return zoo.get(NAME, weights=None, num_classes=9, seed=1).eval()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "last.ckpt"


def state_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def moved(state):
    """Another state dict of the same model."""
    return {name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def same(model, state):
    own = model.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[name], state[name]) for name in own)


def prefixed(state, prefix):
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


PREFIXES = [
    "module.",
    "_orig_mod.",
    "module._orig_mod.",
    "_orig_mod.module.",
    "_fsdp_wrapped_module.",
    "model.",
    "model._orig_mod.",
    "net.module.",
    "backbone.",
    "student.",
    "module.model.net.",
    "algorithm.trunk.0.",
]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}], ids=["bare", "wrapped"])
def test_a_constant_prefix_is_taken_off(net, path, prefix, wrap):
    torch.save(wrap(prefixed(state_of(net), prefix)), path)
    assert same(zoo.get(NAME, weights=path), state_of(net))


def test_wrappers_of_parts_are_looked_through(net, path):
    state = {name.replace("stem.", "stem._checkpoint_wrapped_module."): t for name, t in state_of(net).items()}
    torch.save(state, path)
    assert same(zoo.get(NAME, weights=path), state_of(net))


def test_a_part_that_was_data_parallel_is_looked_through(net, path):
    state = {name.replace("stem.", "stem.module."): tensor for name, tensor in state_of(net).items()}
    torch.save(state, path)
    assert same(zoo.get(NAME, weights=path), state_of(net))


ONE = torch.tensor(1)
AVERAGED = {
    "timm": lambda raw, ema: {"state_dict": raw, "state_dict_ema": ema},
    "torchvision": lambda raw, ema: {
        "model": raw,
        "model_ema": {"n_averaged": torch.tensor(3), **prefixed(ema, "module.")},
    },
    "RT-DETR": lambda raw, ema: {"model": raw, "ema": {"module": ema, "updates": 7}},
    "BasicSR": lambda raw, ema: {"params": raw, "params_ema": ema},
    "one state dict": lambda raw, ema: {
        "state_dict": {**prefixed(raw, "model."), **prefixed(ema, "ema_model.module.")}
    },
    "DINO": lambda raw, ema: {"student": prefixed(raw, "module.backbone."), "teacher": prefixed(ema, "backbone.")},
    "Lightning's callback": lambda raw, ema: {"current_model_state": raw, "state_dict": ema},
    "the averaged first": lambda raw, ema: {"ema": ema, "model": raw},
}


@pytest.mark.parametrize("layout", AVERAGED.values(), ids=list(AVERAGED))
@pytest.mark.filterwarnings("ignore:.*what is under 'teacher.backbone' was taken")
def test_averaged_weights_are_taken_and_said(net, path, layout):
    raw, ema = state_of(net), moved(state_of(net))
    torch.save(layout(raw, ema), path)
    model = zoo.get(NAME, weights=path)
    assert same(model, ema)
    assert "averaged weights" in str(zoo.receipt(model))
    assert same(zoo.get(NAME, weights=path, ema=False), raw)
    assert same(zoo.get(NAME, weights=path, ema=True), ema)


def test_averages_of_parameters_take_the_buffers_of_the_others(net, path):
    raw = state_of(net)
    ema = {name: raw[name] + 1 for name, _ in net.named_parameters()}
    torch.save({"model": raw, "ema": ema}, path)
    model = zoo.get(NAME, weights=path)
    assert same(model, {**raw, **ema})
    assert "buffers from the weights that were averaged" in zoo.receipt(model).taken


@pytest.mark.parametrize("key", ["ema", "callbacks"])
def test_averages_in_a_list_are_taken_in_the_order_of_the_parameters(net, path, key):
    averages = {"ema": {"shadow_params": [each + 1 for each in net.parameters()]}}
    torch.save({"model": state_of(net), key: averages[key] if key == "ema" else {"EMACallback": averages["ema"]}}, path)
    model = zoo.get(NAME, weights=path)
    assert torch.equal(model.layer2.conv1.weight, net.layer2.conv1.weight + 1)
    assert torch.equal(model.stem[1].running_var, net.stem[1].running_var)
    assert zoo.receipt(model).taken.startswith("averaged weights")


def test_averages_beside_the_state_of_an_optimizer_are_taken_and_its_own_are_not(net, path):
    optimizer = {"state": {0: {"ema": torch.ones(3), "square_avg": torch.ones(3)}}, "param_groups": []}
    averages = tuple(each + 1 for each in net.parameters())
    torch.save({"state_dict": state_of(net), "optimizer_states": [{"opt": optimizer, "ema": averages}]}, path)
    model = zoo.get(NAME, weights=path)
    assert torch.equal(model.fc.weight, net.fc.weight + 1)
    assert torch.equal(model.stem[1].running_var, net.stem[1].running_var)


def test_averages_in_a_list_that_has_no_names_are_passed_over_with_a_word(net, path):
    trainable = [each + 1 for each in net.fc.parameters()]
    torch.save({"model": state_of(net), "ema": {"shadow_params": trainable}}, path)
    with pytest.warns(ZooWarning, match=r"'ema.shadow_params' are not taken: they are a list of 2 tensors"):
        assert same(zoo.get(NAME, weights=path), net.state_dict())


def test_of_two_sets_of_weights_that_fit_alike_the_other_is_named(net, path):
    torch.save({"best": moved(state_of(net)), "last": state_of(net)}, path)
    with pytest.warns(ZooWarning, match="'best' was taken: prefix='last' takes another"):
        zoo.get(NAME, weights=path)
    assert same(zoo.get(NAME, weights=path, prefix="last"), net.state_dict())


def test_the_same_weights_twice_are_nothing_to_choose_from(net, path):
    state = state_of(net)
    torch.save({"state_dict": prefixed(state, "model.") | prefixed(state, "net.")}, path)
    assert same(zoo.get(NAME, weights=path), state)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: (state, 3),
        lambda state: [state],
        lambda state: {0: state},
        lambda state: {"a": {"b": {"c": state}}},
    ],
    ids=["tuple", "list", "numbered", "deep"],
)
def test_a_state_dict_in_any_container_is_taken(net, path, wrap):
    torch.save(wrap(state_of(net)), path)
    assert same(zoo.get(NAME, weights=path), net.state_dict())


def test_ema_of_a_file_without_averages_is_an_error_that_says_what_there_is(net, path):
    torch.save({"state_dict": prefixed(state_of(net), "model.")}, path)
    with pytest.raises(UsageError, match=r"state_dict\.model\."):
        zoo.get(NAME, weights=path, ema=True)


def test_the_prefix_can_be_chosen(net, path):
    student, teacher = state_of(net), moved(state_of(net))
    torch.save({"state_dict": {**prefixed(student, "student."), **prefixed(teacher, "teacher.")}}, path)
    with pytest.warns(ZooWarning, match=r"'state_dict.teacher' was taken: prefix='state_dict.student' takes another"):
        assert same(zoo.get(NAME, weights=path), teacher)
    assert same(zoo.get(NAME, weights=path, prefix="student."), student)
    with pytest.raises(UsageError, match=r"state_dict\.teacher"):
        zoo.get(NAME, weights=path, prefix="assistant")


def test_a_larger_teacher_is_not_taken_for_an_average(path):
    student = zoo.get("torchvision/resnet18", weights=None, num_classes=9)
    teacher = zoo.get("torchvision/resnet34", weights=None, num_classes=9)
    state = {**prefixed(student.state_dict(), "student."), **prefixed(teacher.state_dict(), "teacher.")}
    torch.save({"state_dict": state}, path)
    model = zoo.get("torchvision/resnet18", weights=path)
    assert same(model, student.state_dict())
    assert "averaged" not in zoo.receipt(zoo.get("torchvision/resnet34", weights=path)).taken


def test_what_only_training_needs_is_left_alone(net, path):
    content = {
        "epoch": 3,
        "args": torch.device("cpu"),
        "best": np.float64(0.9),
        "date": dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]},
        "state_dict": state_of(net),
        "callbacks": {"Checkpoint": {"best": torch.tensor(0.9)}},
    }
    torch.save(content, path)
    assert same(zoo.get(NAME, weights=path), state_of(net))


def test_a_tensor_outside_the_model_is_named(net, path):
    torch.save({"state_dict": {**prefixed(state_of(net), "net."), "loss.weight": torch.ones(9)}}, path)
    with pytest.warns(ZooWarning, match=r"loss\.weight"):
        model = zoo.get(NAME, weights=path)
    assert same(model, state_of(net))
    assert zoo.receipt(model).names("ignored") == ("loss.weight",)


def test_a_tensor_too_much_under_the_model_is_an_error(net, path):
    torch.save({**state_of(net), "extra.weight": torch.ones(9)}, path)
    with pytest.raises(LoadMismatch, match=r"extra\.weight"):
        zoo.get(NAME, weights=path)


def test_a_whole_pickled_model_gives_its_weights(net, path):
    torch.save({"model": copy.deepcopy(net), "epoch": 3}, path)
    assert same(zoo.get(NAME, weights=path), state_of(net))


HEADS = {
    "classes": 5,
    "one": 1,
    "dropout": nn.Sequential(nn.Dropout(0.5), nn.Linear(64, 9)),
    "hidden": zoo.mlp_head(9, hidden=(16,), batch_norm=True, dropout=0.2),
    "several": {"colour": 3, "shape": 5},
    "no bias": nn.Linear(64, 9, bias=False),
}


@pytest.mark.parametrize("head", HEADS.values(), ids=list(HEADS))
@pytest.mark.filterwarnings("ignore:.*ReLU is taken")
def test_the_head_of_the_file_comes_back(path, head):
    trained = zoo.get(NAME, weights=None, head=head, seed=1).eval()
    torch.save(trained.state_dict(), path)
    model = zoo.get(NAME, weights=path).eval()
    x = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model(x), trained(x))
    assert zoo.receipt(model).names("initialized") == ()


@pytest.mark.parametrize("classes", [1000, 9, 37])
def test_another_number_of_classes_than_the_file_has_is_put_on_it(path, classes):
    trained = zoo.get("torchvision/squeezenet1_1", weights=None, num_classes=37, seed=1)
    torch.save(trained.state_dict(), path)
    model = zoo.get("torchvision/squeezenet1_1", weights=path, num_classes=classes)
    assert zoo.anatomy(model).main.num_classes == classes
    assert torch.equal(model.features[0].weight, trained.features[0].weight)
    assert torch.equal(model.classifier[1].weight[:1], trained.classifier[1].weight[:1]) == (classes == 37)


def test_a_nonlinearity_that_the_file_does_not_tell_is_said(path):
    torch.save(zoo.get(NAME, weights=None, head=zoo.mlp_head(9, hidden=(16,))).state_dict(), path)
    with pytest.warns(ZooWarning, match="ReLU is taken"):
        zoo.get(NAME, weights=path, num_classes=9)


@pytest.mark.parametrize("norm", [nn.LayerNorm(16), nn.GroupNorm(4, 16)], ids=["layer norm", "group norm"])
def test_a_norm_that_the_file_does_not_tell_is_said(norm, path):
    head = nn.Sequential(nn.Linear(64, 16), norm, nn.Linear(16, 9))
    torch.save(zoo.get(NAME, weights=None, head=head).state_dict(), path)
    with pytest.warns(ZooWarning, match="layer norm with torch's eps"):
        zoo.get(NAME, weights=path)


@pytest.mark.parametrize(
    "layer", [nn.RMSNorm(64), nn.PReLU(64), nn.LayerNorm(64, bias=False)], ids=["RMS norm", "PReLU", "layer norm"]
)
def test_a_layer_with_a_weight_alone_is_refused_and_then_given(layer, path):
    trained = zoo.get(NAME, weights=None, head=nn.Sequential(copy.deepcopy(layer), nn.Linear(64, 9)), seed=1)
    torch.save(trained.state_dict(), path)
    with pytest.raises(LoadMismatch, match="head="):
        zoo.get(NAME, weights=path)
    given = zoo.get(NAME, weights=path, head=nn.Sequential(copy.deepcopy(layer), nn.Linear(64, 9)))
    assert same(given, trained.state_dict())


class Chain(nn.Module):
    """Two layers of one head, the first as wide as what it is given."""

    def __init__(self):
        super().__init__()
        self.dense, self.out_proj = nn.Linear(64, 64), nn.Linear(64, 9)

    def forward(self, x):
        return self.out_proj(self.dense(x).tanh())


def test_two_layers_of_one_head_are_not_taken_for_two_heads(path):
    torch.save(zoo.get(NAME, weights=None, head=Chain()).state_dict(), path)
    with pytest.raises(LoadMismatch, match="head="):
        zoo.get(NAME, weights=path)


def test_a_file_without_a_head_gets_a_new_one(net, path):
    torch.save({name: tensor for name, tensor in state_of(net).items() if not name.startswith("fc.")}, path)
    model = zoo.get(NAME, weights=path, num_classes=7)
    assert zoo.receipt(model).names("initialized") == ("fc.weight", "fc.bias")
    with pytest.raises(LoadMismatch, match=r"no head at 'fc'[\s\S]*num_classes=N"):
        zoo.get(NAME, weights=path)


@pytest.mark.parametrize("name", ["torchvision/mobilenet_v3_small", "timm/test_efficientnet", "tiny/glyphnet"])
def test_a_file_of_an_encoder_is_loaded_as_the_error_says(name, path):
    torch.save(zoo.encoder(name, weights=None, seed=1).state_dict(), path)
    with pytest.raises(LoadMismatch) as caught:
        zoo.encoder(name, weights=path)
    lines = re.findall(r"zoo\.\w+\([^()]*weights=None\)", caught.value.parts["hint"])
    assert len(lines) == (1 if name == "tiny/glyphnet" else 2)
    expected = {each.removeprefix("body."): tensor for each, tensor in torch.load(path).items()}
    for line in lines:
        model = eval(line, {"zoo": zoo})
        zoo.load_partial(model, path)
        loaded = {each.removeprefix("body."): tensor for each, tensor in model.state_dict().items()}
        assert all(torch.equal(loaded[each], tensor) for each, tensor in expected.items())


def test_a_head_of_ones_own_that_is_given_is_filled_where_it_fits(path):
    trained = zoo.get(NAME, weights=None, head=zoo.mlp_head(9, hidden=(16,)), seed=1)
    torch.save(trained.state_dict(), path)
    model = zoo.get(NAME, weights=path, head=zoo.mlp_head(5, hidden=(16,)))
    assert torch.equal(model.fc[0].weight, trained.fc[0].weight)
    assert zoo.receipt(model).names("initialized") == ("fc.2.weight", "fc.2.bias")


class Own(nn.Module):
    """A head that only its own code can build."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(64)
        self.last = nn.Linear(64, 9)

    def forward(self, x):
        return self.last(self.norm(x))


def test_a_head_that_only_code_can_build_is_named_and_then_given(path):
    trained = zoo.get(NAME, weights=None, head=Own())
    torch.save(trained.state_dict(), path)
    with pytest.raises(LoadMismatch, match=r"fc\.norm\.weight[\s\S]*head="):
        zoo.get(NAME, weights=path)
    with pytest.warns(ZooWarning, match="left out"):
        zoo.get(NAME, weights=path, num_classes=9)
    assert same(zoo.get(NAME, weights=path, head=Own()), trained.state_dict())


@pytest.mark.parametrize("channels", [None, 2, 4])
def test_the_channels_of_the_file_are_found(path, channels):
    trained = zoo.get(NAME, weights=None, in_channels=4, num_classes=9)
    torch.save(trained.state_dict(), path)
    model = zoo.get(NAME, weights=path, in_channels=channels)
    assert model.stem[0].in_channels == (channels or 4)
    assert channels == 2 or same(model, trained.state_dict())


def test_the_options_of_the_default_weights_are_those_of_the_file(path):
    options = zoo.info("torchvision/googlenet").find().options
    trained = zoo.get("torchvision/googlenet", weights=None, options={**options, "init_weights": False}, num_classes=9)
    torch.save(trained.state_dict(), path)
    with pytest.warns(ZooWarning, match="does not say what 'transform_input' was in training"):
        model = zoo.get("torchvision/googlenet", weights=path)
    assert model.transform_input
    assert same(model, trained.state_dict())
    said = zoo.get("torchvision/googlenet", weights=path, options={"transform_input": False})  # and no warning
    assert not said.transform_input


def test_names_that_only_other_options_explain_are_followed(path):
    trained = zoo.get("torchvision/googlenet", weights=None, options={"init_weights": False}, num_classes=9)
    torch.save(trained.state_dict(), path)
    own = {"transform_input": False}
    assert same(zoo.get("torchvision/googlenet", weights=path, options=own), trained.state_dict())


def test_an_inception_without_auxiliary_head_is_built_as_its_file_is(path):
    own = {"transform_input": False}
    options = {**own, "aux_logits": False, "init_weights": False}
    trained = zoo.get("torchvision/inception_v3", weights=None, options=options, num_classes=4)
    torch.save(trained.state_dict(), path)
    model = zoo.get("torchvision/inception_v3", weights=path, options=own)
    assert model.AuxLogits is None
    assert same(model, trained.state_dict())


@pytest.mark.parametrize(
    ("name", "options"),
    [("timm/test_vit", {"img_size": 96}), ("timm/test_vit", {"img_size": 256})],
)
def test_the_image_size_of_the_file_is_found(path, name, options):
    trained = zoo.get(name, weights=None, num_classes=9, options=options)
    torch.save(trained.state_dict(), path)
    assert same(zoo.get(name, weights=path), trained.state_dict())


def test_a_scalar_of_one_axis_is_a_scalar(net, path):
    state = {name: tensor.reshape(1) if tensor.dim() == 0 else tensor for name, tensor in state_of(net).items()}
    torch.save(state, path)
    assert same(zoo.get(NAME, weights=path), state_of(net))


def test_complex_numbers_are_named(net, path):
    torch.save({**state_of(net), "fc.weight": state_of(net)["fc.weight"].to(torch.complex64)}, path)
    with pytest.raises(Unreadable, match=r"'fc\.weight' .* complex"):
        zoo.get(NAME, weights=path)


def test_packed_numbers_are_named(net, path):
    packed = torch.zeros(9, 64, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    torch.save({**state_of(net), "fc.weight": packed}, path)
    with pytest.raises(Unreadable, match=r"'fc\.weight' .* packed numbers"):
        zoo.get(NAME, weights=path)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.bool, torch.int64])
def test_integers_for_fractions_are_named_and_not_taken(net, path, dtype):
    torch.save({**state_of(net), "fc.weight": torch.ones(9, 64).to(dtype)}, path)
    with pytest.raises(Unreadable, match=r"'fc.weight' .* integers(.|\n)*codes"):
        zoo.get(NAME, weights=path)


@pytest.mark.parametrize(
    "head",
    [
        {"fc.weight": torch.zeros(1, 1).expand(10**7, 64), "fc.bias": torch.zeros(1).expand(10**7)},
        {"fc.weight": torch.zeros(10**9, 0), "fc.bias": torch.zeros(9)},
        {"fc.weight": torch.zeros(10**6, 1), "fc.bias": torch.zeros(9)},
        {"fc.100000000.weight": torch.zeros(9, 64), "fc.100000000.bias": torch.zeros(9)},
    ],
    ids=["expanded", "without width", "narrow", "far"],
)
def test_a_small_file_makes_no_large_head(net, path, head):
    body = {name: tensor for name, tensor in net.state_dict().items() if not name.startswith("fc.")}
    torch.save({**body, **head}, path)
    with pytest.raises((Unreadable, LoadMismatch)):
        zoo.get(NAME, weights=path)


def test_half_precision_is_loaded_as_the_model_is(net, path):
    torch.save(
        {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state_of(net).items()}, path
    )
    assert zoo.get(NAME, weights=path).fc.weight.dtype == torch.float32


def test_a_file_of_another_model_says_how_much_of_it_fits(net, path):
    torch.save(zoo.get("torchvision/squeezenet1_1", weights=None).state_dict(), path)
    with pytest.raises(LoadMismatch, match="no name in the file is one of this model"):
        zoo.get(NAME, weights=path)


def test_a_file_of_a_part_says_which_part(path):
    net = zoo.get("torchvision/resnet18", weights=None)
    torch.save(net.layer2.state_dict(), path)
    with pytest.raises(LoadMismatch, match=r"30 of 30 names fit under 'layer2'"):
        zoo.get("torchvision/resnet18", weights=path)


@pytest.mark.parametrize("name", ["last", "LAST.PTH", "last.pkl", "./last.ckpt"])
def test_a_name_that_is_a_file_here_is_that_file(net, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    torch.save(state_of(net), name)
    assert same(zoo.get(NAME, weights=name), state_of(net))
    assert same(zoo.get(NAME, weights=(tmp_path / name).as_uri()), state_of(net))


@pytest.mark.parametrize(
    "url", ["https://example.org/net.pth", "s3://bucket/net.pth", "hf://org/repo/model.safetensors"]
)
def test_a_url_is_called_a_url(url):
    with pytest.raises(UsageError, match="cannot be a url"):
        zoo.get(NAME, weights=url)


def sharded(folder, state, save, suffix):
    """Two shards and their index, as transformers and accelerate write them."""
    names = list(state)
    places = {}
    for number, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), start=1):
        shard = f"model-{number:05}-of-00002{suffix}"
        save({name: state[name] for name in part}, folder / shard)
        places.update(dict.fromkeys(part, shard))
    index = folder / f"model{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index


@pytest.mark.parametrize(("save", "suffix"), [(save_file, ".safetensors"), (torch.save, ".bin")])
def test_shards_come_together_by_their_index(net, tmp_path, save, suffix):
    index = sharded(tmp_path, state_of(net), save, suffix)
    assert same(zoo.get(NAME, weights=tmp_path), state_of(net))
    assert same(zoo.get(NAME, weights=index), state_of(net))
    with pytest.raises(LoadMismatch, match=r"one of 2 shards[\s\S]*give the folder"):
        zoo.get(NAME, weights=tmp_path / f"model-00001-of-00002{suffix}")
    (tmp_path / f"model-00002-of-00002{suffix}").unlink()
    with pytest.raises(Unreadable, match="1 of them are not there"):
        zoo.get(NAME, weights=tmp_path)


def test_a_tensor_is_taken_from_the_shard_that_the_index_names(net, tmp_path):
    state = state_of(net)
    index = sharded(tmp_path, state, save_file, ".safetensors")
    last = tmp_path / "model-00002-of-00002.safetensors"
    first = next(iter(state))
    stale = {first: state[first] + 1}
    save_file({**load_file(last), **stale}, last)
    assert same(zoo.get(NAME, weights=index), state)


def test_a_tensor_that_no_index_lists_is_not_taken_from_the_last_of_two_shards(net, tmp_path):
    index = sharded(tmp_path, state_of(net), save_file, ".safetensors")
    places = json.loads(index.read_text())
    name, place = places["weight_map"].popitem()
    index.write_text(json.dumps(places))
    other = next(shard for shard in tmp_path.glob("*.safetensors") if shard.name != place)
    save_file({**load_file(other), name: state_of(net)[name] + 1}, other)
    with pytest.raises(Unreadable, match=rf"tensors of another shard[\s\S]*{name}"):
        zoo.get(NAME, weights=index)


def test_a_shard_of_a_name_that_the_system_cannot_have_is_not_there(net, tmp_path):
    index = sharded(tmp_path, state_of(net), save_file, ".safetensors")
    index.write_text(json.dumps({"weight_map": {"fc.weight": "n" * 300}}))
    with pytest.raises(Unreadable, match="1 of them are not there"):
        zoo.get(NAME, weights=tmp_path)


def test_shards_whose_names_have_the_prefix_of_data_parallel_training_come_together(net, tmp_path):
    sharded(tmp_path, {f"module.{name}": each for name, each in state_of(net).items()}, save_file, ".safetensors")
    assert same(zoo.get(NAME, weights=tmp_path), state_of(net))


def raised(state):
    return {name: each + 1 if each.is_floating_point() else each for name, each in state.items()}


@pytest.mark.parametrize(
    ("name", "wrap"),
    [
        ("model_1.safetensors", None),
        ("ema.safetensors", None),
        ("custom_checkpoint_0.pkl", lambda state: {f"module.{name}": each for name, each in state.items()}),
    ],
)
def test_other_weights_in_a_folder_are_named(net, tmp_path, name, wrap):
    state = state_of(net)
    save_file(state, tmp_path / "model.safetensors")
    torch.save({"moment": raised(state)}, tmp_path / "optimizer.bin")
    torch.save(wrap(raised(state)), tmp_path / name) if wrap else save_file(raised(state), tmp_path / name)
    words = rf"other weights .* beside model.safetensors, which was taken: {name}\."
    with pytest.warns(ZooWarning, match=words) as said:
        loaded = zoo.get(NAME, weights=tmp_path)
    assert same(loaded, state)
    assert said[0].filename == __file__
    with pytest.warns(ZooWarning, match=words) as said:
        zoo.load_partial(copy.deepcopy(net), tmp_path)
    assert said[0].filename == __file__


def in_one_file(state, folder):
    save_file(state, folder / "model.safetensors")
    return "model.safetensors"


def in_shards(state, folder):
    return sharded(folder, state, save_file, ".safetensors").name


def in_shards_without_index(state, folder):
    sharded(folder, state, torch.save, ".bin").unlink()
    return "model-00001-of-00002.bin, model-00002-of-00002.bin"


def distributed(state, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there is one process only
        dcp.save({"model": state}, checkpoint_id=folder, no_dist=True)
    return ".metadata"


@pytest.mark.parametrize(
    ("taken", "other"),
    [
        (in_shards, in_one_file),
        (distributed, in_shards_without_index),
        (in_one_file, distributed),
        (in_one_file, in_shards_without_index),
    ],
)
def test_a_checkpoint_of_several_files_and_another_in_one_folder_are_named(net, tmp_path, taken, other):
    first = taken(state_of(net), tmp_path)
    second = other(raised(state_of(net)), tmp_path)
    with pytest.warns(ZooWarning, match=rf"beside {first}, which was taken: {second}\."):
        loaded = zoo.get(NAME, weights=tmp_path)
    assert same(loaded, state_of(net))


def test_shards_alone_and_the_same_in_one_file_are_not_named(net, tmp_path, recwarn):
    in_shards(state_of(net), tmp_path)
    in_one_file(state_of(net), tmp_path)
    assert same(zoo.get(NAME, weights=tmp_path), state_of(net))
    assert not recwarn.list


def test_the_same_weights_in_two_formats_and_dtypes_are_not_named(net, tmp_path, recwarn):
    state = state_of(net)
    save_file(state, tmp_path / "model.safetensors")
    torch.save(state, tmp_path / "pytorch_model.bin")
    halves = {name: each.half() if each.is_floating_point() else each for name, each in state.items()}
    save_file(halves, tmp_path / "model.fp16.safetensors")
    assert same(zoo.get(NAME, weights=tmp_path), state)
    assert not recwarn.list


def test_a_folder_of_distributed_checkpoint_is_put_together(net, tmp_path):
    content = {"model": state_of(net), "optimizer": {"lr": 0.1, "moment": torch.ones(3)}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there is one process only
        dcp.save(content, checkpoint_id=tmp_path / "step", no_dist=True)
    assert same(zoo.get(NAME, weights=tmp_path / "step"), state_of(net))


def test_the_last_step_in_a_folder_of_deepspeed_is_taken(net, tmp_path):
    step = tmp_path / "global_step10"
    step.mkdir()
    torch.save({"module": state_of(net)}, step / "mp_rank_00_model_states.pt")
    (tmp_path / "latest").write_text("global_step10")
    assert same(zoo.get(NAME, weights=tmp_path), net.state_dict())
    assert zoo.load_partial(copy.deepcopy(net), tmp_path).counts == {"loaded": 56}


def test_a_folder_of_runs_names_them(tmp_path):
    (tmp_path / "checkpoint-500").mkdir()
    with pytest.raises(Unreadable, match="one of its folders: checkpoint-500"):
        zoo.get(NAME, weights=tmp_path)


def test_a_folder_without_weights_says_so(tmp_path):
    with pytest.raises(Unreadable, match="no file of weights"):
        zoo.get(NAME, weights=tmp_path)


L, S = nn.Linear, nn.Sequential
CLASSIFIERS = {
    "one layer": lambda _: L(576, 5),
    "other layers": lambda _: S(L(576, 40), nn.ReLU(), nn.Dropout(), L(40, 5)),
    "more layers": lambda old: S(*old[:3], L(1024, 16), nn.ReLU(), L(16, 5)),
    "a norm before": lambda _: S(nn.BatchNorm1d(576), L(576, 5)),
}


@pytest.mark.parametrize("classifier", CLASSIFIERS.values(), ids=CLASSIFIERS)
@pytest.mark.filterwarnings("ignore:.*ReLU is taken")
def test_a_whole_classifier_that_was_put_in_by_hand_comes_back(path, tmp_path, classifier):
    name = "torchvision/mobilenet_v3_small"
    trained = zoo.get(name, weights=None, seed=1).eval()
    trained.classifier = classifier(trained.classifier).eval()
    torch.save({"model": trained.state_dict()}, path)
    model = zoo.get(name, weights=path).eval()
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model(x), trained(x))
    assert zoo.receipt(model).counts == {"loaded": len(trained.state_dict())}
    assert same(zoo.load(zoo.save(model, tmp_path / "save")), trained.state_dict())
    assert zoo.get(name, weights=path, num_classes=3).eval()(x).shape == (2, 3)


def test_one_layer_in_the_place_of_dropout_and_layer_comes_back(path):
    trained = zoo.get("torchvision/mobilenet_v2", weights=None)
    trained.classifier = L(1280, 5)
    torch.save(trained.state_dict(), path)
    assert same(zoo.get("torchvision/mobilenet_v2", weights=path), trained.state_dict())


def test_a_layer_alone_in_a_sequence_may_have_something_after_it_which_is_said(path):
    torch.save(zoo.get(NAME, weights=None, head=S(L(64, 9), nn.Sigmoid())).state_dict(), path)
    with pytest.warns(ZooWarning, match="nothing after the last"):
        zoo.get(NAME, weights=path)


def test_auxiliary_heads_keep_the_classes_that_the_file_has_for_them(path, tmp_path):
    options = {"init_weights": False, "aux_logits": True}
    trained = zoo.get("torchvision/googlenet", weights=None, options=options)
    trained.fc = nn.Linear(1024, 4)  # as tutorials do, and no more
    torch.save(trained.state_dict(), path)
    model = zoo.get("torchvision/googlenet", weights=path, options={"transform_input": False})
    assert same(model, trained.state_dict())
    assert same(zoo.load(zoo.save(model, tmp_path / "save")), trained.state_dict())
    model = zoo.get("torchvision/googlenet", weights=path, num_classes=7, options={"transform_input": False})
    assert model.aux2.fc2.out_features == 7


def test_norms_that_count_batches_are_not_loaded_as_frozen_ones(path):
    name = "torchvision/fasterrcnn_mobilenet_v3_large_320_fpn"
    trained = zoo.get(name, weights=None, num_classes=3)
    torch.save(trained.state_dict(), path)
    model = zoo.get(name, weights=path)
    norm = model.backbone.body["0"][1]
    assert type(norm) is nn.BatchNorm2d  # a frozen one computes with another epsilon
    assert same(model, trained.state_dict())
    frozen = {key: tensor for key, tensor in trained.state_dict().items() if "num_batches_tracked" not in key}
    torch.save(frozen, path)
    assert type(zoo.get(name, weights=path).backbone.body["0"][1]).__name__ == "FrozenBatchNorm2d"


def test_averages_under_names_without_dots_are_taken(net, path):
    raw, averages = state_of(net), moved(state_of(net))
    short = {f"model_ema.{name.replace('.', '')}": averages[name] for name, _ in net.named_parameters()}
    more = {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7)}
    torch.save({"state_dict": {**prefixed(raw, "model."), **short, **more}}, path)
    buffers = {name: raw[name] for name, _ in net.named_buffers()}
    assert same(zoo.get(NAME, weights=path), averages | buffers)
    assert same(zoo.get(NAME, weights=path, ema=False), raw)


def test_the_weights_that_mmcv_has_swapped_with_their_averages_are_beside_them(net, path):
    swapped = {f"ema_{name.replace('.', '_')}": tensor for name, tensor in moved(state_of(net)).items()}
    torch.save({"meta": {}, "state_dict": {**state_of(net), **swapped}}, path)
    with pytest.warns(ZooWarning, match=r"prefix='state_dict\.ema' takes another"):
        assert same(zoo.get(NAME, weights=path), net.state_dict())
    assert same(zoo.get(NAME, weights=path, prefix="state_dict.ema"), moved(state_of(net)))


class Quantised(nn.Module):
    """A codebook with averages of its own beside it."""

    def __init__(self):
        super().__init__()
        self.lin, self.head = nn.Linear(3, 3), nn.Linear(3, 2)
        self.register_buffer("embed", torch.randn(4, 3))
        self.register_buffer("ema_embed", torch.randn(4, 3))

    def forward(self, x):
        return self.head(self.lin(x) + self.embed.sum(0) + self.ema_embed.sum(0))


def test_averages_that_are_part_of_a_model_are_loaded(path):
    torch.manual_seed(0)
    saved, model = Quantised(), Quantised()
    torch.save(saved.state_dict(), path)
    zoo.adopt(model, example=torch.zeros(1, 3))
    zoo.load_partial(model, path)
    assert same(model, saved.state_dict())


def test_averages_of_parameters_take_the_buffers_of_a_head_of_several_layers(path):
    trained = zoo.get(NAME, weights=None, head=S(L(64, 8), nn.BatchNorm1d(8), L(8, 9)), seed=1)
    averages = {name: each.detach() + 1 for name, each in trained.named_parameters()}
    torch.save({"model": trained.state_dict(), "ema": averages}, path)
    assert same(zoo.get(NAME, weights=path), trained.state_dict() | averages)


def test_a_module_whose_buffers_are_no_mapping_has_none():
    module, buffers = Foreign("acme.Net"), Foreign("acme.Buffers")
    buffers.state = {"items": {}}
    module.state = {"_modules": {}, "_parameters": {"weight": torch.ones(2)}, "_buffers": buffers}
    assert [*candidates(module)[0].tensors] == ["weight"]


def test_what_a_profiler_counted_is_left_alone(net, path):
    counts = {f"{name}total_{kind}": torch.zeros(1).double() for name in ("", "fc.") for kind in ("ops", "params")}
    torch.save(state_of(net) | counts, path)
    assert same(zoo.get(NAME, weights=path), state_of(net))


@pytest.mark.parametrize("wrapped", [lambda state: state, lambda state: {"epoch": 3, "optimizer": state}])
def test_the_state_of_an_optimizer_is_called_that(wrapped, net, path):
    groups = torch.optim.Adam(net.parameters()).state_dict()["param_groups"]
    torch.save(wrapped({"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": groups}), path)
    with pytest.raises(Unreadable, match="state of an optimizer"):
        zoo.get(NAME, weights=path)


CHANGED = {
    "weight norm": (torch.nn.utils.parametrizations.weight_norm, "remove_parametrizations"),
    "old weight norm": (torch.nn.utils.weight_norm, "remove_weight_norm"),
    "spectral norm": (torch.nn.utils.spectral_norm, "remove_spectral_norm"),
    "pruned": (lambda layer: prune.l1_unstructured(layer, "weight", 0.5), "prune.remove"),
}


@pytest.mark.parametrize(("change", "step"), CHANGED.values(), ids=CHANGED)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_layers_that_compute_their_weights_are_named_with_the_way_back(path, change, step):
    trained = zoo.get(NAME, weights=None)
    change(trained.fc)
    torch.save(trained.state_dict(), path)
    with pytest.raises(LoadMismatch, match=step):
        zoo.get(NAME, weights=path)


@pytest.mark.filterwarnings("ignore")  # torch will remove it, and files are left
def test_layers_that_were_quantized_are_named(net, path):
    quantized = torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, torch.qint8)
    torch.save(quantized.state_dict(), path)
    with pytest.raises(LoadMismatch, match=r"layers are quantized[\s\S]*before torch.ao quantized it"):
        zoo.get(NAME, weights=path)


def test_a_model_that_was_changed_before_it_was_trained_is_adopted(path):
    trained = zoo.get("torchvision/resnet18", weights=None)
    trained.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    torch.save(trained.state_dict(), path)
    with pytest.raises(LoadMismatch, match=r"changed before it was trained: conv1[\s\S]*zoo\.adopt"):
        zoo.get("torchvision/resnet18", weights=path)
    zoo.load_partial(adopted := zoo.adopt(trained, example=torch.zeros(1, 3, 64, 64)), path)
    assert zoo.freeze(adopted, until="layer4").fc.weight.requires_grad


def test_empty_tensors_are_those_of_zero_three(net, path):
    torch.save({"module": {name: torch.zeros(0) for name in state_of(net)}}, path)
    with pytest.raises(LoadMismatch, match=r"ZeRO[\s\S]*zero_to_fp32"):
        zoo.get(NAME, weights=path)


@pytest.mark.parametrize(("save", "suffix"), [(save_file, ".safetensors"), (torch.save, ".bin")])
def test_a_folder_of_shards_whose_index_is_missing_is_loaded_when_it_is_whole(net, tmp_path, save, suffix):
    sharded(tmp_path, state_of(net), save, suffix).unlink()
    assert same(zoo.get(NAME, weights=tmp_path), state_of(net))
    assert zoo.load_partial(copy.deepcopy(net), tmp_path).counts == {"loaded": 56}
    (tmp_path / f"model-00002-of-00002{suffix}").rename(tmp_path / f"model-00002-of-00003{suffix}")
    with pytest.raises(Unreadable, match="several files"):
        zoo.get(NAME, weights=tmp_path)


def test_shards_that_are_not_all_there_are_counted(net, tmp_path):
    half = dict([*state_of(net).items()][:9])
    for number in (1, 3):
        save_file(half, tmp_path / f"model-0000{number}-of-00003.safetensors")
    with pytest.raises(Unreadable, match="2 of 3 shards are there"):
        zoo.get(NAME, weights=tmp_path)


def test_shards_of_the_same_names_are_not_laid_over_each_other(net, tmp_path):
    for number in (1, 2):
        save_file(state_of(net), tmp_path / f"model-0000{number}-of-00002.safetensors")
    with pytest.raises(Unreadable, match="tensors of another shard"):
        zoo.get(NAME, weights=tmp_path)


class Doubled(nn.Module):
    """An activation that only its own code knows."""

    def forward(self, x):
        return x * 2


def _with_eps(model):
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = 0.1


WHOLE = {
    "eps": ("torchvision/resnet18", _with_eps),
    "an activation": ("torchvision/resnet18", lambda model: setattr(model, "relu", nn.SiLU())),
    "no pool": ("torchvision/resnet18", lambda model: setattr(model, "maxpool", nn.Identity())),
    "strides": ("torchvision/resnet18", lambda model: setattr(model.conv1, "stride", (1, 1))),
    "a head": (
        "torchvision/resnet18",
        lambda model: setattr(model, "fc", nn.Sequential(nn.Linear(512, 8), nn.LayerNorm(8, 0.1), nn.GELU())),
    ),
}


@pytest.mark.parametrize(("name", "change"), WHOLE.values(), ids=list(WHOLE))
def test_a_whole_pickled_model_comes_back_with_the_layers_and_settings_that_it_had(path, name, change):
    trained = zoo.get(name, weights=None, num_classes=5, seed=1).eval()
    change(trained)
    torch.save(trained, path)
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(zoo.get(name, weights=path).eval()(x), trained(x))


@pytest.mark.parametrize("options", [{"global_pool": "avg"}, {"img_size": 96}], ids=["pool", "image size"])
def test_options_of_the_constructor_are_read_from_a_whole_pickled_model(path, options):
    trained = zoo.get("timm/test_vit", weights=None, num_classes=5, options=options, seed=1).eval()
    torch.save(trained, path)
    x = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(zoo.get("timm/test_vit", weights=path).eval()(x), trained(x))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda model: setattr(model, "relu", Doubled()), r"relu \(Doubled in the file, ReLU here\)"),
        (
            lambda model: setattr(model, "fc", nn.Sequential(nn.Linear(512, 9), Doubled())),
            r"fc \(Linear, Doubled in the file\)",
        ),
        (lambda model: model.fc.register_forward_hook(print), r"fc \(hooks in the file\)"),
    ],
    ids=["an activation", "in the head", "a hook"],
)
@pytest.mark.filterwarnings("ignore:.*ReLU is taken")
def test_what_only_the_code_of_a_whole_pickled_model_knows_is_named(path, change, words):
    trained = zoo.get("torchvision/resnet18", weights=None, num_classes=5)
    change(trained)
    torch.save(trained, path)
    with pytest.warns(ZooWarning, match=words):
        zoo.get("torchvision/resnet18", weights=path)


def _fused(model):
    norms = {name for name, layer in model.named_modules() if isinstance(layer, nn.BatchNorm2d)}
    rest = {name: each for name, each in model.state_dict().items() if name.rpartition(".")[0] not in norms}
    return rest | {"conv1.bias": torch.zeros(64)}


def test_a_file_of_the_head_alone_is_loaded_as_the_error_says(net, path):
    torch.save({name: each for name, each in state_of(net).items() if name.startswith("fc.")}, path)
    with pytest.raises(LoadMismatch, match=r"the head at 'fc' alone[\s\S]*zoo\.load_partial\(model, path\)"):
        zoo.get(NAME, weights=path)
    model = zoo.get(NAME, weights=None, num_classes=9)
    with pytest.warns(ZooWarning, match="2 of"):
        zoo.load_partial(model, path)
    assert torch.equal(model.fc.weight, net.fc.weight)


@pytest.mark.parametrize(
    ("part", "cause"),
    [
        (lambda model: dict(model.named_parameters()), r"parameters alone[\s\S]*update_bn"),
        (_fused, r"fused into the layers before[\s\S]*zoo\.adopt"),
    ],
    ids=["no statistics", "fused"],
)
def test_what_is_missing_of_batch_norms_is_named(path, part, cause):
    torch.save(part(zoo.get("torchvision/resnet18", weights=None, num_classes=9)), path)
    with pytest.raises(LoadMismatch, match=cause):
        zoo.get("torchvision/resnet18", weights=path)


def test_statistics_that_a_file_lacks_are_computed_as_the_error_says(net, path):
    torch.save(dict(net.named_parameters()), path)
    with pytest.raises(LoadMismatch) as caught:
        zoo.get(NAME, weights=path)
    assert "zoo.load_partial(model, path), then torch.optim.swa_utils.update_bn(batches, model)" in str(caught.value)
    model = zoo.get(NAME, weights=None, num_classes=9)
    zoo.load_partial(model, path)
    batches = [torch.rand(8, 1, 32, 32)]
    torch.optim.swa_utils.update_bn(batches, model)
    by_hand = copy.deepcopy(net)
    torch.optim.swa_utils.update_bn(batches, by_hand)
    assert same(model, by_hand.state_dict())


def test_a_norm_after_the_pool_names_the_option_that_builds_it(path):
    trained = zoo.get("timm/test_vit", weights=None, num_classes=5, options={"global_pool": "avg"})
    torch.save(trained.state_dict(), path)
    with pytest.raises(LoadMismatch, match=r'options=\{"global_pool": "avg"\}'):
        zoo.get("timm/test_vit", weights=path)
    assert same(zoo.get("timm/test_vit", weights=path, options={"global_pool": "avg"}), trained.state_dict())


@pytest.mark.parametrize(("theirs", "size"), [(47**2 + 3, 384), (31**2, 256)])
def test_tables_of_relative_positions_say_the_size_of_images(theirs, size):
    mine = 27**2 + (3 if theirs == 47**2 + 3 else 0)
    sizes = image_sizes_in_file(224, {"table": (mine, 4)}, {"table": torch.zeros(theirs, 4)})
    assert size in sizes


def _of_older_torch(model):
    model.features[1] = nn.GELU()
    del model.features[1].approximate
    model.features[0].stride = (1, 1)
    del model.features[0].padding_mode


def _with_a_number_for_a_name(model):
    model.features[0].stride = (1, 1)
    model.features[0].__dict__[7] = 7


def _with_a_dot_in_a_name(model):
    model.features[0].stride = (1, 1)
    model.features[0]._buffers["a.b"] = torch.zeros(1)


@pytest.mark.parametrize(
    ("change", "kind"),
    [(_of_older_torch, nn.GELU), (_with_a_number_for_a_name, nn.ReLU)],
    ids=["an older torch", "a number for a name"],
)
def test_a_layer_that_a_whole_pickled_model_says_odd_things_of_is_no_crash(path, change, kind):
    trained = zoo.get("torchvision/squeezenet1_1", weights=None, num_classes=5)
    change(trained)
    torch.save(trained, path)
    model = zoo.get("torchvision/squeezenet1_1", weights=path)
    assert (type(model.features[1]), model.features[0].stride) == (kind, (1, 1))


def test_a_tensor_with_a_dot_in_its_own_name_is_named(path):
    trained = zoo.get("torchvision/squeezenet1_1", weights=None, num_classes=5)
    _with_a_dot_in_a_name(trained)
    torch.save(trained, path)
    with pytest.raises(LoadMismatch, match=r"1 unexpected \(features\.0\.a\.b\)"):
        zoo.get("torchvision/squeezenet1_1", weights=path)


def test_a_class_that_was_renamed_is_looked_into(path, monkeypatch):
    trained = zoo.get("torchvision/mobilenet_v2", weights=None, num_classes=5).eval()
    _with_eps(trained)
    renamed = type("ConvBNReLU", (nn.Sequential,), {"__module__": "torchvision.models.mobilenet"})
    monkeypatch.setattr("torchvision.models.mobilenet.ConvBNReLU", renamed, raising=False)
    for layer in trained.modules():
        if type(layer).__name__ == "Conv2dNormActivation":
            layer.__class__ = renamed
    torch.save(trained, path)
    model = zoo.get("torchvision/mobilenet_v2", weights=path)
    assert {layer.eps for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)} == {0.1}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("torchvision/resnet18", lambda model: setattr(model.maxpool, "stride", 0)),
        ("timm/test_vit", lambda model: setattr(model, "global_pool", "nonsense")),
    ],
)
def test_a_setting_that_no_layer_can_have_is_named_and_not_taken(path, name, change):
    trained = zoo.get(name, weights=None, num_classes=5)
    change(trained)
    torch.save(trained, path)
    with pytest.warns(ZooWarning, match="(stride=0|global_pool='nonsense') in the file"):
        model = zoo.get(name, weights=path).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, *zoo.info(name).input_size)).shape == (1, 5)


@pytest.mark.parametrize("name", ["torchvision/densenet121", "timm/densenet121", "pretrainedmodels/densenet121"])
@pytest.mark.parametrize("counted", [True, False], ids=["with counters", "without"])
def test_a_file_of_an_old_densenet_has_its_names_of_today(path, name, counted):
    trained = zoo.get(name, weights=None, num_classes=5, seed=1)
    state = {re.sub(r"\.(norm|conv)([12])\.", r".\1.\2.", each): it for each, it in trained.state_dict().items()}
    torch.save({each: it for each, it in state.items() if counted or not each.endswith("tracked")}, path)
    assert same(zoo.get(name, weights=path), trained.state_dict())


@pytest.mark.parametrize(
    "wrapper",
    [
        lambda raw, ema: {"state_dict": raw, "ema_state_dict": {"steps": torch.tensor(3), **prefixed(ema, "module.")}},
        lambda raw, ema: {
            "initted": torch.tensor([True]),
            "step": torch.tensor([9]),
            **prefixed(raw, "online_model."),
            **prefixed(ema, "ema_model."),
        },
    ],
    ids=["MMEngine", "ema_pytorch"],
)
def test_counters_beside_averages_are_left_alone(net, path, wrapper):
    averages = moved(state_of(net))
    torch.save(wrapper(state_of(net), averages), path)
    model = zoo.get(NAME, weights=path)
    assert same(model, averages)
    assert zoo.receipt(model).counts == {"loaded": len(averages)}


@pytest.mark.parametrize(("name", "value"), [("layer1.conv1.weight", torch.nan), ("stem.1.running_var", torch.inf)])
def test_numbers_that_make_every_score_nan_are_named(net, path, name, value):
    state = state_of(net)
    state[name].view(-1)[0] = value
    torch.save(state, path)
    with pytest.warns(ZooWarning, match=rf"1 of the \d+ tensors from last.ckpt hold nan or infinities: {name}"):
        zoo.get(NAME, weights=path)


def test_large_numbers_in_half_precision_are_no_infinities(path):
    state = zoo.get(NAME, weights=None, num_classes=9).half().state_dict()
    state["fc.weight"][:] = 6e4
    torch.save(state, path)
    assert zoo.get(NAME, weights=path, dtype=torch.float16).fc.weight.eq(6e4).all()


def test_a_counter_of_a_model_is_loaded(path):
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
            self.register_buffer("steps", torch.tensor(3))

        def forward(self, x):
            return self.module(x)

    zoo.register("own/counting", input_size=(1, 2, 2))(Counting)
    torch.save({**Counting().state_dict(), "steps": torch.tensor(8)}, path)
    assert zoo.get("own/counting", weights=path).steps == 8
