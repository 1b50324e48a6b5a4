"""The pages of the documentation: their links lead somewhere, and every page is reached from the first one."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if not {"_build", "howto"} & {*page.parts}]  # these are made by a build of the site
pytestmark = pytest.mark.skipif(not (ROOT / ".ci").exists(), reason="a source distribution lacks what pages link to")
generate = runpy.run_path(str(ROOT / "docs" / "generate.py"))


def anchors(page):
    """The anchors of a page's headings, as GitHub and MyST spell them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        to = (page.parent / path).resolve() if path else page
        if to.parent.name == "howto":  # made by a build of the site
            assert to.stem in generate["howto_pages"](), f"{page.name} links to {target}"
            continue
        assert to.exists(), f"{page.name} links to {target}"
        if anchor and to.suffix == ".md":
            assert anchor in anchors(to), f"{page.name} links to {target}"


def test_every_page_is_in_the_table_of_contents():
    listed = set(re.findall(r"^([\w/]+)$", (ROOT / "docs" / "index.md").read_text(encoding="utf-8"), re.MULTILINE))
    pages = {str(page.relative_to(ROOT / "docs").with_suffix("")) for page in PAGES[1:]} - {"index"}
    assert {page for page in pages if not page[0].isupper()} <= listed  # those are listed by a pattern


def test_every_row_of_the_readme_has_a_page():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text[text.index("| you want to |") : text.index("## More")]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(generate["table_rows"]()) == len(rows)
    index = generate["howto_pages"]()["index"]
    assert index.count("](") == len(rows)


@pytest.mark.parametrize("name", sorted(set(generate["howto_pages"]()) - {"index"}))
def test_a_how_to_page_is_the_script_that_the_tests_run(name):
    page = generate["howto_pages"]()[name]
    code, *_ = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert code.strip() in (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8")
