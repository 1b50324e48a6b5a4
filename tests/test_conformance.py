"""Every installed family keeps its promises: some of its models quickly, and with ``-m sweep`` one of each kind.

Those have their values where they fit into the memory of two test processes. ``zoo check`` looks at every model, and
``docs/MODELS.md`` says what it found, with values for all of these.
"""

from __future__ import annotations

import pytest
from support.kinds import of_each_kind

from zoo_core.testing import Conformance


class TestTiny(Conformance):
    family = "tiny"


class TestTorchvision(Conformance):
    family = "torchvision"
    models = ("mobilenet_v3_small", "regnet_y_400mf", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_1")


class OneOfEachKind(Conformance):
    """The smallest model of each task, class and shape of head sites."""

    tasks = ()
    shapes_above = 60_000_000


@pytest.mark.sweep
class TestKindsOfTorchvision(OneOfEachKind):
    family = "torchvision"
    models = of_each_kind(family)


@pytest.mark.sweep
class TestKindsOfTimm(OneOfEachKind):
    family = "timm"
    models = of_each_kind(family)


@pytest.mark.sweep
class TestKindsOfEfficientNet(OneOfEachKind):
    family = "efficientnet_pytorch"
    models = of_each_kind(family)


@pytest.mark.sweep
class TestKindsOfPretrainedmodels(OneOfEachKind):
    family = "pretrainedmodels"
    models = of_each_kind(family)
