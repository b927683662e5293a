# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Relative pose from single pairs of frames: how good are the matches alone?

python -m loftr_ros.evaluation.pairs SEQUENCE... [--gaps 1,2] [--matchers tiny,sift,orb] [--dark] [--roll DEG]

Every matcher sees the same images and feeds the same estimator (MAGSAC essential matrix). The error of a pair
is the larger of its rotation angle and the angle between the translation directions; a pair without a pose
counts as wrong. The frames can be made dark and noisy, and the second of each pair rolled, to see what a matcher bears.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from loftr_ros import cli
from loftr_ros.config import MATCHERS, MatcherConfig
from loftr_ros.errors import GeometryError, InputError
from loftr_ros.evaluation import disturbance
from loftr_ros.evaluation.peers import PEERS, load_peer
from loftr_ros.evaluation.sequences import open_recording
from loftr_ros.evaluation.trajectory import read_table
from loftr_ros.files import write_atomically
from loftr_ros.geometry.camera import Camera
from loftr_ros.geometry.se3 import inverse, pose_from_xyz_quat, rotation_angle_deg
from loftr_ros.geometry.two_view import angles, estimate_pose
from loftr_ros.matching import Matcher, load_matcher
from loftr_ros.types import Array, Image

INLIER_THRESHOLD_PX = 0.7  # distance from the epipolar line, in the pixels that the matcher sees
AUC_DEGREES = (5, 10, 20)
GOOD_DEGREES = (1.0, 5.0)  # of rotation and of direction, for a step of odometry
_FAILED_DEG = 180.0
_MOST_TIME_DIFFERENCE_S = 0.02


@dataclass(frozen=True)
class PosedFrames:
    """Frames [H, W] as the matchers see them, their camera, and pose_world_camera [4, 4] of each."""

    name: str
    images: list[Image]
    camera: Camera
    poses: list[Array]


@dataclass(frozen=True)
class PairResult:
    """Errors in degrees, matches, those that agree with the pose, milliseconds to extract twice and match."""

    rotation_deg: float
    direction_deg: float
    matches: int
    inliers: int
    milliseconds: float

    @property
    def error_deg(self) -> float:
        return max(self.rotation_deg, self.direction_deg)

    @property
    def good(self) -> bool:
        return self.rotation_deg < GOOD_DEGREES[0] and self.direction_deg < GOOD_DEGREES[1]


@dataclass(frozen=True)
class Summary:
    """Of all pairs of a sequence: areas under the error's cumulative curve and share of good pairs in percent; medians.

    A good pair has a rotation and a direction within GOOD_DEGREES.
    """

    sequence: str
    matcher: str
    pairs: int
    auc_5: float
    auc_10: float
    auc_20: float
    good: float
    median_error_deg: float
    median_matches: float
    median_inliers: float
    median_ms: float


def load_sequence(path: str | Path, max_side: int) -> PosedFrames:
    """A sequence with ground truth, shrunk to a longer side of max_side (0: never). Raises InputError."""
    recording = open_recording(path)
    if recording.groundtruth is None:
        raise InputError(f"{path} has no groundtruth_tum.txt to compare with.")
    frames = list(recording.frames())
    if not frames:
        raise InputError(f"{path} has no frames.")
    images = [_shrunk(frame.image, max_side) for frame in frames]
    height, width = images[0].shape
    poses = poses_at([frame.stamp_ns for frame in frames], recording.groundtruth)
    return PosedFrames(Path(path).name, images, recording.camera.resized(width, height), poses)


def _shrunk(image: Image, max_side: int) -> Image:
    ratio = max_side / max(image.shape)
    if max_side == 0 or ratio >= 1:
        return image
    size = (round(image.shape[1] * ratio), round(image.shape[0] * ratio))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def poses_at(stamps_ns: Sequence[int], groundtruth: Path) -> list[Array]:
    """The pose of a TUM file at each stamp. Raises InputError where one is missing."""
    table = read_table(groundtruth, "ground truth")
    try:
        poses = [pose_from_xyz_quat(row[1:8]) for row in table]
    except GeometryError as error:
        raise InputError(f"The ground truth {groundtruth} cannot be read: {error}") from None
    found = []
    for stamp in stamps_ns:
        nearest = int(np.argmin(np.abs(table[:, 0] - stamp * 1e-9)))
        if abs(table[nearest, 0] - stamp * 1e-9) > _MOST_TIME_DIFFERENCE_S:
            raise InputError(f"The ground truth {groundtruth} has no pose at {stamp * 1e-9:.3f} s.")
        found.append(poses[nearest])
    return found


def pair_indices(frames: int, gaps: Sequence[int], every: int) -> list[tuple[int, int]]:
    """(i, i + gap) for every so manieth i, while the widest pair still fits."""
    return [(i, i + gap) for i in range(0, frames - max(gaps), every) for gap in gaps]


def pose_errors_deg(estimate_1_0: Array, truth_1_0: Array) -> tuple[float, float]:
    """The rotation angle, and the angle between the translation directions (0 where the truth has none)."""
    rotation = rotation_angle_deg(estimate_1_0[:3, :3] @ truth_1_0[:3, :3].T)
    length = np.linalg.norm(truth_1_0[:3, 3])
    if length == 0:
        return rotation, 0.0
    direction = angles(estimate_1_0[None, :3, 3], truth_1_0[None, :3, 3] / length)
    return rotation, float(np.degrees(direction[0]))


def evaluate_pair(
    matcher: Matcher, sequence: PosedFrames, index0: int, index1: int, most_roll_deg: float = 0.0
) -> PairResult:
    """Match two frames, the second rolled by up to most_roll_deg, and compare the pose that follows with the truth."""
    roll_deg = disturbance.roll_of_frame(index1, most_roll_deg)
    image1 = disturbance.rolled(sequence.images[index1], sequence.camera, roll_deg)
    start = time.perf_counter()
    matches = matcher.match(sequence.images[index0], image1)
    milliseconds = 1e3 * (time.perf_counter() - start)
    truth_1_0 = disturbance.roll_pose(roll_deg) @ inverse(sequence.poses[index1]) @ sequence.poses[index0]
    points0, points1 = (sequence.camera.normalize(points) for points in (matches.points0, matches.points1))
    try:
        focal = sequence.camera.focal
        found = estimate_pose(points0, points1, INLIER_THRESHOLD_PX / focal, focal, doubtful=True)
    except GeometryError:
        return PairResult(_FAILED_DEG, _FAILED_DEG, len(points0), 0, milliseconds)
    errors = pose_errors_deg(found.pose_1_0, truth_1_0)
    return PairResult(*errors, len(points0), int(found.inliers.sum()), milliseconds)


def area_under_curve(errors: Array, limit: float) -> float:
    """Percent: the mean over 0..limit of the share of errors below (Sarlin et al., CVPR 2020)."""
    ordered = np.concatenate([[0.0], np.sort(errors)])
    recall = np.arange(len(ordered)) / max(len(errors), 1)
    last = int(np.searchsorted(ordered, limit))
    x = np.append(ordered[:last], limit)
    y = np.append(recall[:last], recall[last - 1])
    return float(100 * np.sum((y[1:] + y[:-1]) / 2 * np.diff(x)) / limit)


def summarize(sequence: str, matcher: str, results: Sequence[PairResult]) -> Summary:
    errors = np.array([result.error_deg for result in results])
    auc_5, auc_10, auc_20 = (area_under_curve(errors, limit) for limit in AUC_DEGREES)
    return Summary(
        sequence=sequence,
        matcher=matcher,
        pairs=len(results),
        auc_5=auc_5,
        auc_10=auc_10,
        auc_20=auc_20,
        good=100 * float(np.mean([result.good for result in results])),
        median_error_deg=float(np.median(errors)),
        median_matches=float(np.median([result.matches for result in results])),
        median_inliers=float(np.median([result.inliers for result in results])),
        median_ms=float(np.median([result.milliseconds for result in results])),
    )


def benchmark(
    sequences: Sequence[PosedFrames],
    matchers: Sequence[Matcher],
    gaps: Sequence[int],
    every: int,
    progress: bool,
    most_roll_deg: float = 0.0,
) -> list[Summary]:
    """A summary for each sequence and matcher. Raises InputError for too few frames, or a roll of distorted ones."""
    summaries = []
    for sequence in sequences:
        pairs = pair_indices(len(sequence.images), gaps, every)
        if not pairs:
            raise InputError(f"{sequence.name} has too few frames for pairs {max(gaps)} apart.")
        for matcher in matchers:
            matcher.match(sequence.images[0], sequence.images[0])  # the first call also sets up caches
            bar = tqdm(pairs, desc=f"{sequence.name} {matcher.name}", disable=not progress, leave=False)
            results = [evaluate_pair(matcher, sequence, i, j, most_roll_deg) for i, j in bar]
            summaries.append(summarize(sequence.name, matcher.name, results))
    return summaries


def table(summaries: Sequence[Summary]) -> str:
    """Markdown, a line per summary."""
    lines = [
        "| sequence | matcher | pairs | AUC@5/10/20 | good | median error | matches | inliers | ms |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for s in summaries:
        lines.append(
            f"| {s.sequence} | {s.matcher} | {s.pairs} | {s.auc_5:.1f}/{s.auc_10:.1f}/{s.auc_20:.1f} "
            f"| {s.good:.0f} % | {s.median_error_deg:.2f} deg | {s.median_matches:.0f} | {s.median_inliers:.0f} "
            f"| {s.median_ms:.0f} |"
        )
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pairs", description="Relative pose from single pairs of frames.")
    parser.add_argument("sequences", nargs="+", metavar="SEQUENCE", help="folder with images and ground truth")
    parser.add_argument("--gaps", type=_positive_list, default=[1, 2], metavar="N,N", help="frames apart (1,2)")
    parser.add_argument("--every", type=int, default=2, metavar="N", help="take every Nth frame as first (2)")
    parser.add_argument("--matchers", default="tiny,sift,orb", metavar="NAME,NAME", help="(tiny,sift,orb)")
    parser.add_argument("--max-side", type=int, default=640, metavar="PX", help="shrink the longer side to it (640)")
    parser.add_argument("--weights", default="", metavar="FILE", help="weights of the LoFTR among the matchers")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="where networks run")
    parser.add_argument("--precision", default=MatcherConfig.precision, help="of LoFTR (%(default)s)")
    parser.add_argument("--dark", action="store_true", help="gains of 0.15 to 0.35, noise of 4 grey levels")
    parser.add_argument("--roll", type=float, default=0.0, metavar="DEG", help="roll second frames by up to that (0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there too")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def _positive_list(text: str) -> list[int]:
    values = [int(word) for word in text.split(",")]
    if min(values) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' has a number below 1")
    return values


def _matcher(name: str, options: argparse.Namespace) -> Matcher:
    if name in PEERS:
        return load_peer(name, options.device)
    if name not in MATCHERS:
        raise InputError(f"There is no matcher '{name}'; there are {', '.join((*MATCHERS, *PEERS))}.")
    if name in ("sift", "orb"):
        return load_matcher(name)
    # The images are shrunk already.
    return load_matcher(name, weights=options.weights, device=options.device, precision=options.precision, max_side=0)


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    if options.every < 1:
        raise InputError(f"--every must be at least 1, not {options.every}.")
    if not 0 <= options.max_side <= 8192:
        raise InputError(f"--max-side must be 0 to 8192, not {options.max_side}.")
    if not 0 <= options.roll <= 180:
        raise InputError(f"--roll must be between 0 and 180 degrees, not {options.roll:g}.")
    matchers = [_matcher(name, options) for name in options.matchers.split(",")]
    sequences = [load_sequence(path, options.max_side) for path in options.sequences]
    if options.dark:
        sequences = [dataclasses.replace(item, images=disturbance.darkened(item.images)) for item in sequences]
    summaries = benchmark(sequences, matchers, options.gaps, options.every, not options.quiet, options.roll)
    print(table(summaries))
    if options.json:
        write_atomically(options.json, [json.dumps([dataclasses.asdict(s) for s in summaries], indent=2)])
    return 0


def entry_point() -> int:
    return cli.run(main)


if __name__ == "__main__":
    sys.exit(entry_point())
