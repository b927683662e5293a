# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""The traditional pipeline: detect, describe, ratio test, mutual nearest neighbours."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from loftr_ros.matching.base import check_image
from loftr_ros.matching.descriptor import pooled
from loftr_ros.types import Array, Image, Matches

# Spread of a keypoint at the finest level, in pixels; it grows with the keypoint's scale.
_SIFT_SIGMA = 0.5
_ORB_SIGMA = 0.7
_POLISH_WINDOW = 13  # pixels
_POLISH_STEPS = 12
_MOST_MOVED = 3.0  # standard deviations of a keypoint; further away lies something else
_MOST_DIFFERENT = 5.0  # grey levels a pixel; where patches differ more, they are turned or seen from elsewhere
_POLISHED = 0.5  # of the deviation; on rendered rooms 0.4 (finest level) to 0.13
# The pyramids of OpenCV cannot shrink smaller images, and there is nothing to be found in them.
_LEAST_SIDE = 16


@dataclass(frozen=True)
class Keypoints:
    """points: [N, 2] pixels; sigma: [N] pixels; descriptors: [N, D], binary (uint8) or float32.

    image: [H, W] that they are of, where matches are to be polished; or None.
    """

    points: Array
    sigma: Array
    descriptors: NDArray[Any]
    image: Image | None = None


_NO_KEYPOINTS = Keypoints(np.zeros((0, 2)), np.zeros(0), np.zeros((0, 1), np.uint8))


class ClassicalMatcher:
    """ORB (Rublee et al., ICCV 2011) or SIFT with Lowe's ratio test (IJCV 2004, section 7.1).

    ORB's corners lie on the pixels of their level: its matches are polished (`polished`).

    Args:
        name: "orb" or "sift".
        max_keypoints: most keypoints per image.
        ratio: largest allowed distance ratio of the best to the second-best neighbour.
        mask: [H, W] uint8, 0 where the image is ignored; or None.

    Attributes:
        device: where it runs.
    """

    device = "cpu"

    def __init__(self, name: str, max_keypoints: int, ratio: float, mask: Image | None = None) -> None:
        self.name = name
        self.ratio = ratio
        self._max_keypoints = max_keypoints
        self.mask = mask
        if name == "orb":
            self._detector = cv2.ORB_create(max_keypoints)
        else:
            self._detector = cv2.SIFT_create(max_keypoints)

    @property
    def fingerprint(self) -> str:
        mask = "" if self.mask is None else hashlib.sha256(self.mask.tobytes()).hexdigest()
        return f"{self.name} {self._max_keypoints} {mask}"

    def extract(self, image: Image) -> Keypoints:
        check_image(image)
        if min(image.shape) < _LEAST_SIDE:
            return _NO_KEYPOINTS
        mask = self.mask
        if mask is not None and mask.shape != image.shape:
            mask = cv2.resize(mask, image.shape[::-1], interpolation=cv2.INTER_NEAREST)
        keypoints, descriptors = self._detector.detectAndCompute(image, mask)
        if descriptors is None:
            return _NO_KEYPOINTS
        points = np.array([k.pt for k in keypoints], dtype=np.float64).reshape(-1, 2)
        return Keypoints(points, self._sigma(keypoints), descriptors, image if self.name == "orb" else None)

    def _sigma(self, keypoints: tuple[cv2.KeyPoint, ...]) -> Array:
        if self.name == "orb":
            return np.array([_ORB_SIGMA * 1.2**k.octave for k in keypoints], dtype=np.float64)
        sizes = np.array([k.size for k in keypoints], dtype=np.float64)
        return _SIFT_SIGMA * np.maximum(sizes / 4.0, 1.0)

    def match_features(self, features0: Keypoints, features1: Keypoints) -> Matches:
        if len(features0.points) < 2 or len(features1.points) < 2:
            return Matches.empty()
        nearest = _nearest_bits if features0.descriptors.dtype == np.uint8 else _nearest_floats
        best, distance, second, index0 = nearest(features0.descriptors, features1.descriptors, self.ratio)
        index1 = best[index0]
        matches = Matches(
            points0=features0.points[index0],
            points1=features1.points[index1],
            confidence=1.0 - distance[index0] / np.maximum(second[index0], 1e-12),
            index0=index0,
            sigma=np.hypot(features0.sigma[index0], features1.sigma[index1]) / np.sqrt(2.0),
        )
        return polished(matches, features0.image, features1.image)

    def match(self, image0: Image, image1: Image) -> Matches:
        return self.match_features(self.extract(image0), self.extract(image1))

    def keypoints(self, features: Keypoints) -> Array:
        return features.points

    def describe(self, features: Keypoints) -> NDArray[np.float32]:
        """As long for no keypoints as for some."""
        width = 256 if self.name == "orb" else 128
        if len(features.points) == 0:
            return pooled(np.zeros((0, width), np.float32))
        binary = features.descriptors.dtype == np.uint8
        return pooled(np.unpackbits(features.descriptors, axis=1) if binary else features.descriptors)


def polished(matches: Matches, image0: Image | None, image1: Image | None) -> Matches:
    """The matches with points1 where image 1 looks like image 0 around points0 (Lucas and Kanade, IJCAI 1981).

    So the whole error of a match is in points1. An error of points0 would be the same in all matches of that keypoint,
    and so in its depth: depths that come out large would meet motions that come out small, and lengths would shrink
    from keyframe to keyframe. Matches that move too far, or whose surroundings do not look alike, stay; so do all
    between images of different sizes.
    """
    if len(matches) == 0 or image0 is None or image1 is None or image0.shape != image1.shape:
        return matches
    start = matches.points1.astype(np.float32)
    points1, found, different = cv2.calcOpticalFlowPyrLK(
        image0, image1, matches.points0.astype(np.float32), start.copy(),
        winSize=(_POLISH_WINDOW, _POLISH_WINDOW), maxLevel=0, flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
        criteria=(cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, _POLISH_STEPS, 0.01),
    )  # fmt: skip
    near = np.linalg.norm(points1 - start, axis=1) < _MOST_MOVED * matches.sigma
    good = near & (found[:, 0] > 0) & (different[:, 0] < _MOST_DIFFERENT)
    return replace(
        matches,
        points1=np.where(good[:, None], points1.astype(np.float64), matches.points1),
        sigma=np.where(good, _POLISHED * matches.sigma, matches.sigma),
    )


# best [N]: the nearest in the second set for each of the first; distance, second [N]: to the nearest two;
# index0 [M]: of those that pass the ratio test and are nearest to each other.
Nearest = tuple[NDArray[np.intp], Array, Array, NDArray[np.intp]]


def _nearest_bits(descriptors0: NDArray[Any], descriptors1: NDArray[Any], ratio: float) -> Nearest:
    """By Hamming distance; without a matrix of all distances, the way back only for what passes the ratio test."""
    two, indices = cv2.batchDistance(descriptors0, descriptors1, cv2.CV_32S, normType=cv2.NORM_HAMMING, K=2)
    best = indices[:, 0].astype(np.intp)
    distance, second = two[:, 0].astype(np.float64), two[:, 1].astype(np.float64)
    passed = np.flatnonzero(distance < ratio * second)
    if not passed.size:
        return best, distance, second, passed
    back = cv2.batchDistance(descriptors1[best[passed]], descriptors0, cv2.CV_32S, normType=cv2.NORM_HAMMING, K=1)[1]
    return best, distance, second, passed[back[:, 0] == passed]


def _nearest_floats(descriptors0: NDArray[Any], descriptors1: NDArray[Any], ratio: float) -> Nearest:
    """By Euclidean distance, all of them by one product: -d^2 = 2 a b - a a - b b."""
    a, b = descriptors0.astype(np.float32), descriptors1.astype(np.float32)
    a_one, b_one = np.ones((len(a), 1), np.float32), np.ones((len(b), 1), np.float32)
    a_own, b_own = (np.sum(each * each, axis=1, keepdims=True) for each in (a, b))
    nearness = np.hstack([2 * a, -a_own, a_one]) @ np.hstack([b, b_one, -b_own]).T
    rows, best = np.arange(len(a)), nearness.argmax(axis=1)
    nearest, most = nearness[rows, best], nearness.max(axis=0)  # an argmax along columns takes ten times as long
    nearness[rows, best] = -np.inf
    distance, second = (np.sqrt(np.maximum(-each.astype(np.float64), 0.0)) for each in (nearest, nearness.max(axis=1)))
    index0 = np.flatnonzero((distance < ratio * second) & (nearest == most[best]))
    index0 = np.sort(index0[np.unique(best[index0], return_index=True)[1]])  # of equally near ones the first
    return best, distance, second, index0
