"""The family keeps its promises: one model of each layout quickly, all of them with `-m full`."""

import pytest

from zoo_core.testing import Conformance


class TestPretrainedmodels(Conformance):
    family = "pretrainedmodels"
    shapes_above = 30_000_000  # AlexNet has its values in the full sweep
    models = (
        *("alexnet", "bninception", "densenet121", "dpn68", "dpn68b", "inceptionv3", "nasnetamobile", "resnet18"),
        *("se_resnet50", "squeezenet1_1", "xception"),
    )


@pytest.mark.full
class TestEveryModelOfPretrainedmodels(Conformance):
    family = "pretrainedmodels"
