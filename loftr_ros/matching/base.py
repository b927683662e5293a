# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""What every matcher can do."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from loftr_ros.types import Array, Image, Matches


class Matcher(Protocol):
    """Finds points of one image in another.

    Features are whatever a matcher computes from one image alone: a keyframe's are computed once and matched with
    many frames. They are opaque to everyone else.
    """

    name: str

    def extract(self, image: Image) -> Any:
        """Features of a grey image [H, W] uint8."""
        ...

    def match_features(self, features0: Any, features1: Any) -> Matches:
        """Matches between two images from their features.

        A matcher may do more, which this package asks for where it is there:

        - A second argument `zoom` of `extract`, by which the image is magnified about its centre first, by a matcher
          that does not match images of different scale; its matches are in pixels of the image as it was.
        - A third argument `wanted`, [K] indices of keypoints of image 0 as in Matches.index0, or None: which to return
          rather than others, by a matcher that does not return all that it could find (Matches.share).
        - `match_back(features0, features1)`: the matches of image 1 with image 0, in less time right after
          `match_features(features0, features1)`.
        - An attribute `device`: where it computes, which the node tells.
        """
        ...

    def match(self, image0: Image, image1: Image) -> Matches:
        """Matches between two grey images [H, W] uint8, which may differ in size."""
        ...


class PlaceMatcher(Matcher, Protocol):
    """A matcher that also tells what an image as a whole looks like; those of this package all do."""

    @property
    def fingerprint(self) -> str:
        """The same text means that `describe` says the same of an image: size, weights and settings."""
        ...

    def keypoints(self, features: Any) -> Array | None:
        """[K, 2] pixels where matches of an image can start; None: everywhere."""
        ...

    def describe(self, features: Any) -> NDArray[np.float32]:
        """[D] unit vector that tells the place: its products with those of other images rank them."""
        ...


def check_image(image: Image) -> None:
    """Raises ValueError unless the image is grey uint8 with at least one pixel."""
    if image.ndim != 2 or image.dtype != "uint8" or image.size == 0:
        raise ValueError(f"an image must be grey uint8 [H, W], not {image.dtype} {list(image.shape)}")
