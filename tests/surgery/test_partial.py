"""Loading the part of a checkpoint that fits, beside the loops over state dicts that people write for the same."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import zoo_core as zoo
from zoo_core import errors
from zoo_core.surgery.fine_tuning.load_partial import load_partial


@pytest.fixture
def trained():
    return zoo.get("tiny/glyphnet").state_dict()


@pytest.fixture
def model():
    return zoo.get("tiny/glyphnet", weights=None, num_classes=9, seed=0)


def renamed(state):
    """The same tensors in the same order, as somebody else's code calls them."""
    names = {"stem": "entry", "layer1": "a.block", "layer2": "b.block", "layer3": "c.block", "fc": "classifier"}
    return {re.sub(r"^\w+", lambda found: names[found[0]], name): tensor for name, tensor in state.items()}


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_by_name_loads_what_the_filter_over_a_state_dict_loads(model, trained):
    twin = copy.deepcopy(model)
    own = twin.state_dict()
    own.update({k: v for k, v in trained.items() if k in own and v.shape == own[k].shape})
    twin.load_state_dict(own)
    load_partial(model, trained)
    assert same(model.state_dict(), twin.state_dict())


def test_by_order_loads_what_the_zip_over_two_state_dicts_loads(model, trained):
    twin = copy.deepcopy(model)
    own = twin.state_dict()
    for (name, value), given in zip(own.items(), renamed(trained).values(), strict=True):
        if value.shape == given.shape and not name.startswith("fc."):
            own[name] = given
    twin.load_state_dict(own)
    receipt = load_partial(model, renamed(trained), match="order")
    assert same(model.state_dict(), twin.state_dict())
    assert receipt.notes["layer1.conv1.weight"] == "from a.block.conv1.weight"


def test_the_receipt_tells_of_every_tensor_on_both_sides(model, trained):
    trained["extra.weight"] = torch.zeros(1)
    del trained["layer1.bn1.bias"]
    receipt = load_partial(model, trained)
    assert receipt.names("kept") == ("layer1.bn1.bias", "fc.weight", "fc.bias")
    assert receipt.names("ignored") == ("extra.weight",)
    assert set(receipt.tensors) == {*model.state_dict(), *trained}
    assert receipt.notes["layer1.bn1.bias"] == "not in what was given"
    assert receipt.notes["fc.weight"] == "of shape [114, 64] in what was given, [9, 64] in the model"
    assert "3 kept (layer1.bn1.bias, fc.weight, fc.bias), 1 ignored (extra.weight)" in str(receipt)


def test_the_models_own_receipt_follows(model, trained):
    load_partial(model, trained)
    receipt = zoo.receipt(model)
    assert receipt.names("initialized") == ("fc.weight", "fc.bias")
    assert receipt.notes["layer1.conv1.weight"] == "layer1.conv1.weight of what was given"
    zoo.init_weights(model, "normal", where="layer1.conv1")
    assert "layer1.conv1.weight" not in zoo.receipt(model).notes


@pytest.mark.parametrize(
    ("skip", "kept"),
    [
        ("layer3", ("layer3.", "fc.")),
        (["stem.*", "layer1"], ("stem.", "layer1.", "fc.")),
        ("backbone", None),
    ],
    ids=str,
)
def test_what_is_skipped_keeps_its_values(model, trained, skip, kept):
    trained = {**trained, "fc.weight": torch.ones(9, 64), "fc.bias": torch.ones(9)} if kept is None else trained
    before = copy.deepcopy(model.state_dict())
    receipt = load_partial(model, trained, skip=skip)
    same_as_before = {name for name in before if torch.equal(before[name], model.state_dict()[name])}
    assert set(receipt.names("kept")) <= same_as_before
    if kept is None:
        assert receipt.names("loaded") == ("fc.weight", "fc.bias")
    else:
        assert set(receipt.names("kept")) == {name for name in before if name.startswith(kept)}


def test_names_of_the_file_can_be_skipped(model, trained):
    other = {"pre.weight": torch.zeros(16, 1, 3, 3), **renamed(trained)}
    receipt = load_partial(model, other, match="order", skip=["pre", "head"])
    assert receipt.tensors["pre.weight"] == "ignored"
    assert receipt.notes["pre.weight"] == "skipped"
    assert receipt.counts["loaded"] == len(model.state_dict()) - 2


def test_by_order_the_head_can_be_taken_too(trained):
    model = zoo.get("tiny/glyphnet", weights=None, seed=0)
    receipt = load_partial(model, renamed(trained), match="order", skip=())
    assert receipt.counts == {"loaded": len(trained)}
    assert torch.equal(model.fc.weight, trained["fc.weight"])


def test_where_the_order_parts_it_stops_and_says_where(model, trained):
    other = {}
    for name, tensor in renamed(trained).items():
        if name == "b.block.conv1.weight":
            other["b.block.gate"] = torch.zeros(7)
        other[name] = tensor
    with pytest.warns(zoo.ZooWarning, match="18 of 54 tensors"):
        receipt = load_partial(model, other, match="order")
    assert "layer2.conv1.weight" not in receipt.names("loaded")
    assert receipt.names("loaded")[-1] == "layer1.bn2.num_batches_tracked"
    assert "against b.block.gate of shape [7]" in receipt.notes["layer2.conv1.weight"]
    assert receipt.notes["layer3.conv1.weight"] == "comes after layer2.conv1.weight, where the order parts"


def test_a_weight_is_never_taken_for_a_bias_of_the_same_shape(model, trained):
    by_name = {name: trained[name] for name in sorted(trained)}
    with pytest.raises(errors.LoadMismatch, match="by order"):
        load_partial(model, {name: by_name[name] for name in by_name if "bn" in name}, match="order")


def test_by_order_an_old_file_without_counters_fits(model, trained):
    old = {name: tensor for name, tensor in renamed(trained).items() if not name.endswith("num_batches_tracked")}
    receipt = load_partial(model, old, match="order")
    counters = [name for name in model.state_dict() if name.endswith("num_batches_tracked")]
    assert set(receipt.names("kept")) == {*counters, "fc.weight", "fc.bias"}
    assert torch.equal(model.layer3.conv2.weight, trained["layer3.conv2.weight"])


def test_a_checkpoint_of_a_training_script_is_unwrapped(model, trained):
    wrapped = {"state_dict": {f"module.{name}": tensor for name, tensor in trained.items()}, "epoch": 3}
    assert load_partial(model, wrapped).counts == {"loaded": len(trained) - 2, "kept": 2}


def test_files_of_both_kinds_are_read_and_named(model, trained, tmp_path):
    torch.save({"model": trained}, tmp_path / "old.pth")
    save_file(trained, tmp_path / "new.safetensors")
    for file in (tmp_path / "old.pth", str(tmp_path / "new.safetensors")):
        receipt = load_partial(model, file)
        assert receipt.counts["loaded"] == len(trained) - 2
        assert receipt.path == str(file)
        assert receipt.notes["fc.bias"].startswith("of shape [114] in ")


def test_it_works_through_a_wrapper_and_on_a_module_zoo_does_not_know(model, trained):
    load_partial(torch.compile(model, backend="eager"), trained)
    assert torch.equal(model.stem[0].weight, trained["stem.0.weight"])
    layer = nn.Linear(64, 114)
    load_partial(layer, {"weight": trained["fc.weight"]})
    assert torch.equal(layer.weight, trained["fc.weight"])


def test_frozen_parameters_are_loaded_and_stay_frozen(model, trained):
    load_partial(zoo.freeze(model), trained)
    assert torch.equal(model.stem[0].weight, trained["stem.0.weight"])
    assert not model.stem[0].weight.requires_grad


def test_when_nothing_fits_nothing_changes_and_what_would_fit_is_said(model, trained):
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(errors.LoadMismatch, match=r"nothing was loaded(.|\n)*match=\"order\""):
        load_partial(model, renamed(trained))
    assert same(before, model.state_dict())


@pytest.mark.parametrize("prefix", ["encoder.", "module.model.", "model._orig_mod.", "a.b.c.d.", "0."])
def test_a_constant_prefix_does_not_count(model, trained, prefix):
    state = {f"{prefix}{name}": tensor for name, tensor in trained.items()} | {"decoder.weight": torch.zeros(3)}
    receipt = load_partial(model, {"state_dict": state}, skip="fc")
    assert receipt.counts["loaded"] == 54
    assert torch.equal(model.layer3.conv2.weight, trained["layer3.conv2.weight"])
    assert receipt.taken.endswith(f"without the prefix {prefix.replace('_orig_mod.', '')!r}")
    assert receipt.tensors["decoder.weight"] == "ignored"


def test_averages_of_parameters_bring_the_statistics_beside_them(model, trained):
    raw = {name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in trained.items()}
    parameters = dict(model.named_parameters())
    ema = {name: tensor for name, tensor in trained.items() if name in parameters}
    load_partial(model, {"model": raw, "ema": ema})
    assert torch.equal(model.stem[0].weight, trained["stem.0.weight"])
    assert torch.equal(model.stem[1].running_var, raw["stem.1.running_var"])


def test_the_part_of_a_larger_file_is_found(model, trained):
    load_partial(model.layer1, trained)
    assert torch.equal(model.layer1.conv1.weight, trained["layer1.conv1.weight"])


def test_a_query_and_a_key_encoder_that_fit_alike_are_named(model, trained):
    both = {f"encoder_q.{name}": tensor for name, tensor in trained.items()}
    both |= {f"encoder_k.{name}": tensor + 1 for name, tensor in trained.items()}
    with pytest.warns(zoo.ZooWarning, match="'encoder_q' was taken, not 'encoder_k'"):
        load_partial(model, both)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"match": "shape"}, errors.UsageError, "'name' or 'order'"),
        ({"skip": "layer7"}, errors.UnknownPart, "did you mean 'layer"),
        ({"skipp": ()}, errors.UnknownArgument, "did you mean 'skip'"),
    ],
    ids=str,
)
def test_an_impossible_argument_is_refused(model, trained, arguments, error, message):
    with pytest.raises(error, match=message):
        load_partial(model, trained, **arguments)


@pytest.mark.parametrize("wrong", [{}, {"epoch": 3}, [1], 3], ids=str)
def test_what_holds_no_tensors_is_refused(model, wrong):
    with pytest.raises(errors.Unreadable, match="holds no state dict"):
        load_partial(model, wrong)


def test_a_module_in_place_of_its_state_dict_is_refused(model):
    with pytest.raises(errors.UsageError, match=r"state_dict\(\)"):
        load_partial(model, model)


def test_a_file_that_is_not_there_is_named(model, tmp_path):
    with pytest.raises(errors.Unreadable, match=r"none\.pth"):
        load_partial(model, tmp_path / "none.pth")


def test_a_mnasnet_takes_what_does_not_say_for_which_version_it_is():
    state = zoo.get("mnasnet0_5", weights=None, seed=1).state_dict()
    model = zoo.get("mnasnet0_5", weights=None, num_classes=9)
    zoo.load_partial(model, dict(state))
    assert torch.equal(model.layers[0].weight, state["layers.0.weight"])


class Frozen(nn.Module):
    """A norm whose tensors are all buffers and that counts nothing, as torchvision's FrozenBatchNorm2d."""

    def __init__(self, width):
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.zeros(width))


def test_by_order_counters_of_the_file_are_not_in_the_way_of_norms_that_count_nothing():
    file = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)).state_dict()
    model = nn.Sequential(nn.Conv2d(3, 4, 1), Frozen(4), nn.Conv2d(4, 4, 1), Frozen(4))
    receipt = load_partial(model, file, match="order", skip=())
    assert receipt.counts == {"loaded": 12, "ignored": 2}
    assert torch.equal(model[3].running_var, file["3.running_var"])


def test_by_order_counters_follow_the_norm_they_belong_to():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), Frozen(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    file = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)).state_dict()
    file["1.num_batches_tracked"].fill_(1)
    file["3.num_batches_tracked"].fill_(3)
    assert load_partial(model, file, match="order", skip=()).counts == {"loaded": 13, "ignored": 1}
    assert model[3].num_batches_tracked == 3


LOSSY = {
    "complex": lambda tensor: tensor.to(torch.complex64),
    "codes": lambda tensor: tensor.to(torch.int8),
}


@pytest.mark.parametrize("match", ["name", "order"])
@pytest.mark.parametrize("kind", LOSSY)
def test_what_a_conversion_would_lose_is_kept_out_and_named(model, trained, kind, match):
    before = model.stem[0].weight.detach().clone()
    receipt = load_partial(model, {**trained, "stem.0.weight": LOSSY[kind](trained["stem.0.weight"])}, match=match)
    assert torch.equal(model.stem[0].weight, before)
    assert receipt.tensors["stem.0.weight"] == "kept"
    assert kind.partition(" ")[0] in receipt.notes["stem.0.weight"]
    assert torch.equal(model.layer1.conv1.weight, trained["layer1.conv1.weight"])


def test_halves_and_doubles_are_loaded_as_ever(model, trained):
    halves = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in trained.items()}
    assert load_partial(model, halves).counts == {"loaded": 54, "kept": 2}


def test_where_one_tensor_fails_none_is_loaded_and_the_receipt_is_as_it_was(model, trained):
    class Picky(nn.Linear):
        def _load_from_state_dict(self, state, prefix, *rest):
            super()._load_from_state_dict(state, prefix, *rest)
            if f"{prefix}bias" in state and (state[f"{prefix}bias"] == 7).any():
                raise RuntimeError("sevens")

    model.fc = Picky(64, 9)
    before, receipt = copy.deepcopy(model.state_dict()), zoo.receipt(model)
    sevens = {**trained, "fc.weight": torch.zeros(9, 64), "fc.bias": torch.full((9,), 7.0)}
    with pytest.raises(zoo.ZooError, match="cannot be copied") as error:
        load_partial(model, sevens)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert zoo.receipt(model).tensors == receipt.tensors
    assert "skip=" in str(error.value)
    assert load_partial(model, sevens, skip="fc").counts["loaded"] == 54  # what it says


def test_a_prefix_does_not_hide_what_fits_without_one(model, trained):
    state = {f"module.{name}": tensor for name, tensor in trained.items()} | {"fc.bias": torch.zeros(9)}
    assert load_partial(model, state).counts["loaded"] >= 54


def test_a_small_share_warns_and_says_which_prefix_is_missing(model, trained):
    part = {name.removeprefix("layer1."): tensor for name, tensor in trained.items() if name.startswith("layer1.")}
    with pytest.warns(zoo.ZooWarning, match=r"1 of 56 tensors .* put the prefix 'layer1.' before .*: 12 of 56"):
        load_partial(model, part | {"stem.0.weight": trained["stem.0.weight"]})


def test_a_small_share_warns_and_says_that_the_order_fits(model, trained):
    state = {**renamed(trained), "fc.bias": torch.zeros(9)}
    with pytest.warns(zoo.ZooWarning, match='match="order"'):
        load_partial(model, state)
    assert load_partial(model, state, match="order").counts["loaded"] == 54


def test_numbers_that_make_every_score_nan_are_named(model, trained):
    broken = {**trained, "layer2.conv1.weight": trained["layer2.conv1.weight"] * torch.inf}
    with pytest.warns(
        errors.ZooWarning, match="tensors from what was given hold nan or infinities: layer2.conv1.weight"
    ):
        load_partial(model, broken)


def test_a_model_on_the_meta_device_has_no_place_for_values(trained):
    empty = zoo.get("tiny/glyphnet", weights=None, device="meta")
    with pytest.raises(errors.NotSupported, match="meta device"):
        load_partial(empty, trained)
    load_partial(empty.to_empty(device="cpu"), trained)
    assert same(empty.state_dict(), trained)


def test_a_tensor_that_has_its_name_and_does_not_fit_is_the_cause(model):
    with pytest.raises(errors.LoadMismatch, match=r"likely cause: fc.weight is of shape \[5, 64\]"):
        load_partial(model, {"fc.weight": torch.zeros(5, 64)})


def compiled(model, path):
    """The model with a part that torch.compile has wrapped, as ``model.layer1 = torch.compile(model.layer1)`` does."""
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, torch.compile(model.get_submodule(path), backend="eager"))
    return model


@pytest.mark.parametrize("path", ["layer1", "layer2.conv1", "stem", "stem.0"])
def test_a_part_that_is_compiled_takes_what_its_layers_are_called(model, trained, path):
    receipt = load_partial(compiled(model, path), trained)
    assert receipt.counts == {"loaded": 54, "kept": 2}
    own = {name.replace("_orig_mod.", ""): tensor for name, tensor in model.state_dict().items()}
    assert all(torch.equal(own[name], trained[name]) for name in trained if not name.startswith("fc."))


def test_parts_of_a_compiled_layer_are_skipped_by_their_own_names(model, trained):
    before = model.layer1.conv1.weight.clone()
    receipt = load_partial(compiled(model, "layer1"), trained, skip="layer1.conv1")
    assert torch.equal(model.layer1.conv1.weight, before)
    assert receipt.notes["layer1._orig_mod.conv1.weight"] == "skipped"


def test_layers_with_adapters_take_what_they_were_called_before(model, trained):
    pytest.importorskip("peft")
    zoo.add_lora(model, rank=2)
    receipt = load_partial(model, trained)
    assert receipt.counts["loaded"] == 54
    adapted = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert load_partial(model, adapted).counts == {"loaded": len(adapted)}
