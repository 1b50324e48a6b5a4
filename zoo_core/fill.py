"""Giving a built model its weights, and then the head, stem and keypoints that were asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Self

from zoo_core.card import Weights
from zoo_core.errors import UsageError
from zoo_core.surgery.checks import check_count, check_num_classes
from zoo_core.surgery.head import swap_head
from zoo_core.surgery.keypoints import keypoint_site, swap_keypoints
from zoo_core.surgery.knowledge import anatomy_of, attach, knowledge_of
from zoo_core.surgery.loading import load_state
from zoo_core.surgery.receipt import Receipt
from zoo_core.surgery.stem import adapt_stem, stem_layers
from zoo_core.weights import read_state_dict

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import torch
    from torch import nn

    from zoo_core.parts import Head
    from zoo_core.surgery.sites import HeadLike
    from zoo_core.weights import Artefact


@dataclass(frozen=True)
class Asked:
    """What a model is to be, where that differs from what its weights were trained for; None leaves it as it is."""

    num_classes: int | None = None
    head: HeadLike | None = None
    in_channels: int | None = None
    num_keypoints: int | None = None

    def checked(self) -> Self:
        """Itself, when what is asked is possible at all.

        Raises:
            UsageError: A count is not a positive whole number, or two arguments say what the head is.
        """
        if self.num_classes is not None:
            check_num_classes(self.num_classes)
        for name in ("in_channels", "num_keypoints"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        if self.head is not None and self.num_classes is not None:
            raise UsageError(
                "num_classes and head both say what the head is", hint="leave num_classes out: the head has its own"
            )
        return self

    def replaces_head_of(self, model: nn.Module) -> bool:
        """Whether the head that ``model`` has now has to go."""
        main = anatomy_of(model).main
        return self.head is not None or (
            self.num_classes is not None and (main is None or main.num_classes != self.num_classes)
        )

    def replaces_keypoints_of(self, model: nn.Module) -> bool:
        """Whether the keypoint layer that ``model`` has now has to go."""
        if self.num_keypoints is None:
            return False
        return getattr(model.get_submodule(keypoint_site(model)), "out_channels", None) != self.num_keypoints


def fill(model: nn.Module, chosen: Weights | Path | None, artefact: Artefact, asked: Asked) -> None:
    """Load a file into ``model``, and write its receipt.

    Args:
        model: As its constructor made it.
        chosen: What the file is: an entry of the card, or a path of the user's own.
        artefact: The file.
        asked: What will be replaced anyway, and so need not fit.

    Raises:
        Unreadable: The file is not weights.
        LoadMismatch: A tensor that is not replaced does not fit.
    """
    state = read_state_dict(artefact.path)
    known = chosen if isinstance(chosen, Weights) else None
    if known and known.convert:
        state = resolve_name(known.convert)(state, model)
    if known is None:
        _meet(model, state, asked)
    outcomes = load_state(
        model,
        state,
        ignore=known.ignore if known else (),
        replaceable=[*_replaceable(model, asked)],
        source=artefact.path.name,
        # a file of the user's own may be written to again while the model lives, so it is copied and not mapped
        assign=known is not None,
    )
    receipt = Receipt(
        knowledge_of(model).receipt.model,
        known.tag if known else None,
        artefact.source,
        str(artefact.path),
        artefact.sha256,
        artefact.strength,
        outcomes,
    )
    attach(model, replace(knowledge_of(model), receipt=receipt, weights=known))


def operate(model: nn.Module, asked: Asked) -> None:
    """Give ``model`` the stem, head and keypoints that were asked for."""
    if asked.in_channels is not None:
        adapt_stem(model, asked.in_channels)
    if asked.head is not None:
        swap_head(model, asked.head)
    elif asked.num_classes is not None and asked.replaces_head_of(model):
        swap_head(model, asked.num_classes)
    if asked.num_keypoints is not None and asked.replaces_keypoints_of(model):
        swap_keypoints(model, asked.num_keypoints)


def _meet(model: nn.Module, state: Mapping[str, torch.Tensor], asked: Asked) -> None:
    """Change ``model`` to fit a file of the user's own, which may know other classes and other channels."""
    in_file = _classes_in(state, anatomy_of(model).main)
    if in_file and asked.head is None and asked.num_classes in (None, in_file):
        swap_head(model, in_file)
    if asked.in_channels is not None and _has_another_stem(state, model):
        adapt_stem(model, asked.in_channels)


def _replaceable(model: nn.Module, asked: Asked) -> Iterator[str]:
    if asked.replaces_head_of(model):
        yield from (site.path for site in anatomy_of(model).heads)
    if asked.replaces_keypoints_of(model):
        yield keypoint_site(model)


def _classes_in(state: Mapping[str, torch.Tensor], site: Head | None) -> int | None:
    """How many classes the head in a state dict has, when it is another number than the model's."""
    weight = state.get(f"{site.path}.weight") if site else None
    if weight is None or site is None or weight.dim() < 2 or weight.shape[0] % site.per_class:  # noqa: PLR2004 - out, in
        return None
    found = int(weight.shape[0]) // site.per_class
    return None if found == site.num_classes else found


def _has_another_stem(state: Mapping[str, torch.Tensor], model: nn.Module) -> bool:
    """Whether the first layers in a state dict have other shapes than the model's."""
    names = {f"{path}.weight": layer.weight for path, layer in stem_layers(model).items()}
    return any(name in state and state[name].shape != weight.shape for name, weight in names.items())
