# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""The losses of a stage (LoFTR section 3.5), and the forward pass they need."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from loftr_ros.loftr import ImageFeatures, LoFTR
from loftr_ros.loftr.coarse_matching import CoarseMatches
from loftr_ros.loftr.fine_matching import COARSE_STRIDE, FINE_STRIDE, cell_pixels, expectation, refined_pixels
from loftr_ros.loftr.refinement import hints
from loftr_ros.training.assignment import Assignment, coarse_loss, negative_loss, teacher_loss, token_loss
from loftr_ros.training.config import TrainingConfig
from loftr_ros.training.data import Batch
from loftr_ros.training.refinement import Guesses, found_matches, jittered_matches, near, refinement_loss

_LARGEST_ERROR = 2.0  # fine cells; beyond it the likelihood counts no more
_ROUND = 0.1  # fine cells; errors below it are squared, larger ones linear
_LEAST_DEVIATION = 0.1  # fine cells; no heat map is narrower than this for the likelihood


@dataclass(frozen=True)
class Losses:
    """Means over a batch; total is their weighted sum."""

    total: Tensor
    coarse: Tensor
    negative: Tensor
    fine: Tensor
    likelihood: Tensor
    refinement: Tensor
    teacher: Tensor


def losses(network: LoFTR, batch: Batch, config: TrainingConfig, teacher: LoFTR | None = None) -> Losses:
    """Losses of a batch on the network's device; the stage `coarse` has a teacher."""
    generator = torch.Generator().manual_seed(batch.seed)
    if config.stage in ("jitter", "found"):
        guesses = jittered_matches(batch, generator) if config.stage == "jitter" else found_matches(network, batch)
        refinement = refinement_loss(network, batch, guesses, config)
        nothing = torch.zeros_like(refinement)
        return Losses(refinement, nothing, nothing, nothing, nothing, refinement, nothing)
    if config.stage == "coarse":
        assert teacher is not None, "the trainer has started from its weights"
        return coarse_losses(network, batch, config, teacher, random_offset(config.position_offset, generator))
    # 1. Features and coarse assignment
    features0, features1 = features_of_pairs(network, batch, random_offset(config.position_offset, generator))
    tokens0, tokens1 = network.loftr_coarse.together(features0.tokens, features1.tokens)
    assignment = Assignment.of(network.compared(tokens0), network.compared(tokens1), network.config.temperature)
    coarse = negative = assignment.scores.new_zeros(())
    if config.stage == "all":
        coarse = coarse_loss(assignment, *mutual_cells(batch, features0.grid, features1.grid))
        negative = negative_loss(assignment, batch.hidden01, batch.hidden10)
    # 2. Fine positions at true matches
    matches, offset = fine_targets(batch, features1.grid, config, generator)
    predicted, deviation = _refine(network, features0, features1, tokens0, tokens1, matches)
    in_window = (offset.abs() <= network.config.window // 2 + 0.5).all(dim=1)
    error = (predicted - offset)[in_window]
    fine = fine_loss(error, deviation[in_window])
    likelihood = likelihood_loss(error, deviation[in_window])
    total = config.coarse_weight * coarse + config.negative_weight * negative
    total = total + config.fine_weight * fine + config.likelihood_weight * likelihood
    # 3. Second refinement of what the fine stage found
    refinement = torch.zeros_like(total)
    if network.refinement is not None:
        truth1 = batch.points01[matches.batch, matches.cell0]
        found1 = refined_pixels(matches, features1.grid, predicted.detach())
        certainty = assignment.log_p(matches.batch, matches.cell0, matches.cell1).detach().exp()
        known = hints(certainty, FINE_STRIDE * deviation.detach().mean(dim=1))
        guesses = Guesses(matches.batch, matches.cell0, found1, truth1, near(found1, truth1), known)
        refinement = refinement_loss(network, batch, guesses, config)
    total = total + config.refinement_weight * refinement
    return Losses(total, coarse, negative, fine, likelihood, refinement, torch.zeros_like(total))


def coarse_losses(
    network: LoFTR, batch: Batch, config: TrainingConfig, teacher: LoFTR, offset: tuple[float, float]
) -> Losses:
    """Of the stage `coarse`: the assignment at true matches, and how far it and the tokens are from the teacher's.

    Both have the same backbone; the position encoding is moved by offset, (row, column) cells.
    """
    with torch.no_grad():
        coarse = network.encode(network.prepared(_images(batch)))
        grid = (coarse.shape[2], coarse.shape[3])
        known = _after_coarse(teacher, coarse, offset)
    own = _after_coarse(network, coarse, offset)
    assignment, wanted = (
        Assignment.of(each.compared(tokens0), each.compared(tokens1), each.config.temperature)
        for each, (tokens0, tokens1) in ((network, own), (teacher, known))
    )
    at_truth = coarse_loss(assignment, *mutual_cells(batch, grid, grid))
    negative = negative_loss(assignment, batch.hidden01, batch.hidden10)
    from_teacher = teacher_loss(assignment, wanted) + token_loss(torch.stack(own).float(), torch.stack(known).float())
    total = config.coarse_weight * at_truth + config.negative_weight * negative + config.teacher_weight * from_teacher
    nothing = torch.zeros_like(total)
    return Losses(total, at_truth, negative, nothing, nothing, nothing, from_teacher)


def _after_coarse(network: LoFTR, coarse: Tensor, offset: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Tokens [B, L, C] of both images after the coarse transformer, from their features [2 B, C, H, W]."""
    tokens0, tokens1 = _tokens(network, coarse, offset).chunk(2)
    return network.loftr_coarse.together(tokens0, tokens1)


def _refine(
    network: LoFTR,
    features0: ImageFeatures,
    features1: ImageFeatures,
    tokens0: Tensor,
    tokens1: Tensor,
    matches: CoarseMatches,
) -> tuple[Tensor, Tensor]:
    """As LoFTR.refine, with the heat map in single precision."""
    cut = network.fine_preprocess
    windows0 = cut(features0.fine, tokens0, features0.grid, matches.batch, matches.cell0)
    windows1 = cut(features1.fine, tokens1, features1.grid, matches.batch, matches.cell1)
    windows0, windows1 = network.loftr_fine(windows0, windows1)
    with torch.autocast(tokens0.device.type, enabled=False):
        return expectation(windows0.float(), windows1.float())


def random_offset(largest: float, generator: torch.Generator) -> tuple[float, float]:
    """(row, column) at which the position encoding of both images starts."""
    row, column = (torch.rand(2, generator=generator) * largest).floor().tolist()
    return row, column


def features_of_pairs(
    network: LoFTR, batch: Batch, offset: tuple[float, float] = (0.0, 0.0)
) -> tuple[ImageFeatures, ImageFeatures]:
    """As LoFTR.extract for both images at once, with the position encoding moved by (row, column) cells."""
    coarse, fine = network.features(network.prepared(_images(batch)))
    grid = (coarse.shape[2], coarse.shape[3])
    tokens0, tokens1 = _tokens(network, coarse, offset).chunk(2)
    fine0, fine1 = fine.permute(0, 2, 3, 1).chunk(2)
    return ImageFeatures(tokens0, fine0, grid), ImageFeatures(tokens1, fine1, grid)


def _images(batch: Batch) -> Tensor:
    """[2 B, 1, H, W] those of the pairs' first and then of their second views."""
    return torch.cat([batch.images0, batch.images1]).contiguous(memory_format=torch.channels_last)


def _tokens(network: LoFTR, coarse: Tensor, offset: tuple[float, float]) -> Tensor:
    """As `ImageFeatures.tokens`, of the backbone's coarse features and with the position encoding moved."""
    tokens = coarse + network.pos_encoding.table(coarse.shape[2], coarse.shape[3], *offset).to(coarse.dtype)
    return network.loftr_coarse.alone(tokens.flatten(2).transpose(1, 2))


def nearest_cells(points: Tensor, grid: tuple[int, int]) -> Tensor:
    """[B, L] the cell that looks at the pixel nearest to each of the points [B, L, 2]."""
    column = (points[..., 0] / COARSE_STRIDE).round().clamp(0, grid[1] - 1)
    row = (points[..., 1] / COARSE_STRIDE).round().clamp(0, grid[0] - 1)
    return (row * grid[1] + column).long()


def mutual_cells(
    batch: Batch, grid0: tuple[int, int], grid1: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """(batch, cell0, cell1) [M] each: cells that are each other's nearest, the true assignment."""
    cell1 = nearest_cells(batch.points01, grid1)
    back = torch.gather(nearest_cells(batch.points10, grid0), 1, cell1)
    seen_back = torch.gather(batch.visible10, 1, cell1)
    itself = torch.arange(back.shape[1], device=back.device)
    index, cell0 = torch.where(batch.visible01 & seen_back & (back == itself))
    return index, cell0, cell1[index, cell0]


def fine_targets(
    batch: Batch, grid1: tuple[int, int], config: TrainingConfig, generator: torch.Generator
) -> tuple[CoarseMatches, Tensor]:
    """Up to config.fine_matches true matches per pair, and their offset [M, 2] from cell1 in fine cells."""
    order = torch.rand(batch.visible01.shape, generator=generator).to(batch.visible01.device)
    order = order.masked_fill(~batch.visible01, 2.0)
    count = min(config.fine_matches, order.shape[1])
    chosen = torch.topk(order, count, dim=1, largest=False, sorted=False)
    index, place = torch.where(chosen.values < 1.5)
    cell0 = chosen.indices[index, place]
    points1 = batch.points01[index, cell0]
    jitter = (torch.rand(points1.shape, generator=generator) * 2 - 1) * config.cell_jitter
    cell1 = nearest_cells(points1 + jitter.to(points1.device), grid1)
    offset = (points1 - cell_pixels(cell1, grid1)) / FINE_STRIDE
    return CoarseMatches(index, cell0, cell1, torch.ones_like(offset[:, 0])), offset


def fine_loss(error: Tensor, deviation: Tensor) -> Tensor:
    """Error [M, 2] in fine cells, weighted by the certainty of the heat map (equation 6) as a constant.

    Linear instead of squared beyond _ROUND: the many good matches get better rather than the few bad ones.
    """
    weight = 1 / deviation.detach().mean(dim=1).clamp(min=_LEAST_DEVIATION)
    distance = (error.square().sum(dim=1) + _ROUND**2).sqrt() - _ROUND
    return (weight / weight.mean().clamp(min=1e-6) * distance).sum() / max(len(error), 1)


def likelihood_loss(error: Tensor, deviation: Tensor) -> Tensor:
    """Makes the heat map as wide as the error, both [M, 2] fine cells: Gaussian likelihood, error fixed."""
    squared = error.detach().square().clamp(max=_LARGEST_ERROR**2)
    variance = deviation.square() + _LEAST_DEVIATION**2
    return (squared / variance + variance.log()).sum() / max(2 * len(error), 1)
