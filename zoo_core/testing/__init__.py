"""The conformance kit: what a family promises, checked on its models by its own author.

A plugin's whole test file::

    from zoo_core.testing import Conformance


    class TestAcme(Conformance):
        family = "acme"

Each check is a plain function of one card, so that it can be called by hand as well. Models are built untrained through
``zoo.get(..., weights=None)``; no check touches a network.
"""

from zoo_core.testing.case import Conformance as Conformance
from zoo_core.testing.checks import CHECKS as CHECKS
from zoo_core.testing.checks import check_card as check_card
from zoo_core.testing.checks import check_freeze as check_freeze
from zoo_core.testing.checks import check_in_features as check_in_features
from zoo_core.testing.checks import check_paths as check_paths
from zoo_core.testing.checks import check_split as check_split
from zoo_core.testing.checks import check_stages as check_stages
from zoo_core.testing.checks import check_swap as check_swap
from zoo_core.testing.checks import check_twins as check_twins
from zoo_core.testing.specimen import NonConformance as NonConformance
from zoo_core.testing.specimen import example as example
from zoo_core.testing.specimen import specimen as specimen
