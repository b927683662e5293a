# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Coarse matching: dual softmax over all pairs of cells, threshold, mutual nearest neighbours, border (section 3.3)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from loftr_ros.loftr.linear import project

# Below this threshold a row may hold so many candidates that the whole matrix is the shorter way.
_LEAST_STREAMED_THRESHOLD = 0.01
# Larger matrices are not kept whole on a GPU either.
_MOST_WHOLE = 1 << 27
_TILE = {"cpu": 1_800_000, "cuda": 1 << 25}  # pairs of cells at a time: on a CPU what its cache holds
_BLOCKS = 16  # of cells of image 1; those in the same place of all blocks are first asked together
# Sums of exponentials outside of this range have lost digits.
_LEAST_SUM, _LARGEST_SUM = 2.0**-90, 2.0**120
_SLACK = 0.999  # candidates may fall short of the threshold by rounding


@dataclass(frozen=True)
class CoarseMatches:
    """Pairs of cells. batch, cell0, cell1: [M] integers (cells counted row by row); confidence: [M]."""

    batch: Tensor
    cell0: Tensor
    cell1: Tensor
    confidence: Tensor


@dataclass(frozen=True)
class _Pairs:
    """Pairs of cells i, j [N] of one pair of images, and their probability [N]."""

    i: Tensor
    j: Tensor
    probability: Tensor

    def __getitem__(self, selection: Tensor) -> _Pairs:
        return _Pairs(self.i[selection], self.j[selection], self.probability[selection])


_Search = Callable[[Tensor, Tensor], _Pairs | None]  # `_candidates` with its settings bound


def match_cells(
    tokens0: Tensor,
    tokens1: Tensor,
    temperature: float,
    grid0: tuple[int, int],
    grid1: tuple[int, int],
    threshold: float,
    border: int,
    mask0: Tensor | None = None,
    mask1: Tensor | None = None,
    in_pieces: bool = False,
    find: Callable[..., Nearest] | None = None,
    factors: torch.dtype = torch.float32,
) -> CoarseMatches:
    """Mutual nearest neighbours of the dual softmax with a confidence above the threshold, away from the border.

    In pieces, on a CPU, and where the matrix of all pairs would be very large, it is never kept: see `_streamed`.
    In single precision, since a probability is the exponential of numbers as large as 100.

    Args:
        tokens0, tokens1: [B, L, C] and [B, S, C].
        grid0, grid1: (rows, columns) of the cells of each image; L and S are their products.
        mask0: [B, L] and mask1: [B, S], False for ignored cells.
        find: what does the work of `nearest` where the matrix is kept, such as its recording; None: that itself.
        factors: what the factors of the products of tokens are rounded to, where the matrix is not kept. bfloat16
            changes the probabilities of `tiny` on real images by 0.004 (root mean square).
    """
    with torch.autocast(tokens0.device.type, enabled=False):
        tokens0, tokens1 = tokens0.float(), tokens1.float()
        whole = torch.compiler.is_compiling() or threshold < _LEAST_STREAMED_THRESHOLD
        if not whole and (in_pieces or _is_large(tokens0, tokens1)):
            search = partial(_candidates, temperature=temperature, threshold=threshold, factors=factors)
            pairs = _stream_batch(tokens0, tokens1, search, mask0, mask1)
            if pairs is not None:
                return _joined(pairs, grid0, grid1, border)
        find = find or nearest
        return select(find(tokens0, tokens1, temperature, grid0, grid1, border, mask0, mask1), threshold)


def _is_large(tokens0: Tensor, tokens1: Tensor) -> bool:
    """Whether the matrix of all pairs is too large to be kept, which on a CPU is always better avoided."""
    return tokens0.device.type == "cpu" or tokens0.shape[1] * tokens1.shape[1] > _MOST_WHOLE


def _stream_batch(
    tokens0: Tensor, tokens1: Tensor, search: _Search, mask0: Tensor | None, mask1: Tensor | None
) -> list[_Pairs] | None:
    """`_streamed` for each pair of images; None if it is None for any."""
    masks0, masks1 = ([None] * len(tokens0) if mask is None else list(mask) for mask in (mask0, mask1))
    found = []
    for pair in zip(tokens0, tokens1, masks0, masks1):
        each = _streamed(pair[0], pair[1], search, pair[2], pair[3])
        if each is None:
            return None
        found.append(each)
    return found


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


@dataclass(frozen=True)
class Nearest:
    """For each cell of image 0 [B, L]: the most probable cell of image 1, and its probability: 0 where not mutual."""

    cell1: Tensor
    probability: Tensor


def nearest(
    tokens0: Tensor,
    tokens1: Tensor,
    temperature: float,
    grid0: tuple[int, int],
    grid1: tuple[int, int],
    border: int,
    mask0: Tensor | None = None,
    mask1: Tensor | None = None,
) -> Nearest:
    """Mutual nearest neighbours of the dual softmax by the matrix of all pairs; arguments as for `match_cells`."""
    scores = similarity(tokens0, tokens1, temperature, mask0, mask1).float()
    # As log_assignment. But a GPU's softmax along columns takes ten times as long as their sums of exponentials.
    columns = torch.logsumexp(scores, dim=1)
    log_p = torch.log_softmax(scores, dim=2).add_(scores)
    best_row = log_p.argmax(dim=1)  # what belongs to a column is the same in all of its rows
    best, cell1 = log_p.sub_(columns[:, None]).max(dim=2)
    cells = torch.arange(scores.shape[1], device=scores.device)
    keep = torch.gather(best_row, 1, cell1) == cells
    keep &= _inside(grid0, border, scores.device)
    keep &= _inside(grid1, border, scores.device)[cell1]
    if mask0 is not None:
        keep &= mask0
    if mask1 is not None:
        keep &= torch.gather(mask1, 1, cell1)
    return Nearest(cell1, torch.exp(best) * keep)


def select(found: Nearest, threshold: float) -> CoarseMatches:
    """The matches of `match_cells` among the nearest neighbours."""
    batch, cell0 = torch.where(found.probability > threshold)
    return CoarseMatches(batch, cell0, found.cell1[batch, cell0], found.probability[batch, cell0])


def _streamed(
    tokens0: Tensor, tokens1: Tensor, search: _Search, mask0: Tensor | None, mask1: Tensor | None
) -> _Pairs | None:
    """Mutual nearest neighbours of one pair of images, from tokens [L, C] and [S, C], some cells of image 0 at a time.

    P is the product of a row's softmax and a column's, so where P is above the threshold, so is the row's softmax:
    that leaves at most 1 / threshold candidates a row, all found in one pass. Whoever could be nearer to one of them
    than its partner is a candidate as well. None where sums of exponentials leave the range of single precision.
    """
    cells0 = None if mask0 is None else torch.where(mask0)[0]
    cells1 = None if mask1 is None else torch.where(mask1)[0]
    tokens0 = tokens0 if cells0 is None else tokens0[cells0]
    tokens1 = tokens1 if cells1 is None else tokens1[cells1]
    if len(tokens0) == 0 or len(tokens1) == 0:
        nothing = torch.zeros(0, dtype=torch.long, device=tokens0.device)
        return _Pairs(nothing, nothing, nothing.float())
    candidates = search(tokens0, tokens1)
    if candidates is None:
        return None
    found = _mutual(candidates, len(tokens0), len(tokens1))
    i = found.i if cells0 is None else cells0[found.i]
    j = found.j if cells1 is None else cells1[found.j]
    return _Pairs(i, j, found.probability)


def _candidates(
    tokens0: Tensor, tokens1: Tensor, temperature: float, threshold: float, factors: torch.dtype
) -> _Pairs | None:
    """All pairs of tokens [L, C] and [S, C] with a probability above the threshold, unordered."""
    tokens0 = tokens0 * (math.log2(math.e) / (tokens0.shape[1] * temperature))  # powers of 2 cost less than those of e
    count0, count1 = len(tokens0), len(tokens1)
    width = -(-count1 // _BLOCKS)
    padded = torch.cat([tokens1, tokens1[-1:].expand(width * _BLOCKS - count1, -1)])
    shift = -project(padded, tokens0[:: max(1, count0 // 64)].contiguous()).amax()  # close to the highest of all
    sums0, sums1 = tokens0.new_empty(count0), tokens0.new_zeros(count1)
    if factors != torch.float32:
        tokens0, padded = _shortened(tokens0, padded, shift, factors)
    hits: list[tuple[Tensor, Tensor, Tensor]] = []
    for start, tile in _tiles(tokens0, count1):
        powers = _powers(padded, tile, shift)
        powers[count1:] = 0  # what fills the last block matches nothing
        sums1 += powers[:count1].sum(dim=1)
        blocks = powers.view(_BLOCKS, width, len(tile))
        together = blocks.sum(dim=0)  # where one cell is above the threshold, so are the cells of its place together
        row_sums = together.sum(dim=0)
        sums0[start : start + len(tile)] = row_sums
        place, row = torch.where(together > _SLACK * threshold * row_sums)
        hits.append((place, row + start, blocks[:, place, row]))
    if not _in_range(sums0) or not _in_range(sums1):
        return None
    place, i = torch.cat([hit[0] for hit in hits]), torch.cat([hit[1] for hit in hits])
    powers = torch.cat([hit[2] for hit in hits], dim=1)  # [blocks, N]
    j = place + torch.arange(_BLOCKS, device=i.device)[:, None] * width
    probability = (powers / sums0[i]) * (powers / sums1[j.clamp(max=count1 - 1)])
    block, hit = torch.where(probability > threshold)
    return _Pairs(i[hit], j[block, hit], probability[block, hit])


def _powers(tokens1: Tensor, tile: Tensor, shift: Tensor) -> Tensor:
    """[S, rows] of 2, in single precision; what is `_shortened` holds the shift already."""
    if tile.dtype == torch.float32:
        return project(tokens1, tile, shift.expand(len(tile))).exp2_()
    return torch.mm(tokens1, tile.T).float().exp2_()


def _shortened(tokens0: Tensor, tokens1: Tensor, shift: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """[L, D] and [S, D] of few digits whose products are those of tokens [L, C] and [S, C], plus shift, nearly.

    Most of a product is what all cells of image 1 have in common, and would be lost by rounding. So their mean is taken
    from them, and what it adds to a row is two numbers beside its token, the second being what the first lost. With the
    shift the products that count lie within some tens of 0, where a step of bfloat16 is an eighth at most.
    """
    mean = tokens1.mean(dim=0)
    added = (tokens0 @ mean + shift)[:, None]
    rounded = added.to(dtype)
    wide = torch.cat([tokens0.to(dtype), rounded, (added - rounded).to(dtype)], dim=1)
    return wide, F.pad((tokens1 - mean).to(dtype), (0, 2), value=1.0)


def _tiles(tokens0: Tensor, count1: int) -> list[tuple[int, Tensor]]:
    """Some cells of image 0 each: where they start, and their tokens."""
    rows = max(16, _TILE.get(tokens0.device.type, _TILE["cuda"]) // count1 // 16 * 16)
    return [(start, tokens0[start : start + rows]) for start in range(0, len(tokens0), rows)]


def _in_range(sums: Tensor) -> bool:
    return bool(((sums > _LEAST_SUM) & (sums < _LARGEST_SUM)).all())


def _mutual(pairs: _Pairs, count0: int, count1: int) -> _Pairs:
    """The pairs that are the best of their row and of their column, in the order of the rows; the first of equals."""
    pairs = pairs[torch.argsort(pairs.i * count1 + pairs.j)]
    order = torch.argsort(pairs.probability, descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    best0 = rank.new_full((count0,), len(order)).scatter_reduce_(0, pairs.i, rank, "amin")
    best1 = rank.new_full((count1,), len(order)).scatter_reduce_(0, pairs.j, rank, "amin")
    return pairs[(best0[pairs.i] == rank) & (best1[pairs.j] == rank)]


def _joined(found: list[_Pairs], grid0: tuple[int, int], grid1: tuple[int, int], border: int) -> CoarseMatches:
    """The pairs of a batch, without those at the border."""
    i, j = (torch.cat([getattr(each, name) for each in found]) for name in ("i", "j"))
    batch = torch.cat([torch.full_like(each.i, b) for b, each in enumerate(found)])
    keep = _inside(grid0, border, i.device)[i] & _inside(grid1, border, i.device)[j]
    confidence = torch.cat([each.probability for each in found])
    return CoarseMatches(batch[keep], i[keep], j[keep], confidence[keep])


def _inside(grid: tuple[int, int], border: int, device: torch.device) -> Tensor:
    """[L] True for cells at least `border` cells away from the edge of the grid."""
    height, width = grid
    inside = torch.zeros(height, width, dtype=torch.bool, device=device)
    inside[border : height - border, border : width - border] = True
    return inside.flatten()
