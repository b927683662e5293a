# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""`render_room`: write a rendered sequence with known trajectory, to try everything without a camera."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from loftr_ros import cli
from loftr_ros.errors import InputError
from loftr_ros.evaluation.trajectory import Trajectory, seconds, write_tum
from loftr_ros.files import make_folder, write_atomically, write_image
from loftr_ros.geometry.camera import calibration_lines
from loftr_ros.synthetic.room import Room, make_room, room_camera, round_trip
from loftr_ros.types import Array


def write_sequence(folder: Path, room: Room, poses: list[Array], rate_hz: float, progress: bool = False) -> None:
    """Write images/, depth/, times.txt, camera_info.yaml and groundtruth_tum.txt. Raises InputError."""
    for name in ("images", "depth"):
        make_folder(folder / name)
    stamps = []
    frames = room.frames(poses, rate_hz, with_depth=True)
    for i, frame in enumerate(cli.progress(frames, len(poses), "rendering", quiet=not progress)):
        assert frame.depth is not None
        write_image(folder / "images" / f"{i:06d}.png", frame.image)
        write_image(folder / "depth" / f"{i:06d}.png", np.rint(frame.depth * 1000).astype(np.uint16))
        stamps.append(frame.stamp_ns)
    write_atomically(folder / "times.txt", [seconds(stamp) for stamp in stamps])
    write_atomically(folder / "camera_info.yaml", calibration_lines(room.camera, "room"))
    write_tum(folder / "groundtruth_tum.txt", Trajectory(stamps, poses))


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="render_room", description=__doc__)
    parser.add_argument("folder", type=Path, help="where to write the sequence")
    parser.add_argument("--frames", type=int, default=120, metavar="N", help="on one round through the room")
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--seed", type=int, default=0, help="another seed makes another room")
    options = parser.parse_args(arguments)
    sides = (options.width, options.height)
    if options.frames < 2 or min(sides) < 64 or max(sides) > 8192 or options.seed < 0:
        raise InputError("A sequence needs at least 2 frames, sides of 64 to 8192 pixels and a seed of 0 or more.")
    room = make_room(room_camera(options.width, options.height), options.seed)
    write_sequence(options.folder, room, round_trip(options.frames), rate_hz=10.0, progress=True)
    print(f"{options.frames} frames in {options.folder}")
    return 0


def entry_point() -> int:
    return cli.run(main)


if __name__ == "__main__":
    sys.exit(entry_point())
