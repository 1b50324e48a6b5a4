"""``zoo.transforms`` against timm's own pipeline, on a photograph."""

from __future__ import annotations

import pytest
import timm
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from timm.data import create_transform, resolve_data_config

import zoo_core as zoo

CONFIGS = {
    name: resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict()) for name in timm.list_pretrained()
}
DISTINCT = {str(sorted(config.items(), key=str)): name for name, config in reversed(CONFIGS.items())}
SAMPLE = [
    "resnet18.a1_in1k",
    "resnet18.tv_in1k",  # bilinear
    "vit_base_patch16_224.augreg_in21k",  # mean and deviation of one half
    "vit_base_patch16_clip_224.openai",
    "efficientnet_b0.ra_in1k",
    "tf_efficientnet_b0.ap_in1k",
    "inception_v3.tv_in1k",
    "naflexvit_base_patch16_siglip.v2_webli",  # squash
    "eva02_large_patch14_448.mim_m38m_ft_in22k_in1k",  # squash
    "beit3_base_patch16_224.in22k_ft_in1k",
]
BORDER = [name for name, config in CONFIGS.items() if config["crop_mode"] == "border"][:1]
OBLONG = [name for name, config in CONFIGS.items() if config["input_size"][1] != config["input_size"][2]][:1]


@pytest.fixture(scope="module")
def china():
    return Image.fromarray(load_sample_image("china.jpg"))


def same(name, image):
    found = zoo.transforms("timm/" + "@".join(name.split(".", 1)))(image)
    return torch.equal(found, create_transform(**CONFIGS[name])(image))


@pytest.mark.parametrize("name", [*SAMPLE, *BORDER, *OBLONG])
def test_an_image_comes_out_exactly_as_from_timm(name, china):
    assert same(name, china)


@pytest.mark.full
@pytest.mark.parametrize("name", sorted(DISTINCT.values()))
def test_an_image_comes_out_exactly_as_from_timm_for_every_configuration(name, china):
    assert same(name, china)
    assert same(name, china.resize((300, 411)))
