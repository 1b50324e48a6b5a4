"""The checks of a family as a whole: that its catalogue is light, and that its names and exceptions are sane."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from zoo_core.contract.card import Card
from zoo_core.registry.zoo import current_zoo
from zoo_core.testing.findings import NonConformance, require
from zoo_core.utils.paths import import_path

if TYPE_CHECKING:
    from collections.abc import Callable

_HEAVY = ("torch",)
_WATCH = """
import sys, traceback
sys.path[:0] = {path!r}
from pkgutil import resolve_name

class Watch:
    def find_spec(self, name, *_):
        if name in {heavy!r}:
            at = [frame for frame in traceback.extract_stack()[:-1] if "importlib" not in frame.filename]
            print(f"HEAVY {{name}} by {{at[-1].filename}}, line {{at[-1].lineno}}: {{at[-1].line}}", flush=True)
            sys.exit()

sys.meta_path.insert(0, Watch())
print(f"CARDS {{len(list(resolve_name({catalog!r})()))}}")
"""


def check_light(family: str) -> None:
    """The catalogue loads in a fresh interpreter without torch, so that listing models takes no time.

    Args:
        family: Its name.

    Raises:
        NonConformance: It imports torch, and the message says where; or it does not load.
    """
    catalog = current_zoo().member(family).family.catalog
    path = [*import_path(), *_folder_of(catalog.partition(":")[0].partition(".")[0])]
    code = _WATCH.format(path=path, heavy=_HEAVY, catalog=catalog)
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)  # noqa: S603 - ours
    said = [line for line in done.stdout.splitlines() if line.startswith(("HEAVY ", "CARDS "))]
    if not said:
        raise NonConformance(
            f"{family}: the catalogue {catalog} does not load in an interpreter of its own",
            got=(done.stderr.strip().splitlines() or ["nothing on stderr"])[-1],
        )
    heavy = said[0].removeprefix("HEAVY ")
    require(
        said[0].startswith("CARDS "),
        f"{family}: the catalogue {catalog} imports {heavy}; import it inside functions, or in another module",
    )


def _folder_of(package: str) -> list[str]:
    """Where the package of a family is that this process has imported: its tests may be run in that folder."""
    module = sys.modules.get(package)
    file = getattr(module, "__file__", None)
    return [str(Path(file).parents[hasattr(module, "__path__")])] if file else []


def check_names(family: str) -> None:
    """The catalogue holds cards of this family, each with a name of its own that can be requested.

    Args:
        family: Its name.

    Raises:
        NonConformance: A record is no card, or a name is not usable.
    """
    catalog = current_zoo().member(family).family.catalog
    cards = list(resolve_name(catalog)())
    require(bool(cards), f"{family}: the catalogue {catalog} is empty")
    for card in cards:
        require(isinstance(card, Card), f"{family}: {catalog} holds {card!r:.80}, which is no Card")
        require(card.family == family, f"{family}: {card.name!r} says that its family is {card.family!r}")
        usable = isinstance(card.name, str) and bool(card.name.strip()) and not set("/@*?[ ") & set(card.name)
        require(usable, f"{family}: a name cannot be {card.name!r}: no '/', '@', space or wildcard in a name")
        positive = len(card.input_size) > 1 and all(type(side) is int and side > 0 for side in card.input_size)
        require(positive, f"{card.id}: input_size {card.input_size!r}; channels, height and width, in pixels")
    twice = [name for name, count in Counter(card.name for card in cards).items() if count > 1]
    require(not twice, f"{family}: two cards are called {', '.join(map(repr, twice[:5]))}")


def check_exceptions(family: str) -> None:
    """The family's expected failures name checks and models that there are, each with a reason.

    Args:
        family: Its name.

    Raises:
        NonConformance: One does not.
    """
    from zoo_core.testing.expected_failures import check_globs, declared

    check_globs(declared(family), [card.name for card in current_zoo().member(family).cards.values()])


FAMILY_CHECKS: tuple[Callable[[str], None], ...] = (check_light, check_names, check_exceptions)
"""Every check of a family as a whole: plain functions of its name."""
