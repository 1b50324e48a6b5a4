"""The combined heads of a timm model that has several: what each is given, and how their scores become one.

timm does not say so; there is a class for each way to combine them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from timm.models.volo import VOLO

    from zoo_core.plugin import Chain


def two_tokens(model: Any, tokens: Tensor) -> Tensor:
    """What two combined heads are given, ``[N, 2, C]``: the class token for one, the distillation token for one."""
    result: Tensor = model.head_drop(tokens[:, :2])
    return result


def image_and_patches(model: VOLO, tokens: Tensor) -> Tensor:
    """What the two combined heads of VOLO are given, ``[N, 1 + patches, C]``: the image, and then its patches."""
    image: Tensor = model.forward_head(tokens, pre_logits=True)
    return torch.cat([image[:, None], model.head_drop(tokens)[:, 1:]], dim=1)


@dataclass(frozen=True)
class Apart:
    """A pooled vector, and other modules before each of two combined heads, such as LeViT's two batch norms.

    Attributes:
        then: The modules before each head.
    """

    then: tuple[Chain, ...]

    def __call__(self, model: Any, features: Any) -> Tensor:
        """Features to ``[N, 2, C]``, what each of the heads is given."""
        pooled = model.forward_head(features, pre_logits=True)
        return torch.stack([chain(model, pooled) for chain in self.then], dim=1)


@dataclass(frozen=True)
class Combined:
    """The scores of several heads of a timm model, combined.

    Attributes:
        paths: The head sites, in the order in which they are given their parts.
    """

    paths: tuple[str, ...]

    def __call__(self, model: nn.Module, pooled: Tensor) -> Tensor:
        """What the heads are given, as one tensor, to scores."""
        raise NotImplementedError

    def _scores(self, model: nn.Module, given: tuple[Tensor, ...]) -> list[Tensor]:
        return [model.get_submodule(path)(x) for path, x in zip(self.paths, given, strict=True)]


@dataclass(frozen=True)
class Averaged(Combined):
    """The scores of two heads of a timm model, one of them distilled, combined as their mean.

    Attributes:
        paths: The head sites.
        apart: Whether they are given vectors of their own, ``[N, 2, C]``, or the same one.
    """

    apart: bool = False

    def __call__(self, model: nn.Module, pooled: Tensor) -> Tensor:
        """What the heads are given to scores."""
        main, distilled = self._scores(model, pooled.unbind(1) if self.apart else (pooled, pooled))
        return (main + distilled) / 2


@dataclass(frozen=True)
class PlusBestPatch(Combined):
    """The two heads of timm's VOLO combined: the scores of the image, and half of the best of its patches."""

    def __call__(self, model: nn.Module, pooled: Tensor) -> Tensor:
        """What the heads are given to scores."""
        image, patches = self._scores(model, (pooled[:, 0], pooled[:, 1:]))
        return image + 0.5 * patches.max(1)[0]


@dataclass(frozen=True)
class Concatenated(Combined):
    """CrossViT's heads combined: their mean, where each is given its own part of the vector.

    Attributes:
        paths: The head sites.
        widths: How many of the features each is given.
    """

    widths: tuple[int, ...]

    def __call__(self, model: nn.Module, pooled: Tensor) -> Tensor:
        """What the heads are given to scores; the whole vector, as in timm, while there are no heads."""
        if isinstance(model.get_submodule(self.paths[0]), nn.Identity):
            return pooled
        return torch.stack(self._scores(model, torch.split(pooled, list(self.widths), dim=1))).mean(0)


@dataclass(frozen=True)
class Weighed(Concatenated):
    """EfficientViM's heads combined: scores of each depth, weighed and added up; the mean of two sums if distilled.

    Attributes:
        paths: The head sites, those of the distilled sum after the others.
        widths: How many of the features each is given.
        uses: Names of the parameters that weigh the heads of each sum.
    """

    uses: tuple[str, ...]

    def __call__(self, model: nn.Module, pooled: Tensor) -> Tensor:
        """What the heads are given to scores; the whole vector, as in timm, while there are no heads."""
        if isinstance(model.get_submodule(self.paths[0]), nn.Identity):
            return pooled
        sums = len(self.uses)
        depths = len(self.paths) // sums
        scores = self._scores(model, torch.split(pooled, list(self.widths[:depths]), dim=1) * sums)
        weights = [weight for name in self.uses for weight in getattr(model, name).softmax(-1)]
        weighed = [weight * each for weight, each in zip(weights, scores, strict=True)]
        result = [torch.stack(weighed[start : start + depths]).sum(0) for start in range(0, len(weighed), depths)]
        return result[0] if sums == 1 else (result[0] + result[1]) / 2
