"""The torchvision family: every model, its weights, and where its parts are."""

from __future__ import annotations

from zoo_core.plugin import Family, hookimpl


@hookimpl
def zoo_families() -> list[Family]:
    """The one family of torchvision's plugin."""
    return [
        Family(
            name="torchvision",
            requires="torchvision",
            catalog="zoo_torchvision.catalog:cards",
            signatures="zoo_torchvision:signatures.json.gz",
            costs="zoo_torchvision:costs.json",
            parts="zoo_torchvision:parts.json",
            figures="https://docs.pytorch.org/vision/stable/models.html",
            anatomy="zoo_torchvision.anatomy:anatomy",
            tested=">=0.29,<0.30",
            image_size="image_size",
            exceptions="zoo_torchvision.expected:EXPECTED",
            index="zoo_torchvision.index:cards",
            indexed="zoo_torchvision.catalog:version",
            plain_options=(
                *("activation_layer", "attention_dropout", "aux_logits", "aux_loss", "dropout", "epsilon", "groups"),
                *(
                    "image_size",
                    "init_weights",
                    "max_size",
                    "memory_efficient",
                    "min_size",
                    "norm_layer",
                    "num_classes",
                ),
                *("num_classes", "num_keypoints", "progress", "replace_stride_with_dilation", "stochastic_depth_prob"),
                *("trainable_backbone_layers", "transform_input", "width_mult", "width_per_group"),
                "zero_init_residual",
            ),
        )
    ]
