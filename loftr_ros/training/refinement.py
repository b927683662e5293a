# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Training of the second refinement alone.

At first with true matches, moved as the stages before it would err: that needs neither backbone nor transformers, so
that most of the time goes into what is trained. Then with what the network finds, wrong matches included.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from loftr_ros.loftr import LoFTR
from loftr_ros.loftr.model import halves, standardized
from loftr_ros.loftr.refinement import hints
from loftr_ros.training.config import TrainingConfig
from loftr_ros.training.data import Batch

# The error of the fine stage on rendered pairs, measured: each pair has a deviation of its own, around which errors
# scatter like Student's t with 2 degrees of freedom.
_MEDIAN_DEVIATION = 0.45  # pixels
_SPREAD = 0.4  # of its logarithm
_FREEDOM = 2.0
_MOST_JITTER = 12.0  # pixels
_OUTLIERS = 0.04  # share of matches that are elsewhere: they mislead their neighbours' affine maps
_OUTLIER_DEVIATION = 15.0  # pixels
_LEAST_KEPT = 0.4  # share of the true matches that exist, at least

_LEARNED = 4.0  # pixels; a match that is further off counts as an outlier that the refinement need not bring back
_ROUND = 0.05  # pixels; errors below it are squared, larger ones linear
_CLIPPED = 3.0  # pixels; no larger error widens the deviation
_LEAST_DEVIATION = 0.05  # pixels


@dataclass(frozen=True)
class Guesses:
    """Matches before the refinement.

    Attributes:
        batch, cell0: [M] which cell of image 0.
        points1: [M, 2] pixels in image 1; truth1: [M, 2] where they should lie.
        judged: [M] True where the truth is known, and the deviation is to learn from it.
        known: [M, 2] hints of the stages before; 0 where these did not run.
    """

    batch: Tensor
    cell0: Tensor
    points1: Tensor
    truth1: Tensor
    judged: Tensor
    known: Tensor


def jittered_matches(batch: Batch, generator: torch.Generator) -> Guesses:
    """A random part of the visible cells' matches, moved by random errors."""
    share = _LEAST_KEPT + (1 - _LEAST_KEPT) * torch.rand(1, generator=generator)
    chosen = torch.rand(batch.visible01.shape, generator=generator) < share
    index, cell0 = torch.where(batch.visible01 & chosen.to(batch.visible01.device))
    truth1 = batch.points01[index, cell0]
    jitter = _jitter(index.cpu(), len(batch.images0), generator)
    points1 = truth1 + jitter.to(truth1.device)
    return Guesses(index, cell0, points1, truth1, near(points1, truth1), torch.zeros_like(truth1))


def near(points1: Tensor, truth1: Tensor) -> Tensor:
    """[M] True where the refinement can bring a match home."""
    return (points1 - truth1).norm(dim=1) < _LEARNED


def found_matches(network: LoFTR, batch: Batch) -> Guesses:
    """What the stages before the refinement find, some of it wrong."""
    with torch.no_grad(), torch.autocast(batch.images0.device.type, enabled=False):
        both = network.extract(torch.cat([batch.images0, batch.images1]))
        found = network.find(*halves(both))
    index, cell0 = found.batch, found.cell0
    judged = batch.visible01[index, cell0] | batch.hidden01[index, cell0]
    # What the other image certainly does not see is found in a wrong place: as far off as the clipped error goes.
    truth1 = torch.where(batch.visible01[index, cell0, None], batch.points01[index, cell0], torch.inf)
    return Guesses(index, cell0, found.points1, truth1, judged, hints(found.confidence, found.deviation))


def _jitter(index: Tensor, pairs: int, generator: torch.Generator) -> Tensor:
    """[M, 2] pixels for matches of the pairs index [M]."""
    count = len(index)
    scale = _MEDIAN_DEVIATION * torch.exp(_SPREAD * torch.randn(pairs, generator=generator))[index]
    # The square of a chi variable with 2 degrees of freedom is exponential with mean 2.
    chi = -_FREEDOM * torch.rand(count, generator=generator).clamp(min=1e-9).log()
    t = torch.randn(count, 2, generator=generator) / (chi / _FREEDOM).sqrt()[:, None]
    jitter = (scale[:, None] * t).clamp(-_MOST_JITTER, _MOST_JITTER)
    outlier = torch.rand(count, generator=generator) < _OUTLIERS
    return torch.where(
        outlier[:, None], _OUTLIER_DEVIATION * torch.randn(count, 2, generator=generator), jitter
    )


def refinement_loss(network: LoFTR, batch: Batch, guesses: Guesses, config: TrainingConfig) -> Tensor:
    """The sum over the refinement's steps of `position_loss` and the weighted `deviation_loss`."""
    assert network.refinement is not None
    home = near(guesses.points1, guesses.truth1)
    steps = network.refinement.iterate(
        standardized(batch.images0), standardized(batch.images1),
        guesses.points1, guesses.batch, guesses.cell0, batch.grid, guesses.known,
    )  # fmt: skip
    parts = []
    for points1, deviation in steps:
        error = points1 - guesses.truth1
        likelihood = deviation_loss(error[guesses.judged], deviation[guesses.judged])
        parts.append(position_loss(error[home], deviation[home]) + config.refinement_likelihood_weight * likelihood)
    return torch.stack(parts).sum()


def position_loss(error: Tensor, deviation: Tensor) -> Tensor:
    """Error [M, 2] pixels weighted by the certainty, 1 / deviation [M], as a constant; linear beyond _ROUND."""
    weight = 1 / deviation.detach().clamp(min=2 * _LEAST_DEVIATION)
    distance = (error.square().sum(dim=1) + _ROUND**2).sqrt() - _ROUND
    return (weight / weight.mean().clamp(min=1e-6) * distance).sum() / max(len(error), 1)


def deviation_loss(error: Tensor, deviation: Tensor) -> Tensor:
    """Gaussian likelihood of deviation [M] pixels along each axis, for a fixed and clipped error [M, 2]."""
    squared = error.detach().clamp(-_CLIPPED, _CLIPPED).square().sum(dim=1)
    variance = deviation.square() + _LEAST_DEVIATION**2
    return (squared / (2 * variance) + variance.log()).sum() / max(len(error), 1)
