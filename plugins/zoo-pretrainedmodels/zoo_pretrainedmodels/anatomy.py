"""Where the parts of a built model of pretrainedmodels are: one short function an architecture, chosen by class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch.nn.functional as F  # noqa: N812 - the name everybody gives it
from torch import Tensor, nn
from torchvision import models

from zoo_core.plugin import Anatomy, AnatomyError, Chain, Head, Stage, flatten
from zoo_pretrainedmodels import library as lib
from zoo_pretrainedmodels.measure import Row, by_resolution, head_at, residual_width, stages
from zoo_pretrainedmodels.picklable_models import BNInception, bninception_features

_LAYERS = ("layer1", "layer2", "layer3", "layer4")

_relu = partial(
    F.relu, inplace=False
)  # the library's works in place, which would change the features under their owner


def library_features(model: Any, x: Tensor) -> Tensor:
    """The features of an anatomy whose layers are not a chain: the last map, by the method of pretrainedmodels."""
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
    """The convnet DPN of pretrainedmodels: blocks return two maps; a stage gives both as one where a module does so."""
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


_INCEPTION_V3: tuple[Row, ...] = (
    ("Conv2d_2", ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3"), 64, 2),
    ("Conv2d_4", ("Conv2d_3b_1x1", "Conv2d_4a_3x3"), 192, 4),
    ("Mixed_5", ("Mixed_5b", "Mixed_5c", "Mixed_5d"), 288, 8),
    ("Mixed_6", ("Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"), 768, 16),
    ("Mixed_7", ("Mixed_7a", "Mixed_7b", "Mixed_7c"), 2048, 32),
)

_INCEPTION_V4: tuple[Row, ...] = (
    ("conv2d", tuple(f"features.{n}" for n in range(3)), 64, 2),
    ("mixed_4", tuple(f"features.{n}" for n in range(3, 5)), 192, 4),
    ("inception_a", tuple(f"features.{n}" for n in range(5, 10)), 384, 8),
    ("inception_b", tuple(f"features.{n}" for n in range(10, 18)), 1024, 16),
    ("inception_c", tuple(f"features.{n}" for n in range(18, 22)), 1536, 32),
)

_INCEPTION_RESNET_V2: tuple[Row, ...] = (
    ("conv2d_2", ("conv2d_1a", "conv2d_2a", "conv2d_2b"), 64, 2),
    ("conv2d_4", ("maxpool_3a", "conv2d_3b", "conv2d_4a"), 192, 4),
    ("mixed_5", ("maxpool_5a", "mixed_5b", "repeat"), 320, 8),
    ("mixed_6", ("mixed_6a", "repeat_1"), 1088, 16),
    ("mixed_7", ("mixed_7a", "repeat_2", "block8", "conv2d_7b"), 1536, 32),
)

_XCEPTION: tuple[Row, ...] = (
    ("conv2", ("conv1", "bn1", "conv2", "bn2"), 64, 2),
    ("block1", ("block1",), 128, 4),
    ("block2", ("block2",), 256, 8),
    ("middle", tuple(f"block{n}" for n in range(3, 12)), 728, 16),
    ("exit", ("block12", "conv3", "bn3", "conv4", "bn4"), 2048, 32),
)

_POLYNET_STEM = ("conv1_pool_branch", "conv1_branch", "conv2_short", "conv2_long", "conv2_pool_branch", "conv2_branch")

_POLYNET: tuple[Row, ...] = (
    ("conv1", ("stem.conv1",), 64, 2),
    ("stage_a", (*(f"stem.{name}" for name in _POLYNET_STEM), "stage_a"), 384, 8),
    ("stage_b", ("reduction_a", "stage_b"), 1152, 16),
    ("stage_c", ("reduction_b", "stage_c"), 2048, 32),
)

_PNASNET: tuple[Row, ...] = (
    ("conv_0", ("conv_0",), 96, 2),
    ("cell_stem_0", ("cell_stem_0",), 270, 4),
    ("cells_8", ("cell_stem_1", "cell_0", "cell_1", "cell_2", "cell_3"), 1080, 8),
    ("cells_16", ("cell_4", "cell_5", "cell_6", "cell_7"), 2160, 16),
    ("cells_32", ("cell_8", "cell_9", "cell_10", "cell_11"), 4320, 32),
)


def inception_v3(model: Any) -> Anatomy:
    """Inception v3 of pretrainedmodels, torchvision's, with the auxiliary head that only trains."""
    paths = [row[1] for row in _INCEPTION_V3]
    return Anatomy(
        heads=(head_at(model, "last_linear"), *_auxiliary_head(model)),
        stem=("Conv2d_1a_3x3.conv",),
        stages=stages(_INCEPTION_V3),
        features=Chain(*paths[0], _halved, *paths[1], _halved, *(path for group in paths[2:] for path in group)),
        pool=_inception_v3_pool,
    )


def _auxiliary_head(model: Any) -> tuple[Head, ...]:
    """The auxiliary head of the convnet Inception v3 of pretrainedmodels, where it has one."""
    return (head_at(model, "AuxLogits.fc", role="aux"),) if getattr(model, "AuxLogits", None) is not None else ()


def _halved(x: Tensor) -> Tensor:
    """The pool of pretrainedmodels' Inception v3 between two stages, which halves the map."""
    return F.max_pool2d(x, kernel_size=3, stride=2)


def _inception_v3_pool(model: Any, features: Tensor) -> Tensor:
    """The pool of pretrainedmodels' Inception v3, with dropout, before the head."""
    return F.dropout(F.avg_pool2d(features, kernel_size=8), training=model.training).flatten(1)


def inception_v4(model: Any) -> Anatomy:
    """Inception v4 of pretrainedmodels: one sequence."""
    return Anatomy(
        heads=(head_at(model, "last_linear"),),
        stem=("features.0.conv",),
        stages=stages(_INCEPTION_V4),
        features=Chain("features"),
        pool=Chain("avg_pool", flatten),
    )


def inception_resnet_v2(model: Any) -> Anatomy:
    """The convnet Inception-ResNet v2 of pretrainedmodels: named modules in a row."""
    return Anatomy(
        heads=(head_at(model, "last_linear"),),
        stem=("conv2d_1a.conv",),
        stages=stages(_INCEPTION_RESNET_V2),
        features=Chain(*(path for row in _INCEPTION_RESNET_V2 for path in row[1])),
        pool=_inception_resnet_v2_pool,
    )


def _inception_resnet_v2_pool(model: Any, features: Tensor) -> Tensor:
    """The pool of pretrainedmodels' Inception-ResNet v2, with dropout, before the head."""
    return F.dropout(model.avgpool_1a(features).flatten(1), training=model.training)


def xception(model: Any) -> Anatomy:
    """Xception of pretrainedmodels, named after Inception; its last activation belongs to the pool."""
    return Anatomy(
        heads=(head_at(model, "last_linear"),),
        stem=("conv1",),
        stages=stages(_XCEPTION),
        features=library_features,
        # The library's activation works in place, which would change the features under their owner.
        pool=Chain(F.relu, partial(F.adaptive_avg_pool2d, output_size=(1, 1)), flatten),
    )


def polynet(model: Any) -> Anatomy:
    """PolyNet of pretrainedmodels, a relative of Inception-ResNet."""
    return Anatomy(
        heads=(head_at(model, "last_linear"),),
        stem=("stem.conv1.0.conv",),
        stages=stages(_POLYNET),
        features=Chain("stem", "stage_a", "reduction_a", "stage_b", "reduction_b", "stage_c"),
        pool=Chain("avg_pool", "dropout", flatten),
    )


def nasnet_large(model: Any) -> Anatomy:
    """The convnet NASNet-A Large of pretrainedmodels: three times six cells."""
    return _nasnet(model, cells=6)


def nasnet_mobile(model: Any) -> Anatomy:
    """The convnet NASNet-A Mobile of pretrainedmodels: three times four cells, numbered as if there were six."""
    return _nasnet(model, cells=4)


def _nasnet(model: Any, cells: int) -> Anatomy:
    """The convnet NASNet-A of pretrainedmodels, of either size: its stem, and three groups of so many cells."""
    filters = model.penultimate_filters // 24
    numbered = [tuple(f"cell_{first + n}" for n in range(cells)) for first in (0, 6, 12)]
    rows: tuple[Row, ...] = (
        ("conv0", ("conv0",), model.stem_filters, 2),
        ("cell_stem_0", ("cell_stem_0",), 4 * (filters // model.filters_multiplier**2), 4),
        ("cells_8", ("cell_stem_1", *numbered[0]), 6 * filters, 8),
        ("cells_16", ("reduction_cell_0", *numbered[1]), 12 * filters, 16),
        ("cells_32", ("reduction_cell_1", *numbered[2]), 24 * filters, 32),
    )
    return _of_cells(model, "conv0.conv", rows)


def pnasnet(model: Any) -> Anatomy:
    """PNASNet-5 Large of pretrainedmodels, of cells too."""
    return _of_cells(model, "conv_0.conv", _PNASNET)


def _of_cells(model: Any, stem: str, rows: tuple[Row, ...]) -> Anatomy:
    """The anatomy of a convnet of cells, NASNet or PNASNet: each cell sees the two before it."""
    return Anatomy(
        heads=(head_at(model, "last_linear"),),
        stem=(stem,),
        stages=stages(rows),
        features=library_features,
        pool=Chain("relu", "avg_pool", flatten, "dropout"),
    )


def bninception(model: Any) -> Anatomy:
    """BNInception of pretrainedmodels, in our class: the library's own has no module for a whole map."""
    rows: list[Row] = [
        ("conv1", _children_named(model, "conv1_"), 64, 2),
        ("conv2", ("pool1_3x3_s2", *_children_named(model, "conv2_")), 192, 4),
    ]
    if isinstance(model, BNInception):
        rows += [
            ("inception_3", ("pool2_3x3_s2", *_blocks(model, "3a", "3b")), 320, 8),
            ("inception_4", _blocks(model, "3c", "4a", "4b", "4c", "4d"), 608, 16),
            ("inception_5", _blocks(model, "4e", "5a", "5b"), 1024, 32),
        ]
    return Anatomy(
        heads=(head_at(model, "last_linear"),),
        stem=("conv1_7x7_s2",),
        stages=stages(rows),
        features=bninception_features,
        pool=Chain("global_pool", flatten),
    )


def _children_named(model: nn.Module, prefix: str) -> tuple[str, ...]:
    """The layers of pretrainedmodels' convnet BNInception whose names start so."""
    return tuple(name for name, _ in model.named_children() if name.startswith(prefix))


def _blocks(model: nn.Module, *names: str) -> tuple[str, ...]:
    """The modules of these blocks of the convnet BNInception, as its stages list them, their outputs last."""
    modules = [path for name in names for path in _children_named(model, f"inception_{name}_")]
    return tuple(sorted(modules, key=lambda path: path.endswith("_output")))


_RULES: Mapping[type[nn.Module], Callable[[Any], Anatomy]] = {
    lib.BNInception: bninception,
    lib.CaffeResNet: resnet,
    lib.DPN: dpn,
    lib.FBResNet: resnet,
    lib.InceptionResNetV2: inception_resnet_v2,
    lib.InceptionV4: inception_v4,
    lib.NASNetALarge: nasnet_large,
    lib.NASNetAMobile: nasnet_mobile,
    lib.PNASNet5Large: pnasnet,
    lib.PolyNet: polynet,
    lib.ResNeXt101_32x4d: resnext,
    lib.ResNeXt101_64x4d: resnext,
    lib.SENet: senet,
    lib.Xception: xception,
    models.AlexNet: alexnet,
    models.DenseNet: densenet,
    models.Inception3: inception_v3,
    models.ResNet: resnet,
    models.SqueezeNet: squeezenet,
    models.VGG: vgg,
}

_HEADS = ("last_linear", "last_conv")


def anatomy(model: nn.Module) -> Anatomy:
    """The anatomy of a model of pretrainedmodels: its heads, stem and stages, and how its forward splits.

    Args:
        model: A model that this plugin or the library itself has built.

    Raises:
        AnatomyError: The model is of no class of the library's, or was changed beyond recognition.

    Example:
        >>> from zoo_pretrainedmodels.build import build
        >>> found = anatomy(build("squeezenet1_1"))
        >>> found.main.path, found.main.kind, [stage.stride for stage in found.stages]
        ('last_conv', 'conv', [2, 4, 8, 16])
    """
    rule = next((_RULES[kind] for kind in type(model).__mro__ if kind in _RULES), None)
    if rule is None or not any(hasattr(model, name) for name in _HEADS):
        raise AnatomyError(
            f"{type(model).__name__} is not a model of pretrainedmodels that zoo knows",
            expected="a model with a last_linear or a last_conv, as the library makes them",
            got=f"{type(model).__module__}.{type(model).__name__}",
            hint="torchvision's own models belong to the family torchvision",
        )
    try:
        return rule(model)
    except (AttributeError, ValueError) as error:
        if isinstance(error, AnatomyError):
            raise
        raise AnatomyError(
            f"{type(model).__name__} no longer has the layout that pretrainedmodels gave it",
            cause=str(error),
            hint="give zoo the model as the library built it, and change its head with zoo.swap_head",
        ) from error
