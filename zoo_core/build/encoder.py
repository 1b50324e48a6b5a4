"""``zoo.encoder``: a model without pool and classifier, as the backbone of another."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zoo_core.build.get import get
from zoo_core.errors import UsageError
from zoo_core.surgery.features.encoder import Encoder
from zoo_core.utils.arguments import strict_arguments

if TYPE_CHECKING:
    import torch
    from torch import nn

    from zoo_core.build.request import Freeze


@strict_arguments
def encoder(
    model: str | nn.Module,
    *,
    depth: int | None = None,
    output_stride: int | None = None,
    at: Sequence[str] | None = None,
    weights: str | os.PathLike[str] | None = "default",
    in_channels: int | None = None,
    freeze: Freeze | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    seed: int | None = None,
    options: Mapping[str, object] | None = None,
) -> Encoder:
    """Feature maps of several sizes from any model: what a decoder for segmentation or detection is put on.

    What needs no head works on an encoder as on the model: ``save`` and ``load``, ``freeze``, ``param_groups``,
    ``receipt``, ``transforms``, ``load_partial`` with the names that the tensors have in the classifier.

    Args:
        model: A name as for ``zoo.get``; or a built model, which stays as it is and shares its parameters.
        depth: Give the image itself and then a map for each of the strides 2, 4, 8 up to ``2 ** depth``, as decoders of
            segmentation_models_pytorch take them: the stem stands for a stage of stride 2, and a stride that the model
            does not have is a map without channels.
        output_stride: Keep the last maps as large as this says, 16 or 8 pixels of the image for one step: strides
            beyond give way to dilation, with the same filters.
        at: Names of stages to take the maps from, ``"stem"``, or paths of modules as for ``zoo.features``; None for the
            last stage of each stride that the model has of itself, so that there are as many maps whatever the
            ``output_stride``.
        weights: Which weights, or None for an untrained model; only with a name, like all that follow.
        in_channels: As for ``zoo.get``.
        freeze: What not to train.
        device: Where the encoder goes.
        dtype: What its floating-point tensors become.
        seed: Makes all that is drawn at random reproducible.
        options: Arguments for the library's own constructor. What else :func:`zoo_core.get` takes is said to it:
            ``zoo.encoder(zoo.get(name, licenses=...))``.

    Returns:
        A module that turns ``[N, C, H, W]`` into a list of ``[N, channels[i], H / strides[i], W / strides[i]]``, with
        ``.names``, ``.channels`` (also ``.out_channels``), ``.strides`` and ``.depth``; in the train or eval mode of
        the model.

    Raises:
        UnknownPart: There is no such stage or module; the message lists the stages.
        UsageError: ``output_stride`` is not a power of two, ``depth`` comes with ``at`` or is beyond the strides of the
            model, or an argument for building comes with a built model.
        NotSupported: The model has no stages, or cannot be dilated; the message says why, and which models can.
        NotAZooModel: zoo knows nothing about the built model.

    Example:
        >>> import torch, zoo_core as zoo
        >>> enc = zoo.encoder("mobilenet_v3_large", weights=None, output_stride=16)
        >>> enc.channels, enc.strides
        ((16, 24, 40, 112, 960), (2, 4, 8, 16, 16))
        >>> [tuple(f.shape) for f in enc.eval()(torch.zeros(1, 3, 64, 64))]
        [(1, 16, 32, 32), (1, 24, 16, 16), (1, 40, 8, 8), (1, 112, 4, 4), (1, 960, 4, 4)]
        >>> zoo.encoder("resnet18", weights=None, depth=5).out_channels
        [3, 64, 64, 128, 256, 512]
    """
    if depth is not None and at is not None:
        raise UsageError("depth and at both say which maps there are", hint="leave one of them out")
    building: dict[str, Any] = {
        "in_channels": in_channels,
        "freeze": freeze,
        "device": device,
        "dtype": dtype,
        "seed": seed,
        "options": options,
    }
    if isinstance(model, str):
        return Encoder(get(model, weights=weights, **building), at, output_stride, depth)
    given = [name for name, value in building.items() if value is not None]
    given += ["weights"] if weights not in {"default", None} else []
    if given:
        raise UsageError(
            f"{', '.join(given)} cannot be requested of a model that is already built",
            hint="give zoo.get those arguments, and zoo.encoder what it returns",
        )
    return Encoder(model, at, output_stride, depth)
