"""What holds on the CPU holds on a GPU, for what is no image classifier: segmentation, detection, video, flow.

What a detector finds is chosen by the order of scores that hardly differ in an untrained one, so that its boxes are
not compared: its loss in training is computed, and the maps of its backbone are held against the CPU's.
"""

from __future__ import annotations

import copy

import pytest
import torch
from support.device_sample import model_under_test, models_of, need_a_device, tensors, to

import zoo_core as zoo

need_a_device()
pytestmark = pytest.mark.gpu

TOLERANCE = 1e-3
DETECTION = ("detection", "keypoints")
every_model = models_of("segmentation", *DETECTION, "video", "optical_flow")
every_model_with_a_head = models_of("segmentation", *DETECTION, "video")
every_detector = models_of(*DETECTION)
halves = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)


def placed(model):
    state = [*model.parameters(), *model.buffers()]
    return {each.device.type for each in state}, {each.dtype for each in model.parameters()}


def is_detector(x):
    """Detectors are given a list of images."""
    return isinstance(x[0], list)


def run(model, x):
    """All tensors that a model gives; for a detector the maps of its backbone, and of flows the first."""
    if is_detector(x):
        images, _ = model.transform(x[0])
        return [*tensors(model.backbone(images.tensors))]
    found = [*tensors(model(*x))]
    return found[:1] if len(x) > 1 else found  # each flow starts from the one before, and what differs grows


def alike(found, expected):
    spread = max(each.std().item() for each in expected)
    pairs = [*zip(found, expected, strict=True)]
    assert all(ours.shape == theirs.shape for ours, theirs in pairs)
    return max((ours.cpu() - theirs).abs().max().item() for ours, theirs in pairs) <= TOLERANCE * spread


def loss(model, x):
    """What a model in train mode gives to minimise; a detector is shown one object in each image."""
    if not is_detector(x):
        return sum(each.square().mean() for each in tensors(model(*x)))
    side = x[0][0].shape[-1]
    shown = {
        "boxes": torch.tensor([[side / 8, side / 8, side / 2, side / 2]]),
        "labels": torch.tensor([1]),
        "masks": torch.ones(1, side, side, dtype=torch.uint8),
        "keypoints": torch.full((1, 17, 3), side / 4),
    }
    return sum(model(x[0], [to(shown, x[0][0].device) for _ in x[0]]).values())


@every_model
def test_a_file_arrives_value_for_value_and_gives_what_the_cpu_gives(name, device, folder):
    model, x = model_under_test(name)
    torch.save(model.state_dict(), folder / "weights.pth")
    found = zoo.get(name, weights=folder / "weights.pth", device=device).eval()
    assert placed(found) == ({device.type}, {torch.float32})
    state = model.state_dict()
    assert all(torch.equal(each.cpu(), state[key]) for key, each in found.state_dict().items())
    with torch.no_grad():
        assert alike(run(found, to(x, device)), run(model, x))


@halves
@every_model
def test_get_places_it_in_half_precision_with_its_layout(name, device, dtype):
    model = zoo.get(name, weights=None, device=device, dtype=dtype, channels_last=True)
    assert placed(model) == ({device.type}, {dtype})
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    assert all(
        each.is_contiguous(memory_format=formats[each.dim()]) for each in model.parameters() if each.dim() in formats
    )


@halves
@every_model_with_a_head
def test_new_heads_are_born_where_the_old_ones_were(name, device, dtype):
    model, _ = model_under_test(name)
    zoo.swap_head(model.to(device, dtype), 9)
    assert placed(model) == ({device.type}, {dtype})
    assert zoo.anatomy(model).main.num_classes == 9


@every_model_with_a_head
def test_only_the_new_heads_train_when_the_rest_is_frozen(name, device):
    model, x = model_under_test(name)
    model = zoo.freeze(zoo.swap_head(model.to(device), 9), "backbone").train()
    before = copy.deepcopy(model.state_dict())
    loss(model, to(x, device)).backward()
    sites = tuple(f"{site.path}." for site in zoo.anatomy(model).heads)
    trained = [key for key, each in model.named_parameters() if each.grad is not None]
    assert trained
    assert all(key.startswith(sites) for key in trained)
    assert zoo.drift(model, before) == {}


@every_model
def test_a_save_comes_back_on_the_device_bit_for_bit(name, device, folder):
    model, _ = model_under_test(name)
    model.to(device)
    back = zoo.load(zoo.save(model, folder / "saved"), device=device)
    assert placed(back) == ({device.type}, {torch.float32})
    state = model.state_dict()
    assert all(torch.equal(each, state[key]) for key, each in back.state_dict().items())


@every_detector
def test_a_detector_on_the_device_finds_there(name, device):
    model, x = model_under_test(name)
    with torch.no_grad():
        found = model.to(device)(*to(x, device))
    assert {each.device.type for each in tensors(found)} == {device.type}
    assert all({"boxes", "labels", "scores"} <= set(each) for each in found)
