"""The family keeps its promises on some models; `tests/test_conformance.py` goes through one of each kind."""

from zoo_core.testing import Conformance


class TestPretrainedmodels(Conformance):
    family = "pretrainedmodels"
    models = ("resnet18", "squeezenet1_1")
