"""One page of several reports: ``python -m zoo_core.testing REPORT.json... > MODELS.md``.

The reports are those of ``zoo check FAMILY --json REPORT.json``; those of the shards of one family are put together.
"""

from __future__ import annotations

import sys
from pathlib import Path

from zoo_core.testing.reports import from_json, merged, page


def main() -> None:
    """Write the page to stdout."""
    files = sys.argv[1:]
    if not files:
        sys.exit("usage: python -m zoo_core.testing REPORT.json... > MODELS.md")
    try:
        reports = [from_json(Path(file).read_text(encoding="utf-8")) for file in files]
    except (OSError, ValueError, TypeError, KeyError) as error:
        sys.exit(f"cannot read the reports: {error}")
    sys.stdout.write(page(merged(reports)))


if __name__ == "__main__":
    main()
