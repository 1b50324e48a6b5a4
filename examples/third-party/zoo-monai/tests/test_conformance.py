"""The family keeps its promises."""

from zoo_core.testing import Conformance


class TestMonai(Conformance):
    family = "monai"
