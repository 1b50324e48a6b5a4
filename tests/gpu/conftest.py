"""What the tests of this folder share: the device, and a folder whose contents go when the test is over.

They need a GPU and are skipped, visibly, where there is none. ``ZOO_TEST_DEVICE=cpu pytest -m "gpu and not full"
tests/gpu`` runs what any device can show, which keeps the tests themselves right on machines without one.
"""

from __future__ import annotations

import shutil

import pytest
from support.device_sample import DEVICE


@pytest.fixture(scope="session")
def device():
    """The device under test."""
    return DEVICE


@pytest.fixture
def folder(tmp_path):
    """An empty folder for a model; pytest itself would keep the files of hundreds of them."""
    path = tmp_path / "models"
    path.mkdir()
    yield path
    shutil.rmtree(path)
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
