# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""ResNet with a feature pyramid: coarse features at 1/8, fine features at 1/2 of the image."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from loftr_ros.loftr.config import LoFTRConfig


def _conv1x1(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1, stride, bias=False)


def _conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


class BasicBlock(nn.Module):
    """Residual block of two 3x3 convolutions (He et al., CVPR 2016, figure 2)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(inputs, outputs, stride)
        self.conv2 = _conv3x3(outputs, outputs)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        # Same width and size: the identity is the shortcut.
        self.downsample = (
            None
            if stride == 1 and inputs == outputs
            else nn.Sequential(_conv1x1(inputs, outputs, stride), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(y.add_(shortcut))


def _smooth(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        _conv3x3(inputs, inputs), nn.BatchNorm2d(inputs), nn.LeakyReLU(inplace=True), _conv3x3(inputs, outputs)
    )


def _smooth_once(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.LeakyReLU(inplace=True), _conv3x3(inputs, outputs))


class Backbone(nn.Module):
    """The ResNet-FPN of LoFTR (Sun et al., CVPR 2021, section 3.1), parameter names as in the official checkpoints."""

    def __init__(self, config: LoFTRConfig) -> None:
        super().__init__()
        first, (half, quarter, eighth) = config.initial_dim, config.block_dims
        back_quarter, back_half = config.pyramid_dims or (eighth, quarter)
        self.conv1 = nn.Conv2d(1, first, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = nn.Sequential(BasicBlock(first, half, 1), BasicBlock(half, half, 1))
        self.layer2 = nn.Sequential(BasicBlock(half, quarter, 2), BasicBlock(quarter, quarter, 1))
        self.layer3 = nn.Sequential(BasicBlock(quarter, eighth, 2), BasicBlock(eighth, eighth, 1))
        self.layer3_outconv = _conv1x1(eighth, eighth)
        # The published pyramid comes back as wide as the coarse features are.
        self.layer3_narrow = _conv1x1(eighth, back_quarter) if back_quarter != eighth else nn.Identity()
        self.layer2_outconv = _conv1x1(quarter, back_quarter)
        smooth = {1: _smooth_once, 2: _smooth}[config.pyramid_convs]
        self.layer2_outconv2 = smooth(back_quarter, back_half)
        self.layer1_outconv = _conv1x1(half, back_half)
        self.layer1_outconv2 = smooth(back_half, config.fine_dim)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, 1, H, W] to what `forward` has on its way down: features at 1/2 and 1/4, and the coarse ones."""
        x = self.relu(self.bn1(self.conv1(image)))
        # Features at 1/2 are most of the network's memory: none is held longer than it is needed.
        for layer in self.layer1:
            x = layer(x)
        x2 = self.layer2(x)
        return x, x2, self.layer3_outconv(self.layer3(x2))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 1, H, W] to coarse [B, C, ceil(H/8), ceil(W/8)] and fine [B, D, ceil(H/2), ceil(W/2)] features.

        Every stride-2 kernel is centred, so coarse cell (i, j) looks at pixel (8 i, 8 j), a fine one at (2 i, 2 j).
        """
        x1, x2, coarse = self.encode(image)
        x = self.layer2_outconv2(_add_upsampled(self.layer2_outconv(x2), self.layer3_narrow(coarse)))
        skip = self.layer1_outconv(x1)
        del x1
        x = _add_upsampled(skip, x)
        del skip
        for layer in self.layer1_outconv2:
            x = layer(x)
        return coarse, x


def _add_upsampled(skip: Tensor, smaller: Tensor) -> Tensor:
    """Double `smaller` as the official weights expect, and crop it to sizes that are not divisible."""
    larger = F.interpolate(smaller, scale_factor=2.0, mode="bilinear", align_corners=True)
    return larger[..., : skip.shape[2], : skip.shape[3]].add_(skip)
