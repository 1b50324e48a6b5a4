"""The records of an anatomy refuse what cannot be, by the name of the field, before a model is looked at."""

from __future__ import annotations

import dataclasses
import inspect
import re

import numpy as np
import pytest

import zoo_core as zoo
from zoo_core import Anatomy, AnatomyError, Chain, Head, InputScaling, Stage

RIGHT = {
    Head: {"path": "fc", "in_features": 8, "num_classes": 10},
    Stage: {"name": "layer1", "modules": ("layer1",), "channels": 8, "stride": 4},
    InputScaling: {"switch": "transform_input", "scale": (0.5,), "shift": (0.1,), "norm": "bn1"},
    Anatomy: {"heads": (Head("fc", 8, 10),)},
}
STAGE = Stage("layer1", ("layer1",), 8, 4)
WRONG = [
    (Head, "path", "", "must be a text, got ''"),
    (Head, "in_features", 0, "an integer of at least 1, got 0"),
    (Head, "in_features", 8.0, "an integer of at least 1, got 8.0"),
    (Head, "num_classes", -1, "an integer of at least 0, got -1"),
    (Head, "num_classes", None, "an integer of at least 0, got None"),
    (Head, "kind", "liner", "is 'liner'; did you mean 'linear'"),
    (Head, "kind", "dense", "it may be linear, conv, conv1d, conv3d"),
    (Head, "role", "auxiliary", "is 'auxiliary'; "),
    (Head, "attributes", "num_classes", "a tuple of str, got 'num_classes'"),
    (Head, "per_class", 0, "an integer of at least 1, got 0"),
    (Head, "prior", 1, "a probability between 0 and 1, got 1"),
    (Stage, "name", None, "must be a text, got None"),
    (Stage, "modules", "layer1", "a tuple of str, got 'layer1'"),
    (Stage, "modules", (), "a tuple of at least one path, got ()"),
    (Stage, "channels", 0, "an integer of at least 1, got 0"),
    (Stage, "stride", 2.5, "an integer of at least 1, got 2.5"),
    (Stage, "read", "first", "a function or None, got 'first'"),
    (InputScaling, "switch", "", "must be a text, got ''"),
    (InputScaling, "scale", [0.5], "a tuple of float, got [0.5]"),
    (InputScaling, "scale", (), "a number for each channel, got ()"),
    (InputScaling, "shift", (0.1, 0.2), "a tuple of 1 numbers, as scale is"),
    (InputScaling, "norm", None, "must be a text, got None"),
    (Anatomy, "heads", Head("fc", 8, 10), "a tuple of Head, got Head(path='fc'"),
    (Anatomy, "heads", ("fc",), "a tuple of Head, got ('fc',)"),
    (Anatomy, "stem", "conv1", "a tuple of str, got 'conv1'"),
    (Anatomy, "stages", [STAGE], "a tuple of Stage, got [Stage("),
    (Anatomy, "stages", (STAGE, STAGE), "stages with names of their own"),
    (Anatomy, "features", "layer1", "a function or None, got 'layer1'"),
    (Anatomy, "pool", ("pool",), "a function or None, got ('pool',)"),
    (Anatomy, "classify", 3, "a function or None, got 3"),
    (Anatomy, "layout", "NCWH", "is 'NCWH'; did you mean 'NCHW'"),
    (Anatomy, "headless", True, "a text or None, got True"),
    (Anatomy, "keypoints", "", "a text or None, got ''"),
    (Anatomy, "indivisible", True, "a text or None, got True"),
    (Anatomy, "scaling", "transform_input", "an InputScaling, got 'transform_input'"),
    (Anatomy, "per_channel", "transform.image_mean", "a tuple of str, got 'transform.image_mean'"),
    (Anatomy, "channel_attributes", ("",), "a tuple of str, got ('',)"),
    (Anatomy, "scores", 0, "a text, a function or None, got 0"),
]
RECORDS = ("Family", "Card", "Weights", "Preprocessing", "Licenses", "Anatomy", "Head", "Stage", "InputScaling")


@pytest.mark.parametrize(
    ("record", "field", "value", "message"),
    WRONG,
    ids=[f"{each[0].__name__}-{each[1]}-{i}" for i, each in enumerate(WRONG)],
)
def test_a_field_that_cannot_be_is_refused_by_name(record, field, value, message):
    record(**RIGHT[record])
    with pytest.raises(AnatomyError) as caught:
        record(**{**RIGHT[record], field: value})
    assert str(caught.value).startswith(f"{record.__name__}.{field} ")
    assert message in str(caught.value)


@pytest.mark.parametrize(("record", "field"), sorted({each[:2] for each in WRONG}, key=str))
def test_what_a_record_refuses_is_documented_where_it_is_defined(record, field):
    assert f"``{field}``" in inspect.getdoc(record).partition("Raises:\n")[2]


@pytest.mark.parametrize("steps", [(["pool", "fc"],), ("pool", 3), ("",), (None,)], ids=str)
def test_a_chain_is_of_paths_and_functions(steps):
    with pytest.raises(AnatomyError, match="given one by one"):
        Chain(*steps)


@pytest.mark.parametrize(
    ("name", "field"),
    [(name, field.name) for name in RECORDS for field in dataclasses.fields(getattr(zoo, name))],
)
def test_every_field_has_an_example_where_it_is_defined(name, field):
    text, _, examples = inspect.getdoc(getattr(zoo, name)).partition("\nExample:\n")
    [described] = re.findall(rf"^    {field}: (.*?)(?=^    \w+: |\Z)", text, re.MULTILINE | re.DOTALL)
    assert f"{field}=" in examples or "``" in described or field in BY_PLACE.get(name, ()), described


BY_PLACE = {"Head": ("in_features", "num_classes"), "Stage": ("modules",), "InputScaling": ("switch",)}
"""Fields that the examples give without their names."""


def test_integers_of_numpy_are_integers():
    head = Head("fc", np.int64(8), np.int32(10))
    assert (head, type(head.in_features), type(head.num_classes)) == (Head("fc", 8, 10), int, int)
    assert Stage("layer1", ("layer1",), np.int64(8), np.uint8(4)) == STAGE
