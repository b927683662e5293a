# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Matchers behind one protocol: LoFTR in its sizes, SIFT and ORB."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from loftr_ros.config import MatcherConfig, config_from_dict
from loftr_ros.errors import ConfigError, InputError
from loftr_ros.imaging import decode
from loftr_ros.matching.base import Matcher, PlaceMatcher
from loftr_ros.types import Image

__all__ = ["Matcher", "PlaceMatcher", "load_matcher", "matcher_from_config"]


def load_matcher(name: str = "tiny", **options: Any) -> PlaceMatcher:
    """A matcher by name.

    Args:
        name: "tiny", "outdoor" or "indoor" (LoFTR), "sift" or "orb".
        options: settings of `MatcherConfig`, such as weights, device, max_side or threshold.

    Example:
        >>> matches = load_matcher("orb").match(image0, image1)  # grey uint8 [H, W]
        >>> matches.points0, matches.points1, matches.confidence  # [N, 2], [N, 2], [N]

    Raises:
        ConfigError: an option is unknown or out of range.
        WeightsError: the weights cannot be used.
        InputError: the mask cannot be read.
    """
    return matcher_from_config(config_from_dict({"matcher": name, **options}).matcher)


def matcher_from_config(config: MatcherConfig) -> PlaceMatcher:
    """The matcher that a configuration describes. Raises as `load_matcher`."""
    mask = _read_mask(config.mask_file)
    if config.name in ("orb", "sift"):
        from loftr_ros.matching.classical import ClassicalMatcher

        return ClassicalMatcher(config.name, config.max_keypoints, config.ratio, mask)
    from loftr_ros.matching.loftr import LoFTRMatcher  # torch is loaded only where it is used

    try:
        return LoFTRMatcher(
            config.name,
            config.weights or None,
            config.device,
            config.max_side,
            config.threshold,
            mask,
            precision=config.precision,
            target_rate=config.target_rate,
            compile_network=config.compile,
            max_matches=config.max_matches,
            max_deviation=config.max_deviation_px,
            out_of_memory=config.out_of_memory,
        )
    except RuntimeError as error:
        raise ConfigError(f"{error}.") from None


def _read_mask(path: str) -> Image | None:
    if not path:
        return None
    try:
        return decode(Path(path).read_bytes())
    except (InputError, OSError, ValueError):
        raise InputError(f"The mask {path} is not a readable image.") from None
