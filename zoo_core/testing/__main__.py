"""One page of several reports: ``python -m zoo_core.testing REPORT.json... > MODELS.md``.

The reports are those that ``zoo check`` writes with ``--json``, for one family or with ``--all``. Those of the shards
of one family are put together, and of two verdicts on one thing that of the later file counts.
"""

from __future__ import annotations

import sys
from pathlib import Path

from zoo_core.testing.reports import from_json, merged, page


def main() -> None:
    """Print one page of the reports named on the command line: ``python -m zoo_core.testing REPORT.json...``."""
    files = sys.argv[1:]
    if not files:
        sys.exit("usage: python -m zoo_core.testing REPORT.json... > MODELS.md")
    try:
        reports = [report for file in files for report in from_json(Path(file).read_text(encoding="utf-8"))]
        sys.stdout.write(page(merged(reports)))
    except (OSError, ValueError, TypeError, KeyError) as error:
        sys.exit(f"cannot read the reports: {error}")


if __name__ == "__main__":
    main()
