"""The family keeps its promises on some models; `tests/test_conformance.py` goes through one of each kind."""

from zoo_core.testing import Conformance


class TestPretrainedmodels(Conformance):
    family = "pretrainedmodels"
    models = ("bninception", "densenet121", "dpn68b", "resnet18", "se_resnet50", "squeezenet1_1")
