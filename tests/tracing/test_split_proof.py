"""The proof of a split compares values bit for bit, those that are no numbers too."""

from __future__ import annotations

import pytest
import torch

from zoo_core.tracing.split_finder import same

NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ([NAN, 1.0], [NAN, 1.0], True),
        ([NAN], [0.0], False),
        ([INFINITE], [torch.finfo(torch.float32).max], False),
        ([-INFINITE], [-INFINITE], True),
        ([True], [True], True),
        ([1, 2], [1], False),
    ],
)
def test_what_is_no_number_is_no_zero(one, other, is_same):
    assert same(torch.tensor(one), {"scores": torch.tensor(other)}) is is_same
