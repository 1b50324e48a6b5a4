"""A clip of a video file, as frames that are evenly spread over it; needs PyAV."""

from __future__ import annotations

import io
import os
from typing import Any

from zoo_core.errors import ImageError, ZooError
from zoo_core.images.read import ReadImage, read

_CLIP_AXES = 4


def read_clip(item: object, name: str, frames: int) -> ReadImage:
    """A video clip ``[T, C, H, W]``: all frames of a tensor or an array, or frames evenly spread over a file.

    Frames of a file are turned upright as it says. Where it has too few, they are repeated, which the note says.

    Args:
        item: A path, bytes, an open file, a tensor ``[T, C, H, W]``, or an array ``[T, H, W, C]``.
        name: What to call it in an error.
        frames: How many frames of a file.

    Raises:
        ImageError: It cannot be read; the message names it.
        ZooError: PyAV is not installed.

    Example:
        >>> import torch
        >>> read_clip(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), "clip", 4).size
        (8, 8)
    """
    import torch

    if isinstance(item, ImageError):
        raise item
    if isinstance(item, torch.Tensor) or hasattr(item, "__array__"):
        return ReadImage(_from_frames(item, name))
    if isinstance(item, bytes | bytearray | memoryview):
        item = io.BytesIO(item)
    if not (isinstance(item, str | os.PathLike) or hasattr(item, "read")):
        raise ImageError(
            f"{name}: {type(item).__name__} is no video",
            expected="a path, bytes, a tensor [T, C, H, W] or an array [T, H, W, C]",
            hint="np.stack(frames) makes one clip of several images",
            name=name,
        )
    return _decoded(item, name, frames)


def _from_frames(clip: Any, name: str) -> Any:
    """The frames of a video clip, each checked as an image is."""
    import torch

    if clip.ndim != _CLIP_AXES or not len(clip):
        expected = "a tensor [T, C, H, W], or an array [T, H, W, C]"
        hint = "np.stack(frames) makes one clip of several images"
        raise ImageError(f"{name}: {list(clip.shape)} is no clip", expected=expected, hint=hint, name=name)
    frames = [read(frame, f"{name}, frame {i}").image for i, frame in enumerate(clip)]
    return torch.stack([frame if isinstance(frame, torch.Tensor) else _to_tensor(frame) for frame in frames])


def _to_tensor(image: Any) -> Any:
    from torchvision.transforms.v2 import functional

    return functional.pil_to_tensor(image)


def _decoded(item: Any, name: str, frames: int) -> ReadImage:
    """The frames of a video file that are evenly spread over it, decoded by PyAV."""
    import torch

    try:
        import av
    except ImportError as error:
        raise ZooError(
            "videos are read by PyAV, which is not installed", hint="pip install 'zoo-core[video]'"
        ) from error
    try:
        # twice through the file, since few say how many frames they have: what is held is the clip, and not the video
        total = sum(1 for _ in _frames_of(av, item))
        chosen = [(2 * i + 1) * total // (2 * frames) for i in range(frames)] if total else []
        kept = {
            i: torch.from_numpy(frame.to_ndarray(format="rgb24")).rot90(round(frame.rotation / 90))
            for i, frame in enumerate(_frames_of(av, item))
            if i in chosen
        }
    except FileNotFoundError as error:
        raise ImageError(f"{name}: no such file", hint="check the path", name=name) from error
    except (OSError, ValueError) as error:  # PyAV's errors are these too
        raise ImageError(
            f"{name}: no video that can be read",
            cause=f"{type(error).__name__}: {error}",
            hint="leave it out, or convert it to MP4",
            name=name,
        ) from error
    if not kept:
        raise ImageError(
            f"{name}: no frames in this video", hint="replace it by a whole copy, or leave it out", name=name
        )
    few = f"{total} frame{'' if total == 1 else 's'}, repeated for the {frames} that the model takes"
    return ReadImage(torch.stack([kept[i] for i in chosen]).permute(0, 3, 1, 2), few if total < frames else "")


def _frames_of(av: Any, item: Any) -> Any:
    """All frames of a video file, one after another."""
    if hasattr(item, "seek"):
        item.seek(0)
    with av.open(os.fspath(item) if isinstance(item, os.PathLike) else item) as container:
        yield from container.decode(video=0)
