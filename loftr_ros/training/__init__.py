# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Training of LoFTR on synthetic views with exact correspondences."""
