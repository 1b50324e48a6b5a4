"""The timm family: every architecture of timm, its weights, and where their parts are."""

from __future__ import annotations

from zoo_core.plugin import Family, hookimpl


@hookimpl
def zoo_families() -> list[Family]:
    """The one family of this plugin."""
    return [
        Family(
            name="timm",
            requires="timm",
            catalog="zoo_timm.catalog:cards",
            anatomy="zoo_timm.anatomy:anatomy",
            tested="==1.0.31",  # the third number of timm is where models come and change
            image_size="img_size",
            exceptions="zoo_timm.expected:EXPECTED",
            index="zoo_timm.index:cards",
            indexed="zoo_timm.catalog:version",
        )
    ]
