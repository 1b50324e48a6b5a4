"""The stable surface as text: public names, signatures of verbs and hooks, fields and methods of public classes.

``python tests/support/surface.py`` writes ``tests/surface.txt`` again.
"""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import TYPE_CHECKING

import zoo_core
import zoo_core.plugin
import zoo_core.testing
from zoo_core.contract import hooks

if TYPE_CHECKING:
    from collections.abc import Iterator

FILE = Path(__file__).parent.parent / "surface.txt"
KIT = ("CHECKS", "Conformance", "NonConformance", "example", "model_under_test")
"""What plugins use of the conformance kit, beside the checks themselves."""
NAMES = sorted({*zoo_core.__all__, *zoo_core.plugin.__all__} - {"errors", "plugin"})
HEADER = """\
# The stable surface of zoo-core: what plugins and users write against. tests/test_surface.py compares it with the code.
# What is new may be missing here; what is here goes or changes only as the version policy in docs/plugins.md says.
# Fields that have a default are given by name, so only the others have a number.
# Written by: python tests/support/surface.py
"""


def lines() -> Iterator[str]:
    """One line for each thing that others may rely on."""
    for name in NAMES:
        yield from _of(f"zoo_core.{name}", getattr(zoo_core, name))
    for name in sorted(name for name in vars(hooks) if name.startswith("zoo_")):
        yield f"hook {name} returns {inspect.signature(getattr(hooks, name)).return_annotation}"
        yield from _of(f"hook {name}", getattr(hooks, name))
    for name in sorted(name for name in vars(zoo_core.testing) if name.startswith("check_") or name in KIT):
        yield from _of(f"zoo_core.testing.{name}", getattr(zoo_core.testing, name))


def _of(name: str, item: object) -> Iterator[str]:
    if not inspect.isclass(item):
        yield name
        if inspect.isfunction(item):
            yield from _arguments(name, item)
        return
    bases = ", ".join(
        base.__name__ for base in item.__mro__[1:] if base.__module__ == "builtins" and base is not object
    )
    yield f"{name} is a class" + (f", of {bases}" if bases else "")
    if dataclasses.is_dataclass(item):
        for at, field in enumerate(dataclasses.fields(item)):
            default = _default(field)
            yield f"{name}, field{'' if default else f' {at}'}: {field.name}: {field.type}{default}"
    else:
        yield from (f"{name}.{own} is an attribute" for own in sorted(inspect.get_annotations(item)) if own[0] != "_")
    for own, member in sorted(vars(item).items()):
        if own.startswith("_"):
            continue
        if isinstance(member, property):
            yield f"{name}.{own} is a property"
        elif inspect.isfunction(member) and not own.startswith(("test_", "pytest_")):
            yield f"{name}.{own}()"
            yield from _arguments(f"{name}.{own}()", member)


def _arguments(name: str, function: object) -> Iterator[str]:
    """One line an argument, without its type, which may come to allow more, as what is returned may come to be more."""
    signature = inspect.signature(function)  # type: ignore[arg-type]
    for at, argument in enumerate(signature.parameters.values()):
        place = f"argument {at}" if argument.kind is not argument.KEYWORD_ONLY else "keyword"
        yield f"{name}, {place}: {argument.replace(annotation=argument.empty)}"


def _default(field: dataclasses.Field[object]) -> str:
    if field.default is not dataclasses.MISSING:
        return f" = {field.default!r}"
    return f" = {field.default_factory.__name__}()" if field.default_factory is not dataclasses.MISSING else ""


def written() -> list[str]:
    """The lines of the file."""
    return [line for line in FILE.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]


if __name__ == "__main__":
    FILE.write_text(HEADER + "".join(f"{line}\n" for line in lines()), encoding="utf-8")
