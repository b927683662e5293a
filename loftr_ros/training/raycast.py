# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Training pairs rendered many at a time with torch: what `views.rendered` does for one, for a GPU.

Every ray meets every quad: more work than with a z-buffer and bounding boxes, and none that waits for other work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from loftr_ros.loftr.fine_matching import COARSE_STRIDE
from loftr_ros.synthetic.scene import NEAR, SAME_DEPTH, SMALLEST_LEVEL, edges_of, pixels_to_quads, pyramid_of
from loftr_ros.synthetic.textures import Swatch, Textures
from loftr_ros.training.photometric import degrade, stacked
from loftr_ros.training.views import Plan

_MOST_TESTS = 1 << 28  # rays times quads that are looked at at once, on a GPU
_MOST_TESTS_CPU = 1 << 22


class Atlas:
    """All pictures of a supply of textures and their halvings, in the memory of a device: 2.7 bytes a texel.

    Attributes:
        texels: [N] grey values, picture after picture, level after level, row by row.
        starts: [pictures, levels] where each begins; heights, widths: its size, texels.
    """

    def __init__(self, textures: Textures, device: torch.device) -> None:
        with ThreadPoolExecutor() as pool:  # OpenCV decodes without Python's lock
            pyramids = list(pool.map(lambda number: pyramid_of(textures.picture(number)), range(len(textures))))
        depth = max(len(levels) for levels in pyramids)
        shapes = torch.zeros(len(pyramids), depth, 2, dtype=torch.long)
        for number, levels in enumerate(pyramids):
            shapes[number, : len(levels)] = torch.tensor([level.shape for level in levels])
        sizes = shapes.prod(dim=2).flatten()
        starts = (sizes.cumsum(0) - sizes).view(len(pyramids), depth)
        flat = np.concatenate([level.astype(np.float16).ravel() for levels in pyramids for level in levels])
        self.texels = torch.from_numpy(flat).to(device)
        self.starts, self.heights, self.widths = (t.to(device) for t in (starts, shapes[..., 0], shapes[..., 1]))

    def bilinear(self, picture: Tensor, level: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Grey values at texels of pictures; the border goes on outside.

        Args:
            picture, level: [...] integers; x, y: [...] floats, texels of that level.
        """
        start, last_x, last_y = (
            table[picture, level] for table in (self.starts, self.widths - 1, self.heights - 1)
        )
        left, top = x.floor(), y.floor()
        across, down = x - left, y - top
        columns = [(left.long() + k).clamp(min=0).minimum(last_x) for k in (0, 1)]
        rows = [start + (top.long() + k).clamp(min=0).minimum(last_y) * (last_x + 1) for k in (0, 1)]
        (a, b), (c, d) = ([self.texels[row + column].float() for column in columns] for row in rows)
        return torch.lerp(torch.lerp(a, b, across), torch.lerp(c, d, across), down)


@dataclass(frozen=True)
class Plans:
    """B plans, as tensors on one device; in the first axis of two, the first view and the second.

    Attributes:
        size: (width, height) of the pictures.
        maps: [2, B, Q, 3, 3] from pixels to the quads (`pixels_to_quads`); areas: [2, B, Q] their determinants' sizes.
        parts: [B, Q, 6] integers, of the swatches: picture, top, left, height, width, mirrored.
        tones: [B, Q, 2] of the swatches: gain and offset.
        rays: [2, B, 3, 3] from pixels (x, y, 1) to directions; intrinsics: [2, B, 3, 3] the inverse.
        motions: [2, B, 4, 4] pose of the view's camera in that of the other view, metres.
        effects: of `photometric.stacked`, the 2 B pictures view by view.
        seed: of the cameras' noise, and of what the training step draws.
    """

    size: tuple[int, int]
    maps: Tensor
    areas: Tensor
    parts: Tensor
    tones: Tensor
    rays: Tensor
    intrinsics: Tensor
    motions: Tensor
    effects: dict[str, Tensor]
    seed: int

    @staticmethod
    def of(plans: Sequence[Plan], size: tuple[int, int], seed: int) -> Plans:
        """Scenes of fewer quads than the largest get some that no ray meets."""
        count, most = len(plans), max(len(plan.surfaces) for plan in plans)
        maps, parts = np.zeros((2, count, most, 3, 3)), np.ones((count, most, 6), np.int64)
        tones = np.zeros((count, most, 2), np.float32)
        for k, plan in enumerate(plans):
            edges, held = edges_of(plan.surfaces), len(plan.surfaces)
            for view in range(2):
                maps[view, k, :held] = pixels_to_quads(edges, plan.intrinsics[view], plan.poses[view])
            parts[k, :held] = [_part(surface.swatch) for surface in plan.surfaces]
            tones[k, :held] = [(surface.swatch.gain, surface.swatch.offset) for surface in plan.surfaces]
        intrinsics, poses = (np.stack([getattr(p, name) for p in plans], axis=1) for name in ("intrinsics", "poses"))
        # All matrices are inverted here: a GPU's solver makes the CPU wait.
        return Plans(
            size=size,
            maps=torch.from_numpy(maps),
            areas=torch.from_numpy(np.abs(np.linalg.det(maps)).astype(np.float32)),
            parts=torch.from_numpy(parts),
            tones=torch.from_numpy(tones),
            rays=torch.from_numpy(np.linalg.inv(intrinsics)),
            intrinsics=torch.from_numpy(intrinsics),
            motions=torch.from_numpy(np.linalg.inv(poses[::-1]) @ poses),
            effects=stacked([plan.effects[view] for view in range(2) for plan in plans]),
            seed=seed,
        )

    def to(self, device: torch.device) -> Plans:
        return self._with(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Plans:
        """In memory from which a GPU copies while the CPU goes on; called by torch's DataLoader."""
        return self._with(lambda tensor: tensor.pin_memory())

    def _with(self, change: Callable[[Tensor], Tensor]) -> Plans:
        """The same with each tensor changed."""
        own = {name: change(value) for name, value in vars(self).items() if isinstance(value, Tensor)}
        effects = {name: change(value) for name, value in self.effects.items()}
        return replace(self, effects=effects, **own)


def _part(swatch: Swatch) -> tuple[int, ...]:
    return (swatch.picture, swatch.top, swatch.left, swatch.height, swatch.width, int(swatch.mirrored))


def render_pairs(plans: Plans, atlas: Atlas) -> tuple[Tensor, Tensor]:
    """Both views of B plans, as `synthetic.scene.render`, and what the camera makes of them.

    Returns:
        images: [2, B, H, W] uint8.
        inverse_depth: [2, B, H, W] per metre, along the optical axis at the pixel centres, 0 where there is nothing.
    """
    count, (width, height) = plans.maps.shape[1], plans.size
    most = _MOST_TESTS if plans.maps.is_cuda else _MOST_TESTS_CPU
    together = max(1, most // (plans.maps.shape[2] * width * height))
    images = plans.maps.new_empty(2, count, height, width, dtype=torch.float32)
    inverse_depth = torch.empty_like(images)
    for view in range(2):
        for start in range(0, count, together):
            some = slice(start, start + together)
            images[view, some], inverse_depth[view, some] = _views(
                plans.maps[view, some], plans.areas[view, some], plans.parts[some], plans.tones[some], plans.size, atlas
            )
    generator = torch.Generator(images.device).manual_seed(plans.seed)
    return degrade(images.flatten(0, 1), plans.effects, generator).unflatten(0, (2, count)), inverse_depth


def _views(
    maps: Tensor, areas: Tensor, parts: Tensor, tones: Tensor, size: tuple[int, int], atlas: Atlas
) -> tuple[Tensor, Tensor]:
    """Grey values and inverse depths [V, H, W] of V views with Q quads each."""
    width, height = size
    columns = torch.arange(width, device=maps.device)
    rows = torch.arange(height, device=maps.device)
    by_row = (maps[..., 1, None] * rows + maps[..., 2, None]).float()  # [V, Q, 3, H]
    by_column = (maps[..., 0, None] * columns).float()
    a, b, nearness = (by_row[:, :, k, :, None] + by_column[:, :, k, None, :] for k in range(3))  # [V, Q, H, W]
    seen = (a >= 0) & (a <= nearness) & (b >= 0) & (b <= nearness) & (nearness < 1 / NEAR)
    inverse_depth, quad = torch.where(seen, nearness, 0).max(dim=1)
    a, b = (values.gather(1, quad[:, None])[:, 0] for values in (a, b))
    flat = quad.flatten(1)
    part = parts.gather(1, flat[..., None].expand(-1, -1, parts.shape[2])).view(*quad.shape, -1)
    gain, offset = tones.gather(1, flat[..., None].expand(-1, -1, 2)).view(*quad.shape, 2).unbind(-1)
    grey = _sampled(atlas, part, a, b, inverse_depth, areas.gather(1, flat).view(quad.shape))
    grey = (offset + gain * grey).clamp(0, 255)
    return torch.where(inverse_depth > 0, grey, 0), inverse_depth


def _sampled(atlas: Atlas, part: Tensor, a: Tensor, b: Tensor, nearness: Tensor, area: Tensor) -> Tensor:
    """Trilinear in the pyramids, as `synthetic.scene._sample`; area: |det| of the map from pixels to the quad."""
    picture, top, left, height, width, mirrored = part.unbind(-1)
    depth = 1 / nearness.clamp(min=1e-9)
    x = (a * depth).clamp(0, 1) * width - 0.5
    y = (b * depth).clamp(0, 1) * height - 0.5
    level = 0.5 * torch.log2(area * width * height * depth**3)
    level = level.clamp(min=0).minimum(_last_level(height, width))
    x = torch.where(mirrored > 0, width - 1 - x, x).clamp(min=0).minimum(width - 1.0) + left
    y = y.clamp(min=0).minimum(height - 1.0) + top
    lower = level.floor()
    fraction, lower = level - lower, lower.long()
    upper = torch.where(fraction > 0, lower + 1, lower)
    fine, coarse = (
        atlas.bilinear(picture, k, torch.ldexp(x, -k), torch.ldexp(y, -k)) for k in (lower, upper)
    )
    return torch.lerp(fine, coarse, fraction)


def _last_level(height: Tensor, width: Tensor) -> Tensor:
    """Of `pyramid_of` a texture; there halving an odd side rounds up, which may give one more."""
    return torch.log2(height.minimum(width) / SMALLEST_LEVEL).floor().clamp(min=0)


def cell_targets(plans: Plans, inverse_depth: Tensor, view: int) -> tuple[Tensor, Tensor, Tensor]:
    """Where the coarse cells of a view lie in the other one, as `views.cell_targets`.

    Args:
        inverse_depth: [2, B, H, W] of `render_pairs`.
        view: 0 or 1.

    Returns:
        points: [B, L, 2] pixels (x, y) in the other view; visible, hidden: [B, L].
    """
    width, height = plans.size
    other = 1 - view
    x, y = (torch.arange(0, side, COARSE_STRIDE, device=inverse_depth.device) for side in plans.size)
    pixels = torch.cartesian_prod(y, x).flip(1).double()  # [L, 2]
    here = inverse_depth[view][:, ::COARSE_STRIDE, ::COARSE_STRIDE].flatten(1).double()
    rays = F.pad(pixels, (0, 1), value=1.0) @ plans.rays[view].transpose(1, 2)
    motion = plans.motions[view]
    scene = (rays / here[..., None]) @ motion[:, :3, :3].transpose(1, 2) + motion[:, None, :3, 3]
    ahead = scene[..., 2] > NEAR
    projected = scene @ plans.intrinsics[other].transpose(1, 2)
    points = projected[..., :2] / projected[..., 2:]
    last = points.new_tensor([width - 1, height - 1])
    inside = ((points >= 0) & (points <= last)).all(dim=2) & ahead
    there = _bilinear(inverse_depth[other], torch.where(inside[..., None], points, 0))
    visible = inside & ((there * scene[..., 2] - 1).abs() < SAME_DEPTH)
    near = ((points >= -COARSE_STRIDE) & (points < last + 1 + COARSE_STRIDE)).all(dim=2) & ahead
    hidden = ~visible & (~near | inside)
    return torch.where(ahead[..., None], points, 0).nan_to_num().float(), visible, hidden


def _bilinear(images: Tensor, points: Tensor) -> Tensor:
    """[B, L] values of images [B, H, W] at pixels [B, L, 2] inside them."""
    height, width = images.shape[1:]
    left = points[..., 0].floor().clamp(max=width - 2)
    top = points[..., 1].floor().clamp(max=height - 2)
    across, down = points[..., 0] - left, points[..., 1] - top
    place = (top * width + left).long()
    a, b, c, d = (images.flatten(1).gather(1, place + step).double() for step in (0, 1, width, width + 1))
    return torch.lerp(torch.lerp(a, b, across), torch.lerp(c, d, across), down)
