"""Surgery on networks of volumes whose anatomy is traced."""

import torch

import zoo_core as zoo

X = torch.randn(1, 1, 32, 32, 32)


def test_a_unet_of_volumes_gives_other_classes_and_is_frozen_but_for_them():
    model = zoo.freeze(zoo.get("monai/basicunet", weights=None, num_classes=5)).eval()
    assert model(X).shape == (1, 5, 32, 32, 32)
    assert {name for name, each in model.named_parameters() if each.requires_grad} == {
        "final_conv.weight",
        "final_conv.bias",
    }


def test_a_classifier_of_volumes_is_split():
    model = zoo.get("monai/efficientnet-b0", weights=None, num_classes=3).eval()
    backbone, head = zoo.split(model)
    assert torch.equal(head(backbone(X)), model(X))
