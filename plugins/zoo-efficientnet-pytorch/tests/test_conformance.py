"""The family keeps its promises; all of its models are of one kind."""

from zoo_core.testing import Conformance


class TestEfficientNet(Conformance):
    family = "efficientnet_pytorch"
    models = ("efficientnet-b0",)
