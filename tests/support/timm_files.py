"""The tensors of a file of timm's, and what timm makes of the file."""

from __future__ import annotations

import timm
import torch

import zoo_core as zoo


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
