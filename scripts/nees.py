#!/usr/bin/env python3
# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Is the covariance that of the errors? Normalized estimation error squared (NEES) of poses on rendered runs.

    .venv/bin/python scripts/nees.py [--matcher sift] [--runs 200] [--first-seed 1000] [--json FILE]

Every run is a room of its own, seen by a camera that goes a random way through it (25 frames of 320x240). Lengths are
fitted, since the scale is arbitrary. For an honest covariance the mean over many runs is 6, the number of degrees of
freedom (Bar-Shalom et al., "Estimation with Applications to Tracking and Navigation", 2001, section 5.4).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from loftr_ros import cli
from loftr_ros.config import MATCHERS, MatcherConfig
from loftr_ros.geometry.se3 import inverse, vector_from_rotation
from loftr_ros.matching import Matcher, matcher_from_config
from loftr_ros.odometry import VisualOdometry
from loftr_ros.synthetic.room import look, make_room, room_camera
from loftr_ros.types import Array, Estimate

_FRAMES = 25
_SIZE = (320, 240)


def random_way(seed: int) -> list[Array]:
    """pose_world_camera [4, 4] of a camera with a constant random velocity and turning rate."""
    rng = np.random.default_rng(seed)
    place, yaw = np.array([*rng.uniform(-0.8, 0.8, 2), rng.uniform(1.1, 1.7)]), rng.uniform(-np.pi, np.pi)
    ahead, across = np.array([np.cos(yaw), np.sin(yaw), 0.0]), np.array([np.sin(yaw), -np.cos(yaw), 0.0])
    speed = rng.uniform(-0.04, 0.06) * ahead + rng.uniform(-0.04, 0.04) * across + [0, 0, rng.uniform(-0.01, 0.01)]
    turn, pitch = rng.uniform(-0.02, 0.02, 2) * [1.0, 0.3]
    return [look(place + speed * i, yaw + turn * i, pitch * i) for i in range(_FRAMES)]


def nees(estimate: Estimate, true: Array, unit: float) -> float:
    """Error (position, rotation vector; world axes) over its covariance. `true`: [4, 4], metres; unit: of the map."""
    pose = estimate.pose_world_camera
    error = np.concatenate(
        [pose[:3, 3] - unit * true[:3, 3], vector_from_rotation(pose[:3, :3] @ true[:3, :3].T)]
    )
    return float(error @ np.linalg.solve(estimate.pose_covariance, error))


def run(matcher: Matcher, seed: int) -> tuple[float, float] | None:
    """NEES in the middle and at the end of a run; None where the map had not started by then."""
    camera = room_camera(*_SIZE)
    way = random_way(seed)
    odometry = VisualOdometry(matcher, camera)
    estimates = [odometry.process(frame) for frame in make_room(camera, seed).frames(way)]
    truth = [inverse(way[0]) @ pose for pose in way]
    posed = [(e, t) for e, t in zip(estimates, truth) if e.pose_world_camera is not None]
    known = [(e.pose_world_camera[:3, 3], t[:3, 3]) for e, t in posed]
    middle, last = _FRAMES // 2, _FRAMES - 1
    if any(estimates[at].pose_world_camera is None for at in (middle, last)):
        return None
    unit = sum(e @ t for e, t in known) / sum(t @ t for _, t in known)
    return nees(estimates[middle], truth[middle], unit), nees(estimates[last], truth[last], unit)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--matcher", choices=MATCHERS, default="sift")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all values there as well")
    options = parser.parse_args(arguments)
    matcher = matcher_from_config(MatcherConfig(name=options.matcher))
    seeds = range(options.first_seed, options.first_seed + options.runs)
    values = {seed: run(matcher, seed) for seed in cli.progress(seeds, options.runs, "nees", quiet=False)}
    found = np.array([each for each in values.values() if each is not None])
    for name, column in zip(("middle", "end"), found.T):
        shares = ", ".join(f"{np.quantile(column, q):.1f}" for q in (0.25, 0.5, 0.75, 0.95, 1.0))
        print(f"{name}: mean {column.mean():.2f}; quartiles, 95 % and largest {shares}")
    print(f"{len(found)} of {options.runs} runs had a pose; an honest covariance has a mean of 6")
    if options.json is not None:
        options.json.write_text(json.dumps({"matcher": options.matcher, "nees": values}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
