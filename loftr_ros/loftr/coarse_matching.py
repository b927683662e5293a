"""Coarse matching: dual softmax over all pairs of cells, threshold, mutual nearest neighbours, border (section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class CoarseMatches:
    """Pairs of cells. batch, cell0, cell1: [M] integers (cells counted row by row); confidence: [M]."""

    batch: Tensor
    cell0: Tensor
    cell1: Tensor
    confidence: Tensor


def similarity(
    tokens0: Tensor,
    tokens1: Tensor,
    temperature: float,
    mask0: Tensor | None = None,
    mask1: Tensor | None = None,
) -> Tensor:
    """Scaled dot products S [B, L, S] of tokens [B, L, C] and [B, S, C]; ignored cells get the lowest finite value."""
    # Scaling the small factors, half of it each, keeps the products in the range of half precision.
    scale = (tokens0.shape[-1] * temperature**0.5) ** -0.5 * temperature**-0.25
    scores = torch.matmul(tokens0 * scale, (tokens1 * scale).transpose(1, 2))
    lowest = -min(1e9, torch.finfo(scores.dtype).max)
    if mask0 is not None:
        scores = scores.masked_fill(~mask0[:, :, None], lowest)
    if mask1 is not None:
        scores = scores.masked_fill(~mask1[:, None, :], lowest)
    return scores


def log_assignment(scores: Tensor) -> Tensor:
    """log P of the dual softmax (equation 1): P(i, j) = softmax over j of S(i, .) * softmax over i of S(., j)."""
    return torch.log_softmax(scores, dim=2) + torch.log_softmax(scores, dim=1)


def select(
    scores: Tensor,
    grid0: tuple[int, int],
    grid1: tuple[int, int],
    threshold: float,
    border: int,
    mask0: Tensor | None = None,
    mask1: Tensor | None = None,
) -> CoarseMatches:
    """Mutual nearest neighbours of the dual softmax with a confidence above the threshold, away from the border.

    Args:
        scores: [B, L, S] from `similarity`.
        grid0, grid1: (rows, columns) of the cells of each image; L and S are their products.
        mask0: [B, L] and mask1: [B, S], False for ignored cells.
    """
    # log P(i, j) = 2 S(i, j) - r(i) - c(j): no second matrix of that size is needed to rank a row or a column.
    rows, columns = torch.logsumexp(scores, dim=2), torch.logsumexp(scores, dim=1)
    doubled = scores * 2
    by_row = (doubled - columns[:, None, :]).max(dim=2)
    best_row = (doubled - rows[:, :, None]).argmax(dim=1)
    confidence = torch.exp(by_row.values - rows)
    cells = torch.arange(scores.shape[1], device=scores.device)
    keep = (confidence > threshold) & (torch.gather(best_row, 1, by_row.indices) == cells)
    keep &= _inside(grid0, border, scores.device)
    keep &= _inside(grid1, border, scores.device)[by_row.indices]
    if mask0 is not None:
        keep &= mask0
    if mask1 is not None:
        keep &= torch.gather(mask1, 1, by_row.indices)
    batch, cell0 = torch.where(keep)
    return CoarseMatches(batch, cell0, by_row.indices[batch, cell0], confidence[batch, cell0])


def _inside(grid: tuple[int, int], border: int, device: torch.device) -> Tensor:
    """[L] True for cells at least `border` cells away from the edge of the grid."""
    height, width = grid
    inside = torch.zeros(height, width, dtype=torch.bool, device=device)
    inside[border : height - border, border : width - border] = True
    return inside.flatten()
