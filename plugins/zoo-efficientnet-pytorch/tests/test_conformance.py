"""The family keeps its promises: the smallest model quickly, all that fit into memory with `-m full`."""

import pytest

from zoo_core.testing import Conformance


class TestEfficientNet(Conformance):
    family = "efficientnet_pytorch"
    models = ("efficientnet-b0",)


@pytest.mark.full
class TestEveryEfficientNet(Conformance):
    family = "efficientnet_pytorch"
    models = ("efficientnet-b*",)  # L2 has 480 million parameters, and its layout is that of the others
