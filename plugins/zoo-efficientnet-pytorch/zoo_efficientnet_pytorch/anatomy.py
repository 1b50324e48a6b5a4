"""Where the parts of a built EfficientNet are."""

from __future__ import annotations

from typing import Any

from efficientnet_pytorch import EfficientNet
from torch import Tensor, nn

from zoo_core.plugin import Anatomy, AnatomyError, Chain, Head, Stage, flatten


def anatomy(model: nn.Module) -> Anatomy:
    """The anatomy of an EfficientNet: its head, stem and stages, and how its forward splits.

    The stages are those of the library's ``extract_endpoints``: the blocks in groups of one resolution, called
    ``reduction_1`` to ``reduction_5``. The last convolution comes after them and has no stage of its own.

    Args:
        model: An ``EfficientNet``; one that was built with ``include_top=False`` has no head.

    Raises:
        AnatomyError: The model is no ``EfficientNet``, or its head has no linear layer.

    Example:
        >>> found = anatomy(EfficientNet.from_name("efficientnet-b0"))
        >>> found.main.path, [(stage.channels, stage.stride) for stage in found.stages]
        ('_fc', [(16, 2), (24, 4), (40, 8), (112, 16), (320, 32)])
    """
    if not isinstance(model, EfficientNet):
        raise AnatomyError(
            f"{type(model).__name__} is not a model of efficientnet_pytorch",
            expected="EfficientNet",
            got=f"{type(model).__module__}.{type(model).__name__}",
        )
    has_head = hasattr(model, "_fc")
    return Anatomy(
        heads=(_head(model),) if has_head else (),
        stem=("_conv_stem",),
        stages=_stages(model),
        features=features,
        pool=Chain("_avg_pooling", flatten, "_dropout") if has_head else Chain("_avg_pooling"),
    )


def features(model: Any, x: Tensor) -> Tensor:
    """The last feature map of an EfficientNet, ``[N, C, H / 32, W / 32]``: by a method, as no chain of modules is.

    Every block is told how deep it is, and one activation module serves the first layer and the last.
    """
    result: Tensor = model.extract_features(x)
    return result


def _head(model: nn.Module) -> Head:
    """The head of an EfficientNet, with the widths of what is there now."""
    layers = [layer for layer in model.get_submodule("_fc").modules() if isinstance(layer, nn.Linear)]
    if not layers:
        raise AnatomyError(
            "the head of this EfficientNet does not say how many features it takes",
            expected="a linear layer at '_fc', or a module that holds one",
            got=repr(model.get_submodule("_fc")),
        )
    return Head("_fc", in_features=layers[0].in_features, num_classes=layers[-1].out_features)


def _stages(model: Any) -> tuple[Stage, ...]:
    """The stages of an EfficientNet: its blocks in groups, each after the first begins where a block halves the map."""
    blocks = dict(model.get_submodule("_blocks").named_children())
    stride = _stride(model.get_submodule("_conv_stem"))
    groups: list[tuple[int, list[str]]] = []
    for name, block in blocks.items():
        own = _stride(block.get_submodule("_depthwise_conv"))
        stride *= own
        if own > 1 or not groups:
            groups.append((stride, []))
        groups[-1][1].append(name)
    return tuple(
        Stage(
            f"reduction_{number}",
            tuple(f"_blocks.{name}" for name in names),
            channels=blocks[names[-1]].get_submodule("_project_conv").out_channels,
            stride=total,
        )
        for number, (total, names) in enumerate(groups, start=1)
    )


def _stride(convolution: Any) -> int:
    """The stride of a convolution in the blocks of an EfficientNet."""
    return int(convolution.stride[0])
