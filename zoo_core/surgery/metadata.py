"""The metadata that a model carries, what zoo knows of it: deepcopy and pickle keep it, forward never sees it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.utils._pytree import tree_leaves

from zoo_core.contract.anatomy import CANDIDATES, NO_LAYER, UNPROVEN, Anatomy
from zoo_core.contract.card import Card, Preprocessing, Weights
from zoo_core.errors import NotAZooModel, NotSupported
from zoo_core.registry.zoo import current_zoo
from zoo_core.surgery.adapters import plain_names
from zoo_core.surgery.changed_by_hand import head_is_near, reread, with_checked_split, with_own_forward
from zoo_core.surgery.features.forward import is_recomposed
from zoo_core.surgery.features.measure_stages import with_live_maps
from zoo_core.surgery.head.describe import describe
from zoo_core.surgery.structure import Structure, modules_around_parts, structure_of, under
from zoo_core.utils.arguments import strict_arguments_of
from zoo_core.utils.compiled import as_before_compile, without_compiled

if TYPE_CHECKING:
    from zoo_core.surgery.receipt import Outcome, Receipt


ATTRIBUTE = "_zoo"
"""Name of the attribute in which a model carries what zoo knows of it."""
WHOLE = "_zoo_model"
"""Name of the attribute in which a backbone keeps the model that it was split off from, which holds all its tensors."""
BY_HAND = "changed by hand"
"""The note of a receipt on a tensor that was put in without zoo."""
WAY_BACK = "_zoo_way_back"
"""Name of the attribute in which a part of a model says what to do with the whole instead."""

_NEW_HEADS = {"swap_head", "branch", "truncate", "encoder"}


@dataclass(frozen=True)
class Edit:
    """Entry of a model's metadata: one act of surgery that changed it, so that a recipe can repeat it.

    Attributes:
        verb: Name of the public function that did it, such as ``"swap_head"``.
        arguments: What it was given besides the model, as plain values and our own frozen records. A module that the
            user passed in is described here and lives in the model.
        by_hand: Whether it stands for what the user did without zoo.
    """

    verb: str
    arguments: Mapping[str, Any]
    by_hand: bool = False


@dataclass(frozen=True)
class Metadata:
    """What zoo knows of one model, which that carries.

    Attributes:
        anatomy: Where its parts are now, after all surgery.
        receipt: What happened to its tensors.
        card: What it was built from; None for an adopted module.
        weights: What was loaded into it; None when nothing was, or a file of the user's own.
        options: What the constructor was given.
        edits: The acts of surgery since it was built, first to last.
        held: Paths of the norms, and of other modules with statistics, that ``zoo.freeze`` holds in eval mode.
        moving: Paths of the norms in frozen parts whose statistics may move, because ``zoo.freeze`` was told so.
        names: What the classes are called, when the user said it.
        origin: The tag, source and digest of its first weights, for a model that was saved since.
        own_preprocessing: What was set or saved for this model, instead of that of its weights.
        example: One sample of what forward takes, for a module that was traced.
        family: Name of the family whose plugin reads the anatomy; empty where that was traced.
        structure: Names and shapes of the tensors that the anatomy was read from.
        own_layers: Paths of layers that were put in by hand, which are new whatever was loaded into them since.
        multi_label: Whether an image has any number of the classes, each likely by itself, when the user said so.
    """

    anatomy: Anatomy
    receipt: Receipt
    card: Card | None = None
    weights: Weights | None = None
    options: Mapping[str, object] = field(default_factory=dict)
    edits: tuple[Edit, ...] = ()
    held: frozenset[str] = frozenset()
    moving: frozenset[str] = frozenset()
    names: tuple[str, ...] = ()
    origin: Mapping[str, str] = field(default_factory=dict)
    own_preprocessing: Preprocessing | None = None
    example: Any = None
    family: str = ""
    structure: Structure | None = None
    own_layers: frozenset[str] = frozenset()
    multi_label: bool = False

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the classes are called: as the user said, or as the weights say while their head is in its place."""
        if self.names or self.weights is None or any(map(self._replaces_head, self.edits)):
            return self.names
        return self.weights.class_names

    @property
    def built_by(self) -> str:
        """Name of the family whose library made the model; empty where none did."""
        return self.card.family if self.card else self.family

    def _replaces_head(self, edit: Edit) -> bool:
        sites = [head.path for head in self.anatomy.heads]
        changed = [path for _, paths in edit.arguments.get("layers", ()) for path in paths] if edit.by_hand else []
        return edit.verb in _NEW_HEADS or any(under(a, b) or under(b, a) for a in changed for b in sites)

    @property
    def preprocessing(self) -> Preprocessing | None:
        """What an image goes through before the model, with as many channels as the weights had; None if unknown."""
        return self.own_preprocessing or (self.weights.preprocessing if self.weights else None)

    @property
    def is_traced(self) -> bool:
        """Whether the anatomy was traced, so that values which forward reads from attributes are constants in it."""
        if self.example is not None or self.card is None or self.family:
            return self.example is not None
        claims = current_zoo().claims.get(self.card.family, ())
        return bool(claims) and claims[0].family.anatomy is None

    def designed_size(self, model: nn.Module) -> tuple[int, ...]:
        """Size of the images that ``model`` was built for: of its card, or its constructor where that was told.

        Returns:
            Channels of its card, rows and columns; for video what its card says.
        """
        size = self.card.input_size if self.card else (3, 224, 224)
        sides = self.built_image_size(model)
        return (*size[:-2], *sides) if sides else size

    def built_image_size(self, model: nn.Module) -> tuple[int, int] | None:
        """Rows and columns of the images for which ``model`` has position tables or windows.

        The layer that cuts the patches, or a module around it, keeps them under the name of the constructor's option.
        None where it keeps no such size, as a convolutional network, which takes images of any.
        """
        claims = current_zoo().claims.get(self.built_by, ())
        option = claims[0].family.image_size if claims else ""
        if not option or not self.anatomy.stem:
            return None
        around = accumulate(self.anatomy.stem[0].split(".")[:-1], "{}.{}".format)
        for path in reversed(["", *around]):
            with suppress(AttributeError):  # it keeps none, or was taken out by hand, as where timm fuses branches
                found = getattr(model.get_submodule(path), option)
                sides = (found, found) if isinstance(found, int) else found
                if isinstance(sides, tuple) and [*map(type, sides)] == [int] * 2 and min(sides) > 0:
                    return sides
        return None

    def image_size(self, model: nn.Module) -> tuple[int, ...]:
        """Size of the images that ``model`` takes: channels, as its first layer has them now, rows and columns."""
        if self.example is not None:
            tensors = [each for each in tree_leaves(self.example) if isinstance(each, Tensor)]
            size = tuple(max(tensors, key=Tensor.dim).shape[1:]) if tensors else ()
        else:
            size = self.designed_size(model)
            adapted = [edit.arguments["in_channels"] for edit in self.edits if edit.verb == "adapt_stem"]
            size = (*(adapted[-1:] or size[:1]), *size[1:])
        stem = f"{self.anatomy.stem[0]}.weight" if self.anatomy.stem else ""
        before = self.structure.shapes.get(stem) if self.structure else None
        if before is None or before[1:2] != size[:1]:  # the first layer takes something else than the channels
            return size
        now = structure_of(model).shapes.get(stem)
        return (*(now or before)[1:2], *size[1:])


def unwrap(model: nn.Module) -> nn.Module:
    """The model that carries zoo's metadata inside wrappers of any library, or inside a module of the user's.

    DDP, DataParallel and ``torch.compile`` are looked through in any case. Any other module around a model that zoo
    knows, such as an ``AveragedModel``, a ``PeftModel`` or a ``LightningModule`` with a ``self.model``, stands for it
    as long as it holds a single one, or one and parts of it such as its encoder. A module in which zoo knows nothing
    is itself.
    """
    while ATTRIBUTE not in getattr(model, "__dict__", ()):
        inner = inside_wrapper(model)
        if inner is None and not isinstance(model, nn.Module):
            raise _not_known(model)
        if inner is None:
            result = list(_known_inside(model).values()) if isinstance(model, nn.Module) else []
            return _whole_of(result) or _whole_in_parts(model) or model
        model = inner
    return model


def _parts_of_models(module: object) -> dict[int, nn.Module]:
    """The models whose metadata stands for parts inside ``module`` that were split off from them, by id."""
    if not isinstance(module, nn.Module) or getattr(type(module), WAY_BACK, None):
        return {}
    parts = [part.__dict__[WHOLE][0] for part in module.modules() if WHOLE in part.__dict__]
    return {id(each): each for each in parts}


def _whole_in_parts(module: object) -> nn.Module | None:
    """The model that carries the metadata for a module of its backbone and head; None where the head is another."""
    models = list(_parts_of_models(module).values())
    if len(models) != 1 or not isinstance(module, nn.Module):
        return None
    here = {id(parameter) for parameter in module.parameters()}
    sites = [head.path for head in models[0].__dict__[ATTRIBUTE].anatomy.heads if head.role != "aux"]
    try:
        heads = [models[0].get_submodule(path) for path in sites]
    except AttributeError:  # it was changed by hand since
        return None
    return models[0] if all(id(each) in here for head in heads for each in head.parameters()) else None


def _whole_of(models: list[nn.Module]) -> nn.Module | None:
    """Of models with metadata, the one that has all the parameters of the others; None where none has."""
    if len(models) < 2:  # noqa: PLR2004 - there is nothing to compare
        return models[0] if models else None
    sets = [{id(parameter) for parameter in model.parameters()} for model in models]
    return next((model for model, own in zip(models, sets, strict=True) if own >= set().union(*sets)), None)


def inside_wrapper(model: object) -> nn.Module | None:
    """The module, with metadata or not, inside DDP, DataParallel or ``torch.compile``; None for no wrapper."""
    if isinstance(model, DistributedDataParallel | DataParallel):
        return cast("nn.Module", model.module)
    compiled = getattr(model, "_orig_mod", None)  # the name torch.compile gives it, and the only one
    return compiled if isinstance(compiled, nn.Module) else None


def _known_inside(model: nn.Module, prefix: str = "") -> dict[str, nn.Module]:
    """The outermost modules inside ``model`` that carry metadata of their own, by path."""
    if getattr(type(model), WAY_BACK, None):
        return {}  # a part of a model, which says itself what to do
    result: dict[str, nn.Module] = {}
    for name, child in model.named_children():
        result |= {prefix + name: child} if ATTRIBUTE in child.__dict__ else _known_inside(child, f"{prefix}{name}.")
    return result


def attach(model: nn.Module, known: Metadata) -> None:
    """Make ``model`` carry this metadata, which is true of it as it is now."""
    model.__dict__[ATTRIBUTE] = replace(known, structure=_structure(model, known))


def _structure(model: nn.Module, known: Metadata) -> Structure:
    """The structure of a model as it is now, to keep in its metadata or to compare with what is there."""
    return structure_of(model, modules_around_parts(known.anatomy) if known.is_traced else ())


def is_known(model: nn.Module) -> bool:
    """Whether ``model`` carries metadata, so that zoo knows something about it."""
    return isinstance(unwrap(model).__dict__.get(ATTRIBUTE), Metadata)


def metadata_of(model: nn.Module) -> Metadata:
    """The metadata that ``model`` carries; what was changed by hand since zoo last looked is read again.

    Raises:
        NotAZooModel: It came neither from ``zoo.get`` nor through ``zoo.adopt``.
        AnatomyError: It was changed by hand, and its parts cannot be found again.
    """
    bare = unwrap(model) if isinstance(model, nn.Module) else None
    result: object = bare.__dict__.get(ATTRIBUTE) if bare is not None else None
    if bare is None or not isinstance(result, Metadata):
        raise _not_known(model)
    if id(bare) in _kept.get():
        return result
    now = _structure(bare, result)
    if result.structure is not None and now != result.structure:
        with keeping_metadata(bare):  # the runs that read it again ask for what is known too, and would begin anew
            result = _with_changes(bare, result, now.changed_since(result.structure))
        attach(bare, result)
    return result


_kept: ContextVar[frozenset[int]] = ContextVar("_kept", default=frozenset())
"""Ids of the models that a verb is changing: what is known of them is true again when it is done."""


@contextmanager
def keeping_metadata(model: nn.Module) -> Iterator[None]:
    """Keep the metadata of ``model`` as it is inside the block, although its tensors change."""
    token = _kept.set(_kept.get() | {id(model)})
    try:
        yield
    finally:
        _kept.reset(token)


def anatomy_after(model: nn.Module, changed: set[str]) -> Anatomy:
    """The anatomy that the metadata of ``model`` is to carry once these tensors were changed, taken out or put in.

    Raises:
        AnatomyError: Parts that the anatomy names are gone, and what took their place is unclear.
    """
    known: Metadata = model.__dict__[ATTRIBUTE]
    family = known.family or (known.card.family if known.card else "")
    read = current_zoo().member(family).anatomy if family and not is_recomposed(model) else None
    anatomy = reread(without_compiled(model), known.anatomy, changed, read)
    if not all(head_is_near(name, anatomy) for name in changed):
        anatomy = with_live_maps(model, anatomy, known.image_size(model), known.example)
    return anatomy


def _with_changes(model: nn.Module, known: Metadata, changed: set[str]) -> Metadata:
    """The metadata of ``model`` as it is true now that these tensors are others than it says."""
    now = _structure(model, known)
    before = known.structure or now
    inside = now.before_compile().changed_since(before.before_compile())  # wrapped by torch.compile, parts are the same
    anatomy = anatomy_after(model, inside) if inside or now.forward != before.forward else known.anatomy
    if known.structure and now.forward != known.structure.forward:
        size = known.image_size(model)
        anatomy = with_own_forward(model, with_live_maps(model, anatomy, size, known.example), size, known.example)
    elif any(head_is_near(name, anatomy) for name in inside):
        anatomy = with_checked_split(model, anatomy, known.image_size(model))
    elif inside or now.settings != before.settings:
        size = known.image_size(model)
        anatomy = anatomy if inside else with_live_maps(model, anatomy, size, known.example)
        anatomy = with_own_forward(model, anatomy, size, known.example, is_believed=True)
    new_sites = [head for head in anatomy.heads if head not in known.anatomy.heads]
    names = [name for name in changed if name in now.shapes]
    in_head = {name for name in names if any(under(name, head.path) for head in anatomy.heads)}
    tensors: dict[str, Outcome] = {name: what for name, what in known.receipt.tensors.items() if name not in changed}
    tensors |= {name: "initialized" if name in in_head else "adapted" for name in sorted(names)}
    old_names = {as_before_compile(name): name for name in known.receipt.tensors}
    plain = {name: as_before_compile(name) for name in names}
    moved = {name: old_names[each] for name, each in plain.items() if each in old_names and each not in inside}
    moved |= plain_names(model, names)  # the same tensors, in layers that PEFT put around theirs
    tensors |= {name: known.receipt.tensors[plain] for name, plain in moved.items() if plain in known.receipt.tensors}
    notes = {**known.receipt.notes, **dict.fromkeys((name for name in names if name not in moved), BY_HAND)}
    receipt = replace(known.receipt, tensors=tensors, notes={name: notes[name] for name in notes if name in tensors})
    own_layers = known.own_layers | owners_of(name for name in names if name not in moved)
    known = replace(known, anatomy=anatomy, receipt=receipt, own_layers=own_layers)
    main = next((head for head in new_sites if head.role == "main"), None)
    if main is None or is_recomposed(model):  # it has branches, which a swap would not bring back
        return known
    edit = Edit("swap_head", {"head": describe(model.get_submodule(main.path))}, by_hand=True)
    return replace(known, edits=(*known.edits, edit), names=(), multi_label=False)


def owners_of(names: Iterable[str]) -> frozenset[str]:
    """Paths of the modules that tensors are in, as metadata lists the layers that are the user's own."""
    return frozenset(name.rpartition(".")[0] for name in names)


def _not_known(model: object) -> NotAZooModel:
    """The error for a module that carries no metadata, with what zoo knows of the models inside it."""
    if isinstance(model, type):
        return NotAZooModel(
            f"{model.__name__} is a class, and no model yet",
            expected="a model from zoo.get, or one given to zoo.adopt",
            hint=f"{model.__name__}() makes one",
        )
    several = _known_inside(model) if isinstance(model, nn.Module) else {}
    if several:
        return NotAZooModel(
            f"this {type(model).__name__} holds {len(several)} models that zoo knows",
            expected="one of them",
            hint=f"give zoo one of {', '.join(f'module.{path}' for path in several)}",
        )
    if _parts_of_models(model):
        return NotAZooModel(
            f"this {type(model).__name__} holds the backbone of a model, and not its head",
            expected="both parts that zoo.split(model) gives",
            hint="zoo.swap_head(model, head) before zoo.split(model) makes a head of your own one of the two",
        )
    return NotAZooModel(
        f"zoo knows nothing about this {type(model).__name__}",
        expected="a model from zoo.get, or one given to zoo.adopt",
        hint=getattr(
            model, WAY_BACK, "zoo.adopt(model, example=x), with x what forward takes, finds where its parts are"
        ),
    )


@strict_arguments_of("anatomy")
def anatomy_of(model: nn.Module) -> Anatomy:
    """The anatomy that ``model`` carries in its metadata, true of it now: head sites, stem, stages, how forward splits.

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
    return metadata_of(model).anatomy


def anatomy_with_hooks(model: nn.Module) -> Anatomy:
    """The anatomy that ``model`` carries in its metadata, or the one that holds while it has forward hooks itself.

    Hooks on a tensor run on the scores of the parts; those that are given an object cannot, so the model is run.
    """
    known, bare = metadata_of(model), unwrap(model)
    if not bare._forward_hooks or known.anatomy.scores is None:  # noqa: SLF001 - no public way to see them
        return known.anatomy
    return with_own_forward(bare, known.anatomy, known.image_size(bare), known.example, is_believed=True)


def no_head(model: nn.Module, what: str) -> NotSupported:
    """Error of a verb that needs a head, where the metadata of the model says that there is none, and why.

    Args:
        model: A model from ``zoo.get`` or ``zoo.adopt``.
        what: What the verb does with a head, such as ``"to replace"``.
    """
    why = anatomy_of(model).headless or "it computes something other than class scores"
    if CANDIDATES in why:
        hint = 'zoo.adopt(model, example=x, head="path.of.the.layer") says which layer it is'
    elif is_unproven(model) and NO_LAYER in why:
        hint = (
            "an nn.Linear in its place, called by forward, can be, and what follows the scores can stand in a module "
            "around this one; zoo.freeze(model, ...) takes paths of modules too"
        )
    elif is_unproven(model):
        hint = "zoo.adopt(model, example=x, anatomy=zoo.Anatomy(...)) proves the head that you describe"
    else:
        hint = "zoo list --task classification names the models that have one"
    return NotSupported(f"this {type(unwrap(model)).__name__} has no head {what}", cause=why, hint=hint)


def is_unproven(model: nn.Module) -> bool:
    """Whether the metadata of a model leaves open that it has a head, not found when it was traced."""
    anatomy = anatomy_of(model)
    return not anatomy.heads and (anatomy.headless or "").startswith(UNPROVEN)


@strict_arguments_of("receipt")
def receipt_of(model: nn.Module) -> Receipt:
    """The receipt that ``model`` carries in its metadata: what happened to every tensor on the way in.

    Args:
        model: A model from ``zoo.get`` or ``zoo.adopt``; DDP and ``torch.compile`` wrappers are looked through.

    Raises:
        NotAZooModel: zoo knows nothing about it.

    Example:
        >>> import zoo_core as zoo
        >>> print(zoo.receipt(zoo.get("tiny/glyphnet", num_classes=9)).names("initialized"))
        ('fc.weight', 'fc.bias')
    """
    return metadata_of(model).receipt


def class_names_of(model: nn.Module) -> tuple[str, ...]:
    """The class names in the metadata of ``model``, in the order of its scores, of several heads in one row."""
    return metadata_of(model).class_names


anatomy, receipt = anatomy_of, receipt_of  # what the package calls them


def cut_of(model: nn.Module) -> str | None:
    """What surgery took stages out of the model, as its metadata says; None where nothing did.

    Example:
        >>> import zoo_core as zoo
        >>> cut_of(zoo.truncate(zoo.get("resnet18", weights=None), after="layer3"))
        "the model was cut after 'layer3'"
    """
    done = {edit.verb: edit.arguments for edit in metadata_of(model).edits}
    if "branch" in done:
        return f"the model was branched: each branch has its own stages from {done['branch']['at']!r} on"
    return f"the model was cut after {done['truncate']['after']!r}" if "truncate" in done else None
