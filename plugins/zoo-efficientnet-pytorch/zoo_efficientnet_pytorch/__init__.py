"""The efficientnet_pytorch family: EfficientNet B0 to B8 and L2, their weights, and where their parts are."""

from __future__ import annotations

from zoo_core.plugin import Family, hookimpl


@hookimpl
def zoo_families() -> list[Family]:
    """The one family of the plugin for efficientnet_pytorch."""
    return [
        Family(
            name="efficientnet_pytorch",
            requires="efficientnet-pytorch",
            catalog="zoo_efficientnet_pytorch.catalog:cards",
            signatures="zoo_efficientnet_pytorch:signatures.json.gz",
            costs="zoo_efficientnet_pytorch:costs.json",
            parts="zoo_efficientnet_pytorch:parts.json",
            figures="https://github.com/lukemelas/EfficientNet-PyTorch",
            anatomy="zoo_efficientnet_pytorch.anatomy:anatomy",
            tested=">=0.7.1,<0.8",
            index="zoo_efficientnet_pytorch.index:cards",
            indexed="zoo_efficientnet_pytorch.catalog:version",
            plain_options=(
                *("batch_norm_epsilon", "batch_norm_momentum", "drop_connect_rate", "dropout_rate", "image_size"),
                *("in_channels", "num_classes"),
            ),
        )
    ]
