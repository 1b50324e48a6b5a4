"""How deep each tensor of a model lies: the one ordering that freezing and layer decay read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo_core.surgery.metadata import anatomy_of, unwrap
from zoo_core.surgery.structure import under

if TYPE_CHECKING:
    from torch import nn


def tensor_names(model: nn.Module) -> list[str]:
    """Names of all parameters and buffers of ``model``, as registered; buffers after the parameters beside them."""
    names = [
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        for own in (module._parameters, module._buffers)  # noqa: SLF001 - named_* would drop tensors that are shared
        for name, tensor in own.items()
        if tensor is not None
    ]
    return list(dict.fromkeys(names))


def depths(model: nn.Module) -> dict[str, int]:
    """The depth of every parameter and buffer of ``model``.

    Returns:
        Tensor name to depth: 0 for the stem and whatever comes before the first stage, ``i`` for the ``i``-th stage,
        one more for what lies between the last stage and the head, and one more again for the head sites.

    Example:
        >>> import zoo_core as zoo
        >>> found = depths(zoo.get("resnet18", weights=None))
        >>> [found[name] for name in ("conv1.weight", "layer1.0.bn1.bias", "layer4.1.conv2.weight", "fc.bias")]
        [0, 1, 4, 6]
    """
    anatomy = anatomy_of(model)
    names = tensor_names(unwrap(model))
    after = len(anatomy.stages) + 1
    found: dict[str, int] = {}
    seen_a_stage = False
    for name in names:
        if any(under(name, head.path) for head in anatomy.heads):
            found[name] = after + 1
            continue
        stage = next((i for i, s in enumerate(anatomy.stages, 1) if any(under(name, path) for path in s.modules)), None)
        seen_a_stage = seen_a_stage or stage is not None
        in_stem = any(under(name, path) for path in anatomy.stem)
        found[name] = stage if stage is not None else 0 if in_stem or not seen_a_stage else after
    return found
