# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""What real cameras do to grey values: exposure, gamma, blur, shadows, vignetting, darkness, noise, JPEG.

Drawn for each picture with numpy, applied to many at once with torch, on any device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from loftr_ros.types import Array

_BLUR_SIDE = 7  # pixels of the largest kernel
_LONGEST_BLUR = 5.0  # pixels
_FOCUS_RADIUS = 4  # pixels; four deviations of the softest focus
_BLOCK = 8  # pixels
# Table K.1 of the JPEG standard (ITU-T T.81): quantisation of luminance at quality 50.
_LUMINANCE = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip


@dataclass(frozen=True)
class Effects:
    """What a camera does to a picture.

    Attributes:
        focus: below 0: sharpened by so much; above 0.4: softened with that deviation, pixels.
        motion: [7, 7] kernel of the motion blur.
        light: [3, 2] corners of a shadow or a patch of light, in shares of width and height.
        light_gain, light_softness: factor inside it, and the deviation of its edge in pixels.
        vignette: share of the light that the corners lack.
        gamma, gain, offset: of the grey values.
        darkness: gain of an under-exposed picture, else 1.
        noise: deviation in grey levels.
        quality: of JPEG; 0 for none.
    """

    focus: float
    motion: NDArray[np.float32]
    light: Array
    light_gain: float
    light_softness: float
    vignette: float
    gamma: float
    gain: float
    offset: float
    darkness: float
    noise: float
    quality: int


def random_effects(rng: np.random.Generator, dark: bool) -> Effects:
    """Those of one picture.

    Args:
        dark: under-exposed (gain 0.15 to 0.35) with strong noise (deviation 2 to 5).
    """
    moved, lit, vignetted, packed = rng.random(4) < (0.15, 0.25, 0.25, 0.2)
    length = rng.uniform(1.5, _LONGEST_BLUR) if moved else 0.0
    return Effects(
        focus=rng.uniform(-0.6, 1.0),  # mostly mild, since sub-pixel positions must stay meaningful
        motion=motion_kernel(length, rng.uniform(0, np.pi)),
        light=rng.uniform(-0.2, 1.2, (3, 2)),
        light_gain=rng.uniform(0.4, 1.6) if lit else 1.0,
        light_softness=rng.uniform(0.5, 20),
        vignette=rng.uniform(0.1, 0.5) if vignetted else 0.0,
        gamma=np.exp(rng.normal(0, 0.2)),
        gain=np.exp(rng.normal(0, 0.2)),
        offset=rng.normal(0, 8),
        darkness=rng.uniform(0.15, 0.35) if dark else 1.0,
        noise=rng.uniform(2, 5) if dark else min(rng.exponential(1.5), 6),
        quality=int(rng.integers(50, 95)) if packed else 0,
    )


def stacked(effects: Sequence[Effects]) -> dict[str, Tensor]:
    """Effects of N pictures as tensors [N, ...], by name."""
    columns = {field.name: np.stack([getattr(item, field.name) for item in effects]) for field in fields(Effects)}
    return {name: torch.from_numpy(column.astype(np.float32)) for name, column in columns.items()}


def motion_kernel(length: float, angle: float) -> NDArray[np.float32]:
    """[7, 7] average along a line of `length` pixels, 5 at most, at `angle` (radians)."""
    middle, ends = _BLUR_SIDE // 2, np.array([np.cos(angle), np.sin(angle)]) * min(length, _LONGEST_BLUR) / 2
    start, stop = (tuple(int(v) for v in np.rint((middle + sign * ends) * 16)) for sign in (-1, 1))
    kernel = cv2.line(np.zeros((_BLUR_SIDE, _BLUR_SIDE), np.float32), start, stop, 1.0, 1, cv2.LINE_8, 4)
    return kernel / kernel.sum()


def degrade(images: Tensor, effects: dict[str, Tensor], generator: torch.Generator) -> Tensor:
    """Pictures of rendered views.

    Args:
        images: [N, H, W] float in 0..255; effects: of `stacked`, on their device; generator: for the noise, there too.

    Returns:
        [N, H, W] uint8.
    """
    one = {name: value.view(-1, 1, 1) for name, value in effects.items() if value.dim() == 1}
    images = convolved(_focused(images, one["focus"]), effects["motion"])
    shape = images.shape[1:]
    images = images * _uneven_light(shape, effects["light"], one["light_gain"], one["light_softness"])
    images = images * (1 - one["vignette"] * _squared_radius(shape, images.device))
    images = 255 * (images.clamp(0, 255) / 255) ** one["gamma"] * one["gain"] + one["offset"]
    noise = torch.randn(images.shape, generator=generator, device=images.device)
    images = (images * one["darkness"] + one["noise"] * noise).round().clamp(0, 255)
    packed = compressed(images, effects["quality"].clamp(min=1))
    return torch.where(one["quality"] > 0, packed, images).to(torch.uint8)


def convolved(images: Tensor, kernels: Tensor) -> Tensor:
    """Images [N, H, W], each with its own kernel [N, k, l] of odd sides; the border is mirrored."""
    down, across = kernels.shape[1] // 2, kernels.shape[2] // 2
    padded = F.pad(images[None], (across, across, down, down), mode="reflect")
    return F.conv2d(padded, kernels[:, None], groups=len(images))[0]


def _focused(images: Tensor, amount: Tensor) -> Tensor:
    """Sharper or softer than rendered, by amount [N, 1, 1] (see Effects.focus)."""
    deviation = torch.where(amount <= 0, 1.0, amount.clamp(min=0.1))
    steps = torch.arange(-_FOCUS_RADIUS, _FOCUS_RADIUS + 1, device=images.device)
    kernel = torch.softmax(-0.5 * (steps / deviation).square(), dim=2)
    soft = convolved(convolved(images, kernel), kernel.transpose(1, 2))
    return torch.where(amount <= 0, images - amount * (images - soft), torch.where(amount < 0.4, images, soft))


def _uneven_light(shape: Sequence[int], corners: Tensor, gain: Tensor, softness: Tensor) -> Tensor:
    """[N, H, W] a factor: `gain` inside a triangle [N, 3, 2] with soft edges, 1 outside."""
    height, width = shape
    corners = corners * corners.new_tensor([width, height])
    edges = corners.roll(-1, dims=1) - corners
    turn = torch.sign(edges[:, 0, 0] * edges[:, 1, 1] - edges[:, 0, 1] * edges[:, 1, 0])
    # Positive inside: signed distances from the three edges [N, 3].
    normals = torch.stack([-edges[..., 1], edges[..., 0]], dim=2) * turn[:, None, None]
    normals = normals / normals.norm(dim=2, keepdim=True).clamp(min=1e-6)
    x, y = torch.arange(width, device=corners.device), torch.arange(height, device=corners.device)[:, None]
    inside = torch.ones_like(gain)
    for k in range(3):
        normal, corner = normals[:, k].view(-1, 2, 1, 1), corners[:, k].view(-1, 2, 1, 1)
        distance = normal[:, 0] * (x - corner[:, 0]) + normal[:, 1] * (y - corner[:, 1])
        inside = inside * torch.special.ndtr(distance / softness)  # a blurred edge
    return 1 + (gain - 1) * inside


def _squared_radius(shape: Sequence[int], device: torch.device) -> Tensor:
    """[H, W] 0 in the middle, 1 in the corners."""
    rows, columns = (torch.linspace(-1, 1, side, device=device).square() for side in shape)
    return (rows[:, None] + columns) / 2


def compressed(images: Tensor, quality: Tensor) -> Tensor:
    """Images [N, H, W] in 0..255 as JPEG of `quality` [N] in 1..100 leaves them (ITU-T T.81), rounded."""
    height, width = images.shape[1:]
    pad = (0, -width % _BLOCK, 0, -height % _BLOCK)
    padded = F.pad(images[None], pad, mode="replicate")[0] if any(pad) else images
    blocks = (padded - 128).unflatten(2, (-1, _BLOCK)).unflatten(1, (-1, _BLOCK))  # [N, rows, 8, columns, 8]
    basis = _cosines(images.device)
    frequencies = torch.einsum("ui,nrict,vt->nrucv", basis, blocks, basis)
    scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality).view(-1, 1, 1)
    table = torch.tensor(_LUMINANCE, device=images.device, dtype=images.dtype).view(_BLOCK, _BLOCK)
    table = ((table * scale + 50) / 100).floor().clamp(1, 255)[:, None, :, None, :]
    kept = (frequencies / table).round() * table
    restored = torch.einsum("ui,nrucv,vt->nrict", basis, kept, basis) + 128
    return restored.flatten(3, 4).flatten(1, 2)[:, :height, :width].round().clamp(0, 255)


def _cosines(device: torch.device) -> Tensor:
    """[8, 8] the orthonormal discrete cosine transform: row u holds frequency u."""
    steps = torch.arange(_BLOCK, device=device, dtype=torch.float32)
    basis = torch.cos((2 * steps + 1) * steps[:, None] * torch.pi / (2 * _BLOCK)) * (2 / _BLOCK) ** 0.5
    basis[0] /= 2**0.5
    return basis
