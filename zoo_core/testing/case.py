"""The pytest class that runs every check on every model of a family."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, ClassVar

from zoo_core.registry import current_zoo
from zoo_core.testing.checks import CHECKS
from zoo_core.testing.specimen import NonConformance

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pytest

    from zoo_core.card import Card


class Conformance:
    """Subclass this as ``TestSomething``, say which family, and pytest runs every check on every model.

    Attributes:
        family: Name of the family.
        models: Glob patterns of the models to check; all by default.
        tasks: The tasks whose models are checked.
        expected_failures: ``"check_name:model"`` globs to the reason; one that passes after all is an error.
    """

    family: ClassVar[str]
    models: ClassVar[Sequence[str]] = ("*",)
    tasks: ClassVar[Sequence[str]] = ("classification",)
    expected_failures: ClassVar[Mapping[str, str]] = {}

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """One test a model and check; the models are the outer loop, so that each is built once."""
        zoo = current_zoo()
        names = [name for pattern in self.models for name in zoo.list(pattern, family=self.family)]
        cards = [zoo.resolve(name)[0] for name in dict.fromkeys(names)]
        cards = [card for card in cards if card.task in self.tasks]
        pairs = [(card, check) for card in cards for check in CHECKS]
        ids = [f"{card.name}-{check.__name__.removeprefix('check_')}" for card, check in pairs]
        metafunc.parametrize(("card", "check"), pairs, ids=ids)

    def test_conformance(self, card: Card, check: Callable[[Card], None]) -> None:
        """Run one check on one model."""
        case = f"{check.__name__}:{card.name}"
        reason = next((why for glob, why in self.expected_failures.items() if fnmatchcase(case, glob)), None)
        if reason is None:
            check(card)
            return
        try:
            check(card)
        except NonConformance:
            return
        raise NonConformance(f"{case} passes, though it was expected to fail: {reason}", hint="take the exception out")
