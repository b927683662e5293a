# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Fixtures that several test modules share."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

# Threads that spin while they wait for each other make torch several times slower on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real camera data; skips where there is none."""
    folder = os.environ.get("LOFTR_ROS_DATA")
    if not folder:
        pytest.skip("needs real camera data: set LOFTR_ROS_DATA to its folder")
    return Path(folder)
