# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Which coarse matches are refined, where not all of them are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from loftr_ros.loftr import CoarseStage
from loftr_ros.loftr.coarse_matching import CoarseMatches
from loftr_ros.loftr.selection import most_useful

GRID = (5, 7)  # odd: the last blocks are cut


def matches_of(confidence: torch.Tensor) -> CoarseMatches:
    """Every cell of each pair with itself; confidence [B, L]."""
    batch, cell = torch.where(torch.ones_like(confidence, dtype=torch.bool))
    return CoarseMatches(batch, cell, cell, confidence.flatten())


def expected(worth: np.ndarray, count: int) -> list[tuple[int, int]]:
    """(pair, cell) of the best of each block, then the second best, and so on; one by one."""
    ordered = []
    for pair, of_pair in enumerate(worth):
        blocks: dict[tuple[int, int], list[int]] = {}
        for cell in np.argsort(-of_pair):
            blocks.setdefault((cell // GRID[1] // 2, cell % GRID[1] // 2), []).append(cell)
        ordered += [(rank, -of_pair[cell], pair, cell) for cells in blocks.values() for rank, cell in enumerate(cells)]
    return sorted((pair, cell) for _, _, pair, cell in sorted(ordered)[:count])


@pytest.mark.parametrize("count", [1, 5, 12, 13, 24, 40, 69])
def test_best_of_each_block_first(count):
    confidence = np.random.default_rng(3).uniform(0.1, 1.0, (2, 35)).astype(np.float32)
    some = most_useful(matches_of(torch.from_numpy(confidence)), count, 2, GRID)
    assert list(zip(some.batch.tolist(), some.cell0.tolist())) == expected(confidence, count)
    assert torch.equal(some.cell1, some.cell0)
    assert torch.equal(some.confidence, torch.from_numpy(confidence)[some.batch, some.cell0])


def test_all_stay_where_there_are_no_more_or_all_are_asked_for():
    every = CoarseStage(torch.zeros(1, 35, 4), torch.zeros(1, 35, 4), matches_of(torch.rand(1, 35)))
    assert every.best(35, GRID) is every and every.best(0, GRID) is every
    some = every.best(7, GRID)
    assert len(some.matches.cell0) == 7 and some.share == pytest.approx(0.2)
    assert some.best(7, GRID).share == some.share == some.swapped().share


@pytest.mark.parametrize("count", [1, 5, 9, 12, 20, 34])
def test_wanted_ones_are_the_best_of_their_block(count):
    confidence = np.random.default_rng(4).uniform(0.1, 1.0, (1, 35)).astype(np.float32)
    wanted = np.arange(35) % 3 == 1
    some = most_useful(matches_of(torch.from_numpy(confidence)), count, 1, GRID, torch.from_numpy(wanted))
    assert [(0, cell) for cell in some.cell0.tolist()] == expected(confidence + wanted, count)
    assert torch.equal(some.confidence, torch.from_numpy(confidence)[0, some.cell0])
