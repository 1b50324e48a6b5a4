"""The conformance kit: what a family promises, checked on its models by its own author.

A plugin's whole test file::

    from zoo_core.testing import Conformance


    class TestAcme(Conformance):
        family = "acme"

``zoo check acme`` runs the same from the command line. Each check is a plain function of one card, so that it can be
called by hand as well. Models are built untrained through ``zoo.get(..., weights=None)``; no check touches a network.
"""

from zoo_core.testing.checks.anatomy import check_in_features as check_in_features
from zoo_core.testing.checks.anatomy import check_paths as check_paths
from zoo_core.testing.checks.builds import check_builds as check_builds
from zoo_core.testing.checks.card import check_card as check_card
from zoo_core.testing.checks.copies import check_save as check_save
from zoo_core.testing.checks.copies import check_twins as check_twins
from zoo_core.testing.checks.family import FAMILY_CHECKS as FAMILY_CHECKS
from zoo_core.testing.checks.family import check_exceptions as check_exceptions
from zoo_core.testing.checks.family import check_light as check_light
from zoo_core.testing.checks.family import check_names as check_names
from zoo_core.testing.checks.features import check_branch as check_branch
from zoo_core.testing.checks.features import check_features as check_features
from zoo_core.testing.checks.forward import check_compile as check_compile
from zoo_core.testing.checks.forward import check_forward as check_forward
from zoo_core.testing.checks.loading import check_state as check_state
from zoo_core.testing.checks.loading import check_values as check_values
from zoo_core.testing.checks.split import check_split as check_split
from zoo_core.testing.checks.stages import check_borders as check_borders
from zoo_core.testing.checks.stages import check_depths as check_depths
from zoo_core.testing.checks.stages import check_stages as check_stages
from zoo_core.testing.checks.stem import check_in_channels as check_in_channels
from zoo_core.testing.checks.stem import check_stem as check_stem
from zoo_core.testing.checks.swap import check_swap as check_swap
from zoo_core.testing.checks.training import check_freeze as check_freeze
from zoo_core.testing.checks.training import check_norms as check_norms
from zoo_core.testing.checks.training import check_training as check_training
from zoo_core.testing.choosing import CHECKS as CHECKS
from zoo_core.testing.choosing import DEAR_CHECKS as DEAR_CHECKS
from zoo_core.testing.conformance import Conformance as Conformance
from zoo_core.testing.findings import NonConformance as NonConformance
from zoo_core.testing.findings import NotChecked as NotChecked
from zoo_core.testing.under_test import arguments as arguments
from zoo_core.testing.under_test import example as example
from zoo_core.testing.under_test import model_under_test as model_under_test
from zoo_core.testing.under_test import shapes_above as shapes_above
from zoo_core.testing.verdicts import Verdict as Verdict
from zoo_core.testing.verdicts import judge as judge
