"""What the site is made of beside the tree's own pages: reference, how-to pages, model browser, notebooks."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import zoo_core

DOCS = Path(__file__).parent
ROOT = DOCS.parent
HOWTO = DOCS / "howto"
OUTPUT = "# Output:\n"

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
    "exporting": "Export",
    "recipe": "Saving and sharing",
    "contract": "Records",
    "plugin": "Plugins",
    "errors": "Errors",
}
"""The rooms of ``zoo_core`` as headings; a public name stands under the room that it is imported from."""


def public_names() -> dict[str, list[str]]:
    """Heading to the public names below it, as the stub of the package has them."""
    stub = Path(zoo_core.__file__).with_suffix(".pyi").read_text(encoding="utf-8")
    result: dict[str, list[str]] = {heading: [] for heading in ROOMS.values()}
    for module, name in re.findall(r"^from \.([\w.]+) import \w+ as (\w+)", stub, re.MULTILINE):
        rooms = [room for room in ROOMS if f"{module}.".startswith(f"{room}.")]
        result.setdefault(ROOMS[max(rooms, key=len)] if rooms else module.split(".")[0], []).append(name)
    return {heading: names for heading, names in result.items() if names}


def reference() -> str:
    """The reference: every public name is on it, because it is made of them."""
    lines = ["Reference", "=========", "", "Everything is a name of ``zoo_core``, imported as ``zoo``.", ""]
    for heading, names in public_names().items():
        lines += [heading, "-" * len(heading), ""]
        for name in names:
            item = getattr(zoo_core, name)
            is_class = isinstance(item, type)
            kind = "exception" if is_class and issubclass(item, BaseException) else "class" if is_class else "function"
            lines += [f".. auto{kind}:: zoo_core.{name}", "   :no-members:" if kind == "exception" else "", ""]
    return "\n".join(lines)


def table_rows() -> list[tuple[str, str, str]]:
    """The rows of the README's table of verbs: what you want, the line, and the file of the link."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^\| ([a-z].+?) \| (.+?) \| \[[^\]]+\]\(((?:examples|docs)/[^)]+)\) \|$", text, re.MULTILINE)


def howto_pages() -> dict[str, str]:
    """A page for each row of that table: the line, the script that the tests run, and what it prints."""
    pages, rows = {}, []
    for purpose, line, path in table_rows():
        title = purpose[0].upper() + purpose[1:]
        if path.startswith("docs/"):
            rows.append(f"| [{title}](../{path.removeprefix('docs/')}) | {line} |")
            continue
        name = Path(path).stem
        rows.append(f"| [{title}]({name}.md) | {line} |")
        pages[name] = _howto(title, line, ROOT / path)
    table = "\n".join(["| how to | zoo |", "|---|---|", *rows])
    names = "\n".join(pages)
    toctree = f"```{{toctree}}\n:hidden:\n\n{names}\n```"
    pages["index"] = f"# How to\n\nEach page is a short script that the tests run.\n\n{table}\n\n{toctree}\n"
    return pages


def _howto(title: str, line: str, script: Path) -> str:
    code, _, output = script.read_text(encoding="utf-8").partition(OUTPUT)
    docstring = ast.get_docstring(ast.parse(code)) or ""
    body = code.split('"""', 2)[2].strip()
    parts = [f"# {title}", docstring, f"In short: {line}", f"```python\n{body}\n```"]
    if output:
        printed = re.sub(r"^# ?", "", output, flags=re.MULTILINE).strip()
        parts.append(f"It prints:\n\n```text\n{printed}\n```")
    parts.append(f"This is `examples/{script.name}` of the source tree.")
    return "\n\n".join(parts) + "\n"


def write_pages() -> None:
    """Write the generated pages where they are not what they should be, so that Sphinx reads only what changed."""
    pages = {DOCS / "reference.rst": reference()}
    pages |= {HOWTO / f"{name}.md": text for name, text in howto_pages().items()}
    HOWTO.mkdir(exist_ok=True)
    for old in set(HOWTO.glob("*.md")) - pages.keys():
        old.unlink()
    for page, text in pages.items():
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")


def write_browser(out: Path) -> None:
    """Write the model browser, as ``zoo browse`` does for any installation."""
    subprocess.run([sys.executable, "-m", "zoo_core", "--quiet", "browse", "--out", str(out)], check=True)


def write_notebooks(folder: Path) -> None:
    """Write each tutorial as a notebook beside its page."""
    import jupytext

    folder.mkdir(parents=True, exist_ok=True)
    for page in sorted((DOCS / "tutorials").glob("*.md")):
        jupytext.write(notebook(page), folder / f"{page.stem}.ipynb")


def notebook(page: Path) -> Any:
    """The notebook that jupytext pairs with a page: its Python blocks are the cells, and commands are text."""
    import jupytext

    text = page.read_text(encoding="utf-8").replace("```sh\n", "```text\n")  # which jupytext would take for code
    return jupytext.reads(text, fmt="md")
