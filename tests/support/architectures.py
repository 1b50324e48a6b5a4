"""Models for tests that must hold for any: a few usually, one of each architecture with -m sweep, all with -m full.

Of timm's 1371 models the conformance kit goes through all; here they are a few, with heads of different shapes, and the
very small ones that timm has for tests.
"""

from __future__ import annotations

import copy
import gc
from functools import cache, lru_cache

import pytest

import zoo_core as zoo

USUAL = {
    "efficientnet_pytorch/efficientnet-b0",
    "pretrainedmodels/squeezenet1_1",
    "timm/crossvit_tiny_240",
    "timm/levit_128s",
    "timm/test_convnext",
    "timm/test_efficientnet",
    "timm/test_resnet",
    "timm/test_vit",
    "tiny/glyphnet",
    "torchvision/mobilenet_v3_small",
    "torchvision/regnet_y_400mf",
    "torchvision/resnet18",
    "torchvision/squeezenet1_1",
}
"""Small ones of every family, with every layout of features and every shape of head sites that the others have."""

FEW = {
    "efficientnet_pytorch/efficientnet-b0",
    "timm/levit_128s",
    "timm/test_resnet",
    "timm/test_vit",
    "tiny/glyphnet",
    "torchvision/squeezenet1_1",
}
"""One of each layout of features and shape of head sites, for properties that are cheap in code and dear in time."""

ONE_OF_EACH = {
    "torchvision/alexnet",
    "torchvision/convnext_tiny",
    "torchvision/densenet121",
    "torchvision/efficientnet_b0",
    "torchvision/googlenet",
    "torchvision/inception_v3",
    "torchvision/maxvit_t",
    "torchvision/mnasnet0_5",
    "torchvision/mobilenet_v2",
    "torchvision/mobilenet_v3_small",
    "torchvision/regnet_y_400mf",
    "torchvision/resnet18",
    "torchvision/shufflenet_v2_x0_5",
    "torchvision/squeezenet1_1",
    "torchvision/swin_t",
    "torchvision/swin_v2_t",
    "torchvision/vgg11",
    "torchvision/vit_b_32",
    "efficientnet_pytorch/efficientnet-b0",
    "pretrainedmodels/bninception",
    "pretrainedmodels/dpn68",
    "pretrainedmodels/nasnetamobile",
    "pretrainedmodels/resnet18",
    "pretrainedmodels/se_resnet50",
    "pretrainedmodels/squeezenet1_1",
    "pretrainedmodels/xception",
    "timm/crossvit_tiny_240",
    "timm/levit_128s",
    "timm/test_convnext",
    "timm/test_efficientnet",
    "timm/test_resnet",
    "timm/test_vit",
    "tiny/glyphnet",
}

_AUXILIARY = ("torchvision/googlenet", "torchvision/inception_v3", "pretrainedmodels/inceptionv3")
_RESIZING = ("timm/crossvit_tiny_240",)
"""Take any image and resize it inside, so that at another size than their own no map is of the image."""
_SMALL = 64
_TOO_SMALL = (RuntimeError, ValueError, AssertionError)
"""How models say that an image is too small for them."""


def _names(usual=USUAL):
    for name in zoo.list(task="classification"):
        if name in usual:
            yield name
        elif name in ONE_OF_EACH | USUAL:
            yield pytest.param(name, marks=pytest.mark.sweep)
        elif not name.startswith(("timm/", "torchvision/quantized")) or name.startswith("timm/test_"):
            yield pytest.param(name, marks=pytest.mark.full)


COMBINED = ("timm/crossvit_tiny_240", "timm/levit_128s")
"""Their forward goes on computing with what several heads give."""

every_architecture = pytest.mark.parametrize("name", [*_names()])
every_layout = pytest.mark.parametrize("name", [*_names(FEW)])
every_architecture_with_one_head = pytest.mark.parametrize("name", [name for name in _names() if name not in COMBINED])
every_architecture_that_combines_heads = pytest.mark.parametrize("name", COMBINED)


def _build(name):
    import torch

    torch.set_num_threads(1)
    options = {"aux_logits": False} if name in _AUXILIARY else None
    model = zoo.get(name, weights=None, options=options, seed=0).eval()
    channels, *size = zoo.info(name).input_size
    for side in (size[-1],) if name in _RESIZING else (_SMALL, size[-1]):
        x = torch.randn(1, channels, side, side, generator=torch.Generator().manual_seed(0))
        try:
            with torch.no_grad():
                model(x)
        except _TOO_SMALL:
            continue
        return model, x
    raise AssertionError(name)


_last = lru_cache(maxsize=1)(_build)
"""Large ones fill the memory, and a sweep goes through all tests of one before the next."""
_usual = cache(_build)
"""Small ones, and every test goes through them."""


def model_under_test(name):
    """An untrained model of that name without auxiliary heads, in eval mode, and a small image that it takes."""
    gc.collect()  # models whose forward was put together anew hold themselves, and large ones fill the memory
    model, x = (_usual if name in USUAL else _last)(name)
    return copy.deepcopy(model), x.clone()
