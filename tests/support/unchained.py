"""A model whose features are a function: only running it shows that its stages follow one another."""

from __future__ import annotations

from dataclasses import replace

from zoo_core.surgery.metadata import attach, metadata_of


def unchained(model):
    """The same model; what zoo knows of it no longer says of which steps its features consist."""
    known = metadata_of(model)
    chain = known.anatomy.features

    def features(model, x):
        return chain(model, x)

    attach(model, replace(known, anatomy=replace(known.anatomy, features=features)))
    return model
