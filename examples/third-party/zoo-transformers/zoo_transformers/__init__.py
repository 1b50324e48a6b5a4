"""The transformers family: image classifiers of the Hugging Face library, as its own modules."""

from __future__ import annotations

from zoo_core.plugin import Family, hookimpl


@hookimpl
def zoo_families() -> list[Family]:
    """The one family of this plugin."""
    return [
        Family(
            name="transformers",
            requires="transformers",
            catalog="zoo_transformers.catalog:cards",
            anatomy="zoo_transformers.anatomy:anatomy",
            tested=">=5.23,<5.24",
        )
    ]
