# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""The dual softmax in training, and the losses of the coarse stage (LoFTR section 3.5)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from loftr_ros.loftr.coarse_matching import similarity

_FOCUS = 0.5  # exponent of the focal loss: certain pairs count less


@dataclass(frozen=True)
class Assignment:
    """The dual softmax P of similarities S, where needed only: log P(i, j) = 2 S(i, j) - r(i) - c(j).

    Attributes:
        scores: S [B, L, S]; rows: r [B, L]; columns: c [B, S], their logarithmic sums of exponentials.
    """

    scores: Tensor
    rows: Tensor
    columns: Tensor

    @staticmethod
    def of(tokens0: Tensor, tokens1: Tensor, temperature: float) -> Assignment:
        """In single precision: half of it is too coarse for soft maxima."""
        with torch.autocast(tokens0.device.type, enabled=False):
            scores = similarity(tokens0.float(), tokens1.float(), temperature)
        return Assignment(scores, scores.logsumexp(dim=2), scores.logsumexp(dim=1))

    def log_p(self, index: Tensor, cell0: Tensor, cell1: Tensor) -> Tensor:
        """[M] log P of pairs of cells."""
        return 2 * self.scores[index, cell0, cell1] - self.rows[index, cell0] - self.columns[index, cell1]

    def matched(self, cells0: Tensor) -> Tensor:
        """[M] the whole probability with which the cells of image 0 marked in [B, L] match anything."""
        index, cell0 = torch.where(cells0)
        log_p = 2 * self.scores[index, cell0] - self.columns[index] - self.rows[index, cell0, None]
        return log_p.exp().sum(dim=1)

    def divergence(self, teacher: Assignment) -> Tensor:
        """Mean over the rows of the Kullback-Leibler divergence of their softmax from a teacher's."""
        own, wanted = (each.scores - each.rows[:, :, None] for each in (self, teacher))
        return F.kl_div(own, wanted, log_target=True, reduction="none").sum(dim=2).mean()

    def reversed(self) -> Assignment:
        """The same of the images in the other order."""
        return Assignment(self.scores.transpose(1, 2), self.columns, self.rows)


def coarse_loss(assignment: Assignment, index: Tensor, cell0: Tensor, cell1: Tensor) -> Tensor:
    """Focal loss of the assignment at the true pairs [M]."""
    truth = assignment.log_p(index, cell0, cell1)
    weight = (1 - truth.detach().exp()).clamp(min=0) ** _FOCUS
    return -(weight * truth).sum() / max(len(truth), 1)


def negative_loss(assignment: Assignment, hidden0: Tensor, hidden1: Tensor) -> Tensor:
    """Cells [B, L] that the other image does not see must not match: -log(1 - their whole probability)."""
    matched = torch.cat([assignment.matched(hidden0), assignment.reversed().matched(hidden1)])
    return -torch.log1p(-matched.clamp(max=1 - 1e-4)).sum() / max(len(matched), 1)


def teacher_loss(assignment: Assignment, teacher: Assignment) -> Tensor:
    """How far both softmaxes are from a teacher's: the divergence of rows and that of columns (Hinton et al., 2015)."""
    return assignment.divergence(teacher) + assignment.reversed().divergence(teacher.reversed())


def token_loss(tokens: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of tokens [B, L, C] from a teacher's, as a share of their own square."""
    return (tokens - teacher).square().mean() / teacher.square().mean()
