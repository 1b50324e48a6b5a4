"""The monai family: networks of medical volumes, whose parts zoo finds by running them."""

from __future__ import annotations

from zoo_core.plugin import Card, Family, hookimpl

_NETWORKS = (
    ("densenet121", "DenseNet121", "classification", {"in_channels": 1, "out_channels": 2}),
    (
        *("efficientnet-b0", "EfficientNetBN", "classification"),
        {"model_name": "efficientnet-b0", "pretrained": False, "in_channels": 1, "num_classes": 2},
    ),
    ("basicunet", "BasicUNet", "segmentation", {"in_channels": 1, "out_channels": 2}),
    ("segresnet", "SegResNet", "segmentation", {"in_channels": 1, "out_channels": 2}),
)
"""The name, the class, the task and what the constructor is given, for volumes of one channel."""


@hookimpl
def zoo_families() -> list[Family]:
    """The one family of this plugin; it declares no anatomy, so zoo traces it."""
    return [Family("monai", requires="monai", catalog="zoo_monai:cards", tested=">=1.6,<1.7")]


def cards() -> list[Card]:
    """The networks. No torch here.

    Example:
        >>> [card.name for card in cards() if card.task == "segmentation"]
        ['basicunet', 'segresnet']
    """
    return [
        Card(
            family="monai",
            name=name,
            build=f"monai.networks.nets:{network}",
            task=task,
            input_size=(1, 64, 64, 64),
            num_classes=2,
            options={"spatial_dims": 3, **options},
        )
        for name, network, task, options in _NETWORKS
    ]
