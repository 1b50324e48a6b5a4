"""The tiny family: a small residual network whose trained weights ship inside the package."""

from __future__ import annotations

from collections.abc import Mapping

from zoo_core.plugin import Family, hookimpl


@hookimpl
def zoo_families() -> list[Family]:
    """The one family of the plugin zoo-tiny."""
    return [
        Family(
            name="tiny",
            catalog="zoo_tiny.catalog:cards",
            anatomy="zoo_tiny.anatomy:anatomy",
            plain_options=("in_channels", "num_classes"),
            signatures="zoo_tiny:signatures.json.gz",
            costs="zoo_tiny:costs.json",
            parts="zoo_tiny:parts.json",
        )
    ]


@hookimpl
def zoo_commands() -> Mapping[str, str]:
    """The hook of the package zoo-tiny that adds ``demo`` to the commands of zoo."""
    return {"demo": "zoo_tiny.demo.command:demo"}
