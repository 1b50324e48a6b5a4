"""The heads of a timm model: the layers that score the classes, read from the built module.

timm's own ``get_classifier`` says where to look. It often returns a container, such as a batch norm and a linear layer
together, or a list of heads, so that the layer itself has to be found in there. What timm declares as ``classifier``
belongs to an architecture's name, and misses what options such as ``num_classes=0`` change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from torch import Tensor, nn

from zoo_core.plugin import AnatomyError, Head
from zoo_timm.combined_heads import Apart, Averaged, Concatenated, PlusBestPatch, Weighed, image_and_patches, two_tokens
from zoo_timm.timm_stages import row_for_class

Role = Literal["main", "aux", "distilled", "summed"]
Kind = Literal["linear", "conv"]

COMBINED = (Apart, Averaged, Concatenated, PlusBestPatch, Weighed, image_and_patches, two_tokens)
"""What models that were pickled by version 0.1 look for here."""
_LAYERS = (nn.Linear, nn.Conv2d, nn.Identity)

_ATTENTION_POOLS = {"AttentionPool2d", "RotAttentionPool2d"}

NAMES = {"fc", "fc2", "head", "head_dist", "l", "linear"}
"""What the scoring layer, or the container that holds it, is called within timm's classifier modules."""

_REPEATED = ("num_classes", "out_features")
"""Attributes in which a model, or a module around its head, repeats the number of classes."""

_MORE_HEADS: Mapping[str, tuple[tuple[str, Literal["aux", "summed"]], ...]] = {
    # A second head scores every patch, and half of the best is added; get_classifier knows the first alone.
    "VOLO": (("aux_head", "summed"),),
    # The auxiliary head of Inception, if the model is built with aux_logits=True.
    "InceptionV3": (("AuxLogits.fc", "aux"),),
}
"""The head sites that ``get_classifier`` leaves out."""

_SCORES_TOKENS = {"VOLO": ("aux_head",)}
"""The head sites that score every token; beside these, those of an attention pool."""

_CONVOLVED = {"DLA": True, "DPN": True}
"""Where the head is a convolution on the pooled map, and while there is none, nothing around its place says so."""

_UNPOOLED = {"EfficientViM": "built with global_pool='', it returns its feature maps and never calls its heads"}
"""Why a model that does not pool has no head."""

_NO_CLASSIFIER = (
    "its library made it an encoder for a language model, which has no classifier; it accepts num_classes= and ignores "
    "it. The architecture of the same name without _enc is the same network with a place for a head"
)
"""Why a model without ``get_classifier`` has no head."""


def heads(model: nn.Module) -> tuple[Head, ...]:
    """The head sites of a timm model, the main one first; a site without a layer yet has 0 classes.

    Args:
        model: A model of timm that has a classifier, whatever stands there now.

    Raises:
        AnatomyError: What stands at a site does not say how many features it takes.

    Example:
        >>> import timm
        >>> [site.path for site in heads(timm.create_model("repvit_m0_9"))]
        ['head.head.l', 'head.head_dist.l']
        >>> heads(timm.create_model("resnet18", num_classes=0))[0].in_features
        512
    """
    return tuple(_head(model, path, role) for path, role in sites(model))


def why_headless(model: nn.Module) -> str | None:
    """Why a timm model has no head; None where it has one."""
    if not hasattr(model, "get_classifier"):
        return _NO_CLASSIFIER
    return None if getattr(model, "global_pool", None) else row_for_class(model, _UNPOOLED)


def sites(model: Any) -> Iterator[tuple[str, Role]]:
    """Path and role of each head site of a timm model."""
    result = _classifier(model)
    paths = {module: path for path, module in model.named_modules()}
    main = True
    for number, branch in enumerate(result if isinstance(result, tuple) else (result,)):
        for path in _within(branch, paths[branch]):
            distilled = number > 0 or "head_dist" in path
            yield path, "main" if main else "distilled" if distilled else "summed"
            main = False
    for path, role in row_for_class(model, _MORE_HEADS) or ():
        if _has_module(model, path):
            yield path, role


def _classifier(model: Any) -> Any:
    """What timm calls the classifier of a model: its head, or several, or the empty place for one."""
    try:
        return model.get_classifier()
    except AttributeError:
        # Some look for a layer inside their head, although nothing is in there after num_classes=0.
        if isinstance(getattr(model, "head", None), nn.Identity):
            return model.head
        raise


def has_layer(module: nn.Module) -> bool:
    """Whether a layer stands at a head site of a timm model, and not only the place for one."""
    return not isinstance(module, nn.Identity)


def around(path: str) -> list[str]:
    """Paths of the modules around a head of a timm model, the whole model first.

    Example:
        >>> around("head.head.l")
        ['', 'head', 'head.head']
    """
    return ["", *(path[:end] for end, letter in enumerate(path) if letter == ".")]


def attends(model: nn.Module) -> bool:
    """Whether a timm model's head is an attention pool: it scores all tokens and takes one, as CLIP's ResNets do."""
    return type(getattr(model, "head", None)).__name__ in _ATTENTION_POOLS


def is_model(module: nn.Module) -> bool:
    """Whether a module is a whole model of timm, or of a class derived from one, in which heads are looked for.

    What ``features_only=True`` returns has no ``forward_features``, and its maps lead to no head.
    """
    mine = any(kind.__module__.startswith("timm.models.") for kind in type(module).__mro__)
    return mine and hasattr(module, "forward_features")


def is_timms(module: nn.Module) -> bool:
    """Whether the class of a module is timm's own, so that the heads of a timm model are looked for inside it."""
    return type(module).__module__.startswith("timm.")


def _within(module: nn.Module, path: str) -> Iterator[str]:
    """Paths of the scoring layers in what timm calls a classifier; a module that is not timm's is one itself."""
    if isinstance(module, _LAYERS) or not (is_timms(module) or isinstance(module, nn.ModuleList)):
        yield path
        return
    for name, child in module.named_children():
        unused = name == "head_dist" and not getattr(module, "distillation", True)
        if isinstance(module, nn.ModuleList) or (name in NAMES and not unused):
            yield from _within(child, f"{path}.{name}")


def _head(model: nn.Module, path: str, role: Role) -> Head:
    """The head site at a path of a timm model."""
    site = model.get_submodule(path)
    attributes = tuple(
        f"{owner}.{name}" if owner else name
        for owner in around(path)
        for name in _REPEATED
        if type(getattr(model.get_submodule(owner), name, None)) is int
    )
    layers = [layer for layer in site.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    if not layers and has_layer(site):
        raise AnatomyError(
            f"nothing at the head site {path!r} of this {type(model).__name__} says how many features it takes",
            expected="a linear layer or a convolution, or a module that holds one",
            got=repr(site),
        )
    return Head(
        path,
        in_features=_head_width(layers[0]) if layers else _width_without_layer(model, path),
        num_classes=layers[-1].weight.shape[0] if layers else 0,
        kind=_kind(model, path, layers[0] if layers else None),
        role=role,
        attributes=attributes if role == "main" else (),
        tokens=attends(model) or path in (row_for_class(model, _SCORES_TOKENS) or ()),
    )


def _kind(model: nn.Module, path: str, layer: nn.Module | None) -> Kind:
    """Whether a head of a timm model is a convolution or a linear layer, also where there is no layer yet."""
    if layer is not None:
        return "conv" if isinstance(layer, nn.Conv2d) else "linear"
    *_, owner = around(path)
    on_map = getattr(model.get_submodule(owner), "use_conv", False) if owner else row_for_class(model, _CONVOLVED)
    return "conv" if on_map else "linear"


def _head_width(layer: nn.Linear | nn.Conv2d) -> int:
    """Width of a head in timm: how many features its layer takes."""
    return layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels


def _width_without_layer(model: Any, path: str) -> int:
    """Width of a head site without a layer in timm: how many features it is given."""
    container, _, name = path.rpartition(".")
    holder = model.get_submodule(container)
    if isinstance(holder, nn.ModuleList):  # one head after each norm, which are not all of one width
        return int(model.norm[int(name)].weight.shape[0])
    for owner in (holder, model):
        for attribute in ("head_hidden_size", "num_features"):
            if type(size := getattr(owner, attribute, None)) is int:
                return size
    raise AnatomyError(f"{type(model).__name__} does not say how many features its head is given", got=path)


def _has_module(model: nn.Module, path: str) -> bool:
    """Whether a timm model has a module at the path of a head."""
    owner: Any = model
    for name in path.split("."):
        owner = getattr(owner, name, None)
    return isinstance(owner, nn.Module)


class _AllTokens:
    """Stands in for a head that is an attention pool, in its forward: it scores all tokens before one is picked."""

    def __init__(self, pool: nn.Module) -> None:
        self._of = pool

    def __getattr__(self, name: str) -> Any:
        return getattr(self._of, name)

    def _pool(self, tokens: Tensor, *_: int) -> Tensor:
        return tokens


def attended(model: Any, features: Tensor) -> Tensor:
    """What a head that is an attention pool is given: ``[N, C, H, W]`` to ``[N, 1 + H * W, C]``, all tokens."""
    result: Tensor = type(model.head).forward(_AllTokens(model.head), features, pre_logits=True)
    return result


def first_token(x: Tensor) -> Tensor:
    """The scores of a head that is an attention pool: ``[N, L, C]`` of all tokens to ``[N, C]``, of the first."""
    return x[:, 0]
