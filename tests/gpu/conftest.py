"""What the tests of this folder share: the device, and a model of each architecture on it.

They need a GPU and are skipped, visibly, where there is none. ``ZOO_TEST_DEVICE=cpu pytest -m gpu tests/gpu`` runs what
any device can show, which keeps the tests themselves right on machines without one.
"""

from __future__ import annotations

import os

import pytest
import torch


@pytest.fixture(scope="session")
def device():
    """The device under test."""
    return torch.device(os.environ.get("ZOO_TEST_DEVICE", "cuda"))


@pytest.fixture(autouse=True)
def _exact_arithmetic():
    """TF32 and autotuned kernels are faster, and their outputs differ from run to run."""
    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = (
        True,
        False,
        False,
    )
    yield
    torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = before
