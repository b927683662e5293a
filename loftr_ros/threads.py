# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Who may use the processor's cores."""

from __future__ import annotations

import scipy.linalg  # noqa: F401  # brings an OpenBLAS of its own, which must be loaded to be told
from threadpoolctl import ThreadpoolController


def leave_cores_to_others() -> None:
    """Let numpy and scipy compute with one thread, in the whole process.

    The threads of OpenBLAS go on spinning for some 30 ms after each product, and take the cores from the network, from
    OpenCV or from DDS. The products of the odometry are too small to gain from threads.
    """
    ThreadpoolController().select(internal_api="openblas").limit(limits=1)
