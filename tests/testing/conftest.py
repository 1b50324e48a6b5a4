"""What the tests of the kit share: no specimen of another test."""

from __future__ import annotations

import pytest

from zoo_core.testing.specimen import _specimen


@pytest.fixture(autouse=True)
def _no_specimen_of_another_test():
    _specimen.cache_clear()
    yield
    _specimen.cache_clear()
