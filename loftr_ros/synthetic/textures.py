# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Textures for synthetic scenes: from any folder of photos, and procedural ones where there is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from loftr_ros.errors import InputError

Texture: TypeAlias = NDArray[np.uint8]
_PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
_PATTERNS = 400  # different procedural textures; they take longer to make than to draw


@dataclass(frozen=True)
class Swatch:
    """A texture that is not cut out yet: a part of a picture of the supply, its grey values g made offset + gain * g.

    Attributes:
        picture: its number.
        top, left, height, width: texels of the picture.
        mirrored: left and right are exchanged.
        gain, offset: of the grey values, which are limited to 0..255 then.
    """

    picture: int
    top: int
    left: int
    height: int
    width: int
    mirrored: bool
    gain: float = 1.0
    offset: float = 0.0


class Textures:
    """An endless supply of grey textures.

    Args:
        photos: folder searched for pictures, with its subfolders; None: procedural textures only.
        procedural_share: share of procedural textures where there are photos.
    """

    def __init__(self, photos: Path | None = None, procedural_share: float = 0.2) -> None:
        self._files = [] if photos is None else _photo_files(photos)
        self._share = procedural_share if self._files else 1.0
        self._photos: dict[int, Texture] = {}
        self._patterns: dict[int, Texture] = {}

    def __len__(self) -> int:
        """The number of its pictures: photos, then patterns."""
        return len(self._files) + _PATTERNS

    def draw(self, rng: np.random.Generator) -> Swatch:
        """A texture: a mirrored part of a photo, or of a procedural pattern."""
        if rng.random() < self._share:
            picture = len(self._files) + int(rng.integers(_PATTERNS))
        else:
            picture = int(rng.integers(len(self._files)))
        return Swatch(picture, *_random_crop(rng, self.picture(picture).shape), mirrored=rng.random() < 0.5)

    def dulled(self, swatch: Swatch, grey: float, contrast: float) -> Swatch:
        """The texture with that mean and a part of its contrast."""
        return replace(swatch, gain=contrast, offset=grey - contrast * float(self._part(swatch).mean()))

    def pixels(self, swatch: Swatch) -> Texture:
        """[h, w] the texture itself."""
        texture = self._part(swatch)
        if swatch.mirrored:
            texture = texture[:, ::-1]
        if (swatch.gain, swatch.offset) == (1.0, 0.0):
            return texture
        return np.clip(swatch.offset + swatch.gain * texture, 0, 255).astype(np.uint8)

    def picture(self, number: int) -> Texture:
        """[h, w] a photo or pattern. Raises InputError for a photo that cannot be read."""
        if number < len(self._files):
            return self._photo(number)
        return self._pattern(number - len(self._files))

    def _part(self, swatch: Swatch) -> Texture:
        rows = slice(swatch.top, swatch.top + swatch.height)
        return self.picture(swatch.picture)[rows, swatch.left : swatch.left + swatch.width]

    def _photo(self, index: int) -> Texture:
        if index not in self._photos:
            photo = cv2.imread(str(self._files[index]), cv2.IMREAD_GRAYSCALE)
            if photo is None:
                raise InputError(f"The picture {self._files[index]} cannot be read.")
            self._photos[index] = photo
        return self._photos[index]

    def _pattern(self, index: int) -> Texture:
        if index not in self._patterns:
            self._patterns[index] = procedural(np.random.default_rng(index))
        return self._patterns[index]


def _photo_files(folder: Path) -> list[Path]:
    """Sorted, so that a folder and a seed always give the same textures. Raises InputError for none."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder of pictures.")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _PHOTO_SUFFIXES)
    if not files:
        raise InputError(f"There are no pictures in {folder}.")
    return files


def _random_crop(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Top, left, height and width of a part of a picture, half as large as it or larger."""
    height, width = (min(side, max(16, int(side * rng.uniform(0.5, 1.0)))) for side in shape)
    top = int(rng.integers(shape[0] - height + 1))
    left = int(rng.integers(shape[1] - width + 1))
    return top, left, height, width


def procedural(rng: np.random.Generator) -> Texture:
    """A [h, w] texture of a random kind, with some noise on it."""
    size = (int(rng.integers(128, 320)), int(rng.integers(128, 320)))
    kind: Callable[[np.random.Generator, tuple[int, int]], NDArray[np.float32]] = _KINDS[
        rng.integers(len(_KINDS))
    ]
    pattern = kind(rng, size)
    stain = octave_noise(rng, size) - 0.5
    low, contrast = rng.uniform(0, 120), rng.uniform(30, 135)
    return np.clip(low + contrast * (pattern + rng.uniform(0.05, 0.5) * stain), 0, 255).astype(np.uint8)


def octave_noise(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.float32]:
    """[h, w] in 0..1: random fields of halving cell size and falling weight, added."""
    height, width = size
    fall, cell, weight = rng.uniform(0.5, 0.95), max(size) / 2, 1.0
    total = np.zeros(size, np.float32)
    while cell >= 1:
        grid = rng.random((int(height / cell) + 2, int(width / cell) + 2), dtype=np.float32)
        total += weight * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        cell, weight = cell / 2, weight * fall
    return cv2.normalize(total, None, 0, 1, cv2.NORM_MINMAX)


def fine_noise(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.uint8]:
    """[h, w] structure at every scale down to two texels, so that corner detectors find many points anywhere."""
    total = np.zeros(size, np.float32)
    for cell in (2, 4, 8, 16, 32, 64):
        grid = rng.standard_normal((size[0] // cell + 2, size[1] // cell + 2), dtype=np.float32)
        total += cell**0.3 * cv2.resize(grid, size[::-1], interpolation=cv2.INTER_CUBIC)
    total = (total - total.mean()) / total.std()
    return np.clip(125 + 45 * total, 0, 255).astype(np.uint8)


def bricks(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.float32]:
    """[h, w] in 0..1: rows of bricks or tiles, each of its own grey, with joints."""
    height, width = size
    tall, joint = int(rng.integers(10, 40)), int(rng.integers(1, 4))
    wide, shift = int(tall * rng.uniform(1, 3)), rng.choice([0.0, 0.5])
    image = np.full(size, rng.random(), np.float32)
    for row, top in enumerate(range(0, height, tall)):
        for left in range(-int(shift * wide) * (row % 2), width, wide):
            image[top + joint : top + tall, max(left + joint, 0) : max(left + wide, 0)] = rng.random()
    return image


def checkers(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.float32]:
    """[h, w] of 0 and 1: a chess board."""
    cell = int(rng.integers(8, 48))
    rows, columns = np.indices(size) // cell
    return ((rows + columns) % 2).astype(np.float32)


def stripes(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.float32]:
    """[h, w] in 0..1: stripes of varying width and grey, along one axis."""
    across = size[rng.integers(2)]
    edges = np.unique(rng.integers(0, max(size), max(size) // int(rng.integers(8, 40))))
    values = rng.random(len(edges) + 1, dtype=np.float32)[np.searchsorted(edges, np.arange(across))]
    return np.broadcast_to(values[:, None] if across == size[0] else values[None, :across], size).astype(
        np.float32
    )


def clutter(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.float32]:
    """[h, w] in 0..1: rectangles, lines, discs and letters over each other."""
    height, width = size
    image = np.full(size, rng.random(), np.float32)
    for _ in range(int(rng.integers(20, 90))):
        place = (int(rng.integers(width)), int(rng.integers(height)))
        other = (int(place[0] + rng.integers(-60, 60)), int(place[1] + rng.integers(-60, 60)))
        _draw_shape(rng, image, place, other)
    return image


def _draw_shape(
    rng: np.random.Generator, image: NDArray[np.float32], place: tuple[int, int], other: tuple[int, int]
) -> None:
    grey, thickness = float(rng.random()), int(rng.integers(1, 4))
    kind = rng.integers(4)
    if kind == 0:
        cv2.rectangle(image, place, other, grey, thickness if rng.random() < 0.3 else -1)
    elif kind == 1:
        cv2.line(image, place, other, grey, thickness, cv2.LINE_AA)
    elif kind == 2:
        cv2.circle(image, place, int(rng.integers(2, 25)), grey, -1, cv2.LINE_AA)
    else:
        letters = "".join(chr(c) for c in rng.integers(48, 91, int(rng.integers(1, 9))))
        ink = np.zeros(image.shape, np.uint8)  # OpenCV 5 writes on nothing else
        cv2.putText(ink, letters, place, int(rng.integers(8)), rng.uniform(0.3, 1.5), 255, thickness, cv2.LINE_8)
        image[ink > 0] = grey


_KINDS = (octave_noise, bricks, checkers, stripes, clutter, clutter, octave_noise)
