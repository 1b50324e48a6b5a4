"""Cut a release, as in ``python .ci/release.py 0.2.0``.

Writes the version wherever it stands, gives the Unreleased section of CHANGELOG.md its number and date, commits, tags
the commit and builds all distributions into dist/. Nothing leaves this machine: push the tag, and publish it.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)((?:a|b|rc)\d+)?")
_UNRELEASED = "## Unreleased\n"


def files_of(root: Path) -> list[Path]:
    """The files in which the version stands."""
    names = ("zoo_core/__init__.py", "CITATION.cff", "conda/recipe.yaml", "docs/plugins.md")
    return [
        *(root / name for name in names),
        *sorted(root.glob("plugins/*/pyproject.toml")),
        *sorted(root.glob("examples/third-party/*/pyproject.toml")),
    ]


def with_version(path: Path, text: str, version: str) -> str:
    """The text of a file with another version, and with the range of zoo-core that belongs to it."""
    major, minor, *_ = version.split(".")
    allowed = f">={major}.{minor},<{major}.{int(minor) + 1}"
    text = re.sub(r"(zoo-core(?:\[[\w,-]+\])? ?)>=\d+\.\d+,<\d+\.\d+", rf"\g<1>{allowed}", text)
    if path.name == "plugins.md" or "third-party" in path.parts:  # versions of their own
        return text
    return re.sub(
        r'^(\s*(?:__version__ = |version = |version: )"?)\d[\w.]*("?)$',
        rf"\g<1>{version}\2",
        text,
        count=1,
        flags=re.MULTILINE,
    )


def with_section(text: str, version: str, date: str) -> str:
    """The changelog with the unreleased changes under their number.

    Raises:
        SystemExit: Nothing has changed.
    """
    before, _, after = text.partition(_UNRELEASED)
    if not after.partition("\n## ")[0].strip():
        sys.exit("release: the Unreleased section of CHANGELOG.md is empty")
    return f"{before}{_UNRELEASED}\n## {version} ({date})\n{after}"


def run(root: Path, *command: str) -> str:
    """What a command prints.

    Raises:
        SystemExit: It failed.
    """
    answer = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True, check=False)
    if answer.returncode:
        sys.exit(f"release: {' '.join(command)} failed")
    return answer.stdout.strip()


def main() -> None:
    """Cut the release that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version")
    parser.add_argument("--root", type=Path, default=Path(__file__).parent.parent)
    parser.add_argument("--no-build", action="store_true")
    options = parser.parse_args()
    root, version = options.root, options.version
    if not _VERSION.fullmatch(version):
        sys.exit(f"release: {version} is no version, such as 0.2.0 or 1.0.0rc1")
    if run(root, "git", "status", "--porcelain"):
        sys.exit("release: the tree has changes: commit them first")
    if run(root, "git", "tag", "--list", f"v{version}"):
        sys.exit(f"release: there is a tag v{version} already")
    changelog = root / "CHANGELOG.md"
    text = with_section(changelog.read_text(encoding="utf-8"), version, datetime.now(UTC).strftime("%Y-%m-%d"))
    changelog.write_text(text, encoding="utf-8")
    for path in files_of(root):
        path.write_text(with_version(path, path.read_text(encoding="utf-8"), version), encoding="utf-8")
    run(root, "git", "commit", "--quiet", "--all", "--message", f"Release {version}")
    run(root, "git", "tag", "--annotate", f"v{version}", "--message", f"zoo {version}")
    if not options.no_build:
        run(root, "uv", "build", "--quiet", "--all-packages", "--out-dir", "dist", "--clear")
    print(f"v{version} is tagged. Next: git push --follow-tags, and publish the tag as a release.")


if __name__ == "__main__":
    main()
