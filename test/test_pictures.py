# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Pictures of matches."""

from __future__ import annotations

import numpy as np
import pytest

from loftr_ros.pictures import caption


def rightmost(text: str, width: int) -> int:
    """Column of the last pixel that the text touches."""
    strip = caption(text, width).max(axis=2)
    return int(np.flatnonzero((strip > 32).any(axis=0))[-1])


@pytest.mark.parametrize("width", [80, 200, 400])
def test_a_long_caption_is_written_small_enough_to_be_read_to_its_end(width):
    assert width - 16 < rightmost("123 inliers of 456 matches of a picture that is too narrow!", width) < width - 4


def test_a_short_caption_is_as_large_as_ever():
    assert rightmost("OK", 400) == rightmost("OK", 1200) < 40
