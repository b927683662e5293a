# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Fine matching: windows of fine features around each coarse match, and the expectation of their correlation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from loftr_ros.loftr.coarse_matching import CoarseMatches
from loftr_ros.loftr.config import LoFTRConfig
from loftr_ros.loftr.linear import project

FINE_STRIDE = 2  # pixels between fine cells
COARSE_STRIDE = 8  # pixels between coarse cells


class FinePreprocess(nn.Module):
    """Cuts the windows and adds each cell's coarse feature to them (official parameter names)."""

    def __init__(self, config: LoFTRConfig) -> None:
        super().__init__()
        self.window = config.window
        self.down_proj = nn.Linear(config.coarse_dim, config.fine_dim)
        self.merge_feat = nn.Linear(2 * config.fine_dim, config.fine_dim)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.kaiming_normal_(parameter, mode="fan_out", nonlinearity="relu")

    def forward(self, fine: Tensor, tokens: Tensor, grid: tuple[int, int], batch: Tensor, cell: Tensor) -> Tensor:
        """Windows of one image.

        Args:
            fine: [B, H, W, D] fine features, channels last.
            tokens: [B, L, C] coarse tokens after the transformer.
            grid: (rows, columns) of the coarse cells.
            batch, cell: [M] which windows.

        Returns:
            [M, window * window, D].
        """
        windows = gather_windows(fine, grid, batch, cell, self.window)
        if fine.device.type == "cpu":  # features are kept in half the memory there, but computed with as the tokens are
            windows = windows.to(tokens.dtype)
        # merge_feat of (window, context): the context is the same for all of a window, so its part is computed once.
        of_window, of_context = self.merge_feat.weight.chunk(2, dim=1)
        context = project(self.down_proj(tokens[batch, cell]), of_context, self.merge_feat.bias)
        return project(windows, of_window).add_(context[:, None])


def gather_windows(fine: Tensor, grid: tuple[int, int], batch: Tensor, cell: Tensor, window: int) -> Tensor:
    """[M, window * window, D] windows of fine [B, H, W, D] centred on the given coarse cells; 0 outside the image."""
    height, width = fine.shape[1:3]
    stride = COARSE_STRIDE // FINE_STRIDE
    offset = torch.arange(window, device=fine.device) - window // 2
    row, column = row_column(cell, grid)
    rows = ((row * stride)[:, None] + offset)[:, :, None]
    columns = ((column * stride)[:, None] + offset)[:, None, :]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    places = (batch[:, None, None] * height + rows.clamp(0, height - 1)) * width + columns.clamp(0, width - 1)
    # Whole cells of D numbers each are copied, and only those that are needed.
    windows = fine.reshape(-1, fine.shape[3]).index_select(0, places.flatten())
    return windows.view(len(cell), window * window, fine.shape[3]).mul_(inside.flatten(1)[:, :, None])


def expectation(windows0: Tensor, windows1: Tensor) -> tuple[Tensor, Tensor]:
    """Where the centre of windows0 [M, W * W or 1, D] lies in windows1 [M, W * W, D] (LoFTR section 3.4).

    Returns:
        offset: [M, 2] (x, y) in fine cells from the centre of the window.
        deviation: [M, 2] standard deviation of the heat map along x and y, in fine cells.
    """
    count, channels = windows1.shape[1:]
    side, radius = int(count**0.5), int(count**0.5) // 2
    with torch.autocast(windows0.device.type, enabled=False):  # few numbers, and their precision is that of the matches
        center = windows0[:, windows0.shape[1] // 2].float()
        correlation = torch.einsum("md,mwd->mw", center, windows1.float()) * channels**-0.5
        heat = torch.softmax(correlation, dim=1)
    axis = torch.arange(-radius, radius + 1, device=heat.device, dtype=heat.dtype)
    places = torch.stack([axis.repeat(side), axis.repeat_interleave(side)], dim=1)
    offset = heat @ places
    variance = heat @ places**2 - offset**2
    return offset, variance.clamp(min=1e-10).sqrt()


def cell_pixels(cell: Tensor, grid: tuple[int, int]) -> Tensor:
    """[M, 2] pixel (x, y) that each coarse cell looks at, in the network's own pixel convention."""
    row, column = row_column(cell, grid)
    return torch.stack([column, row], dim=1).float() * COARSE_STRIDE


def row_column(cell: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Of cells counted row by row."""
    row = cell // grid[1]
    return row, cell - row * grid[1]


def refined_pixels(matches: CoarseMatches, grid1: tuple[int, int], offset: Tensor) -> Tensor:
    """[M, 2] pixels in image 1 of coarse matches moved by their fine offset."""
    return cell_pixels(matches.cell1, grid1) + offset * FINE_STRIDE
