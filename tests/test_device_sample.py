"""The models that the tests of a GPU go through are those that their rule chooses."""

from __future__ import annotations

import pytest
from device_sample import chosen, sample

import zoo_core as zoo


def test_the_sample_has_a_model_of_every_family_and_task():
    names = {name for name, *_ in sample()} & set(zoo.list())
    found = {(zoo.info(name).family, zoo.info(name).task) for name in names}
    assert found == {(zoo.info(name).family, zoo.info(name).task) for name in zoo.list()}


@pytest.mark.full
@pytest.mark.timeout(3000)
def test_the_sample_is_the_smallest_model_of_each_kind():
    """Every model of every installed library is built for this."""
    assert [tuple(line) for line in sample()] == chosen()
