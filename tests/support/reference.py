"""The reference at the end of ``docs/plugins.md``, out of the docstrings: ``python tests/support/reference.py``."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path

import zoo_core
from zoo_core.contract import hooks

GUIDE = Path(__file__).parent.parent.parent / "docs" / "plugins.md"
BEGIN = "<!-- reference: written by `python tests/support/reference.py` from the docstrings -->\n"
RECORDS = (
    *("Family", "Card", "Weights", "Preprocessing", "Licenses"),
    *("Anatomy", "Head", "Stage", "Chain", "InputScaling"),
)
_FIELD = re.compile(r"^    (\w+): ", re.MULTILINE)


def reference() -> str:
    """Markdown: every hook, and every field of every record, as their docstrings have them."""
    hookspecs = [name for name in vars(hooks) if name.startswith("zoo_")]
    parts = [_hook(name) for name in hookspecs] + [_record(name) for name in RECORDS]
    return BEGIN + "\n" + "\n".join(parts)


def _hook(name: str) -> str:
    function = getattr(hooks, name)
    text, _, example = inspect.getdoc(function).partition("\nExample:\n")
    returns = inspect.signature(function).return_annotation
    return f"### `{name}() -> {returns}`\n\n{_plain(text.rstrip())}\n\n{_code(example)}"


def _record(name: str) -> str:
    record = getattr(zoo_core, name)
    before, _, rest = inspect.getdoc(record).partition("\nAttributes:\n")
    described, _, example = rest.partition("\nExample:\n")
    example, _, raises = example.partition("\nRaises:\n")
    texts = _FIELD.split(described)
    fields = dict(zip(texts[1::2], texts[2::2], strict=True))
    rows = [
        f"| `{field.name}` | `{_cell(str(field.type))}` | {_default(field)} | {_cell(_plain(fields[field.name]))} |"
        for field in dataclasses.fields(record)
    ]
    table = "| field | type | default | what it is |\n|-|-|-|-|\n" + "\n".join(rows)
    errors = f"\nRaises: {_plain(raises.strip())}\n" if raises else ""
    return f"### `{name}`\n\n{_plain(before.strip())}\n\n{table}\n{errors}\n{_code(example)}"


def _default(field: dataclasses.Field[object]) -> str:
    if field.default is not dataclasses.MISSING:
        return f"`{field.default!r}`"
    if field.default_factory is dataclasses.MISSING:
        return "required"
    made = field.default_factory()
    return f"`{type(made).__name__}()`" if dataclasses.is_dataclass(made) else f"`{made!r}`"


def _plain(text: str) -> str:
    text = re.sub(r":\w+:`~?(?:zoo_core\.)?([^`]+)`", r"`\1`", text.replace("``", "`"))
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _code(example: str) -> str:
    return f"```pycon\n{inspect.cleandoc(example)}\n```\n"


if __name__ == "__main__":
    written = GUIDE.read_text(encoding="utf-8").partition(BEGIN)[0]
    GUIDE.write_text(written + reference(), encoding="utf-8")
