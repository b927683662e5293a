# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""What else matches are good for: relative poses, similarity, places, attention, points in 3-D and comparisons.

Everything here stands on the matchers, the geometry and the odometry; nothing below imports it.
"""
