"""Classes for models that the library patches one by one, so that they can be pickled, copied and taken apart.

The library builds torchvision's networks and then hangs new ``features``, ``logits`` and ``forward`` on the instance.
Such a model cannot be pickled, and a copy of its parts still runs the original. Here the same code hangs on a subclass;
names of tensors and results stay those of the library, bit for bit. Three of its own networks are mended too.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody gives it
from torch import Tensor, nn
from torchvision import models

from zoo_pretrainedmodels import library


def unchanged(x: Tensor) -> Tensor:
    """A tensor as it is: what a ResNeXt has in place of a lambda of the library's, which cannot be pickled."""
    return x


class _TwoSteps:
    """The base class with the forward pass that all models of pretrainedmodels share."""

    features: Any  # a module or a method
    logits: Any

    def forward(self, x: Tensor) -> Any:
        """Images to scores."""
        return self.logits(self.features(x))


class AlexNet(_TwoSteps, models.AlexNet):  # type: ignore[misc]  # torchvision ships no types
    """The class for pretrainedmodels' AlexNet: torchvision's; ``features`` ends within the classifier."""

    def features(self, x: Tensor) -> Tensor:
        """Images ``[N, 3, 224, 224]`` to ``[N, 4096]``."""
        x = self.linear0(self.dropout0(self._features(x).flatten(1)))
        result: Tensor = self.linear1(self.dropout1(self.relu0(x)))
        return result

    def logits(self, features: Tensor) -> Tensor:
        """``[N, 4096]`` to scores."""
        scores: Tensor = self.last_linear(self.relu1(features))
        return scores


class VGG(_TwoSteps, models.VGG):  # type: ignore[misc]  # torchvision ships no types
    """The class for pretrainedmodels' VGG: torchvision's, not pooling; ``features`` ends within the classifier."""

    def features(self, x: Tensor) -> Tensor:
        """Images ``[N, 3, 224, 224]`` to ``[N, 4096]``."""
        x = self.dropout0(self.relu0(self.linear0(self._features(x).flatten(1))))
        result: Tensor = self.linear1(x)
        return result

    def logits(self, features: Tensor) -> Tensor:
        """``[N, 4096]`` to scores."""
        scores: Tensor = self.last_linear(self.dropout1(self.relu1(features)))
        return scores


class DenseNet(_TwoSteps, models.DenseNet):  # type: ignore[misc]  # torchvision ships no types
    """The class for pretrainedmodels' DenseNet: torchvision's with a pool of fixed size."""

    def logits(self, features: Tensor) -> Tensor:
        """``[N, C, 7, 7]`` to scores."""
        x = F.avg_pool2d(F.relu(features, inplace=True), kernel_size=7, stride=1)
        scores: Tensor = self.last_linear(x.flatten(1))
        return scores


class ResNet(_TwoSteps, models.ResNet):  # type: ignore[misc]  # torchvision ships no types
    """The class for pretrainedmodels' ResNet: torchvision's."""

    def features(self, x: Tensor) -> Tensor:
        """Images to ``[N, C, H / 32, W / 32]``."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        result: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return result

    def logits(self, features: Tensor) -> Tensor:
        """The last feature map to scores."""
        scores: Tensor = self.last_linear(self.avgpool(features).flatten(1))
        return scores


class SqueezeNet(_TwoSteps, models.SqueezeNet):  # type: ignore[misc]  # torchvision ships no types
    """The class for pretrainedmodels' SqueezeNet: torchvision's; its scores are ``[N, num_classes, 1, 1]``."""

    def logits(self, features: Tensor) -> Tensor:
        """``[N, 512, H, W]`` to scores."""
        scores: Tensor = self.avgpool(self.relu(self.last_conv(self.dropout(features))))
        return scores


class Inception3(_TwoSteps, models.Inception3):  # type: ignore[misc]  # torchvision ships no types
    """The class for pretrainedmodels' Inception v3: torchvision's, with a fixed pool, never transforming its input."""

    def features(self, x: Tensor) -> Tensor:
        """Images ``[N, 3, 299, 299]`` to ``[N, 2048, 8, 8]``."""
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = F.max_pool2d(x, kernel_size=3, stride=2)
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))
        x = F.max_pool2d(x, kernel_size=3, stride=2)
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        if self.training and self.aux_logits:
            self._out_aux = self.AuxLogits(x)
        result: Tensor = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        return result

    def logits(self, features: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """``[N, 2048, 8, 8]`` to scores; to the auxiliary scores too while it trains."""
        x = F.dropout(F.avg_pool2d(features, kernel_size=8), training=self.training)
        scores: Tensor = self.last_linear(x.flatten(1))
        if self.training and self.aux_logits:
            aux, self._out_aux = self._out_aux, None
            return scores, aux
        return scores


class FBResNet(library.FBResNet):  # type: ignore[misc]  # the library ships no types
    """The class for pretrainedmodels' FBResNet: the library's keeps an activation, and then cannot be copied itself."""

    features = ResNet.features


class Concatenate(nn.Module):
    """A picklable module that joins the two maps of a DPN block, as the block after it would anyway.

    Example:
        >>> Concatenate()((torch.zeros(1, 8, 4, 4), torch.zeros(1, 3, 4, 4))).shape
        torch.Size([1, 11, 4, 4])
    """

    def forward(self, x: tuple[Tensor, Tensor]) -> Tensor:
        """``[N, C, H, W]`` and ``[N, D, H, W]`` to ``[N, C + D, H, W]``."""
        return torch.cat(x, dim=1)


class BNInception(library.BNInception):  # type: ignore[misc]  # the library ships no types
    """The class for pretrainedmodels' BNInception, with modules that give the concatenated maps of its blocks."""

    OUTPUTS = ("3b", "4d", "5b")
    """The last block at each resolution."""

    def add_outputs(self) -> None:
        """Give the last block at each resolution a module that its output goes through; it has no parameters."""
        for block in self.OUTPUTS:
            self.add_module(f"inception_{block}_output", nn.Identity())

    def features(self, x: Tensor) -> Tensor:
        """Images to ``[N, 1024, H / 32, W / 32]``."""
        return bninception_features(self, x)


def bninception_features(model: Any, x: Tensor) -> Tensor:
    """The forward of our picklable BNInception: its 10 blocks, which pretrainedmodels spells out in 220 lines.

    Args:
        model: A BNInception, of the library's class or of ours.
        x: Images, ``[N, 3, H, W]``.
    """
    x = model.conv1_relu_7x7(model.conv1_7x7_s2_bn(model.conv1_7x7_s2(x)))
    x = model.pool1_3x3_s2(x)
    x = model.conv2_relu_3x3_reduce(model.conv2_3x3_reduce_bn(model.conv2_3x3_reduce(x)))
    x = model.conv2_relu_3x3(model.conv2_3x3_bn(model.conv2_3x3(x)))
    x = model.pool2_3x3_s2(x)
    for block in ("3a", "3b", "3c", "4a", "4b", "4c", "4d", "4e", "5a", "5b"):
        if not hasattr(getattr(model, f"inception_{block}_3x3"), "weight"):  # the front of a model ends here, and
            break  # blocks without layers would join the same map again and again
        x = _inception_block(model, f"inception_{block}", x)
    return x


def _inception_block(model: Any, block: str, x: Tensor) -> Tensor:
    """The forward of a block of our picklable BNInception: up to four branches side by side.

    Blocks that halve the map have no 1x1 branch, and only pool in the last.
    """

    def layer(name: str, given: Tensor) -> Tensor:
        convolved = getattr(model, f"{block}_{name}")(given)
        result: Tensor = getattr(model, f"{block}_relu_{name}")(getattr(model, f"{block}_{name}_bn")(convolved))
        return result

    halves = not hasattr(model, f"{block}_1x1")
    pooled = getattr(model, f"{block}_pool")(x)
    branches = [
        layer("3x3", layer("3x3_reduce", x)),
        layer("double_3x3_2", layer("double_3x3_1", layer("double_3x3_reduce", x))),
        pooled if halves else layer("pool_proj", pooled),
    ]
    x = torch.cat(branches if halves else [layer("1x1", x), *branches], 1)
    output = getattr(model, f"{block}_output", None)
    return x if output is None else output(x)
