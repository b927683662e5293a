"""Coarse matching: dual softmax over all pairs of cells, threshold, mutual nearest neighbours, border (section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_MOST_SPREAD = 60.0  # exp(-60) times the least single-precision number of a row sum, 1, is far above underflow
_IGNORED = -1e8  # below the scores of all cells that are not masked
_ROWS_PER_PART = 192


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
    rows, columns = log_sums(scores)
    best, cell1, best_row = _best(scores, rows, columns)
    confidence = torch.exp(best - rows)
    cells = torch.arange(scores.shape[1], device=scores.device)
    keep = (confidence > threshold) & (torch.gather(best_row, 1, cell1) == cells)
    keep &= _inside(grid0, border, scores.device)
    keep &= _inside(grid1, border, scores.device)[cell1]
    if mask0 is not None:
        keep &= mask0
    if mask1 is not None:
        keep &= torch.gather(mask1, 1, cell1)
    batch, cell0 = torch.where(keep)
    return CoarseMatches(batch, cell0, cell1[batch, cell0], confidence[batch, cell0])


def log_sums(scores: Tensor) -> tuple[Tensor, Tensor]:
    """logsumexp of scores [B, L, S] along the rows, [B, L], and along the columns, [B, S].

    On a CPU one exponential serves both: with m(i) the maximum of row i and g the largest of all, column sums of
    exp(S - g) are those of exp(S - m) weighted by exp(m - g). That needs the m to lie close together; where they do
    not, and on a GPU, the columns get exponentials of their own.
    """
    top = scores.amax(dim=2)
    highest = top.amax(dim=1, keepdim=True)
    if scores.device.type != "cpu" or not _close_together(top, highest):
        return torch.logsumexp(scores, dim=2), torch.logsumexp(scores, dim=1)
    row_sums, column_sums = torch.empty_like(top), torch.zeros_like(scores[:, 0])
    weights = torch.exp(top - highest)
    for part in _parts(scores):
        exponentials = torch.exp(scores[:, part] - top[:, part, None])
        row_sums[:, part] = exponentials.sum(dim=2)
        column_sums += torch.matmul(weights[:, None, part], exponentials)[:, 0]
    # A column that no row cares for at all must not be chosen.
    columns = torch.where(column_sums > 0, highest + torch.log(column_sums), torch.inf)
    return top + torch.log(row_sums), columns


def _close_together(top: Tensor, highest: Tensor) -> bool:
    """Whether exp(m - g) is far from underflow in every row that is not ignored."""
    used = top > _IGNORED
    return bool((torch.where(used, highest - top, 0.0) < _MOST_SPREAD).all())


def _best(scores: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of 2 S - c: the maximum of each row and where it is, [B, L]; of 2 S - r: where that of each column is, [B, S]."""
    value, index = torch.empty_like(rows), torch.empty_like(rows, dtype=torch.long)
    column_value = torch.full_like(columns, -torch.inf)
    column_index = torch.zeros_like(columns, dtype=torch.long)
    for part in _parts(scores):
        doubled = scores[:, part] * 2
        value[:, part], index[:, part] = (doubled - columns[:, None]).max(dim=2)
        best, where = (doubled - rows[:, part, None]).max(dim=1)
        better = best > column_value
        column_value = torch.where(better, best, column_value)
        column_index = torch.where(better, where + part.start, column_index)
    return value, index, column_index


def _parts(scores: Tensor) -> list[slice]:
    """Blocks of rows: small enough for the cache of a CPU; all rows at once on a GPU."""
    count = scores.shape[1]
    step = _ROWS_PER_PART if scores.device.type == "cpu" else count
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def _inside(grid: tuple[int, int], border: int, device: torch.device) -> Tensor:
    """[L] True for cells at least `border` cells away from the edge of the grid."""
    height, width = grid
    inside = torch.zeros(height, width, dtype=torch.bool, device=device)
    inside[border : height - border, border : width - border] = True
    return inside.flatten()
