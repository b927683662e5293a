# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""What the commands take: images, their calibration, and a matcher."""

from __future__ import annotations

import argparse
from pathlib import Path

from loftr_ros.config import ALL_MATCHES, MATCHERS, config_from_dict
from loftr_ros.errors import InputError
from loftr_ros.evaluation.sequences import IMAGE_SUFFIXES
from loftr_ros.geometry.camera import Camera, load_camera
from loftr_ros.matching import PlaceMatcher, matcher_from_config

_MATCHER_KEYS = ("matcher", "weights", "device", "max_side", "threshold")


def add_matcher_arguments(parser: argparse.ArgumentParser, max_side: int = 640) -> None:
    """--matcher, --weights, --device, --max-side and --threshold, as everywhere in the package."""
    parser.add_argument("--matcher", choices=MATCHERS, default="tiny", help="how points are matched (tiny)")
    parser.add_argument("--weights", metavar="FILE", help="weights of LoFTR")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), help="where LoFTR runs")
    parser.add_argument(
        "--max-side",
        type=int,
        default=max_side,
        metavar="PX",
        help=f"LoFTR shrinks images to this longer side ({max_side})",
    )
    parser.add_argument("--threshold", type=float, metavar="P", help="least confidence of a LoFTR match (0.2)")


def matcher_of(options: argparse.Namespace) -> PlaceMatcher:
    """The matcher that the arguments describe. Raises ConfigError, WeightsError."""
    given = {key: value for key in _MATCHER_KEYS if (value := getattr(options, key)) is not None}
    given["max_matches"] = ALL_MATCHES  # a command need not keep up with a camera
    return matcher_from_config(config_from_dict(given).matcher)


def images_in(folder: Path) -> list[Path]:
    """The image files of a folder by name. Raises InputError where there are none."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder.")
    images = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not images:
        raise InputError(f"There are no images in {folder}.")
    return images


def camera_of(image: Path, width: int, height: int, camera_info: Path | None = None) -> Camera | None:
    """Calibration of an image: the file given, else a camera_info.yaml in its folder or the one above; or None.

    Raises InputError where a file cannot be used, or is for images of another shape.
    """
    beside = [image.parent / "camera_info.yaml", image.parent.parent / "camera_info.yaml"]
    file = camera_info or next((path for path in beside if path.is_file()), None)
    if file is None:
        return None
    return load_camera(file).resized(width, height)
