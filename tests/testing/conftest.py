"""What the tests of the kit share: no model of another test."""

from __future__ import annotations

import pytest

from zoo_core.testing.under_test import _failed, _model_under_test


@pytest.fixture(autouse=True)
def _no_specimen_of_another_test():
    _model_under_test.cache_clear()  # without the collection of garbage, which takes longer than most tests
    _failed.clear()
    yield
    _model_under_test.cache_clear()
    _failed.clear()
