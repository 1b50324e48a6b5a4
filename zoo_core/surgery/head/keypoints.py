"""Another number of keypoints for a keypoint detector: they are no classes, so they have a verb of their own."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from zoo_core.errors import NotSupported
from zoo_core.surgery.editing import editing
from zoo_core.surgery.metadata import anatomy_of, unwrap
from zoo_core.utils.arguments import check_count, strict_arguments
from zoo_core.utils.device import on_the_cpu
from zoo_core.utils.memory_format import follows, lay_last
from zoo_core.utils.random_state import seeded

Model = TypeVar("Model", bound=nn.Module)


@strict_arguments
def swap_keypoints(model: Model, num_keypoints: int, *, seed: int | None = None) -> Model:
    """Replace the layer that draws a map for each keypoint; everything else keeps its weights.

    Args:
        model: A keypoint detector from ``zoo.get`` or ``zoo.adopt``; changed in place.
        num_keypoints: How many keypoints an object has.
        seed: Makes the new parameters reproducible without touching the global random state.

    Returns:
        The same model.

    Raises:
        UsageError: ``num_keypoints`` is not a positive whole number.
        NotSupported: The model finds no keypoints.

    Example:
        >>> import zoo_core as zoo
        >>> model = zoo.get("keypointrcnn_resnet50_fpn", weights=None, options={"weights_backbone": None})
        >>> zoo.swap_keypoints(model, 5).roi_heads.keypoint_predictor.kps_score_lowres.out_channels
        5
    """
    check_count("num_keypoints", num_keypoints)
    path = keypoint_site(model)
    with editing(model, "swap_keypoints", record={"num_keypoints": num_keypoints}) as edit:
        bare = edit.model
        old = bare.get_submodule(path)
        if not isinstance(old, nn.ConvTranspose2d):
            raise NotSupported(f"{path!r} is a {type(old).__name__}, and zoo replaces transposed convolutions only")
        with on_the_cpu(), seeded(seed, bare):
            new = nn.ConvTranspose2d(old.in_channels, num_keypoints, kernel_size=4, stride=2, padding=1)
            # as torchvision's KeypointRCNNPredictor begins
            nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(new.bias)  # type: ignore[arg-type]  # there is a bias unless it is asked not to be
        new.to(old.weight)
        if follows(old, bare):
            lay_last(new)
        bare.set_submodule(path, new.train(old.training))
    return model


def keypoint_site(model: nn.Module) -> str:
    """Path of the layer that draws a map for each keypoint.

    Raises:
        NotSupported: The model finds no keypoints.
    """
    path = anatomy_of(model).keypoints
    if path is None:
        raise NotSupported(
            f"this {type(unwrap(model)).__name__} finds no keypoints",
            hint="zoo list --task keypoints names the models that do",
        )
    return path
