# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""How much two images see of the same: a score in [0, 1] from geometrically verified matches.

The score is about the share of the images' area that both of them see. A match counts when it agrees with one epipolar
geometry; the discs around the matches that count cover a share of each image (of what the matcher could match there at
all), and the score is the geometric mean of the two shares. Wrong matches always agree a little: where less than 30 %
of the confidence, or 16 matches, agree, the score is 0, and from 60 % and 40 matches on it counts in full.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from loftr_ros.errors import GeometryError
from loftr_ros.geometry.camera import Camera
from loftr_ros.geometry.two_view import estimate_essential
from loftr_ros.matching import PlaceMatcher
from loftr_ros.types import Array, Image, Matches

# Distance from the epipolar line of a match that agrees, as a share of the image diagonal: 2 pixels of 800.
_THRESHOLD = 0.0025
# Radius around a verified match that counts as seen, as a share of the image diagonal.
_RADIUS = 0.045
_RASTER = 160  # cells along the longer side, to count areas
# Share of the confidence and number of matches that agree by chance, and from which on there is no doubt.
_RATIO_RANGE = (0.3, 0.6)
_COUNT_RANGE = (16, 40)

Shape = tuple[int, ...]


def similarity(matcher: PlaceMatcher, image0: Image, image1: Image) -> float:
    """Score in [0, 1] of two grey images [H, W]; exactly the same for (image1, image0).

    Example:
        >>> similarity(load_matcher("tiny"), image0, image1)
    """
    features0, features1 = matcher.extract(image0), matcher.extract(image1)
    return (
        score_of_features(matcher, features0, features1, image0.shape, image1.shape)
        + score_of_features(matcher, features1, features0, image1.shape, image0.shape)
    ) / 2


def score_of_features(
    matcher: PlaceMatcher, features0: object, features1: object, shape0: Shape, shape1: Shape
) -> float:
    """The score of one direction of matching, from the matcher's features of images of these shapes."""
    matches = matcher.match_features(features0, features1)
    return score_of_matches(matcher, matches, features0, features1, shape0, shape1)


def score_of_matches(
    matcher: PlaceMatcher, matches: Matches, features0: object, features1: object, shape0: Shape, shape1: Shape
) -> float:
    """The same from matches that are known already."""
    keypoints = matcher.keypoints(features0), matcher.keypoints(features1)
    return score(matches, verify(matches, shape0), shape0, shape1, *keypoints)


def verify(
    matches: Matches, shape0: Shape, camera0: Camera | None = None, camera1: Camera | None = None
) -> NDArray[np.bool_]:
    """[N] whether each match agrees with one epipolar geometry.

    Args:
        shape0: of image 0.
        camera0, camera1: with both calibrations an essential matrix is fitted, else a fundamental matrix.
    """
    threshold = _THRESHOLD * float(np.hypot(shape0[0], shape0[1]))
    nothing = np.zeros(len(matches), bool)
    if len(matches) < _COUNT_RANGE[0]:
        return nothing
    try:
        if camera0 is not None and camera1 is not None:
            points0, points1 = camera0.normalize(matches.points0), camera1.normalize(matches.points1)
            return estimate_essential(points0, points1, threshold / camera0.focal)[1]
        _, mask = cv2.findFundamentalMat(matches.points0, matches.points1, cv2.USAC_MAGSAC, threshold, 0.9999, 2000)
    except (cv2.error, GeometryError):  # OpenCV's MAGSAC gives up with an assertion where no model fits
        return nothing
    return nothing if mask is None else mask.ravel().astype(bool)


def score(
    matches: Matches,
    inliers: NDArray[np.bool_],
    shape0: Shape,
    shape1: Shape,
    keypoints0: Array | None = None,
    keypoints1: Array | None = None,
) -> float:
    """The score of verified matches; see this file's first lines.

    Args:
        inliers: [N] bool, from `verify`.
        keypoints0, keypoints1: [K, 2] where the matcher can match at all; None: everywhere.
    """
    agreeing = matches[inliers]
    if len(agreeing) == 0:
        return 0.0
    ratio = float(agreeing.confidence.sum() / max(matches.confidence.sum(), 1e-12))
    trust = _ramp(ratio, _RATIO_RANGE) * _ramp(len(agreeing), _COUNT_RANGE)
    seen0 = coverage(agreeing.points0, shape0, keypoints0)
    seen1 = coverage(agreeing.points1, shape1, keypoints1)
    return trust * float(np.sqrt(seen0 * seen1))


def coverage(points: Array, shape: Shape, keypoints: Array | None = None) -> float:
    """Share of an image within a short distance of points [N, 2]; of the area around keypoints where they are given."""
    near = _discs(points, shape)
    return float(near.mean()) if keypoints is None else float(near.sum() / max(_discs(keypoints, shape).sum(), 1))


def _discs(points: Array, shape: Shape) -> Image:
    """The image in a coarse raster: 1 within _RADIUS of a point."""
    scale = _RASTER / max(shape[:2])
    raster = np.zeros((max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))), np.uint8)
    cells = np.floor((points + 0.5) * scale).astype(int)
    cells = np.clip(cells, 0, [raster.shape[1] - 1, raster.shape[0] - 1])
    raster[cells[:, 1], cells[:, 0]] = 1
    radius = max(1, round(_RADIUS * float(np.hypot(*raster.shape))))
    return cv2.dilate(raster, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)))


def _ramp(value: float, limits: tuple[float, float]) -> float:
    """0 up to the lower limit, 1 from the upper one on, linear between."""
    low, high = limits
    return float(np.clip((value - low) / (high - low), 0.0, 1.0))
