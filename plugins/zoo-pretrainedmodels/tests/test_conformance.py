"""The family keeps its promises: one model of each layout quickly, all of them with `-m full`."""

import pytest

from zoo_core.testing import Conformance

FOUR_DIMENSIONS = {"check_swap:squeezenet*": "the library's scores are [N, num_classes, 1, 1], and so are ours"}


class TestPretrainedmodels(Conformance):
    family = "pretrainedmodels"
    models = (
        *("alexnet", "bninception", "densenet121", "dpn68", "dpn68b", "inceptionv3", "nasnetamobile", "resnet18"),
        *("se_resnet50", "squeezenet1_1", "xception"),
    )
    expected_failures = FOUR_DIMENSIONS


@pytest.mark.full
class TestEveryModelOfPretrainedmodels(Conformance):
    family = "pretrainedmodels"
    expected_failures = FOUR_DIMENSIONS
