# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Which coarse matches are refined, where there are more than there is time for."""

from __future__ import annotations

import torch
from torch import Tensor

from loftr_ros.loftr.coarse_matching import CoarseMatches
from loftr_ros.loftr.fine_matching import row_column

_BLOCK = 2  # cells to each side


def most_useful(
    matches: CoarseMatches, count: int, pairs: int, grid: tuple[int, int], wanted: Tensor | None = None
) -> CoarseMatches:
    """`count` of the matches, of which there are more, in their order: wanted, confident, spread over image 0.

    The best of each block of cells come first, then the second of each, and so on: neighbours tell the same
    twice, and confidence alone would leave out whole parts of the image, such as the ground.

    Args:
        pairs: number of image pairs in the batch.
        grid: (rows, columns) of the cells of image 0.
        wanted: [L] bool, cells of image 0 that are better than all others of their block; or None.
    """
    worth = matches.confidence if wanted is None else (matches.confidence + wanted[matches.cell0]) / 2
    rank = _rank_in_block(matches, worth, pairs, grid)
    kept = torch.topk(worth - rank, count).indices.sort().values
    return CoarseMatches(matches.batch[kept], matches.cell0[kept], matches.cell1[kept], matches.confidence[kept])


def _rank_in_block(matches: CoarseMatches, worth: Tensor, pairs: int, grid: tuple[int, int]) -> Tensor:
    """[M] how many matches of the same block are worth more."""
    rows, columns = (-(-side // _BLOCK) for side in grid)
    row, column = row_column(matches.cell0, grid)
    block = (matches.batch * rows + row // _BLOCK) * columns + column // _BLOCK
    place = row % _BLOCK * _BLOCK + column % _BLOCK
    values = worth.new_full((pairs * rows * columns, _BLOCK**2), -1.0)
    values[block, place] = worth
    ranks = values.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return ranks[block, place].to(worth.dtype)
