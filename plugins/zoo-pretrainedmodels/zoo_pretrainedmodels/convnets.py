"""Where the parts of the library's networks are: one short function an architecture."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch.nn.functional as F  # noqa: N812 - the name everybody gives it
from torch import Tensor, nn

from zoo_core.plugin import Anatomy, Chain, Stage, flatten
from zoo_pretrainedmodels.measure import Row, by_resolution, head_at, residual_width, stages

_LAYERS = ("layer1", "layer2", "layer3", "layer4")

_relu = partial(
    F.relu, inplace=False
)  # the library's works in place, which would change the features under their owner


def library_features(model: Any, x: Tensor) -> Tensor:
    """The last map of a convnet, by the method ``features`` of pretrainedmodels, where layers are not a chain."""
    result: Tensor = model.features(x)
    return result


def resnet(model: Any) -> Anatomy:
    """The ResNets of pretrainedmodels: torchvision's, and its ports from Caffe and Torch."""
    return Anatomy(
        heads=(head_at(model, "last_linear"),),
        stem=("conv1",),
        stages=_residual_stages(model),
        features=Chain("conv1", "bn1", "relu", "maxpool", *_LAYERS),
        pool=Chain("avgpool", flatten),
    )


def senet(model: Any) -> Anatomy:
    """SENet, SE-ResNet and SE-ResNeXt of pretrainedmodels; only the first has dropout."""
    dropout = () if model.dropout is None else ("dropout",)
    return Anatomy(
        heads=(head_at(model, "last_linear"),),
        stem=("layer0.conv1",),
        stages=_residual_stages(model),
        features=Chain("layer0", *_LAYERS),
        pool=Chain("avg_pool", *dropout, flatten),
    )


def _residual_stages(model: nn.Module) -> tuple[Stage, ...]:
    """The stages of a residual network of pretrainedmodels: its four layers."""
    return stages(
        (name, (name,), residual_width(model.get_submodule(name)), 2**exponent)
        for exponent, name in enumerate(_LAYERS, start=2)
    )


def densenet(model: Any) -> Anatomy:
    """DenseNet of pretrainedmodels: a block and the transition before it are a stage; the last norm ends the last."""
    widths = [model.features.get_submodule(f"transition{n}.norm").num_features for n in (1, 2, 3)]
    widths.append(model.features.norm5.num_features)
    before = ((), ("features.transition1",), ("features.transition2",), ("features.transition3",))
    after = ((), (), (), ("features.norm5",))
    return Anatomy(
        heads=(head_at(model, "last_linear"),),
        stem=("features.conv0",),
        stages=stages(
            (f"denseblock{n}", (*before[n - 1], f"features.denseblock{n}", *after[n - 1]), widths[n - 1], 2 ** (n + 1))
            for n in (1, 2, 3, 4)
        ),
        features=Chain("features"),
        pool=Chain(_relu, partial(F.avg_pool2d, kernel_size=7, stride=1), flatten),
    )


def alexnet(model: Any) -> Anatomy:
    """AlexNet of pretrainedmodels: the two hidden linear layers of its classifier belong to the pool."""
    return _with_hidden_layers(model, "dropout0", "linear0", "relu0", "dropout1", "linear1", "relu1")


def vgg(model: Any) -> Anatomy:
    """VGG of pretrainedmodels: as AlexNet, with dropout after the layers."""
    return _with_hidden_layers(model, "linear0", "relu0", "dropout0", "linear1", "relu1", "dropout1")


def _with_hidden_layers(model: nn.Module, *hidden: str) -> Anatomy:
    """The anatomy of a convolutional network with hidden linear layers: AlexNet or VGG of pretrainedmodels."""
    return Anatomy(
        heads=(head_at(model, "last_linear"),),
        stem=("_features.0",),
        stages=by_resolution(model, "_features"),
        features=Chain("_features"),
        pool=Chain(flatten, *hidden),
    )


def squeezenet(model: Any) -> Anatomy:
    """SqueezeNet of pretrainedmodels: the head is a convolution on the map; activation and pooling come after it."""
    return Anatomy(
        heads=(head_at(model, "last_conv"),),
        stem=("features.0",),
        stages=by_resolution(model, "features"),
        features=Chain("features"),
        pool=Chain("dropout"),
        classify=Chain("last_conv", "relu", "avgpool"),
    )


def resnext(model: Any) -> Anatomy:
    """ResNeXt of pretrainedmodels, ported from Torch as nested sequences without names."""
    widths = (256, 512, 1024, 2048)
    return Anatomy(
        heads=(head_at(model, "last_linear"),),
        stem=("features.0",),
        stages=stages((f"layer{n}", (f"features.{n + 3}",), widths[n - 1], 2 ** (n + 1)) for n in (1, 2, 3, 4)),
        features=Chain("features"),
        pool=Chain("avg_pool", flatten),
    )


def dpn(model: Any) -> Anatomy:
    """DPN of pretrainedmodels. Its blocks return two maps; a stage gives both as one where a module does so."""
    blocks = dict(model.features.named_children())
    rows: list[Row] = []
    for number in (2, 3, 4, 5):
        names = [name for name in blocks if name.startswith(f"conv{number}_")]
        following = "conv5_bn_ac" if number == 5 else f"conv{number + 1}_1.c1x1_a"  # noqa: PLR2004 - the last stage
        width = model.features.get_submodule(f"{following}.bn").num_features
        if number == 5 or f"conv{number}_output" in names:  # noqa: PLR2004 - as above
            rows.append((f"conv{number}", tuple(f"features.{name}" for name in names), width, 2**number))
    return Anatomy(
        heads=(head_at(model, "last_linear"),),
        stem=("features.conv1_1.conv",),
        stages=stages(rows),
        features=Chain("features"),
        pool=_dpn_pool,
        classify=_dpn_classify,
    )


def _dpn_pool(model: Any, features: Tensor) -> Tensor:
    """The pool of a DPN: in eval mode the head looks at every 7x7 window of the map; in train mode at its mean."""
    windows = model.test_time_pool and not model.training
    return F.avg_pool2d(features, kernel_size=7 if windows else features.shape[-2:], stride=1)


def _dpn_classify(model: Any, pooled: Tensor) -> Tensor:
    """The scores of a DPN: mean and maximum of those of all windows, half and half; in train mode there is one."""
    scores: Tensor = model.last_linear(pooled)
    if model.test_time_pool and not model.training:
        size = scores.shape[-2:]
        mean = F.avg_pool2d(scores, kernel_size=size, padding=0, count_include_pad=False)
        scores = 0.5 * (mean + F.max_pool2d(scores, kernel_size=size, padding=0))
    return scores.flatten(1)
