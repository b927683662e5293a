# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""`match`: two images; their matches, relative pose and similarity, and a picture of the matches."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from loftr_ros import cli
from loftr_ros.errors import InputError
from loftr_ros.evaluation.sequences import read_colour, read_depth
from loftr_ros.files import write_image
from loftr_ros.geometry.camera import Camera
from loftr_ros.pictures import caption, pair_picture
from loftr_ros.types import Matches
from loftr_ros.uses.inputs import add_matcher_arguments, camera_of, matcher_of
from loftr_ros.uses.relative_pose import RelativePose, relative_pose
from loftr_ros.uses.similarity import score_of_features, score_of_matches, verify


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="match", description=__doc__)
    parser.add_argument("image0", type=Path, metavar="A", help="an image")
    parser.add_argument("image1", type=Path, metavar="B", help="another one")
    parser.add_argument("--output", type=Path, default=Path("match.png"), metavar="FILE", help="picture (match.png)")
    parser.add_argument("--json", action="store_true", help="print all results as JSON instead of text")
    parser.add_argument(
        "--camera-info",
        type=Path,
        metavar="FILE",
        help="calibration; else camera_info.yaml in the folder of A or above",
    )
    parser.add_argument("--camera-info1", type=Path, metavar="FILE", help="of B, where it is another camera")
    parser.add_argument("--depth", type=Path, metavar="FILE", help="depth image of A: makes the translation metric")
    parser.add_argument("--baseline", type=float, metavar="METRES", help="known distance of the cameras: metric, too")
    add_matcher_arguments(parser)
    return parser


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    if options.baseline is not None and not 0 < options.baseline < 1e6:
        raise InputError(f"--baseline must be greater than 0, and below 1e6 metres, not {options.baseline:g}.")
    matcher = matcher_of(options)
    colour0, colour1 = read_colour(options.image0), read_colour(options.image1)
    camera0 = camera_of(options.image0, colour0.shape[1], colour0.shape[0], options.camera_info)
    if camera0 is None and (options.depth or options.baseline):
        raise InputError("A metric pose needs a calibration: name one with --camera-info.")
    # 1. Matches, in both directions for the similarity
    grey0, grey1 = (cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) for image in (colour0, colour1))
    features0, features1 = matcher.extract(grey0), matcher.extract(grey1)
    matches = matcher.match_features(features0, features1)
    there = score_of_matches(matcher, matches, features0, features1, grey0.shape, grey1.shape)
    back = score_of_features(matcher, features1, features0, grey1.shape, grey0.shape)
    # 2. Pose, where the camera is known
    if camera0 is None:
        inliers = verify(matches, grey0.shape)
        pose = RelativePose(None, inliers, False, 0.0, "There is no calibration; name one with --camera-info.")
    else:
        pose = _pose(matches, camera0, colour1, options)
    # 3. Results
    result = _result(matches, pose, (there + back) / 2)
    print(json.dumps(result, indent=2) if options.json else _text(result))
    write_image(options.output, _picture(colour0, colour1, matches, pose.inliers, result))
    if not options.json:
        print(f"picture in {options.output}")
    return 0


def _pose(matches: Matches, camera0: Camera, image1: NDArray[Any], options: argparse.Namespace) -> RelativePose:
    height, width = image1.shape[:2]
    camera1 = camera_of(options.image1, width, height, options.camera_info1 or options.camera_info)
    if camera1 is None and (width, height) != (camera0.width, camera0.height):
        raise InputError("B has another size than A and no calibration; name one with --camera-info1.")
    depth0 = None if options.depth is None else read_depth(options.depth)
    return relative_pose(matches, camera0, camera1, depth0, options.baseline)


def _result(matches: Matches, pose: RelativePose, similarity: float) -> dict[str, Any]:
    count = len(matches)
    return {
        "matches": count,
        "inliers": int(pose.inliers.sum()),
        "inlier_ratio": float(pose.inliers.mean()) if count else 0.0,
        "similarity": similarity,
        "pose_of_b_in_a": pose.to_dict(),
        "points0": np.round(matches.points0, 3).tolist(),
        "points1": np.round(matches.points1, 3).tolist(),
        "confidence": np.round(matches.confidence, 4).tolist(),
        "is_inlier": pose.inliers.tolist(),
    }


def _picture(
    image0: NDArray[Any], image1: NDArray[Any], matches: Matches, inliers: NDArray[np.bool_], result: dict[str, Any]
) -> NDArray[np.uint8]:
    picture = pair_picture(image0, image1, matches, inliers)
    text = (
        f"{result['inliers']} inliers of {result['matches']} matches   similarity {result['similarity']:.2f}"
        "   inliers: dark = unsure, yellow = sure; outliers: red"
    )
    return np.concatenate([caption(text, picture.shape[1]), picture])


def _text(result: dict[str, Any]) -> str:
    lines = [
        f"{result['matches']} matches, {result['inliers']} inliers ({100 * result['inlier_ratio']:.0f} %)",
        f"similarity {result['similarity']:.3f}",
        *_pose_text(result["pose_of_b_in_a"]),
    ]
    return "\n".join(lines)


def _pose_text(pose: dict[str, Any]) -> list[str]:
    if pose["rotation"] is None:
        return [f"no pose: {pose['reason']}"]
    numbers = {key: " ".join(f"{v:.4f}" for v in pose[key]) for key in ("quaternion_xyzw", "translation")}
    rows = "\n      ".join(" ".join(f"{v:8.5f}" for v in row) for row in pose["rotation"])
    unit = "metres" if pose["metric"] else "direction only"
    return [
        "pose of camera B in the frame of camera A (x right, y down, z forward):",
        f"  R = {rows}",
        f"  quaternion (x y z w) {numbers['quaternion_xyzw']}",
        "  about x, y, z        {:.2f} {:.2f} {:.2f} degrees".format(*pose["euler_xyz_deg"]),
        f"  t ({unit}) {numbers['translation']}",
        f"  parallax {pose['parallax_deg']:.2f} degrees" + (f"; {pose['reason']}" if pose["reason"] else ""),
    ]


def entry_point() -> int:
    return cli.run(main)


if __name__ == "__main__":
    sys.exit(entry_point())
