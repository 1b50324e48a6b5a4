"""The pretrainedmodels family: 45 models, their weights, and where their parts are."""

from __future__ import annotations

from zoo_core.plugin import Family, hookimpl


@hookimpl
def zoo_families() -> list[Family]:
    """The one family of the plugin for pretrainedmodels."""
    return [
        Family(
            name="pretrainedmodels",
            requires="pretrainedmodels",
            catalog="zoo_pretrainedmodels.catalog:cards",
            signatures="zoo_pretrainedmodels:signatures.json.gz",
            costs="zoo_pretrainedmodels:costs.json",
            parts="zoo_pretrainedmodels:parts.json",
            figures="https://github.com/Cadene/pretrained-models.pytorch",
            anatomy="zoo_pretrainedmodels.anatomy:anatomy",
            tested=">=0.7.4,<0.8",
            exceptions="zoo_pretrainedmodels.expected:EXPECTED",
            index="zoo_pretrainedmodels.index:cards",
            indexed="zoo_pretrainedmodels.catalog:version",
            plain_options=("aux_logits", "num_classes"),
        )
    ]
