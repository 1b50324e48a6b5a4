"""The site: uv run --group docs sphinx-build --fail-on-warning docs docs/_build/html."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zoo_core

sys.path.insert(0, str(Path(__file__).parent))
import generate  # after its folder is on the path

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
templates_path = ["_templates"]
html_theme = "furo"
html_title = "zoo"
html_theme_options = {"top_of_page_buttons": []}
html_static_path = ["_static"]
html_css_files = ["zoo.css"]
html_favicon = "figures/logo.svg"
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

ACCESSIBLE = {
    '<p class="caption" role="heading">': '<p class="caption" role="heading" aria-level="2">',
    "<pre>": '<pre tabindex="0">',  # what scrolls can be scrolled with the keyboard
    '<div class="table-wrapper': '<div tabindex="0" class="table-wrapper',
    '<aside class="sidebar-drawer">': '<aside class="sidebar-drawer" aria-label="Pages">',
    '<aside class="toc-drawer': '<aside aria-label="On this page" class="toc-drawer',
}
"""What furo's pages lack for keyboards and screen readers, and what is written instead."""


LONG_CODE = re.compile(r'(?<=<span class="pre">)[^<]{16,}(?=</span>)')
"""Code that may go on in the next line, where a name ends: on a phone a table has no room for it."""


def _before(app: Sphinx) -> None:  # noqa: ARG001 - Sphinx's event
    generate.write_pages()


def _link_notebook(_app: Sphinx, name: str, _template: str, context: dict[str, Any], _doctree: object) -> None:
    """Link each tutorial to the notebook that is made of it."""
    if name.startswith("tutorials/"):
        href = f"../notebooks/{name.removeprefix('tutorials/')}.ipynb"
        context["body"] += f'<p><a href="{href}" download>This page as a notebook</a></p>'


def _after(app: Sphinx, exception: Exception | None) -> None:
    if exception is not None or app.builder.format != "html":
        return
    out = Path(app.outdir)
    for page in out.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        changed = LONG_CODE.sub(lambda match: re.sub(r"(?<=[(._=/])(?=[A-Za-z&])", "<wbr>", match[0]), text)
        for lacking, accessible in ACCESSIBLE.items():
            changed = changed.replace(lacking, accessible)
        if changed != text:
            page.write_text(changed, encoding="utf-8")
    generate.write_browser(out / "zoo.html")
    generate.write_notebooks(out / "notebooks")


def setup(app: Sphinx) -> None:  # noqa: D103 - Sphinx's hook
    app.connect("builder-inited", _before)
    app.connect("html-page-context", _link_notebook)
    app.connect("build-finished", _after)
