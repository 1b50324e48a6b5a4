"""GlyphNet: a residual network for 32x32 images of single characters, small enough to ship inside a package."""

from __future__ import annotations

from torch import Tensor, nn

from zoo_tiny.catalog import CHARACTERS

WIDTHS = (16, 32, 64)
"""Channels of the three stages."""


class BasicBlock(nn.Module):
    """A block of GlyphNet: two 3x3 convolutions around a shortcut, as in He et al. (2016).

    The paper is "Deep Residual Learning for Image Recognition".

    Args:
        in_channels: Channels that come in.
        channels: Channels that go out.
        stride: Of the first convolution. Where the shape changes, the shortcut is a 1x1 convolution.

    Example:
        >>> import torch
        >>> BasicBlock(16, 32, stride=2)(torch.zeros(1, 16, 8, 8)).shape
        torch.Size([1, 32, 4, 4])
    """

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in_channels, H, W]`` to ``[N, channels, H / stride, W / stride]``."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        out: Tensor = self.relu(y + self.shortcut(x))
        return out


class GlyphNet(nn.Module):
    """The network: a stem, three stages of one residual block, global average pooling and one linear layer.

    Args:
        num_classes: Outputs of the last layer.
        in_channels: Channels of the image.

    Attributes:
        stem: Convolution, batch norm and ReLU; stride 2.
        layer1: 16 channels at stride 2.
        layer2: 32 channels at stride 4.
        layer3: 64 channels at stride 8.
        pool: Global average pooling to ``[N, 64, 1, 1]``.
        fc: The head.

    Example:
        >>> import torch
        >>> GlyphNet(num_classes=9)(torch.zeros(2, 1, 32, 32)).shape
        torch.Size([2, 9])
    """

    def __init__(self, num_classes: int, in_channels: int = 1) -> None:
        super().__init__()
        first, second, third = WIDTHS
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, first, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(first), nn.ReLU()
        )
        self.layer1 = BasicBlock(first, first)
        self.layer2 = BasicBlock(first, second, stride=2)
        self.layer3 = BasicBlock(second, third, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(third, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[N, in_channels, 32, 32]`` to scores ``[N, num_classes]``; other sizes from 8 up work too."""
        x = self.stem(x)
        x = self.layer3(self.layer2(self.layer1(x)))
        scores: Tensor = self.fc(self.pool(x).flatten(1))
        return scores


def glyphnet(num_classes: int = len(CHARACTERS), in_channels: int = 1) -> GlyphNet:
    """An untrained :class:`GlyphNet`, which is what the card's ``build`` names.

    Args:
        num_classes: Outputs of the head; as many as there are characters, unless told otherwise.
        in_channels: Channels of the image: 1 for grey, 3 for colour.

    Example:
        >>> glyphnet(num_classes=9).fc
        Linear(in_features=64, out_features=9, bias=True)
    """
    return GlyphNet(num_classes, in_channels)
