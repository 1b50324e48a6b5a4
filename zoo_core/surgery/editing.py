"""The one way to edit a model: what every verb of surgery does before and after its own work."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zoo_core.contract.anatomy import Anatomy
from zoo_core.errors import NotSupported, ZooWarning
from zoo_core.surgery.distributed import refuse_sharded, renewing
from zoo_core.surgery.head.describe import describe_all
from zoo_core.surgery.hold import is_held
from zoo_core.surgery.metadata import ATTRIBUTE, Edit, Metadata, attach, keeping_metadata, metadata_of, unwrap
from zoo_core.surgery.structure import tensors_of
from zoo_core.utils.hooks import hooks_of

if TYPE_CHECKING:
    from zoo_core.surgery.receipt import Outcome


BY_HAND = "by_hand"
"""The verb of an edit that stands for what a user did without zoo, where a save is loaded."""


@dataclass
class Editing:
    """An edit of a model by a verb of surgery, while it is going on.

    Attributes:
        model: The model without wrappers.
        outcomes: What happened to tensors, by name, where it is not that they are new and initialized: the verb adds
            to it, and names values here that it changed in place.
        notes: Remarks on tensors for the receipt, by name.
        released: Paths of modules that nothing holds any more because the verb says so.
    """

    model: nn.Module
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    released: set[str] = field(default_factory=set)

    @property
    def known(self) -> Metadata | None:
        """What is known of the model; None for a module that zoo does not know."""
        return self.model.__dict__.get(ATTRIBUTE)

    @property
    def anatomy(self) -> Anatomy:
        """Where the parts of the model are; the verb sets it where it moves them."""
        return metadata_of(self.model).anatomy

    @anatomy.setter
    def anatomy(self, anatomy: Anatomy) -> None:
        self.update(anatomy=anatomy)

    @property
    def moving(self) -> frozenset[str]:
        """Paths of the norms in frozen parts whose statistics may move."""
        return metadata_of(self.model).moving

    def update(self, **fields: Any) -> None:
        """Change what is known of the model."""
        self.model.__dict__[ATTRIBUTE] = replace(metadata_of(self.model), **fields)


@contextmanager
def editing(
    model: nn.Module, verb: str, *, adds_tensors: bool = True, record: Mapping[str, Any] | None = None
) -> Iterator[Editing]:
    """Edit a model inside the block, and bring all that is known of it up to date afterwards.

    Wrappers are looked through, and DDP around the model is renewed. What was changed by hand before is read again.
    Afterwards the receipt names what is new and what is gone, norms that were replaced are no longer held, and the edit
    is recorded for recipes. Where the block raises, the receipt is true of what was done until then.

    Args:
        model: A model, wrapped or not; or any module, for verbs that take such.
        verb: Name of the public function.
        adds_tensors: Whether the verb puts new tensors in, which a sharded model cannot have.
        record: What the verb was given, for recipes; None for what a recipe says in another way.

    Raises:
        NotSupported: The model is sharded, or in a DDP that cannot be renewed. Nothing was changed.
    """
    bare = unwrap(model)
    is_of_inference = torch.is_inference_mode_enabled() and any(each.is_inference() for each in bare.parameters())
    with renewing(model, verb), torch.inference_mode(is_of_inference):  # what is made in it can never be trained
        if adds_tensors:
            refuse_sharded(bare, verb)
            _refuse_to_edit_parts(model, bare, verb)
        known = metadata_of(model) if ATTRIBUTE in bare.__dict__ else None
        edit = Editing(bare)
        before = dict(tensors_of(bare)) if adds_tensors else {}
        hooked = dict(_hooked(bare)) if adds_tensors else {}
        held = _held(bare, known)
        done: tuple[Edit, ...] = ()
        with keeping_metadata(bare):
            try:
                yield edit
                if record is not None:
                    arguments = {name: describe_all(value) for name, value in record.items()}
                    done = (Edit(verb, arguments, by_hand=verb == BY_HAND),)
            finally:
                if known:
                    _settle(edit, before, held, done)
            _warn_of_lost_hooks(bare, hooked, verb)


def record_edit(model: nn.Module, verb: str, **arguments: Any) -> None:
    """Record an edit of a model for recipes: what a verb was given, with modules described, not kept."""
    known = metadata_of(model)
    edit = Edit(verb, {name: describe_all(value) for name, value in arguments.items()})
    attach(unwrap(model), replace(known, edits=(*known.edits, edit)))


def _hooked(model: nn.Module) -> Iterator[tuple[str, nn.Module | Tensor]]:
    """Modules and tensors of a model to edit on which a user has hooks, by name."""
    yield from ((path, module) for path, module in model.named_modules() if hooks_of(module))
    for name, tensor in model.named_parameters():
        if tensor._backward_hooks or tensor._post_accumulate_grad_hooks:  # noqa: SLF001 - no public way to see them
            yield name, tensor


def _warn_of_lost_hooks(model: nn.Module, hooked: Mapping[str, nn.Module | Tensor], verb: str) -> None:
    """Warn of hooks that were on what an edit has taken out of the model: nothing calls them any more.

    Those that copies of it have, as the layers of branches, are called.

    Warns:
        ZooWarning: There are such; the places are named.
    """
    here = {id(each) for each in (*model.modules(), *model.parameters())} if hooked else set()
    gone = {name: each for name, each in hooked.items() if id(each) not in here}
    called = {id(hook) for module in model.modules() for hook in hooks_of(module)} if gone else set()
    lost = [
        name
        for name, each in gone.items()
        if not (isinstance(each, nn.Module) and called.issuperset(map(id, hooks_of(each))))
    ]
    if lost:
        warnings.warn(
            f"the hooks on {', '.join(map(repr, lost[:5]))} are not called any more: zoo.{verb} has put "
            "something else there, or taken it out. Register them on what is there now",
            ZooWarning,
            stacklevel=6,  # past the two context managers and strict_arguments
        )


def _refuse_to_edit_parts(model: nn.Module, bare: nn.Module, verb: str) -> None:
    """Refuse to edit a model that was split, of which only the parts are at hand: these would stay as they are."""
    if all(each is not bare for each in model.modules()):
        raise NotSupported(
            f"zoo.{verb} cannot change a model that was split: its parts would stay as they are",
            done="nothing was changed",
            hint=f"zoo.{verb}(model, ...) on the whole model, and zoo.split(model) after it",
        )


def _held(model: nn.Module, known: Metadata | None) -> dict[str, tuple[nn.Module, bool]]:
    """The modules that are to be held again after editing, by path, and whether they are before it."""
    modules = dict(model.named_modules(remove_duplicate=False)) if known and known.held else {}
    return {path: (modules[path], is_held(modules[path])) for path in (known.held if known else ()) if path in modules}


def _settle(
    edit: Editing, before: dict[str, Tensor], held: dict[str, tuple[nn.Module, bool]], done: tuple[Edit, ...]
) -> None:
    """Finish an edit: record it, and bring receipt and held modules up to date by comparing with before."""
    known = metadata_of(edit.model)
    now = dict(tensors_of(edit.model)) if before else {}
    new = {name for name, tensor in now.items() if before.get(name) is not tensor} | edit.outcomes.keys()
    gone = before.keys() - now.keys()
    tensors: dict[str, Outcome] = {
        name: edit.outcomes.get(name, "initialized") if name in new else what
        for name, what in known.receipt.tensors.items()
        if name not in gone
    }
    tensors |= {name: edit.outcomes.get(name, "initialized") for name in now if name in new and name not in tensors}
    notes = {name: note for name, note in known.receipt.notes.items() if name in tensors and name not in new}
    notes |= {name: note for name, note in edit.notes.items() if name in tensors}
    modules = dict(edit.model.named_modules(remove_duplicate=False))
    kept = {
        path
        for path, (module, was_held) in held.items()
        if modules.get(path) is module and path not in edit.released and not (was_held and not is_held(module))
    }
    now_held = {path for path, module in modules.items() if is_held(module)}
    receipt = replace(known.receipt, tensors=tensors, notes=notes)
    known = replace(known, receipt=receipt, held=frozenset(kept | now_held), edits=(*known.edits, *done))
    attach(edit.model, known)
