# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Two-dimensional sine position encoding (Carion et al., ECCV 2020; LoFTR section 3.2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class PositionEncoding(nn.Module):
    """Adds sines and cosines of column and row to coarse features. Holds no parameters."""

    def __init__(self, dim: int, temp_bug_fix: bool) -> None:
        super().__init__()
        steps = torch.arange(0, dim // 2, 2).float()
        # Without the fix "/ dim // 2" divides and floors: kept, since published weights were trained with it.
        rate = -math.log(10000.0) / (dim // 2) if temp_bug_fix else -math.log(10000.0) / dim // 2
        self.register_buffer("frequency", torch.exp(steps * rate), persistent=False)
        self._cache: dict[tuple[int, int, torch.device, torch.dtype], Tensor] = {}

    def table(self, height: int, width: int, row: float = 0.0, column: float = 0.0) -> Tensor:
        """[C, height, width] encoding whose first cell stands at (row, column)."""
        device, frequency = self.frequency.device, self.frequency[:, None, None]
        x = torch.arange(1, width + 1, device=device).float() + column
        y = torch.arange(1, height + 1, device=device).float() + row
        x_phase = (x[None, None, :] * frequency).expand(-1, height, -1)
        y_phase = (y[None, :, None] * frequency).expand(-1, -1, width)
        waves = torch.stack([x_phase.sin(), x_phase.cos(), y_phase.sin(), y_phase.cos()], dim=1)
        return waves.flatten(0, 1)

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, H, W] to the same, with the encoding added."""
        height, width = features.shape[2:]
        if torch.compiler.is_compiling():  # a graph for any size must not keep the table of one
            return features + self.table(height, width).to(features.dtype)
        key = (height, width, features.device, features.dtype)
        if key not in self._cache:
            self._cache.clear()  # frames of one camera share one size: keep that one
            self._cache[key] = self.table(height, width).to(features.dtype)
        return features + self._cache[key]
