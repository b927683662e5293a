# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Synthetic scenes: textured quads ray-cast into images with exact depth, and textures for them."""

from loftr_ros.synthetic.scene import Quad, inverse_depth_at, render, transfer_pixels

__all__ = ["Quad", "inverse_depth_at", "render", "transfer_pixels"]
