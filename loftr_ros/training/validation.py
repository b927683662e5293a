# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""How good a network is on held-out pairs with known correspondences."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from loftr_ros.loftr import LoFTR, LoFTROutput
from loftr_ros.loftr.fine_matching import COARSE_STRIDE
from loftr_ros.training.data import Batch
from loftr_ros.training.losses import mutual_cells


@dataclass(frozen=True)
class Scores:
    """Attributes:
    precision: share of the matches whose position is within one coarse cell of the truth.
    recall: share of the cells with a partner that have such a match.
    median_error, within_1px: position error of those matches in pixels, and the share of them below 1 pixel.
    calibration: root mean square of error / deviation per axis, both clipped at 3 pixels; 1 is honest.
    """

    precision: float
    recall: float
    median_error: float
    within_1px: float
    calibration: float


def validate(network: LoFTR, batches: list[Batch], device: torch.device) -> Scores:
    """Scores of the network, which is left in evaluation mode."""
    network.eval()
    errors, deviations, partners = [], [], 0
    for batch in (item.to(device) for item in batches):
        with torch.no_grad():
            output = network(batch.images0, batch.images1)
        partners += len(mutual_cells(batch, batch.grid, batch.grid)[0])
        errors.append(_errors(output, batch))
        deviations.append(output.deviation)
    return _scores(torch.cat(errors), torch.cat(deviations), partners)


def _errors(output: LoFTROutput, batch: Batch) -> Tensor:
    """[M] pixels to the truth; infinite where image 1 does not see the cell."""
    truth = batch.points01[output.batch, output.cell0]
    error = (output.points1 - truth).norm(dim=1)
    return error.masked_fill(~batch.visible01[output.batch, output.cell0], torch.inf)


def _scores(error: Tensor, deviation: Tensor, partners: int) -> Scores:
    good = error < COARSE_STRIDE
    near = error[good]
    ratio = near.clamp(max=3) / deviation[good].clamp(max=3)
    return Scores(
        precision=good.float().mean().item() if len(good) else 0.0,
        recall=len(near) / max(partners, 1),
        median_error=near.median().item() if len(near) else float("nan"),
        within_1px=(near < 1).float().mean().item() if len(near) else 0.0,
        calibration=(ratio.square().mean() / 2).sqrt().item() if len(near) else float("nan"),
    )
