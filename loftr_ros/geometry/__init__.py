# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Cameras, rigid motions and two-view geometry. numpy and OpenCV only."""
