# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""The LoFTR network in torch. Knows nothing of odometry or ROS."""

from loftr_ros.loftr.config import CONFIGS, LoFTRConfig
from loftr_ros.loftr.model import CoarseStage, ImageFeatures, LoFTR, LoFTROutput
from loftr_ros.loftr.weights import load_network

__all__ = ["CONFIGS", "CoarseStage", "ImageFeatures", "LoFTR", "LoFTRConfig", "LoFTROutput", "load_network"]
