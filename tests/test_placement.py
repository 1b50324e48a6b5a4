"""Where a model goes: the same numbers, ties and classes as ``model.to`` gives."""

from __future__ import annotations

import copy
import gc

import pytest
import torch
from torch import nn

import zoo_core as zoo
from zoo_core import errors
from zoo_core.build.place import buffer_bytes, pieces, place
from zoo_core.utils.gc import no_collection


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(40, 40), nn.Linear(40, 40)
        self.two.weight = self.one.weight
        self.conv = nn.Conv2d(3, 8, 3)
        self.volume = nn.Conv3d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.one.bias.requires_grad_(False)


PLACES = {
    "as it is": {},
    "bfloat16": {"dtype": torch.bfloat16},
    "double": {"dtype": torch.float64},
    "cpu": {"device": torch.device("cpu")},
}


def same(ours, theirs):
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, tensor in theirs.state_dict(keep_vars=True).items():
        mine = ours.state_dict(keep_vars=True)[name]
        assert (mine.dtype, mine.device, mine.requires_grad) == (tensor.dtype, tensor.device, tensor.requires_grad)
        assert torch.equal(mine, tensor)


@pytest.mark.parametrize("where", PLACES.values(), ids=PLACES)
def test_a_placed_model_is_what_torch_itself_makes_of_it(where):
    model = Tied()
    same(place(model, **where), copy.deepcopy(model).to(**where))


@pytest.mark.parametrize("where", [*PLACES.values(), {"device": torch.device("meta")}], ids=[*PLACES, "meta"])
def test_parameters_that_are_one_stay_one(where):
    model = place(Tied(), **where)
    assert model.two.weight is model.one.weight


def test_whole_numbers_keep_their_dtype():
    assert place(Tied(), dtype=torch.float16).norm.num_batches_tracked.dtype == torch.int64


def test_a_variance_beyond_float16_is_refused_before_anything_changes():
    model = Tied()
    model.norm.running_var[3] = 70_000.0  # infinite in float16, which makes the channel a constant
    with pytest.raises(errors.UsageError, match=r"70,000 in norm.running_var(.|\n)*bfloat16"):
        place(model, dtype=torch.float16)
    assert {each.dtype for each in model.parameters()} == {torch.float32}


def test_what_is_infinite_already_may_go_to_a_smaller_dtype():
    model = Tied()
    model.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
    assert place(model, dtype=torch.float16).mask.tolist() == [0.0, float("-inf")]


def test_filters_of_images_and_of_volumes_are_laid_out_with_their_channels_last():
    model = place(Tied(), channels_last=True)
    assert model.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert model.volume.weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert model.one.weight.is_contiguous()


def test_get_lays_filters_out_with_their_channels_last_when_asked():
    plain, last = zoo.get("tiny/glyphnet"), zoo.get("tiny/glyphnet", channels_last=True)
    filters = [parameter for parameter in last.parameters() if parameter.dim() == 4]
    assert all(each.is_contiguous(memory_format=torch.channels_last) for each in filters)
    same(last, plain)


def test_get_makes_a_model_without_memory_on_the_meta_device():
    model = zoo.get("tiny/glyphnet", num_classes=9, device="meta")
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"meta"}
    assert zoo.receipt(model).names("initialized") == ("fc.weight", "fc.bias")


def test_get_makes_the_new_head_of_the_dtype_that_was_asked_for():
    rounded = zoo.get("tiny/glyphnet", num_classes=9, seed=0, dtype=torch.bfloat16)
    exact = zoo.get("tiny/glyphnet", num_classes=9, seed=0)
    assert torch.equal(rounded.fc.weight, exact.fc.weight.bfloat16())


@pytest.mark.parametrize("elements", [1, 7, 8, 9, 64])
def test_a_tensor_goes_piece_by_piece(elements):
    source, target = torch.randn(elements, 1), torch.zeros(elements, 1)
    for piece, into in pieces(source, target, 8):
        assert len(piece) <= 8
        into.copy_(piece)
    assert torch.equal(source, target)


LAYOUTS = {
    "filters": (torch.contiguous_format, torch.channels_last, (7, 5, 3, 3)),
    "filters that lie so already": (torch.channels_last, torch.channels_last, (7, 5, 3, 3)),
    "filters of volumes": (torch.contiguous_format, torch.channels_last_3d, (7, 5, 2, 3, 3)),
    "filters of one pixel": (torch.contiguous_format, torch.channels_last, (7, 5, 1, 1)),
    "filters of one channel": (torch.contiguous_format, torch.channels_last, (7, 1, 3, 3)),
}


@pytest.mark.parametrize("most", [1, 4, 50, 10_000])
@pytest.mark.parametrize(("before", "after", "shape"), LAYOUTS.values(), ids=LAYOUTS)
def test_filters_go_piece_by_piece_and_are_laid_out_on_the_way(before, after, shape, most):
    source = torch.randn(shape).to(memory_format=before)
    target = torch.empty(shape, memory_format=after).zero_()
    for piece, into in pieces(source, target, most):
        assert 0 < piece.numel() <= most
        assert into.is_contiguous(), "a copy from the host to a GPU takes one stretch of memory, or a second copy there"
        into.copy_(piece)
    assert torch.equal(source, target)


@pytest.mark.parametrize(("name", "mebibytes"), [("vit_l_16", 16), ("resnet50", 4), ("squeezenet1_1", 1)])
def test_both_buffers_together_are_at_most_an_eighth_of_a_large_model(name, mebibytes):
    assert buffer_bytes(zoo.get(name, weights=None, device="meta")) == mebibytes << 20


def test_garbage_is_collected_again_after_a_build_that_failed():
    with pytest.raises(ZeroDivisionError), no_collection():
        _ = 1 / (gc.isenabled() * 1)
    assert gc.isenabled()


def test_a_program_that_collects_no_garbage_is_left_so():
    gc.disable()
    try:
        zoo.get("tiny/glyphnet")
        assert not gc.isenabled()
    finally:
        gc.enable()


class Large(nn.Module):
    """More than both buffers hold, in odd sizes, and small tensors between."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(3001, 2003), nn.BatchNorm1d(2003), nn.Linear(2003, 3001)])
        self.conv = nn.Conv2d(601, 403, 3)
        self.volume = nn.Conv3d(151, 103, 3)
        self.tied = nn.Linear(3001, 2003)
        self.tied.weight = self.layers[0].weight
        self.register_buffer("numbers", torch.arange(1_000_003))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float64], ids=str)
def test_a_model_on_a_gpu_is_what_torch_itself_makes_of_it(dtype):
    model = Large()
    theirs = copy.deepcopy(model).to(device="cuda", dtype=dtype)
    same(place(model, torch.device("cuda"), dtype), theirs)
    assert model.tied.weight is model.layers[0].weight


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=str)
@pytest.mark.parametrize("already", [False, True])
def test_large_filters_on_a_gpu_lie_as_torch_lays_them_out(already, dtype):
    model = Large()
    theirs = place(copy.deepcopy(model).to(dtype=dtype), channels_last=True).to("cuda")
    if already:
        place(model, channels_last=True)
    place(model, torch.device("cuda"), dtype, channels_last=not already)
    same(model, theirs)
    assert [each.stride() for each in model.parameters()] == [each.stride() for each in theirs.parameters()]


@pytest.mark.gpu
def test_a_model_goes_to_a_gpu_while_that_is_at_work():
    busy = torch.randn(4000, 4000, device="cuda")
    for _ in range(20):
        busy = busy @ busy / 4000
        del_me = torch.randn(1 << 22, device="cuda")
        del del_me
    model = Large()
    same(place(model, torch.device("cuda")), copy.deepcopy(model).to("cuda"))


@pytest.mark.gpu
def test_get_puts_a_mapped_file_on_a_gpu_with_its_channels_last():
    model = zoo.get("tiny/glyphnet", device="cuda", channels_last=True)
    same(model, zoo.get("tiny/glyphnet").to("cuda"))
    assert model(torch.zeros(1, 1, 32, 32, device="cuda")).device.type == "cuda"
