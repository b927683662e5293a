#!/usr/bin/env python3
# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""How the odometry comes back after bursts of black frames, on recordings with ground truth.

    .venv/bin/python scripts/blackouts.py SEQUENCE... [--matcher tiny] [--seeds 3 4 5]

After the first 30 frames, 3 to 10 frames in a row are black, then 15 to 25 are not, and so on; each recording is played
forward and backward. For each run: how many of the frames that are not black, once the map had started, had a pose;
after how many of them the pose was back, at worst; and the error of all poses (ATE after Sim(3) alignment).
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace

import numpy as np

from loftr_ros import cli
from loftr_ros.config import MATCHERS, MatcherConfig
from loftr_ros.errors import InputError
from loftr_ros.evaluation.metrics import evaluate
from loftr_ros.evaluation.sequences import Options, Recording, open_recording
from loftr_ros.evaluation.trajectory import Trajectory
from loftr_ros.matching import matcher_from_config
from loftr_ros.odometry import VisualOdometry
from loftr_ros.types import Estimate, Frame

_FIRST = 30
COLUMNS = ("sequence", "way", "black frames", "poses of the others", "back after", "ATE")


@dataclass(frozen=True)
class Result:
    """Of one run: numbers of frames, and the ATE in metres; back_after counts from 1, 0 for never at least once."""

    black: int
    others: int
    posed: int
    back_after: int
    ate_m: float


def black_frames(count: int, seed: int) -> set[int]:
    """Numbers of the frames that are black."""
    rng = np.random.default_rng(seed)
    black: set[int] = set()
    start = _FIRST
    while start < count:
        length = int(rng.integers(3, 11))
        black |= set(range(start, min(start + length, count)))
        start += length + int(rng.integers(15, 26))
    return black


def play(recording: Recording, matcher: str, seed: int, backward: bool) -> Result:
    if recording.groundtruth is None:
        raise InputError("A sequence without ground truth cannot be judged: it needs groundtruth_tum.txt.")
    frames = list(recording.frames())
    if len(frames) <= _FIRST:
        raise InputError(f"A sequence of {len(frames)} frames is too short: more than {_FIRST} are needed.")
    ends = frames[0].stamp_ns + frames[-1].stamp_ns
    if backward:
        frames = [replace(frame, stamp_ns=ends - frame.stamp_ns) for frame in reversed(frames)]
    black = black_frames(len(frames), seed)
    odometry = VisualOdometry(matcher_from_config(MatcherConfig(name=matcher)), recording.camera)
    estimates = [odometry.process(_shown(frame, i in black)) for i, frame in enumerate(frames)]
    poses = [(e.stamp_ns, e.pose_world_camera) for e in estimates if e.pose_world_camera is not None]
    if backward:
        poses = [(ends - stamp, pose) for stamp, pose in reversed(poses)]
    errors, _ = evaluate(Trajectory([stamp for stamp, _ in poses], [pose for _, pose in poses]), recording.groundtruth)
    started = next(i for i, e in enumerate(estimates) if i > 0 and e.pose_world_camera is not None)
    others = [estimates[i] for i in range(started, len(frames)) if i not in black]
    posed = sum(e.pose_world_camera is not None for e in others)
    return Result(len(black), len(others), posed, _back_after(estimates, black), errors.ate_sim3_rmse_m)


def _shown(frame: Frame, black: bool) -> Frame:
    return replace(frame, image=np.zeros_like(frame.image)) if black else frame


def _back_after(estimates: list[Estimate], black: set[int]) -> int:
    """The largest number of frames from the end of a burst to the first pose, that included; 0 for none at the end."""
    worst = 0
    for end in sorted(i for i in black if i + 1 not in black and i + 1 < len(estimates)):
        stretch = range(end + 1, next((i for i in range(end + 1, len(estimates)) if i in black), len(estimates)))
        back = [i - end for i in stretch if estimates[i].pose_world_camera is not None]
        if not back:
            return 0
        worst = max(worst, back[0])
    return worst


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sequence", nargs="+", metavar="SEQUENCE", help="sequence folder with ground truth")
    parser.add_argument("--matcher", choices=MATCHERS, default="tiny")
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 4, 5])
    options = parser.parse_args(arguments)
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for path in options.sequence:
        for backward in (False, True):
            for seed in options.seeds:
                result = play(open_recording(path, Options()), options.matcher, seed, backward)
                back = f"{result.back_after}" if result.back_after else "never"
                way = "backward" if backward else "forward"
                posed = f"{result.posed} of {result.others}"
                name = path.rstrip("/").split("/")[-1]
                print(f"| {name} | {way} | {result.black} | {posed} | {back} | {result.ate_m:.3f} m |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
