"""Archives of flax, in which vision transformers were published, go through the loader of timm's own models."""

from __future__ import annotations

import numpy as np
import pytest
from support.timm_files import assert_same, by_timm, fresh, randomised

import zoo_core as zoo
from zoo_core.errors import LoadMismatch, Untrusted


def as_flax_published(model):
    """A vision transformer, with a stem of convolutions or without, under the names and in the layouts of flax."""
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    dim, heads = model.embed_dim, model.blocks[0].attn.num_heads
    found = {
        "cls": state["cls_token"],
        "embedding/kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
        "head/kernel": state["head.weight"].T,
        "head/bias": state["head.bias"],
        "pre_logits/bias": np.zeros(dim, dtype=np.float32),
    }
    for index in range(len(model.blocks)):
        own, flax = f"blocks.{index}.", f"Transformer/encoderblock_{index}/"
        attention = f"{flax}MultiHeadDotProductAttention_1/"
        for number, part in enumerate(("query", "key", "value")):
            rows = slice(number * dim, (number + 1) * dim)
            found[f"{attention}{part}/kernel"] = state[f"{own}attn.qkv.weight"][rows].T.reshape(dim, heads, -1)
            found[f"{attention}{part}/bias"] = state[f"{own}attn.qkv.bias"][rows].reshape(heads, -1)
        found[f"{attention}out/kernel"] = state[f"{own}attn.proj.weight"].T.reshape(heads, -1, dim)
        found[f"{attention}out/bias"] = state[f"{own}attn.proj.bias"]
        for theirs, ours in (("LayerNorm_0", "norm1"), ("LayerNorm_2", "norm2")):
            found[f"{flax}{theirs}/scale"] = state[f"{own}{ours}.weight"]
            found[f"{flax}{theirs}/bias"] = state[f"{own}{ours}.bias"]
        for number in (0, 1):
            found[f"{flax}MlpBlock_3/Dense_{number}/kernel"] = state[f"{own}mlp.fc{number + 1}.weight"].T
            found[f"{flax}MlpBlock_3/Dense_{number}/bias"] = state[f"{own}mlp.fc{number + 1}.bias"]
    if "patch_embed.backbone.conv.weight" in state:
        found["conv_root/kernel"] = state["patch_embed.backbone.conv.weight"].transpose(2, 3, 1, 0)
        found["gn_root/scale"] = state["patch_embed.backbone.norm.weight"].reshape(1, 1, 1, -1)
        found["gn_root/bias"] = state["patch_embed.backbone.norm.bias"].reshape(1, 1, 1, -1)
    return found


def flax_file(name, **options):
    """Writes an archive in the layout of flax."""

    def write(path):
        model = fresh(name, **options)
        model.load_state_dict(randomised(name, **options))
        with path.open("wb") as file:
            np.savez(file, **as_flax_published(model))

    return write


@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
        pytest.param("vit_tiny_r_s16_p8_224.augreg_in21k_ft_in1k", marks=pytest.mark.full),
    ],
)
def test_an_archive_of_flax_is_loaded_by_the_models_own_loader(url, name):
    architecture, _, tag = name.partition(".")
    path = url(f"{architecture}@{tag}", flax_file(architecture))
    assert path.suffix == ".npz"
    model = zoo.get(f"timm/{architecture}@{tag}")
    assert_same(model, by_timm(architecture, tag, path))
    assert set(zoo.receipt(model).counts) == {"loaded"}


def test_what_an_archive_of_flax_lacks_is_named(url):
    url("test_vit@r160_in1k", flax_file("test_vit", num_classes=7))
    with pytest.raises(LoadMismatch, match=r"2 missing \(head\.weight, head\.bias\)"):
        zoo.get("timm/test_vit")


def test_an_archive_that_nobody_vouches_for_needs_a_word_of_trust(url):
    url("test_vit@r160_in1k", flax_file("test_vit"), sha256="")
    with pytest.raises(Untrusted, match=r'trust="first-use"'):
        zoo.get("timm/test_vit")
    assert zoo.receipt(zoo.get("timm/test_vit", trust="first-use")).strength == "first-use"
