"""The models that the tests of a GPU go through, and a small input for each.

They are one of each kind (``kinds.py``). Those of at most 60 million parameters are gone through by default, and the
rest with ``-m full``.
"""

from __future__ import annotations

import copy
import gc
import os
import warnings
from functools import lru_cache

import pytest
import torch

import zoo_core as zoo
from support.kinds import of_each_kind

BY_DEFAULT = 60_000_000
_SIDES = (64, 128)
_FRAMES = (4, 16)
_TOO_SMALL = (RuntimeError, ValueError, AssertionError, IndexError)
"""How models say that an image is too small for them."""


DEVICE = torch.device(os.environ.get("ZOO_TEST_DEVICE", "cuda"))
"""The device under test."""


def need_a_device():
    """Skip a whole module, visibly, where there is neither a GPU nor another device to stand for it."""
    if DEVICE.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device", allow_module_level=True)


def models_of(*tasks):
    """The decorator that runs a test once for each model of the sample that does one of these tasks."""
    return pytest.mark.parametrize("name", [*_parameters(tasks)])


def _parameters(tasks):
    known = set(zoo.list())
    for name in of_each_kind():
        card = zoo.info(name) if name in known else None
        if card and card.task in tasks:
            large = (card.parameters or 0) > BY_DEFAULT
            yield pytest.param(name, marks=pytest.mark.full) if large else name


@lru_cache(maxsize=1)
def _built(name, depth):
    torch.set_num_threads(1)
    gc.collect()  # models whose forward was put together anew hold themselves, and large ones fill the memory
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a library says of its own constructor is not under test here
        model = zoo.get(name, weights=None, seed=0, options=depth and {"depth": depth}).eval()
    card = zoo.info(name)
    for x in _inputs(card):
        try:
            with torch.no_grad():
                copy.deepcopy(model)(*x)  # some keep what they have computed for one size
                if card.task == "classification":
                    copy.deepcopy(model).train()(*x)  # an auxiliary head may want more pixels
        except _TOO_SMALL:
            continue
        return model, x
    raise AssertionError(name)


def model_under_test(name, depth=None):
    """An untrained model of that name in eval mode, and the arguments of its forward: a batch of two, and small.

    A transformer may have fewer blocks, where these are not what is looked at.
    """
    model, x = _built(name, depth)
    return copy.deepcopy(model), copy.deepcopy(x)


def _inputs(card):
    """Arguments of forward, the smallest first."""
    generator = torch.Generator().manual_seed(0)
    channels, *size = card.input_size

    def noise(*shape):
        return torch.randn(*shape, generator=generator)

    sides = dict.fromkeys((*_SIDES, size[-1]))
    if card.task == "video":
        for frames in _FRAMES:
            for side in sides:
                yield (noise(2, channels, frames, side, side),)
        yield (noise(1, channels, *size),)
    for side in () if card.task == "video" else sides:
        if card.task == "optical_flow":
            yield noise(2, channels, side, side), noise(2, channels, side, side)
        elif card.task in ("detection", "keypoints"):
            yield ([noise(channels, side, side).sigmoid() for _ in range(2)],)
        else:
            yield (noise(2, channels, side, side),)


def scores(model, x):
    """The first tensor of the scores that a model gives for the arguments ``x``."""
    return next(tensors(zoo.anatomy(model).scores_in(model(*x))))


def tensors(output):
    """The tensors in what a model returned, in order."""
    if isinstance(output, torch.Tensor):
        yield output
    else:
        for item in output.values() if isinstance(output, dict) else output:
            yield from tensors(item)


def to(given, device, dtype=None):
    """A tensor, or all of a list, a tuple or a dict, somewhere else; floating-point ones in another dtype."""
    if isinstance(given, torch.Tensor):
        return given.to(device, dtype if given.is_floating_point() else None)
    if isinstance(given, dict):
        return {key: to(value, device, dtype) for key, value in given.items()}
    return type(given)(to(value, device, dtype) for value in given)
