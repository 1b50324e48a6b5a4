"""The models that the tests of a GPU go through, and a small input for each.

``device_sample.txt`` names the smallest model of each class of model, shape of its head sites and task, in every
family. It is written by ``python tests/support/device_sample.py``, which builds all models of all installed families
without their values to find that out. Those of at most 60 million parameters are gone through by default, and the rest
with ``-m full``.
"""

from __future__ import annotations

import copy
import gc
import os
import sys
import warnings
from functools import lru_cache
from pathlib import Path

import pytest
import torch

import zoo_core as zoo
from zoo_core.construct import construct

FILE = Path(__file__).with_suffix(".txt")
BY_DEFAULT = 60_000_000
_SIDES = (64, 128)
_FRAMES = (4, 16)
_TOO_SMALL = (RuntimeError, ValueError, AssertionError, IndexError)
"""How models say that a picture is too small for them."""


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
    for name, *_ in sample():
        card = zoo.info(name) if name in known else None
        if card and card.task in tasks:
            large = (card.parameters or 0) > BY_DEFAULT
            yield pytest.param(name, marks=pytest.mark.full) if large else name


def sample():
    """Name, class and head sites of each model of the sample."""
    return [line.split("\t") for line in FILE.read_text(encoding="utf-8").splitlines()]


def kind_of(name):
    """The class of a model, and the shape of its head sites."""
    card = zoo.info(name)
    model = construct(card, card.options, values=False)  # whose memory is never touched, however large
    sites = {_shape_of(model, site) for site in zoo.anatomy(model).heads}
    heads = ", ".join(sorted(sites))
    return f"{type(model).__module__}.{type(model).__qualname__}", heads or "no head"


def _shape_of(model, site):
    """Role and kind of a head site, and what kind of module it stands in where that is not the model itself."""
    around = model.get_submodule(site.path.rpartition(".")[0])
    within = "" if around is model else f"in {type(around).__name__}"
    return " ".join(filter(None, (site.role, site.kind, "of tokens" if site.tokens else "", within)))


def chosen(say=lambda _: None):
    """The smallest model of each kind, in the order of ``zoo.list``."""
    found = {}
    for name in zoo.list():
        card = zoo.info(name)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                kind = (card.family, card.task, *kind_of(name))
        except zoo.ZooError as error:
            say(f"{name}: {error}")
            continue
        size = card.parameters or float("inf")
        if kind not in found or size < found[kind][0]:
            found[kind] = (size, name)
        gc.collect()
    names = {name: kind for kind, (_, name) in found.items()}
    return [(name, *names[name][2:]) for name in zoo.list() if name in names]


@lru_cache(maxsize=1)
def _built(name):
    torch.set_num_threads(1)
    gc.collect()  # models whose forward was put together anew hold themselves, and large ones fill the memory
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a library says of its own constructor is not under test here
        model = zoo.get(name, weights=None, seed=0).eval()
    for x in _inputs(zoo.info(name)):
        try:
            with torch.no_grad():
                copy.deepcopy(model)(*x)  # some keep what they have computed for one size
        except _TOO_SMALL:
            continue
        return model, x
    raise AssertionError(name)


def specimen(name):
    """An untrained model of that name in eval mode, and the arguments of its forward: a batch of two, and small."""
    model, x = _built(name)
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


if __name__ == "__main__":
    lines = ["\t".join(line) for line in chosen(lambda text: sys.stderr.write(f"{text}\n"))]
    FILE.write_text("\n".join(lines) + "\n", encoding="utf-8")
