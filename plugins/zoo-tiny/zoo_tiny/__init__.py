"""The tiny family: a small residual network whose trained weights ship inside the package."""

from __future__ import annotations

from zoo_core.plugin import Family, hookimpl


@hookimpl
def zoo_families() -> list[Family]:
    """The one family of this plugin."""
    return [
        Family(
            name="tiny",
            catalog="zoo_tiny.catalog:cards",
            anatomy="zoo_tiny.anatomy:anatomy",
            plain_options=("in_channels", "num_classes"),
            signatures="zoo_tiny:signatures.json.gz",
        )
    ]
