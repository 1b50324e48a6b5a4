"""The torchvision family: every model, its weights, and where its parts are."""

from __future__ import annotations

from zoo_core.plugin import Family, hookimpl


@hookimpl
def zoo_families() -> list[Family]:
    """The one family of this plugin."""
    return [
        Family(
            name="torchvision",
            requires="torchvision",
            catalog="zoo_torchvision.catalog:cards",
            anatomy="zoo_torchvision.anatomy:anatomy",
            tested=">=0.29,<0.30",
            image_size="image_size",
            exceptions="zoo_torchvision.expected:EXPECTED",
            index="zoo_torchvision.index:cards",
            indexed="zoo_torchvision.catalog:version",
        )
    ]
