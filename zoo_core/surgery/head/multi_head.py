"""Several heads on one site: a dict of scores from one backbone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from threading import local
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from zoo_core.contract.anatomy import Anatomy, Head
from zoo_core.contract.chain import Chain, Step
from zoo_core.errors import NotSupported, UsageError
from zoo_core.surgery.changed_by_hand import OWN_FORWARD, RANDOM
from zoo_core.surgery.head.mlp import WithOutput, output_of

if TYPE_CHECKING:
    from zoo_core.surgery.metadata import Metadata


_EXAMPLE = 'names and heads, such as {"colour": 3, "shape": 5}'


class _Choice(local):
    """Which of several heads the call that this thread is in runs at every site; None for all of them."""

    name: str | None = None


_CHOICE = _Choice()


class Heads(nn.ModuleDict):
    """Named heads side by side: each is given the same features, and the scores come out by name.

    Example:
        >>> import torch
        >>> scores = Heads({"colour": nn.Linear(8, 3), "shape": nn.Linear(8, 5)})(torch.zeros(2, 8))
        >>> {name: tuple(tensor.shape) for name, tensor in scores.items()}
        {'colour': (2, 3), 'shape': (2, 5)}
    """

    def forward(self, x: Tensor) -> dict[str, Tensor] | Tensor:
        """What the site is given, to a dict of scores; or to those of one head, while :class:`EachHead` runs it."""
        if _CHOICE.name is not None:
            return self[_CHOICE.name](x)  # type: ignore[no-any-return]  # the scores of one head
        return {name: head(x) for name, head in self.items()}


class PerHead(Chain):
    """What follows the head site of a multi-head model, once for each head that stands there: scores by name.

    Attributes:
        path: The site.
        names: The heads that stand there.
        whole: The chain as it was for one head.
        outputs: What follows the output of each.
    """

    path: str
    names: tuple[str, ...]
    whole: Chain
    outputs: tuple[tuple[nn.Module, ...], ...]

    def __init__(self, chain: Chain, path: str, heads: Mapping[str, object]) -> None:
        super().__init__(*chain.steps)
        object.__setattr__(self, "path", path)
        object.__setattr__(self, "names", tuple(heads))
        object.__setattr__(self, "whole", chain)
        object.__setattr__(self, "outputs", tuple(output_of(head) for head in heads.values()))

    def __call__(self, model: nn.Module, x: Tensor) -> Any:
        """Run the chain once for each head."""
        return {
            name: Chain(*self._steps_of(name), *output)(model, x)
            for name, output in zip(self.names, self.outputs, strict=True)
        }

    def _steps_of(self, name: str) -> Iterator[Step]:
        return (f"{self.path}.{name}" if step == self.path else step for step in self.steps)


@dataclass(frozen=True)
class EachHead:
    """What a family does with several heads side by side: what it does with one, once for each of them.

    Where that gives several tensors by name, such as ``"out"`` and ``"aux"``, each of them becomes a dict of heads.

    Attributes:
        whole: ``(model, pooled)`` to the scores, as it was for one head at each site.
        names: The heads that stand there.
        outputs: What follows the output of each.
    """

    whole: Callable[[Any, Any], Any]
    names: tuple[str, ...]
    outputs: tuple[tuple[nn.Module, ...], ...]

    @property
    def uses(self) -> tuple[str, ...]:
        """Names of the model's own parameters that belong to the heads."""
        return tuple(getattr(self.whole, "uses", ()))

    def __call__(self, model: nn.Module, pooled: Any) -> dict[str, Any]:
        """What the head sites are given to scores by name."""
        result: dict[str, Any] = {}
        outer = _CHOICE.name
        try:
            for name, output in zip(self.names, self.outputs, strict=True):
                _CHOICE.name = name
                result[name] = WithOutput(self.whole, output)(model, pooled)
        finally:
            _CHOICE.name = outer
        first = result[self.names[0]]
        if not isinstance(first, Mapping):
            return result
        return {key: {name: result[name][key] for name in self.names} for key in first}


def check_names(heads: Mapping[str, object]) -> None:
    """Raise UsageError unless these are several heads for one site: a dict of them by names that modules can have."""
    if not isinstance(heads, Mapping):
        raise UsageError(f"heads cannot be {heads!r}", expected=_EXAMPLE, got=f"a {type(heads).__name__}")
    if not heads:
        raise UsageError("a dict of heads is empty", expected=_EXAMPLE)
    for name, head in heads.items():
        if isinstance(head, Mapping):
            raise UsageError(
                f"the head {name!r} is a dict of heads itself",
                expected=f"one level of {_EXAMPLE}",
                hint=f"give them side by side, such as {', '.join(repr(f'{name}_{inner}') for inner in head)}",
            )
        if not isinstance(name, str) or not name or "." in name or hasattr(nn.ModuleDict, name) or name == "training":
            raise UsageError(
                f"a head cannot be called {name!r}",
                expected="a string without dots that is not the name of an attribute of torch.nn.ModuleDict",
                hint=f"call it {f'{name}_head'!r}" if isinstance(name, str) and name and "." not in name else None,
            )


def check_unbranched(known: Metadata, path: str) -> None:
    """Raise NotSupported where several heads cannot go to ``path``: branches with layers of their own are there."""
    done = next((edit for edit in known.edits if edit.verb == "branch"), None)
    if done is not None:
        name = next(iter(done.arguments["heads"]))
        raise NotSupported(
            f"this model has branches already, from {done.arguments['at']!r} on, and would lose the layers in them",
            cause=f"the stages that each branch owns lie at the head site {path!r}, such as {path}.{name}.body",
            hint=f"give zoo.branch all heads at once, on a model without branches; or change one layer by hand: "
            f"model.set_submodule('{path}.{name}.body.{path}', head)",
        )


_ONE_HEAD = "give it one head with as many scores as all of them together, and split the tensor it returns"


def check_sites(sites: tuple[Head, ...], anatomy: Anatomy) -> None:
    """Raise NotSupported where several heads cannot replace one: the model goes on with its scores in its own way."""
    splits = anatomy.classify is not None and anatomy.features is not None
    separate = {"main", "aux", "distilled", "summed"} if splits else {"main", "aux"}
    combined = [site for site in sites if site.role not in separate]
    if combined or any(site.per_class != 1 for site in sites):
        roles = ", ".join(dict.fromkeys(f"{site.path} ({site.role})" for site in combined or sites))
        raise NotSupported(
            "this model cannot return a dict of scores",
            cause=f"its own forward goes on computing with what its head sites give: {roles}",
            hint=_ONE_HEAD,
        )
    # with an auxiliary head alone, what cannot be split is that forward returns two scores
    if anatomy.indivisible not in {None, "", RANDOM} and (
        anatomy.indivisible == OWN_FORWARD or all(site.role == "main" for site in sites)
    ):
        raise NotSupported("this model cannot return a dict of scores", cause=anatomy.indivisible, hint=_ONE_HEAD)


def classify_each(anatomy: Anatomy, sites: tuple[Head, ...], heads: Mapping[str, object]) -> PerHead | EachHead | None:
    """The step after the head sites for a multi-head model, run once for each head; None where nothing follows them."""
    after = one_head(anatomy)
    if after is None:
        return None
    if isinstance(after, Chain) and len(sites) == after.steps.count(sites[0].path) == 1:
        return PerHead(after, sites[0].path, heads)
    outputs = tuple(output_of(head) for head in heads.values())
    return EachHead(after, tuple(heads), outputs)


def one_head(anatomy: Anatomy) -> Any:
    """What would follow the head site if one head were there instead of several, and nothing came after the output."""
    return anatomy.classify.whole if isinstance(anatomy.classify, PerHead | EachHead | WithOutput) else anatomy.classify
