# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Which matches are worth keeping."""

from __future__ import annotations

import numpy as np

from loftr_ros.types import Matches


def most_certain(matches: Matches, limit_px: float, least: int) -> Matches:
    """The matches with a sigma of at most limit_px, and always the `least` most certain ones; in their order."""
    if len(matches) <= least:
        return matches
    limit = max(limit_px, np.partition(matches.sigma, least - 1)[least - 1])
    return matches[matches.sigma <= limit]
