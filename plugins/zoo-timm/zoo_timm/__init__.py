"""The timm family: every architecture of timm, its weights, and where their parts are."""

from __future__ import annotations

from zoo_core.plugin import Family, hookimpl


@hookimpl
def zoo_families() -> list[Family]:
    """The one family of timm's plugin."""
    return [
        Family(
            name="timm",
            requires="timm",
            catalog="zoo_timm.catalog:cards",
            signatures="zoo_timm:signatures.json.gz",
            costs="zoo_timm:costs.json",
            parts="zoo_timm:parts.json",
            figures="https://github.com/huggingface/pytorch-image-models/blob/main/results/results-imagenet.csv",
            anatomy="zoo_timm.anatomy:anatomy",
            tested="==1.0.31",  # the third number of timm is where models come and change
            image_size="img_size",
            exceptions="zoo_timm.expected:EXPECTED",
            index="zoo_timm.index:cards",
            indexed="zoo_timm.catalog:version",
            plain_options=(
                *("act_layer", "attn_drop_rate", "block_size", "class_token", "depth", "depths", "drop_block_rate"),
                *("drop_path_rate", "drop_rate", "dynamic_img_pad", "dynamic_img_size", "embed_dim", "fc_norm"),
                *("global_pool", "img_size", "in_chans", "init_values", "mlp_ratio", "no_embed_class", "norm_layer"),
                *("num_classes", "num_heads", "output_stride", "patch_drop_rate", "patch_size", "pos_drop_rate"),
                *("pos_embed", "pre_norm", "proj_drop_rate", "qk_norm", "qkv_bias", "reg_tokens", "strict_img_size"),
                *("window_size",),
            ),
        )
    ]
