"""The dear check: that surgery costs a compiled model nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support import toys

import zoo_core as zoo
from zoo_core.testing import check_compile
from zoo_core.testing.findings import NonConformance


def check(kind):
    card = replace(toys.CARD, name=kind.__name__.lower(), build=f"support.toys:{kind.__name__}")
    with zoo.use(toys.zoo_of(None, card)):
        check_compile(card)


def test_a_right_plugin_passes():
    with zoo.use(toys.zoo_of()):
        check_compile(toys.CARD)


def test_a_graph_that_the_library_breaks_itself_is_no_fault_of_the_plugin():
    check(toys.Broken)


def test_a_model_that_computes_something_else_when_compiled_is_found():
    with pytest.raises(NonConformance, match=r"other outputs under torch\.compile, by up to 1"):
        check(toys.Fickle)


def test_a_real_family_passes():
    check_compile(zoo.info("tiny/glyphnet"))


@pytest.mark.full
@pytest.mark.parametrize(
    "name",
    [
        "torchvision/resnet18",
        "timm/test_resnet",
        "timm/test_vit",
        "efficientnet_pytorch/efficientnet-b0",
        "pretrainedmodels/resnet18",
    ],
)
def test_a_model_of_every_family_passes(name):
    check_compile(zoo.info(name))
