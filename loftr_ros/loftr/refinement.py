# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Second refinement: patches of the images themselves around each match, and a small network that compares them.

The fine stage sees features at half the resolution through a window of five of them. Here patches of full resolution
are compared, that of image 1 warped by the local affine map that the neighbouring matches suggest.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loftr_ros.loftr.config import LoFTRConfig
from loftr_ros.loftr.fine_matching import COARSE_STRIDE, cell_pixels, row_column

_REACH = 2  # cells to each side that take part in the local affine map
_PRIOR = 50.0  # square pixels: how much the identity counts beside the neighbours in it
_NOISE = 0.05  # standardised grey: a patch of less contrast is not amplified
_PIECE = 512  # matches
_EVIDENCE = 7  # contrast of both patches, agreement (3) and hints (2)
_MOST_VOTE = 4.0  # pixels; neighbours that are further off say no more
_LOG_DEVIATION = (-4.0, 3.0)  # least and most of the logarithm of a predicted deviation in pixels


class Refinement(nn.Module):
    """Compares two patches and says by how much the match is off, and how sure that is.

    A small regression network in the manner of DeTone et al. ("Deep Image Homography Estimation", 2016), for a
    translation only, applied `refine_steps` times with the same weights. Untrained, it moves nothing.

    Attributes:
        short: on a CPU patches are compared in bfloat16.
    """

    def __init__(self, config: LoFTRConfig) -> None:
        super().__init__()
        first, second, third = config.refine_dims
        self.side, self.steps, self.short = config.refine_side, config.refine_steps, False
        self.conv1 = nn.Conv2d(2, first, 3)
        self.conv2 = nn.Conv2d(first, second, 3, stride=2)
        self.conv3 = nn.Conv2d(second, third, 3)
        rest = (self.side - 5) // 2 - 1  # pixels to a side after the convolutions
        self.hidden = nn.Linear(third * rest**2 + _EVIDENCE, config.refine_hidden)
        self.output = nn.Linear(config.refine_hidden, 3)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(
        self,
        image0: Tensor,
        image1: Tensor,
        points1: Tensor,
        batch: Tensor,
        cell0: Tensor,
        grid0: tuple[int, int],
        hints: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Better points1 [M, 2] and their deviation [M] in pixels; arguments as for `iterate`."""
        *_, last = self.iterate(image0, image1, points1, batch, cell0, grid0, hints)
        return last

    def iterate(
        self,
        image0: Tensor,
        image1: Tensor,
        points1: Tensor,
        batch: Tensor,
        cell0: Tensor,
        grid0: tuple[int, int],
        hints: Tensor,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The points1 [M, 2] and deviation [M] of each step.

        Args:
            image0: [B, 1, H0, W0], image1: [B, 1, H1, W1] grey with mean 0 and deviation 1.
            points1: [M, 2] (x, y) in image 1 where cell0 [M] of pair batch [M] is thought to lie.
            grid0: (rows, columns) of the cells of image 0.
            hints: [M, 2] what `hints` makes of the stages before; 0 where that is unknown.
        """
        patches0, contrast0 = normalized(
            sample_patches(image0, batch, cell_pixels(cell0, grid0), None, self.side)
        )
        for _ in range(self.steps):
            points1 = points1.detach()
            affine, agreement = local_affine(points1, batch, cell0, grid0, len(image0))
            patches1, contrast1 = normalized(sample_patches(image1, batch, points1, affine, self.side))
            evidence = torch.cat([torch.stack([contrast0, contrast1], dim=1), agreement, hints], dim=1)
            step, deviation = self.compare(patches0, patches1, evidence)
            points1 = points1 + transformed(affine, step[:, None])[:, 0]
            yield points1, deviation * _determinant(affine).abs().sqrt()

    def compare(self, patches0: Tensor, patches1: Tensor, evidence: Tensor) -> tuple[Tensor, Tensor]:
        """Where the centre of patches0 lies in patches1, both [M, S, S]; evidence [M, 7] is what else is known.

        Returns:
            [M, 2] pixels (x, y) from the centre of patches1, and the deviation [M] of that.
        """
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or patches0.device.type != "cpu":
            answer = self._regress(patches0, patches1, evidence)
        else:  # what a piece needs stays in the processor's cache
            pieces = zip(*(each.split(_PIECE) for each in (patches0, patches1, evidence)))
            with torch.autocast("cpu", torch.bfloat16, enabled=self.short):
                answer = torch.cat([self._regress(*piece) for piece in pieces])
        return answer[:, :2], answer[:, 2].clamp(*_LOG_DEVIATION).exp()

    def _regress(self, patches0: Tensor, patches1: Tensor, evidence: Tensor) -> Tensor:
        """[M, 3] offset (x, y) and the logarithm of its deviation."""
        x = torch.stack([patches0, patches1], dim=3).permute(0, 3, 1, 2)
        for layer in (self.conv1, self.conv2, self.conv3):
            x = layer(x).relu_()
        x = self.hidden(torch.cat([x.flatten(1), evidence], dim=1)).relu_()
        return self.output(x).float()


def hints(confidence: Tensor, deviation: Tensor) -> Tensor:
    """[M, 2] of the coarse confidence [M] and the fine deviation [M] in pixels."""
    return torch.stack([confidence.float(), deviation.float().clamp(min=0.05).log()], dim=1)


def local_affine(
    points1: Tensor, batch: Tensor, cell0: Tensor, grid0: tuple[int, int], pairs: int
) -> tuple[Tensor, Tensor]:
    """How the surroundings of each match move, from the matches of the neighbouring cells.

    Args:
        points1: [M, 2] pixels in image 1; batch, cell0: [M] whose they are; at most one for each cell.
        grid0: (rows, columns) of the cells of image 0.
        pairs: B, the number of image pairs.

    Returns:
        affine: [M, 2, 2] derivative of points1 by the pixel in image 0.
        agreement: [M, 3] the share of neighbours that agree, and the pixels (x, y) in image 0 by which they would move
            the match.
    """
    motion = (points1 - cell_pixels(cell0, grid0)).T
    near, step = _neighbours(motion, batch, cell0, grid0, pairs)
    change = near[:2] - motion[:, :, None]
    # Neighbours at another depth move otherwise: they count less (Cauchy weights, squared).
    scale = 1 + 0.3 * step.norm(dim=0)
    weight = near[2] / (1 + change.square().sum(dim=0) / scale**2) ** 2
    with torch.autocast(step.device.type, enabled=False):  # half precision is too coarse for geometry
        # The sums over the neighbours are products with what depends on their places alone.
        (x, y), one = step, torch.ones_like(step[0])
        sums = weight @ torch.stack([x * x, x * y, y * y, x, y, one]).T
        products = (weight * change) @ torch.stack([x, y, one]).T  # [2, M, 3]
    normal_x, normal_xy, normal_y, sum_x, sum_y, total = sums.T
    normal = _matrices(normal_x + _PRIOR, normal_xy, normal_xy, normal_y + _PRIOR)
    slope = transformed(_inverse(normal), products[..., :2].transpose(0, 1))  # the inverse is symmetric
    affine = slope + torch.eye(2, device=step.device)
    moved = transformed(slope, torch.stack([sum_x, sum_y], dim=1)[:, None])[:, 0]
    vote = (products[..., 2].T - moved) / (total + 1)[:, None]
    vote = transformed(_inverse(affine), vote[:, None])[:, 0].clamp(-_MOST_VOTE, _MOST_VOTE)
    return affine, torch.cat([total[:, None] / step.shape[1], vote], dim=1)


def _neighbours(
    motion: Tensor, batch: Tensor, cell0: Tensor, grid0: tuple[int, int], pairs: int
) -> tuple[Tensor, Tensor]:
    """[3, M, N] the motion (x, y) of the matches of N cells around each match, and 1 (all 0: no match there).

    motion: [2, M] of the matches. Second: [2, N] the pixels (x, y) to these cells.
    """
    rows, columns = grid0[0] + 2 * _REACH, grid0[1] + 2 * _REACH
    row, column = row_column(cell0, grid0)
    place = (batch * rows + row + _REACH) * columns + column + _REACH
    field = motion.new_zeros(3, pairs * rows * columns)
    field[:, place] = torch.cat([motion, torch.ones_like(motion[:1])])
    axis = torch.arange(-_REACH, _REACH + 1, device=motion.device)
    step_y, step_x = (step.flatten() for step in torch.meshgrid(axis, axis, indexing="ij"))
    step = torch.stack([step_x, step_y]).to(motion.dtype) * COARSE_STRIDE
    return field[:, place[:, None] + step_y * columns + step_x], step


def _matrices(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """[M, 2, 2] with the rows (a, b) and (c, d), [M] each."""
    return torch.stack([a, b, c, d], dim=1).unflatten(1, (2, 2))


def _determinant(matrix: Tensor) -> Tensor:
    """[M] of [M, 2, 2]."""
    return matrix[:, 0, 0] * matrix[:, 1, 1] - matrix[:, 0, 1] * matrix[:, 1, 0]


def _inverse(matrix: Tensor) -> Tensor:
    """Of [M, 2, 2]; where there is none, of one that is less flat."""
    (a, b), (c, d) = matrix[:, 0].T, matrix[:, 1].T
    determinant = _determinant(matrix)
    return _matrices(d, -b, -c, a) / torch.where(determinant.abs() < 0.05, 0.05, determinant)[:, None, None]


def transformed(affine: Tensor, steps: Tensor) -> Tensor:
    """affine [M, 2, 2] times each of steps [M or 1, N, 2]; unlike a matrix product in full precision under autocast."""
    return affine[:, None, :, 0] * steps[..., :1] + affine[:, None, :, 1] * steps[..., 1:]


def sample_patches(image: Tensor, batch: Tensor, points: Tensor, affine: Tensor | None, side: int) -> Tensor:
    """[M, side, side] bilinear samples of images [B, 1, H, W] at points + affine * (x, y); the edge goes on outside."""
    count, _, height, width = image.shape
    axis = torch.arange(side, device=image.device, dtype=points.dtype) - side // 2
    steps = torch.stack([axis.repeat(side), axis.repeat_interleave(side)])  # [2, N]
    with torch.autocast(points.device.type, enabled=False):  # half precision is too coarse for geometry
        moved = steps[:, None] if affine is None else affine.transpose(0, 1) @ steps  # [2, M or 1, N]
    x = (points[:, 0, None] + moved[0]).clamp(0, width - 1)
    y = (points[:, 1, None] + moved[1]).clamp(0, height - 1) + batch[:, None] * height
    # The images on top of each other: one call for all.
    places = torch.stack([x * (2 / (width - 1)) - 1, y * (2 / (count * height - 1)) - 1], dim=2)
    tall = image.reshape(1, 1, count * height, width)
    samples = F.grid_sample(tall, places[None], mode="bilinear", padding_mode="border", align_corners=True)
    return samples.view(-1, side, side)


def normalized(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Patches [M, S, S] with mean 0 and deviation about 1, and the logarithm of their contrast [M]."""
    mean = patches.mean(dim=(1, 2), keepdim=True)
    deviation = (patches - mean).square().mean(dim=(1, 2), keepdim=True).sqrt() + _NOISE
    return (patches - mean) / deviation, deviation[:, 0, 0].log()
