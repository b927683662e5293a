# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""One vector for a whole image, from its local features."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loftr_ros.types import Array

_MOST_CHANNELS = 64


def pooled(features: NDArray[Any]) -> NDArray[np.float32]:
    """[D] unit vector of local features [N, C]: which channels go together, wherever they are in the image.

    Second-order pooling with signed square roots (Lin et al., "Bilinear CNN models", ICCV 2015; Carreira et al., ECCV
    2012): the covariance of the channels. More than 64 channels are first projected to 64, at random but always the
    same. D is C (C + 1) / 2. No features, or features without any spread, give zeros.
    """
    channels = min(features.shape[1], _MOST_CHANNELS)
    if len(features) == 0:
        return np.zeros(channels * (channels + 1) // 2, np.float32)
    centred = features.astype(np.float64) - features.mean(axis=0)
    if features.shape[1] > _MOST_CHANNELS:
        centred = centred @ _projection(features.shape[1])
    covariance = centred.T @ centred / len(features)
    entries = covariance[np.triu_indices(channels)]
    rooted = np.sign(entries) * np.sqrt(np.abs(entries))
    return (rooted / max(float(np.linalg.norm(rooted)), 1e-12)).astype(np.float32)


@lru_cache(maxsize=4)
def _projection(channels: int) -> Array:
    return np.random.default_rng(channels).standard_normal((channels, _MOST_CHANNELS)) / np.sqrt(channels)
