"""Several outputs that each own a copy of the last stages, after one trunk that runs once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from zoo_core.contract.anatomy import Head
from zoo_core.contract.chain import Chain
from zoo_core.errors import NotSupported
from zoo_core.surgery.editing import editing
from zoo_core.surgery.features.cut import absent, front, needs_tap, refuse_auxiliary, tail
from zoo_core.surgery.features.extract import copied, stage_index, tap_in_place, tapped
from zoo_core.surgery.features.forward import recompose
from zoo_core.surgery.features.measure_stages import channels_of_map
from zoo_core.surgery.features.split import parameters_of, paths_of
from zoo_core.surgery.features.twin import pruned, replaced
from zoo_core.surgery.head.fit import HeadLike, fitted
from zoo_core.surgery.head.mlp import scores_only, with_output
from zoo_core.surgery.head.multi_head import Heads, check_names, check_unbranched, one_head
from zoo_core.surgery.head.scores import count_scores
from zoo_core.surgery.inputs import example_input
from zoo_core.surgery.metadata import anatomy_of, metadata_of, unwrap
from zoo_core.utils.arguments import strict_arguments
from zoo_core.utils.eval_mode import evaluating
from zoo_core.utils.random_state import seeded

if TYPE_CHECKING:
    from zoo_core.surgery.receipt import Outcome

Model = TypeVar("Model", bound=nn.Module)


class Branch(nn.Module):
    """The last stages of a model with its pool and a head of their own: a feature map to scores.

    Attributes:
        body: The modules it runs, under the paths they had in the model.
        site: The path of its head in there.
    """

    def __init__(
        self,
        body: nn.Module,
        site: str,
        stages: Chain,
        pool: Callable[[Any, Any], Any],
        classify: Callable[[Any, Any], Any],
    ) -> None:
        super().__init__()
        self.body, self.site = body, site
        self.stages, self.pool, self.classify = stages, pool, classify

    def forward(self, x: Tensor) -> Any:
        """The trunk's feature map to scores."""
        x = self.stages(self.body, copied(x))  # which a layer may work on in place, while other branches need it
        return self.classify(self.body, self.pool(self.body, x))


@strict_arguments
def branch(model: Model, *, at: str, heads: Mapping[str, HeadLike], seed: int | None = None) -> Model:
    """Split the end of ``model`` into branches that share the trunk: each owns the stages from ``at`` on, and a head.

    The trunk runs once. Each branch begins as a deep copy of the stages, with the trained values and what is frozen,
    and ends with a new head. The model's class becomes a subclass
    of the same name, and the keys of its trunk stay; the branches lie where its head was,
    such as ``fc.colour.body.layer4.0.conv1.weight``, so that ``zoo.freeze(model, "backbone")`` leaves them trainable.

    Args:
        model: A model from ``zoo.get`` or ``zoo.adopt``; changed in place.
        at: Name of the first stage that each branch has for itself.
        heads: Name of each branch to its head: a number of classes, a ``zoo.mlp_head(...)``, or a module that takes
            what the head site gives.
        seed: Makes the new heads reproducible without touching the global random state.

    Returns:
        The same model; it now returns a dict of scores by name.

    Raises:
        UnknownPart: There is no such stage; the message lists the stages.
        UsageError: ``heads`` is empty, or a name or a head is impossible.
        HeadMismatch: A head does not take what the site gives.
        NotSupported: The stages of the model do not simply run one after another, nothing comes before ``at``, there
            are several head sites, or the model has branches already.
        NotAZooModel: zoo knows nothing about the model.

    Example:
        >>> import torch, zoo_core as zoo
        >>> model = zoo.get("resnet18", weights=None).eval()
        >>> scores = zoo.branch(model, at="layer4", heads={"colour": 3, "shape": 5})(torch.zeros(2, 3, 64, 64))
        >>> {name: tuple(tensor.shape) for name, tensor in scores.items()}
        {'colour': (2, 3), 'shape': (2, 5)}
    """
    check_names(heads)
    with editing(model, "branch", record={"at": at, "heads": heads}) as edit:
        bare, known, main = edit.model, metadata_of(model), _main(model)
        kept = stage_index(model, at)
        refuse_auxiliary(model, "branch")
        check_unbranched(known, main.path)
        x = example_input(bare)
        run, stages = front(bare, kept), tail(bare, kept, x)
        width = _width(bare, kept, run, x, at)
        after = one_head(known.anatomy)
        with seeded(seed, bare):
            new = {name: fitted(bare, main, scores_only(head) if after else head) for name, head in heads.items()}
        counts = [_scores_of_branch(head, main) for head in new.values()]
        branches = Heads(
            {name: _new_branch(bare, kept, stages, new[name], with_output(after, heads[name])) for name in heads}
        )
        trunk = [step for step in run.steps if isinstance(step, str)] if isinstance(run, Chain) else []
        gone = absent(bare, lambda depth: depth > kept, keep=[main.path, *trunk])  # by the anatomy of the whole model
        edit.anatomy = anatomy = replace(
            known.anatomy,
            heads=(replace(main, in_features=width, num_classes=sum(counts), kind="conv"),),
            stages=known.anatomy.stages[:kept],
            features=run,
            pool=None,
            classify=None,
            scores=None,
        )
        for path, place in gone.items():
            bare.set_submodule(path, place)
        bare.set_submodule(main.path, branches)
        for edge in needs_tap(run):
            tap_in_place(bare, edge)
        recompose(bare, anatomy)
        edit.outcomes |= _outcomes_of_branches(bare, main.path, known.receipt.tensors)
        edit.update(names=(), multi_label=False)
    return model


def _main(model: nn.Module) -> Head:
    """The main head site of a model that is to branch; NotSupported for a model that cannot."""
    anatomy = anatomy_of(model)
    if anatomy.main is None or anatomy.features is None:
        raise NotSupported(
            f"this {type(unwrap(model)).__name__} cannot branch",
            cause=anatomy.headless or "its family does not say where its features end",
            hint="models with a head and named stages can, such as torchvision's resnet18",
        )
    return anatomy.main


def _scores_of_branch(head: nn.Module, site: Head) -> int:
    """How many scores one branch gives: those of the head at its end, or of all heads there."""
    result = count_scores(head, site)
    return result if isinstance(result, int) else sum(result.values())


def _new_branch(
    model: nn.Module, kept: int, stages: Chain, head: nn.Module, after: Callable[[Any, Any], Any] | None
) -> Branch:
    """A branch that shares no tensor with the model; ``head`` becomes part of it, and ``after`` follows its site."""
    anatomy, site = anatomy_of(model), _main(model).path
    pool, classify = anatomy.pool or Chain(), after or Chain(site)
    paths = [paths_of(piece) for piece in (stages, pool, classify)]
    if None not in paths:
        own = [name for piece in (stages, pool, classify) for name in parameters_of(piece)]
        body = pruned(model, [*own, *(path for each in paths for path in each or ())])
    else:  # a function may use anything after the cut
        body = replaced(model, absent(model, lambda depth: depth <= kept, keep=[site]))
    body = copy.deepcopy(body)
    body.set_submodule(site, head)
    return Branch(body, site, stages, pool, classify).train(model.training)


def _width(model: nn.Module, kept: int, run: Callable[[Any, Any], Any], x: Tensor, at: str) -> int:
    """Channels of the feature map that the trunk gives to its branches."""
    if isinstance(run, Chain) and not run.steps:
        raise NotSupported(
            f"nothing comes before {at!r} that the branches could share",
            cause="it is the first that the model runs",
            hint="branch at a later stage, where there is one",
        )
    body = tapped(model, needs_tap(run))
    with torch.no_grad(), evaluating(body):
        result = run(body, x)
    if kept:
        result = anatomy_of(model).stages[kept - 1].map_in(body, result)
    return channels_of_map(result, anatomy_of(model).layout, x.dim() - 1)


def _outcomes_of_branches(model: nn.Module, site: str, before: Mapping[str, Outcome]) -> dict[str, Outcome]:
    """Where the tensors of each branch come from: a copy of one that the model had before it, or a new head."""
    result: dict[str, Outcome] = {}
    for name in model.state_dict():
        if name.startswith(f"{site}."):
            own = name.removeprefix(f"{site}.").partition(".body.")[2]
            result[name] = "initialized" if own.startswith(f"{site}.") else before.get(own, "loaded")
    return result
