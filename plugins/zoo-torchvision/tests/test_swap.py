"""``swap_head`` on every head shape of this family: as the library builds it for that number of classes."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from zoo_torchvision.catalog import cards

import zoo_core as zoo
from zoo_core.errors import HeadMismatch, NotSupported

CARDS = {card.name: card for card in cards()}
QUICK = {
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "fcn_resnet50",
    "fcos_resnet50_fpn",
    "googlenet",
    "keypointrcnn_resnet50_fpn",
    "lraspp_mobilenet_v3_large",
    "maskrcnn_resnet50_fpn",
    "maxvit_t",
    "mnasnet0_5",
    "mvit_v2_s",
    "retinanet_resnet50_fpn",
    "s3d",
    "squeezenet1_1",
    "ssdlite320_mobilenet_v3_large",
    "swin3d_t",
}
every_head = pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.full)
        for name, card in CARDS.items()
        if card.task != "optical_flow"
    ],
)


def layout(model):
    tensors = {name: tensor.shape for name, tensor in model.state_dict().items()}
    counts = {
        f"{path}.{name}": value
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if type(value) is int
    }
    return tensors, counts


@every_head
def test_a_swap_gives_the_model_that_the_library_builds_for_nine_classes(name, build):
    options = {"aux_loss": True} if name.startswith(("fcn", "deeplab")) else {}
    model = zoo.adopt(build(name, **options), family="torchvision")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    zoo.swap_head(model, 9)
    assert layout(model) == layout(build(name, num_classes=9, **options))
    sites = tuple(f"{head.path}." for head in zoo.anatomy(model).heads)
    assert all(
        torch.equal(value, before[key]) for key, value in model.state_dict().items() if not key.startswith(sites)
    )


def test_an_mlp_for_a_retinanet_gives_the_scores_of_all_anchors(build):
    model = zoo.adopt(build("retinanet_resnet50_fpn"), family="torchvision")
    zoo.swap_head(model, zoo.mlp_head(9, hidden=(16,), batch_norm=True))
    layers = model.head.classification_head.cls_logits
    assert layers[-1].out_channels == 81
    assert model.head.classification_head.num_classes == 9
    model.transform.min_size = (64,)  # else it makes 800 x 800 of the image
    assert len(model([torch.rand(3, 64, 64)])) == 1


DETECTORS = [name for name, card in CARDS.items() if card.task in {"detection", "keypoints"}]


@pytest.mark.parametrize(
    "name", [name if name.startswith("ssdlite") else pytest.param(name, marks=pytest.mark.full) for name in DETECTORS]
)
def test_a_detector_finds_and_learns_after_a_swap(name, build):
    model = zoo.adopt(build(name), family="torchvision")
    zoo.swap_head(model, 9)
    images = [torch.rand(3, 96, 96), torch.rand(3, 64, 80)]
    with torch.no_grad():
        assert all({"boxes", "labels", "scores"} <= found.keys() for found in model(images))
    targets = [
        {
            "boxes": torch.tensor([[4.0, 4.0, 50.0, 60.0]]),
            "labels": torch.tensor([1]),
            "masks": torch.ones(1, *image.shape[1:], dtype=torch.uint8),
            "keypoints": torch.tensor([[[9.0, 9.0, 1.0]] * 17]),
        }
        for image in images
    ]
    sum(model.train()(images, targets).values()).backward()
    for site in zoo.anatomy(model).heads:
        assert model.get_submodule(site.path).weight.grad is not None


def test_optical_flow_is_refused_with_the_reason(build):
    model = zoo.adopt(build("raft_small"), family="torchvision")
    with pytest.raises(NotSupported, match="motion of every pixel"):
        zoo.swap_head(model, 9)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.ao.quantization announces its own end
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_quantised_model_is_refused_with_the_way_out(build):
    model = build("quantized_resnet18", **CARDS["quantized_resnet18"].find().options)
    with pytest.raises(NotSupported, match="change the float model"):
        zoo.swap_head(zoo.adopt(model, family="torchvision"), 9)


@pytest.mark.parametrize("name", ["mnasnet0_5", "retinanet_resnet50_fpn"])
def test_a_file_of_nine_classes_of_ones_own_is_loaded(name, build, tmp_path):
    torch.save(build(name, num_classes=9).state_dict(), tmp_path / "own.pth")
    model = zoo.get(f"torchvision/{name}", weights=tmp_path / "own.pth")
    assert zoo.anatomy(model).main.num_classes == 9
    assert not zoo.receipt(model).names("initialized")


def test_an_mlp_for_clips_is_made_of_convolutions_in_space_and_time(build):
    model = zoo.adopt(build("s3d"), family="torchvision")
    zoo.swap_head(model, zoo.mlp_head(9, hidden=(16,), batch_norm=True))
    kinds = [type(layer) for layer in model.get_submodule("classifier.1")]
    assert kinds == [nn.Conv3d, nn.BatchNorm3d, nn.ReLU, nn.Conv3d]


def test_a_layer_that_does_not_give_every_anchor_its_scores_is_refused(build):
    model = zoo.adopt(build("retinanet_resnet50_fpn"), family="torchvision")
    with pytest.raises(HeadMismatch, match="9 for each class"):
        zoo.swap_head(model, nn.Conv2d(256, 10, 1))


@pytest.mark.parametrize("name", ["retinanet_resnet50_fpn", "fcos_resnet50_fpn"])
def test_a_new_head_of_a_dense_detector_begins_with_the_librarys_prior(name, build):
    model = zoo.adopt(build(name), family="torchvision")
    begins = model.head.classification_head.cls_logits.bias[0].item()
    zoo.swap_head(model, 9)
    assert model.head.classification_head.cls_logits.bias.eq(begins).all()


@pytest.mark.parametrize("name", ["retinanet_resnet50_fpn", "fcos_resnet50_fpn", "ssd300_vgg16"])
def test_a_detector_says_why_it_cannot_be_split(name, build):
    with pytest.raises(NotSupported, match="many places of several maps"):
        zoo.split(zoo.adopt(build(name), family="torchvision"))
