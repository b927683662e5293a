# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Which matches are kept."""

from __future__ import annotations

import numpy as np

from loftr_ros.matching.selection import most_certain
from loftr_ros.types import Matches


def of_sigma(*sigma: float) -> Matches:
    count = len(sigma)
    return Matches(np.zeros((count, 2)), np.zeros((count, 2)), np.ones(count), np.arange(count), np.array(sigma))


def test_uncertain_matches_go_in_the_order_of_the_rest():
    assert most_certain(of_sigma(0.9, 0.1, 0.5, 2.0, 0.3), 0.5, 2).index0.tolist() == [1, 2, 4]


def test_some_stay_however_uncertain():
    assert most_certain(of_sigma(0.9, 0.7, 3.0, 2.0), 0.5, 2).index0.tolist() == [0, 1]
    assert len(most_certain(of_sigma(5.0, 6.0), 0.5, 3)) == 2
    assert len(most_certain(Matches.empty(), 0.5, 3)) == 0
