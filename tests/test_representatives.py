"""``tests/support/kinds.txt`` names the models that its rule chooses."""

from __future__ import annotations

import pytest
from support.kinds import chosen, of_each_kind

import zoo_core as zoo


def test_every_family_and_task_has_a_model():
    names = set(of_each_kind()) & set(zoo.list())
    found = {(zoo.info(name).family, zoo.info(name).task) for name in names}
    assert found == {(zoo.info(name).family, zoo.info(name).task) for name in zoo.list()}


@pytest.mark.full
@pytest.mark.timeout(3000)
def test_they_are_the_smallest_models_of_each_kind():
    """Every model of every installed library is built for this."""
    assert of_each_kind() == chosen()
