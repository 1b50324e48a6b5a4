"""Initializing layers afresh, by kind of layer, reproducibly, and with the receipt kept true."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.weight_norm import WeightNorm

from zoo_core.errors import UnknownArgument, UsageError
from zoo_core.surgery.editing import editing
from zoo_core.surgery.layers import is_bias, is_norm, own_tensors
from zoo_core.surgery.metadata import receipt_of, unwrap
from zoo_core.surgery.select import select, tensor_names
from zoo_core.text import close_matches, did_you_mean
from zoo_core.utils.arguments import strict_arguments
from zoo_core.utils.random_state import seeded

Model = TypeVar("Model", bound=nn.Module)
Fill = Callable[["Tensor"], object]
"""Fills a tensor in place, as the functions of ``torch.nn.init`` do."""

Rule = Callable[[nn.Module], Fill | None]
"""What fills the weights of a layer; None for a layer that is left alone."""

Scheme = str | Fill | Mapping[type[nn.Module], str | Fill]


def _identity_(weight: Tensor) -> Tensor:
    """Initialize a weight to hand on what its layer is given: ones on the diagonal, or in the middle of a kernel."""
    return nn.init.eye_(weight) if weight.dim() == 2 else nn.init.dirac_(weight)  # noqa: PLR2004 - rows and columns


def _sparse_(weight: Tensor, sparsity: float = 0.9, std: float = 0.01) -> Tensor:
    """Sparse initialization as torch has it, for convolutions too: what one output is computed from is a row."""
    nn.init.sparse_(weight.view(len(weight), -1), sparsity, std)
    return weight


SCHEMES: Mapping[str, Callable[..., object]] = {
    "xavier_uniform": nn.init.xavier_uniform_,
    "xavier_normal": nn.init.xavier_normal_,
    "kaiming_uniform": nn.init.kaiming_uniform_,
    "kaiming_normal": nn.init.kaiming_normal_,
    "trunc_normal": nn.init.trunc_normal_,
    "uniform": nn.init.uniform_,
    "normal": nn.init.normal_,
    "constant": nn.init.constant_,
    "zeros": nn.init.zeros_,
    "ones": nn.init.ones_,
    "identity": _identity_,
    "eye": nn.init.eye_,
    "dirac": nn.init.dirac_,
    "orthogonal": nn.init.orthogonal_,
    "sparse": _sparse_,
}

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

_LAYERS = (
    nn.Linear,
    nn.Bilinear,
    nn.modules.conv._ConvNd,  # noqa: SLF001 - the base of all convolutions, transposed ones too
    nn.Embedding,
    nn.EmbeddingBag,
    nn.MultiheadAttention,
    nn.RNNBase,
    nn.RNNCellBase,
)

_ones: Fill = nn.init.ones_
_OF_NORMS = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0, "num_batches_tracked": 0.0}


@strict_arguments
def init_weights(
    module: Model,
    scheme: Scheme,
    *,
    where: str | Sequence[str] = "all",
    bias: float | None = 0.0,
    options: Mapping[str, object] | None = None,
    seed: int | None = None,
) -> Model:
    """Initialize layers afresh: weights by a scheme, biases by a constant, norms so that they change nothing.

    Linear layers, convolutions, transposed ones, embeddings, attention and recurrent layers get the scheme. What is one
    tensor but several layers counts as several: the three projections of attention, the gates of recurrent layers and
    the groups of a transposed convolution, whose fan-in is also counted the right way round. Norms get weight 1, bias 0
    and fresh running statistics. A weight that is computed becomes what the scheme says where that can be turned round,
    as weight norm can; a spectral norm, or an orthogonal weight, is computed from what the scheme says. Parameters
    outside these layers, such as class tokens, stay as they are. The receipt of a model that zoo knows calls what was
    changed ``initialized``.

    Args:
        module: A model or any other module; changed in place.
        scheme: ``"xavier_uniform"``, ``"xavier_normal"``, ``"kaiming_uniform"``, ``"kaiming_normal"``,
            ``"trunc_normal"``, ``"uniform"``, ``"normal"``, ``"constant"``, ``"zeros"``, ``"ones"``, ``"identity"``,
            ``"eye"`` and ``"dirac"`` (its two halves, as torch has them), ``"orthogonal"``, ``"sparse"``; a function
            that fills a tensor in place; or a mapping from classes of layers to either, which
            leaves layers of other classes alone. A norm is given a scheme only by such a mapping.
        where: ``"all"``; ``"new"`` for what the receipt calls initialized, such as a new head; or what :func:`freeze`
            understands.
        bias: What biases of these layers become; None keeps them.
        options: Arguments of torch's own function for a scheme given by name, such as ``{"mode": "fan_out"}`` or
            ``{"val": 0.5}``.
        seed: Makes it reproducible without touching the global random state.

    Returns:
        The same module.

    Raises:
        UsageError: The scheme or an option does not exist or cannot fill a layer, or no layer is meant. Layers before
            the one that cannot be filled are initialized.
        UnknownPart: A name in ``where`` matches nothing.
        NotAZooModel: ``where`` names parts, and zoo knows nothing about the module.

    Example:
        >>> import zoo_core as zoo
        >>> model = zoo.get("tiny/glyphnet", num_classes=9)
        >>> _ = zoo.init_weights(model, "xavier_uniform", where="new", seed=0)
        >>> model.fc.bias.abs().sum().item(), model.fc.weight.abs().max().item() <= (6 / (64 + 9)) ** 0.5
        (0.0, True)
    """
    rule = _rule(scheme, options)
    bare = unwrap(module)
    names = _where(bare, (where,) if isinstance(where, str) else tuple(where))
    done: dict[str, Tensor] = {}
    with editing(module, "init_weights") as edit, seeded(seed, bare), torch.no_grad():
        for name, layer, tensor in _tensors(bare):
            is_shared = any(tensor is other for other in done.values())
            if name in names and not is_shared and _initialize(layer, name, tensor, rule, bias):
                done[name] = tensor
                edit.outcomes[name] = "initialized"
        for path, layer in bare.named_modules():
            computed = _initialize_computed(layer, f"{path}." if path else "", names, rule, bias)
            done.update(computed)
            edit.outcomes.update(dict.fromkeys(computed, "initialized"))
    if not done:
        raise UsageError(
            f"no layer of this {type(bare).__name__} was initialized",
            got=f"where={where!r}, which names {len(names)} tensors, none of a layer that the scheme is for",
            hint="print(module) shows the layers and their classes",
        )
    return module


def _where(module: nn.Module, words: tuple[str, ...]) -> set[str]:
    """Names of tensors to initialize, as words or patterns say; ``new`` means what the receipt calls initialized."""
    if words == ("all",):
        return set(tensor_names(module))
    result = set(select(module, others)) if (others := [word for word in words if word != "new"]) else set()
    if "new" in words:
        result |= set(receipt_of(module).names("initialized"))
        if not result:
            raise UsageError(f"nothing in this {type(module).__name__} is new", got=str(receipt_of(module)))
    return result


def _tensors(module: nn.Module) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Name, owner and value of each tensor that may be initialized; a shared one comes under each of its names."""
    for path, layer in module.named_modules():
        for name, tensor in own_tensors(layer).items():
            yield f"{path}.{name}" if path else name, layer, tensor


def _initialize(layer: nn.Module, full_name: str, tensor: Tensor, rule: Rule, bias: float | None) -> bool:
    """Initialize one tensor of a layer; False for what the rule is not for."""
    fill, name = rule(layer), full_name.rpartition(".")[2]
    if fill is None:
        return False
    if is_norm(layer) and name != "weight":
        if name in _OF_NORMS:
            tensor.fill_(_OF_NORMS[name])
        return name in _OF_NORMS
    if is_bias(name):
        if bias is not None:
            tensor.fill_(bias)
        return bias is not None
    if _weight_norm(layer, name.removesuffix("_g") + "_v") is not None and name.endswith("_g"):
        return True  # it goes with its direction
    if "weight" not in name or not (is_norm(layer) or isinstance(tensor, nn.Parameter)):  # such as weight_mask
        return False
    for piece in _pieces(layer, name, tensor, fill):
        # Schemes want memory in the order of the axes, which neither a transposed view nor channels_last has.
        piece.copy_(_filled(piece.clone(memory_format=torch.contiguous_format), fill, layer))
    _set_gain(layer, name, tensor)
    padding = getattr(layer, "padding_idx", None)
    if isinstance(layer, nn.Embedding | nn.EmbeddingBag) and padding is not None:
        tensor[padding] = 0
    return True


def _weight_norm(layer: nn.Module, name: str) -> WeightNorm | None:
    """The hook of ``torch.nn.utils.weight_norm`` that a tensor to initialize is the direction of."""
    hooks = layer._forward_pre_hooks.values()  # noqa: SLF001 - where torch keeps it
    return next((each for each in hooks if isinstance(each, WeightNorm) and f"{each.name}_v" == name), None)


def _set_gain(layer: nn.Module, name: str, direction: Tensor) -> None:
    """Give a layer with a weight norm the gain by which its weight is the very direction that was filled."""
    if (hook := _weight_norm(layer, name)) is not None:
        gain = torch.norm_except_dim(direction, 2, hook.dim)
        if not gain.all():
            raise _unreachable(layer, name, "its weight norm has no direction at zero")
        getattr(layer, f"{hook.name}_g").copy_(gain)


def _initialize_computed(
    layer: nn.Module, path: str, names: set[str], rule: Rule, bias: float | None
) -> dict[str, Tensor]:
    """Initialize what ``torch.nn.utils.parametrize`` computes of a layer; the tensors that this sets, by name."""
    done: dict[str, Tensor] = {}
    for name, parts in getattr(layer, "parametrizations", {}).items() if parametrize.is_parametrized(layer) else ():
        start = f"{path}parametrizations.{name}"
        sources = {f"{start}.{each}": tensor for each, tensor in parts.named_parameters()}
        old = getattr(layer, name).detach().clone()
        value = nn.Parameter(old.clone(), requires_grad=False)
        if names.isdisjoint(sources) or not _initialize(layer, name, value, rule, bias):
            continue
        try:
            setattr(layer, name, value.data)
        except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
            raise _unreachable(layer, name, str(error).partition("\n")[0]) from error
        if not getattr(layer, name).isfinite().all():
            setattr(layer, name, old)
            raise _unreachable(layer, name, "its parametrization has no such value")
        done |= sources
    return done


def _unreachable(layer: nn.Module, name: str, cause: str) -> UsageError:
    return UsageError(
        f"the {name!r} of a {type(layer).__name__} is computed, and cannot become what the scheme says",
        cause=cause,
        hint="initialize the layer before that is put on it, or another scheme; a mapping from classes of layers to "
        "schemes leaves out the others",
    )


def _pieces(layer: nn.Module, name: str, weight: Tensor, fill: Fill) -> Sequence[Tensor]:
    """The matrices, rows for outputs and columns for inputs, in which a scheme initializes a weight."""
    if name == "in_proj_weight":
        return weight.chunk(3)
    if isinstance(layer, nn.RNNBase | nn.RNNCellBase):
        return weight.chunk(max(1, len(weight) // int(cast("Any", layer).hidden_size)))
    if isinstance(layer, _TRANSPOSED):
        return [piece.transpose(0, 1) for piece in weight.chunk(layer.groups)]
    if fill is _identity_ and isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return weight.chunk(layer.groups)
    return [weight]


def _filled(tensor: Tensor, fill: Fill, layer: nn.Module) -> Tensor:
    """A tensor initialized by a scheme; an error of the scheme names the layer and the shape."""
    try:
        fill(tensor)
    except (ValueError, TypeError, RuntimeError, IndexError) as error:
        raise UsageError(
            f"the scheme cannot fill the weight of a {type(layer).__name__}, of shape {list(tensor.shape)}",
            got=f"{type(error).__name__}: {error}",
            hint="a mapping from classes of layers to schemes leaves out the others",
        ) from error
    return tensor


def _rule(scheme: object, options: Mapping[str, object] | None) -> Rule:
    """What initializes the weights of a layer, by its class."""
    if isinstance(scheme, Mapping):
        if options is not None:
            raise UsageError(
                "options belong to one scheme, and a mapping has several",
                hint="functools.partial(torch.nn.init.normal_, std=0.02) carries its own",
            )
        fills = {_checked_class(kind): _fill(of_kind, {}) for kind, of_kind in scheme.items()}
        return lambda layer: next((fills[kind] for kind in type(layer).__mro__ if kind in fills), None)
    fill = _fill(scheme, options or {})
    return lambda layer: _ones if is_norm(layer) else fill if isinstance(layer, _LAYERS) else None


def _checked_class(kind: object) -> type[nn.Module]:
    """``kind`` as it is, when it is a class of layers that a scheme to initialize weights can be given for."""
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise UsageError(f"{kind!r} is not a class of layers", expected="a class such as torch.nn.Conv2d")
    return kind


def _fill(scheme: object, options: Mapping[str, object]) -> Fill:
    """The function that initializes a tensor by a scheme, with its options checked."""
    if callable(scheme):
        if options:
            raise UsageError("options are for a scheme given by name", hint="functools.partial carries arguments")
        return cast("Fill", scheme)
    if not isinstance(scheme, str) or scheme not in SCHEMES:
        matches = close_matches(scheme, SCHEMES) if isinstance(scheme, str) else ()
        raise UsageError(
            f"there is no scheme {scheme!r}",
            expected=f"one of {', '.join(SCHEMES)}; a function that fills a tensor; or a mapping of classes to either",
            hint=did_you_mean(matches, "torch.nn.init has more"),
        )
    function = SCHEMES[scheme]
    known = [name for name in inspect.signature(function).parameters if name not in {"tensor", "weight", "generator"}]
    for name in options:
        if name not in known:
            raise UnknownArgument(
                f"the scheme {scheme!r} has no option {name!r}",
                expected=", ".join(known) or "none",
                hint=did_you_mean(close_matches(name, known), "leave it out"),
                argument=name,
            )
    if scheme == "constant" and "val" not in options:
        raise UsageError("the scheme 'constant' needs a value", hint='options={"val": 0.5}')
    return partial(function, **options) if options else function
