"""What zoo knows of a model, carried by the model itself: deepcopy and pickle keep it, and forward never sees it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from zoo_core.errors import NotAZooModel
from zoo_core.surgery.head.describe import describe_all
from zoo_core.utils.arguments import strict_arguments_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from zoo_core.contract.anatomy import Anatomy, Head
    from zoo_core.contract.card import Card, Preprocessing, Weights
    from zoo_core.surgery.receipt import Outcome, Receipt

ATTRIBUTE = "_zoo"
"""Name of the attribute in which a model carries what zoo knows of it."""
WAY_BACK = "_zoo_way_back"
"""Name of the attribute in which a part of a model says what to do with the whole instead."""

_NEW_HEADS = {"swap_head", "branch", "truncate"}


@dataclass(frozen=True)
class Edit:
    """One act of surgery that changed the structure of a model, so that a recipe can repeat it.

    Attributes:
        verb: Name of the public function that did it, such as ``"swap_head"``.
        arguments: What it was given besides the model, as plain values and our own frozen records. A module that the
            user passed in is described here and lives in the model.
    """

    verb: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Knowledge:
    """What zoo knows of one model.

    Attributes:
        anatomy: Where its parts are now, after all surgery.
        receipt: What happened to its tensors.
        card: What it was built from; None for an adopted module.
        weights: What was loaded into it; None when nothing was, or a file of the user's own.
        options: What the constructor was given.
        edits: The acts of surgery since it was built, first to last.
        held: Paths of the norms that ``zoo.freeze`` holds in eval mode.
        names: What the classes are called, when the user said it.
        origin: The tag, source and digest of its first weights, for a model that was saved since.
        pictures: What a picture goes through on its way in, for a model that was saved since.
        example: One sample of what forward takes, for a module that was traced.
    """

    anatomy: Anatomy
    receipt: Receipt
    card: Card | None = None
    weights: Weights | None = None
    options: Mapping[str, object] = field(default_factory=dict)
    edits: tuple[Edit, ...] = ()
    held: frozenset[str] = frozenset()
    names: tuple[str, ...] = ()
    origin: Mapping[str, str] = field(default_factory=dict)
    pictures: Preprocessing | None = None
    example: Any = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the classes are called: as the user said, or as the weights say while their head is in its place."""
        if self.names or self.weights is None or any(edit.verb in _NEW_HEADS for edit in self.edits):
            return self.names
        return self.weights.class_names

    @property
    def preprocessing(self) -> Preprocessing | None:
        """What a picture goes through on its way in, with as many channels as the weights had; None if nobody said."""
        return self.pictures or (self.weights.preprocessing if self.weights else None)


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside DDP, DataParallel or ``torch.compile``; any other module is itself."""
    while True:
        if isinstance(model, DistributedDataParallel | DataParallel):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = cast("nn.Module", model._orig_mod)  # noqa: SLF001 - the name torch.compile gives it, and the only one
        else:
            return model


def attach(model: nn.Module, knowledge: Knowledge) -> None:
    """Make ``model`` carry this knowledge."""
    model.__dict__[ATTRIBUTE] = knowledge


def is_known(model: nn.Module) -> bool:
    """Whether zoo knows something about ``model``."""
    return isinstance(unwrap(model).__dict__.get(ATTRIBUTE), Knowledge)


def knowledge_of(model: nn.Module) -> Knowledge:
    """What zoo knows of ``model``.

    Raises:
        NotAZooModel: It came neither from ``zoo.get`` nor through ``zoo.adopt``.
    """
    found: Any = unwrap(model).__dict__.get(ATTRIBUTE) if isinstance(model, nn.Module) else None
    if not isinstance(found, Knowledge):
        raise NotAZooModel(
            f"zoo knows nothing about this {type(model).__name__}",
            expected="a model from zoo.get, or one given to zoo.adopt",
            hint=getattr(
                model, WAY_BACK, "zoo.adopt(model, example=x), with x what forward takes, finds where its parts are"
            ),
        )
    return found


@strict_arguments_of("anatomy")
def anatomy_of(model: nn.Module) -> Anatomy:
    """Where the parts of ``model`` are: head sites, stem, stages, and how forward splits.

    Args:
        model: A model from ``zoo.get`` or ``zoo.adopt``; DDP and ``torch.compile`` wrappers are looked through.

    Raises:
        NotAZooModel: zoo knows nothing about it.

    Example:
        >>> import zoo_core as zoo
        >>> site = zoo.anatomy(zoo.get("resnet18", weights=None)).main
        >>> site.path, site.in_features, site.num_classes
        ('fc', 512, 1000)
    """
    return knowledge_of(model).anatomy


@strict_arguments_of("receipt")
def receipt_of(model: nn.Module) -> Receipt:
    """What happened to every tensor of ``model`` on the way in.

    Args:
        model: A model from ``zoo.get`` or ``zoo.adopt``; DDP and ``torch.compile`` wrappers are looked through.

    Raises:
        NotAZooModel: zoo knows nothing about it.

    Example:
        >>> import zoo_core as zoo
        >>> print(zoo.receipt(zoo.get("tiny/glyphnet", num_classes=9)).names("initialised"))
        ('fc.weight', 'fc.bias')
    """
    return knowledge_of(model).receipt


@strict_arguments_of("class_names")
def class_names_of(model: nn.Module) -> tuple[str, ...]:
    """What the classes of ``model`` are called, in the order of its scores; empty when nobody said.

    Args:
        model: A model from ``zoo.get``, ``zoo.load`` or ``zoo.adopt``.

    Raises:
        NotAZooModel: zoo knows nothing about it.

    Example:
        >>> import zoo_core as zoo
        >>> zoo.class_names(zoo.get("tiny/glyphnet"))[:3]
        ('A', 'B', 'C')
    """
    return knowledge_of(model).class_names


def record_new_heads(model: nn.Module, heads: tuple[Head, ...], removed: Iterable[str], added: Iterable[str]) -> None:
    """Bring the knowledge of ``model`` up to date after its head sites were replaced."""
    known = knowledge_of(model)
    anatomy = replace(known.anatomy, heads=heads)
    held = frozenset(path for path in known.held if not any(f"{path}.".startswith(f"{head.path}.") for head in heads))
    receipt = known.receipt.with_new(removed, added)
    names = known.names if anatomy.main is None or len(known.names) == anatomy.main.num_classes else ()
    attach(unwrap(model), replace(known, anatomy=anatomy, held=held, receipt=receipt, names=names))


def record_new_stem(model: nn.Module, names: Iterable[str], *, drawn: bool) -> None:
    """Bring the knowledge of ``model`` up to date after tensors of its stem changed; ``drawn`` says at random."""
    known = knowledge_of(model)
    before = known.receipt.tensors
    now: dict[str, Outcome] = {
        name: "initialised" if drawn or before.get(name) == "initialised" else "adapted" for name in names
    }
    receipt = replace(known.receipt, tensors={**before, **now})
    attach(unwrap(model), replace(known, anatomy=replace(known.anatomy, scaling=None), receipt=receipt))


def record_edit(model: nn.Module, verb: str, **arguments: Any) -> None:  # noqa: ANN401 - whatever the verb was given
    """Add an act of surgery to what is known of ``model``; modules among the arguments are described, not kept."""
    known = knowledge_of(model)
    edit = Edit(verb, {name: describe_all(value) for name, value in arguments.items()})
    attach(unwrap(model), replace(known, edits=(*known.edits, edit)))


anatomy, class_names, receipt = anatomy_of, class_names_of, receipt_of  # what the package calls them
