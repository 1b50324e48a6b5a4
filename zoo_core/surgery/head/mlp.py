"""A multi-layer head, described before its input size is known, and the activation that may come after its scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, Literal, get_args

from torch import Tensor, nn

from zoo_core.contract.anatomy import Head
from zoo_core.errors import NotSupported, UsageError
from zoo_core.utils.arguments import check_count, strict_arguments

Nonlinearity = Literal["relu", "gelu", "silu", "hardswish", "tanh"]
Activation = Literal["sigmoid", "softmax", "log_softmax", "tanh"]

_NONLINEARITIES: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
    "tanh": nn.Tanh,
}

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "softmax": partial(nn.Softmax, dim=1),
    "log_softmax": partial(nn.LogSoftmax, dim=1),
    "tanh": nn.Tanh,
}

_LAYERS: dict[str, tuple[Callable[..., nn.Module], Callable[..., nn.Module]]] = {
    "linear": (nn.Linear, nn.BatchNorm1d),
    "conv1d": (partial(nn.Conv1d, kernel_size=1), nn.BatchNorm1d),
    "conv": (partial(nn.Conv2d, kernel_size=1), nn.BatchNorm2d),
    "conv3d": (partial(nn.Conv3d, kernel_size=1), nn.BatchNorm3d),
}


class TokenNorm(nn.BatchNorm1d):
    """Batch norm for a multi-layer head on tokens, ``[N, L, C]``, channels last: over the images and their tokens."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize; the shape stays."""
        return super().forward(x.flatten(0, -2)).view_as(x)


class Squeeze(nn.Module):
    """The end of a binary multi-layer head: ``[N, 1, ...]`` to ``[N, ...]``, the single score without its axis."""

    def forward(self, x: Tensor) -> Tensor:
        """Drop axis 1."""
        return x.squeeze(1)


@dataclass(frozen=True)
class MLPHead:
    """The description of a multi-layer head; made by :func:`mlp_head`, built when it is put on a site."""

    num_classes: int
    hidden: tuple[int, ...] = ()
    batch_norm: bool = False
    dropout: float = 0.0
    nonlinearity: Nonlinearity | None = "relu"
    activation: Activation | None = None
    squeeze: bool = False

    def build(self, site: Head, **factory: Any) -> nn.Sequential:
        """The head for one site: linear layers, or 1x1 convolutions where the site takes a map.

        Args:
            site: Where it goes; gives the input size.
            **factory: ``device`` and ``dtype`` of the new parameters.
        """
        return nn.Sequential(*self._layers(site, factory))

    @property
    def output(self) -> tuple[nn.Module, ...]:
        """What follows the scores: activation and squeeze, as far as they are requested."""
        activation = (_ACTIVATIONS[self.activation](),) if self.activation else ()
        return (*activation, Squeeze()) if self.squeeze else activation

    @property
    def scores(self) -> MLPHead:
        """The same head without what follows its scores."""
        return replace(self, activation=None, squeeze=False)

    def _layers(self, site: Head, factory: dict[str, Any]) -> Iterator[nn.Module]:
        layer, norm = _LAYERS[site.kind]
        norm = TokenNorm if site.tokens else norm
        widths = (site.in_features, *self.hidden, self.num_classes)
        for depth, (width, following) in enumerate(pairwise(widths), start=1):
            yield layer(width, following, **factory)
            if depth <= len(self.hidden):
                yield from self._between(norm(following, **factory) if self.batch_norm else None)
        yield from self.output

    def _between(self, norm: nn.Module | None) -> Iterator[nn.Module]:
        if norm:
            yield norm
        if self.nonlinearity:
            yield _NONLINEARITIES[self.nonlinearity]()
        if self.dropout:
            yield nn.Dropout(self.dropout)


@strict_arguments
def mlp_head(
    num_classes: int,
    *,
    hidden: tuple[int, ...] = (),
    batch_norm: bool = False,
    dropout: float = 0.0,
    nonlinearity: Nonlinearity | None = "relu",
    activation: Activation | None = None,
    squeeze: bool = False,
) -> MLPHead:
    """Describe a head of several layers; its input size is filled in from the site it is put on.

    Each hidden layer is followed by batch norm, nonlinearity and dropout, in that order, as far as they are requested.

    Args:
        num_classes: Scores at the end.
        hidden: Widths of the hidden layers, first to last.
        batch_norm: Normalize after each hidden layer.
        dropout: Probability after each hidden layer; 0 for none.
        nonlinearity: After each hidden layer: ``"relu"``, ``"gelu"``, ``"silu"``, ``"hardswish"``, ``"tanh"`` or None.
        activation: After the scores: ``"sigmoid"``, ``"softmax"``, ``"log_softmax"``, ``"tanh"`` or None. Where a
            model goes on computing with the scores of its head site, as SqueezeNet does, it follows the output.
        squeeze: After that, drop the class axis of a single score, ``[N, 1]`` to ``[N]``.

    Raises:
        UsageError: A value is impossible; the message says what is possible.

    Example:
        >>> import zoo_core as zoo
        >>> model = zoo.get("resnet18", weights=None, head=zoo.mlp_head(9, hidden=(128,), dropout=0.2))
        >>> model.fc
        Sequential(
          (0): Linear(in_features=512, out_features=128, bias=True)
          (1): ReLU()
          (2): Dropout(p=0.2, inplace=False)
          (3): Linear(in_features=128, out_features=9, bias=True)
        )
    """
    check_count("num_classes", num_classes)
    _check_choice("nonlinearity", nonlinearity, get_args(Nonlinearity))
    _check_choice("activation", activation, get_args(Activation))
    if not isinstance(hidden, list | tuple) or any(type(width) is not int or width < 1 for width in hidden):
        raise UsageError(f"hidden cannot be {hidden!r}", expected="the widths of the hidden layers, such as (512, 256)")
    if not 0 <= dropout < 1:
        raise UsageError(f"dropout cannot be {dropout!r}", expected="a probability of at least 0 and under 1")
    if squeeze and num_classes != 1:
        raise UsageError(f"squeeze needs a single score, not {num_classes}", hint="num_classes=1")
    return MLPHead(num_classes, tuple(hidden), batch_norm, dropout, nonlinearity, activation, squeeze)


def _check_choice(name: str, value: str | None, choices: tuple[str, ...]) -> None:
    """Refuse an option of a multi-layer head that is none of its choices."""
    if value is not None and value not in choices:
        raise UsageError(f"{name} cannot be {value!r}", expected=f"None or one of {', '.join(choices)}")


@dataclass(frozen=True)
class WithOutput:
    """The activation and squeeze of an MLP head, after what a model does with the scores of its head site.

    Attributes:
        whole: What the model does with the scores, as its family gives it.
        output: Run on the output, or on each of them where the model returns a dict.
    """

    whole: Callable[[Any, Any], Any]
    output: tuple[nn.Module, ...]

    def __call__(self, model: nn.Module, pooled: Any) -> Any:
        """What the head sites are given to what the model returns."""
        result = self.whole(model, pooled)
        if isinstance(result, Mapping):
            return {name: self._finish(scores) for name, scores in result.items()}
        return self._finish(result)

    def _finish(self, scores: Tensor) -> Tensor:
        for module in self.output:
            scores = module.forward(scores)  # no call: FX takes only calls of modules that the model holds
        return scores


def with_output(after: Callable[[Any, Any], Any] | None, head: object) -> Callable[[Any, Any], Any] | None:
    """What follows a head site, ``after``, with the activation and squeeze of an MLP ``head`` at the end."""
    return after if after is None or not output_of(head) else WithOutput(after, output_of(head))


def output_of(head: object) -> tuple[nn.Module, ...]:
    """The activation and squeeze of an MLP head that has them after its scores; empty for any other head."""
    return head.output if isinstance(head, MLPHead) else ()


def scores_only(head: Any) -> Any:
    """An MLP ``head``, or each MLP head of several, without the activation and squeeze that it ends with."""
    if isinstance(head, Mapping):
        return {name: scores_only(each) for name, each in head.items()}
    return head.scores if isinstance(head, MLPHead) else head


def check_output(head: object, sites: tuple[Head, ...]) -> None:
    """Raise NotSupported where an MLP head's activation would come before what forward does with its scores."""
    heads = head.values() if isinstance(head, Mapping) else (head,)
    between = [site for site in sites if site.role not in {"main", "aux"} or site.per_class != 1]
    if between and any(output_of(each) for each in heads):
        raise NotSupported(
            "this model cannot have an activation or a squeeze after its output",
            cause="its own forward goes on computing with the scores of "
            + ", ".join(f"{site.path} ({site.role})" for site in between),
            hint="leave activation and squeeze out of zoo.mlp_head, and apply them to what the model returns",
        )
