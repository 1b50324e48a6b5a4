"""docs/WORKS_WITH.md, written by the tests in tests/works_with: ``python tests/support/works_with.py`` runs them."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from xml.etree import ElementTree as ET

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "WORKS_WITH.md"
HEAD = """# Works with

What was tried with the real libraries, and does what the sentence says. Each sentence is the name of a test in
`tests/works_with`, which CI runs on untrained models. What a library cannot be used for is refused with
a next step that works, and such sentences are here too. `python tests/support/works_with.py` runs the tests and writes
this page.

"""


def described():
    """What each file of tests says, without importing it: the distributions, its subject, and its sentences."""
    found = []
    for path in sorted((ROOT / "tests" / "works_with").glob("test_*.py")):
        tree = ast.parse(path.read_text())
        tool = next(
            ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "TOOL"
        )
        names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
        tools = (tool,) if isinstance(tool, str) else tool
        found.append((path, tools, ast.get_docstring(tree).partition("\n")[0], names))
    return found


def pins():
    """Distribution to the version that this tree is tested with."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return dict(line.split("==") for line in settings["tool"]["uv"]["constraint-dependencies"])


SPELLED = {
    "deepspeed": "DeepSpeed",
    "lightning": "Lightning",
    "lora config": "LoRA config",
    "onnx runtime": "ONNX Runtime",
    "peft": "PEFT",
    "timms": "timm's",
    "update bn": "`update_bn`",
}
"""Names as their owners write them, which the name of a test cannot."""


def sentence(name):
    """The name of a test as a sentence."""
    words = name.removeprefix("test_").replace("_", " ")
    for plain, spelled in SPELLED.items():
        words = re.sub(rf"\b{plain}\b", spelled, words)
    begins_with_name = words.startswith(("zoo ", *SPELLED.values()))
    return f"{words if begins_with_name else words[0].upper() + words[1:]}."


def page(versions):
    """The text of the page."""
    parts = [HEAD]
    for path, tools, subject, names in described():
        title = ", ".join(f"{tool} {versions[tool]}" for tool in tools)
        parts.append(f"## {title}\n\n{subject} `{path.relative_to(ROOT)}`\n\n")
        parts.append("".join(f"- {sentence(name)}\n" for name in names) + "\n")
    return "".join(parts).rstrip() + "\n"


def main():
    """Run the tests, and write the page where all of them pass."""
    from importlib.metadata import version

    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-m", "extra", "tests/works_with", f"--junitxml={report}"]
        code = subprocess.run(command, cwd=ROOT, check=False).returncode
        cases = [*ET.parse(report).iter("testcase")]
    ran = {case.get("name").partition("[")[0] for case in cases if case.find("skipped") is None}
    missing = [name for *_, names in described() for name in names if name not in ran]
    if code or missing:
        sys.exit(f"{PAGE} was not written: {missing or 'tests failed'}")
    PAGE.write_text(page({tool: version(tool) for _, tools, *_ in described() for tool in tools}))
    sys.stdout.write(f"{PAGE.relative_to(ROOT)}: {len(ran)} sentences\n")


if __name__ == "__main__":
    main()
