"""The site: uv run --group docs sphinx-build -W docs docs/_build/html."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import zoo_core

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project, author = "zoo", "the zoo authors"
copyright = "2026, the zoo authors"  # noqa: A001 - the name that Sphinx reads
version = release = zoo_core.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "zoo"
html_theme_options = {"top_of_page_buttons": []}
html_show_sphinx = False
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # each argument is described, with its type, in the docstring's own words
autodoc_default_options = {"members": True, "show-inheritance": False}
napoleon_use_rtype = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
suppress_warnings = ["myst.xref_missing", "ref.python"]  # pages link to files of the repository, which are no pages

ROOMS = {
    "registry": "Names",
    "build": "Models",
    "surgery.head": "Heads",
    "surgery.stem": "Stems",
    "surgery.fine_tuning": "Freezing and training",
    "surgery.features": "Features",
    "surgery": "What zoo knows of a model",
    "tracing": "Models of your own",
    "images": "Preparing images",
    "prediction": "Results",
    "inspect": "Looking inside",
    "embedding": "Features of many images",
    "export": "Export",
    "recipe": "Saving",
    "contract": "Records",
    "errors": "Errors",
}
"""The rooms of ``zoo_core`` as headings; a public name stands under the room that it is imported from."""


def _public_names() -> dict[str, list[str]]:
    """Heading to the public names below it, as the stub of the package has them."""
    stub = Path(zoo_core.__file__).with_suffix(".pyi").read_text(encoding="utf-8")
    found: dict[str, list[str]] = {heading: [] for heading in ROOMS.values()}
    for module, name in re.findall(r"^from \.([\w.]+) import \w+ as (\w+)", stub, re.MULTILINE):
        rooms = [room for room in ROOMS if f"{module}.".startswith(f"{room}.")]
        found.setdefault(ROOMS[max(rooms, key=len)] if rooms else module.split(".")[0], []).append(name)
    return {heading: names for heading, names in found.items() if names}


def _write_reference(app: Sphinx) -> None:  # noqa: ARG001 - Sphinx's event
    """Write the reference: every public name is on it, because it is made of them."""
    lines = ["Reference", "=========", "", "Everything is a name of ``zoo_core``, imported as ``zoo``.", ""]
    for heading, names in _public_names().items():
        lines += [heading, "-" * len(heading), ""]
        for name in names:
            item = getattr(zoo_core, name)
            is_class = isinstance(item, type)
            kind = "exception" if is_class and issubclass(item, BaseException) else "class" if is_class else "function"
            lines += [f".. auto{kind}:: zoo_core.{name}", "   :no-members:" if kind == "exception" else "", ""]
    text = "\n".join(lines)
    page = Path(__file__).with_name("reference.rst")
    if not page.exists() or page.read_text(encoding="utf-8") != text:
        page.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> None:  # noqa: D103 - Sphinx's hook
    app.connect("builder-inited", _write_reference)
