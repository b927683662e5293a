# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Mutated and random messages, files and numbers into everything that reads what others wrote.

    scripts/fuzz --cases 20000 --seed 1 [--targets image bag ...] [--json FILE]

Each case is a function of (seed, target, number) alone. A target may refuse (the package's own errors); every other
exception, a case that takes longer than some seconds, and memory that grows are faults. Seeds of the mutations are the
files in test/corpus; `--corpus` writes them anew.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import random
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from loftr_ros.config import config_from_dict, default_of, load_config, settings  # noqa: E402
from loftr_ros.errors import LoftrRosError  # noqa: E402
from loftr_ros.evaluation.pairs import poses_at  # noqa: E402
from loftr_ros.evaluation.sequences import Options, open_recording, read_depth  # noqa: E402
from loftr_ros.evaluation.trajectory import read_times  # noqa: E402
from loftr_ros.geometry.camera import camera_from_info, load_camera  # noqa: E402
from loftr_ros.imaging import _LAYOUT, decode, depth_in_metres, to_grey, unpack  # noqa: E402

CORPUS = Path(__file__).parent / "corpus"
MOST_SECONDS = 5.0
NUMBERS = (
    0.0, -0.0, 1.0, -1.0, 0.5, 1e-9, -1e-9, 1e9, 1e-320, 1e300, -1e300, math.nan, math.inf, -math.inf, 2.0**31, 2.0**63
)  # fmt: skip
INTEGERS = (0, 1, 2, 3, 7, 8, 16, 255, 256, 320, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1)
WORDS = (
    b"",
    b"\0",
    b"\xff" * 8,
    b"nan",
    b"-1",
    b"1e999",
    b"[" * 2000,
    b"&a [*a]",
    b"\n",
    b"..",
    b"!!python/object:os",
    b"{",
)


@dataclass
class Result:
    """What came of a target's cases."""

    cases: int = 0
    accepted: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest_s: float = 0.0
    slowest_case: int = -1
    memory_mb: list[float] = field(default_factory=list)  # resident, along the way
    faults: list[str] = field(default_factory=list)
    kinds: dict[str, int] = field(default_factory=dict)


def mutated(rng: random.Random, data: bytes) -> bytes:
    """A few changes to bytes: bits, bytes, numbers, words, parts removed, repeated or moved."""
    content = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
        size = len(content)
        at = rng.randrange(size + 1)
        kind = rng.randrange(8)
        if kind == 0 and size:
            content[at % size] ^= 1 << rng.randrange(8)
        elif kind == 1 and size:
            content[at % size] = rng.randrange(256)
        elif kind == 2:
            content[at : at + 4] = struct.pack("<I", rng.choice(INTEGERS))
        elif kind == 3:
            content[at : at + 8] = struct.pack(rng.choice("<>") + "d", rng.choice(NUMBERS))
        elif kind == 4:
            content[at:at] = rng.choice(WORDS)
        elif kind == 5:
            del content[at : at + rng.randrange(1, 64)]
        elif kind == 6:
            content[at:at] = content[at : at + rng.randrange(1, 200)]
        else:
            del content[at:]
    return bytes(content)


# -- targets: each takes a source of chance and a folder for files ---------------------------------------------------


def a_number(rng: random.Random) -> float:
    return rng.choice(NUMBERS) if rng.random() < 0.5 else rng.uniform(-1000, 1000)


def image(rng: random.Random, folder: Path) -> None:
    """The fields of a sensor_msgs/Image, some of which agree."""
    encoding = rng.choice([*_LAYOUT, "", "mono32", "64FC1"])
    kind, channels = _LAYOUT.get(encoding, ("u1", 1))
    height, width = (rng.choice((1, 2, 5, 12, 16, rng.choice(INTEGERS))) for _ in "hw")
    step = width * channels * int(kind[1]) + rng.choice((0, 0, 0, 1, 8, -1))
    step = rng.choice((step, step, step, rng.choice(INTEGERS)))
    size = rng.choice((min(step * height, 4096), min(max(step, 0) * height, 4096), rng.randrange(300)))
    data = rng.randbytes(max(size, 0))
    pixels = unpack(encoding, height, width, max(step, 0), data, rng.random() < 0.2)
    if rng.random() < 0.3:
        depth = depth_in_metres(pixels)
        assert depth.shape == (height, width) and np.isfinite(depth).all()
    else:
        grey = to_grey(pixels, encoding)
        assert grey.shape == (height, width) and grey.dtype == np.uint8


def compressed(rng: random.Random, folder: Path) -> None:
    """A sensor_msgs/CompressedImage."""
    data = mutated(rng, rng.choice(PICTURES))
    grey = decode(crc_repaired(data) if rng.random() < 0.5 else data)
    assert grey.ndim == 2 and grey.dtype == np.uint8 and grey.size


def camera_info(rng: random.Random, folder: Path) -> None:
    """A sensor_msgs/CameraInfo; what is accepted must map pixels to rays, and rays to pixels, without a crash."""
    k = [300.0, 0.0, 159.5, 0.0, 300.0, 119.5, 0.0, 0.0, 1.0]
    for _ in range(rng.choice((0, 0, 0, 1, 2))):
        k[rng.randrange(9)] = a_number(rng)
    values = (0.0, 0.1, -0.2, 0.0, 0.1, -0.2, 0.0, 0.1, a_number(rng))
    coefficients = [rng.choice(values) for _ in range(rng.choice((0, 4, 5, 5, 8, 12, 14, 3)))]
    zero = rng.random() < 0.8
    roi = [0 if zero else rng.choice(INTEGERS) for _ in range(4)]
    info = SimpleNamespace(
        k=np.array(k[: rng.choice((*[9] * 20, 8))]),
        d=coefficients,
        width=rng.choice((*[320] * 6, rng.choice(INTEGERS))),
        height=rng.choice((*[240] * 6, rng.choice(INTEGERS))),
        distortion_model=rng.choice(("plumb_bob", "plumb_bob", "rational_polynomial", "equidistant", "", "ball")),
        roi=SimpleNamespace(x_offset=roi[0], y_offset=roi[1], width=roi[2], height=roi[3]),
        binning_x=rng.choice((0, 1, 1, 2, rng.choice(INTEGERS))),
        binning_y=rng.choice((0, 1, 1, 2, rng.choice(INTEGERS))),
    )
    camera = camera_from_info(info)
    if rng.random() < 0.3:
        camera = camera.resized(rng.choice((camera.width, 160)), rng.choice((camera.height, 120)))
    points = np.array([[0.0, 0.0], [camera.width - 1.0, camera.height - 1.0], [camera.width / 2, camera.height / 2]])
    rays = camera.normalize(points)
    pixels = camera.project(np.array([[0.1, -0.1, 1.0], [0.0, 0.0, 5.0]]))
    assert rays.shape == (3, 2) and pixels.shape == (2, 2)


def wheels(rng: random.Random, folder: Path) -> None:
    """Positions and speeds with stamps in any order: the way that comes out is a length, always."""
    from loftr_ros.ros.wheels import WheelWay

    way, stamp = WheelWay(), 10**18
    for _ in range(12):
        stamp += rng.choice((10**7, 10**8, 0, -(10**8), -(10**10), 10**12))
        try:
            if rng.random() < 0.5:
                way.add_position(stamp, np.array([a_number(rng) / 100, 0.0, 0.0]))
            else:
                way.add_speed(stamp, a_number(rng))
        except LoftrRosError:
            continue
        told = way.take(stamp + rng.choice((0, -(10**7), 10**7)), 0.0)
        assert told is None or (math.isfinite(told) and told >= 0.0), told


def pose(rng: random.Random, folder: Path) -> None:
    """A set_pose message; what is accepted must be a pose."""
    from geometry_msgs.msg import PoseWithCovarianceStamped

    from loftr_ros.ros.node import start_of

    message = PoseWithCovarianceStamped()
    message.header.frame_id = rng.choice(("", "odom", "mars"))
    p, q = message.pose.pose.position, message.pose.pose.orientation
    p.x, p.y, p.z = a_number(rng), rng.uniform(-9, 9), 0.0
    q.w = rng.choice((1.0, 1.0, 1.0, a_number(rng)))
    q.x = rng.choice((0.0, 0.0, 0.0, a_number(rng)))
    if rng.random() < 0.5:
        diagonal = [rng.choice((0.1, 1.0, 2.0, 3.0, a_number(rng))) for _ in range(6)]
        message.pose.covariance = np.diag(diagonal).ravel()
    start = start_of(message, "odom")
    assert start.pose_odom_base is not None and np.isfinite(start.pose_odom_base).all()


def parameters(rng: random.Random, folder: Path) -> None:
    """Settings as a parameter file or a service gives them."""
    odd: tuple[Any, ...] = (
        *NUMBERS,
        *INTEGERS,
        "",
        "x" * 100,
        None,
        True,
        [],
        [1.0] * 7,
        [None],
        {},
        b"x",
        (1,),
        "orb",
    )
    keys = list(settings())
    values = {}
    for key in rng.sample(keys, rng.choice((1, 1, 2, 5))):
        default = default_of(settings()[key][1])
        values[rng.choice((key, key, key, key[:-1], key.upper()))] = rng.choice((default, rng.choice(odd)))
    config = config_from_dict(values)
    assert math.isfinite(config.odometry.inlier_threshold_px)


def file_target(suffixes: tuple[str, ...], read: Callable[[Path], object]) -> Callable[[random.Random, Path], None]:
    """Mutations of the corpus's files with these endings."""

    def target(rng: random.Random, folder: Path) -> None:
        name, data = rng.choice([(n, d) for n, d in SEEDS.items() if n.endswith(suffixes)])
        path = folder / name
        path.write_bytes(mutated(rng, data))
        read(path)

    return target


def read_wheels(path: Path) -> None:
    from loftr_ros.evaluation.sequences import _distances

    found = _distances(path, [0, 10**8, 2 * 10**8, 10**18])
    assert np.isfinite(found).all()


def read_all(path: Path) -> None:
    """Open a recording and read it to its end."""
    options = Options(camera_info=CORPUS / "camera.yaml") if path.suffix in (".mp4", ".avi") else Options()
    for frame in open_recording(path, options).frames():
        assert frame.image.ndim == 2 and frame.image.dtype == np.uint8


def bag(rng: random.Random, folder: Path) -> None:
    """Bags of all kinds; of rosbag2 also what its metadata says."""
    name, data = rng.choice([(n, d) for n, d in SEEDS.items() if n.endswith((".bag", ".mcap", ".db3"))])
    if name.endswith(".bag"):
        path = folder / name
        path.write_bytes(mutated(rng, data))
        return read_all(path)
    path = folder / name.replace(".", "_")
    path.mkdir(exist_ok=True)
    metadata = SEEDS[name + ".yaml"]
    in_metadata = rng.random() < 0.2
    (path / "metadata.yaml").write_bytes(mutated(rng, metadata) if in_metadata else metadata)
    (path / name).write_bytes(data if in_metadata else mutated(rng, data))
    return read_all(path)


def sequence(rng: random.Random, folder: Path) -> None:
    """A folder of images, one of whose files is spoilt."""
    path = folder / "sequence"
    files = {
        "images/0.png": SEEDS["grey.png"],
        "images/1.png": SEEDS["grey.png"],
        "times.txt": b"1.5\n2.5\n",
        "camera_info.yaml": SEEDS["camera.yaml"],
        "groundtruth_tum.txt": SEEDS["wheels.tum"],
    }
    (path / "images").mkdir(parents=True, exist_ok=True)
    spoilt = rng.choice(list(files))
    for name, data in files.items():
        (path / name).write_bytes(mutated(rng, data) if name == spoilt else data)
    read_all(path)


def weights(rng: random.Random, folder: Path) -> None:
    from loftr_ros.loftr.weights import read_state_dict

    name, data = rng.choice([(n, d) for n, d in SEEDS.items() if n.endswith((".safetensors", ".pth"))])
    path = folder / name
    path.write_bytes(mutated(rng, data))
    state = read_state_dict(path)
    for tensor in state.values():
        tensor.isfinite()


def odometry(rng: random.Random, folder: Path) -> None:
    """Random images, matches and depths through the whole odometry: a pose is finite, or there is none."""
    from support import pinhole

    from loftr_ros.config import OdometryConfig, ScaleConfig
    from loftr_ros.odometry import VisualOdometry
    from loftr_ros.types import Frame, Matches

    chance = np.random.default_rng(rng.randrange(2**32))

    class Wild:
        name = "wild"

        def extract(self, image: Any) -> Any:
            return image

        def match_features(self, a: Any, b: Any) -> Matches:
            count = int(chance.integers(0, 120))
            points0 = chance.uniform(0, 64, (count, 2))
            points1 = points0 + chance.normal(0, chance.choice([0.0, 0.1, 3.0]), (count, 2)) + chance.uniform(-3, 3, 2)
            if chance.random() < 0.2 and count:
                points1[chance.integers(count)] = chance.choice([np.nan, np.inf, 1e300, -1e9])
            if chance.random() < 0.1:
                points1[:] = points1[:1]
            sigma = np.full(count, chance.choice([0.5, 1e-9, 1e9, 0.0]))
            index = chance.permutation(count).astype(np.int64)
            return Matches(points0, points1, np.full(count, 0.5), index, sigma)

    scale = ScaleConfig(source=rng.choice(("none", "depth", "odometry")))
    config = OdometryConfig(min_matches=20, lost_after=2, restart_after=3)
    vo = VisualOdometry(Wild(), pinhole(64, 48, 60.0), config, scale)
    for i in range(4):
        grey = np.zeros((48, 64), np.uint8)
        depth = chance.choice(np.array([0.0, 0.5, 2.0, 1e9, -1.0], np.float32), (48, 64))
        estimate = vo.process(Frame(i * 10**8, grey, depth, rng.choice((None, 0.0, 0.1, 1e6))))
        if estimate.pose_world_camera is not None:
            assert np.isfinite(estimate.pose_world_camera).all()
            assert np.isfinite(estimate.pose_covariance).all()


TARGETS: dict[str, Callable[[random.Random, Path], None]] = {
    "image": image,
    "compressed": compressed,
    "camera_info": camera_info,
    "wheels": wheels,
    "pose": pose,
    "parameters": parameters,
    "settings": file_target(("settings.yaml",), load_config),
    "calibration": file_target(("camera.yaml",), load_camera),
    "times": file_target((".times",), read_times),
    "trajectory": file_target((".tum",), lambda path: poses_at([0, 10**8], path)),
    "wheel_file": file_target((".tum",), read_wheels),
    "depth": file_target(("depth.png",), read_depth),
    "video": file_target((".avi", ".mp4"), read_all),
    "bag": bag,
    "sequence": sequence,
    "weights": weights,
    "odometry": odometry,
}
# Share of all cases, by how long one takes and how much there is to find.
SHARES = {
    "image": 40, "compressed": 20, "camera_info": 30, "wheels": 15, "pose": 15, "parameters": 30, "settings": 8,
    "calibration": 8, "times": 20, "trajectory": 10, "wheel_file": 5, "depth": 10, "video": 0.5, "bag": 6,
    "sequence": 3, "weights": 10, "odometry": 0.3,
}  # fmt: skip
SEEDS: dict[str, bytes] = {path.name: path.read_bytes() for path in sorted(CORPUS.glob("*"))} if CORPUS.is_dir() else {}
PICTURES = [data for name, data in SEEDS.items() if name.endswith((".png", ".jpg"))]


def run(name: str, cases: int, seed: int, first: int = 0) -> Result:
    """So many cases of a target, from a number on."""
    result, kinds, target = Result(), Counter(), TARGETS[name]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(first, first + cases):
            started, busy = time.perf_counter(), time.process_time()
            try:
                target(random.Random(f"{seed} {name} {number}"), Path(folder))
                result.accepted += 1
            except LoftrRosError as error:
                result.refused += 1
                kinds[type(error).__name__] += 1
                if "\n" in str(error).strip() or len(str(error)) > 2000:
                    result.faults.append(f"{name} {number}: not one sentence: {str(error)[:200]!r}")
            except Exception as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                text = f"{type(error).__name__}: {str(error)[:150]} at {Path(where.filename).name}:{where.lineno}"
                result.faults.append(f"{name} {number}: {text}")
            seconds = time.perf_counter() - started
            result.seconds += seconds
            if seconds > result.slowest_s:
                result.slowest_s, result.slowest_case = seconds, number
            busy = time.process_time() - busy  # a busy machine is no fault, unless nothing comes of it at all
            if busy > MOST_SECONDS or seconds > 10 * MOST_SECONDS:
                result.faults.append(f"{name} {number}: took {seconds:.1f} s, {busy:.1f} s of them busy")
            result.cases += 1
            if (number - first) % max(cases // 10, 1000) == 0:
                result.memory_mb.append(resident_mb())
    result.memory_mb.append(resident_mb())
    result.kinds = dict(kinds)
    return result


def resident_mb() -> float:
    """Memory of this process."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * 4096 / 1e6, 1)


def write_corpus() -> None:
    """Small good files of every kind that is read."""
    import cv2
    import torch
    from recordings import write_bag
    from safetensors.torch import save_file
    from support import camera_info_yaml, texture

    CORPUS.mkdir(exist_ok=True)
    grey = texture(12, 16, 1)
    for name, pixels in (
        ("grey.png", grey), ("colour.png", cv2.merge([grey] * 3)), ("depth.png", grey.astype(np.uint16) * 100),
        ("grey.jpg", grey), ("colour.jpg", cv2.merge([grey] * 3)),
    ):  # fmt: skip
        (CORPUS / name).write_bytes(cv2.imencode(Path(name).suffix, pixels)[1].tobytes())
    (CORPUS / "camera.yaml").write_text(camera_info_yaml(16, 12, 15.0))
    (CORPUS / "settings.yaml").write_text(
        "vo_node:\n  ros__parameters:\n    matcher: orb\n    min_matches: 40\n    extrinsics: [0, 0, 0, 0, 0, 0, 1]\n"
    )
    (CORPUS / "seconds.times").write_text("".join(f"17000000{i}.123456789\n" for i in range(5)))
    (CORPUS / "wheels.tum").write_text("".join(f"{i / 10} {i} 0.5 -1e-3 0 0 0 1\n" for i in range(5)))
    for suffix, codec in ((".avi", "MJPG"), (".mp4", "mp4v")):
        writer = cv2.VideoWriter(str(CORPUS / f"video{suffix}"), cv2.VideoWriter_fourcc(*codec), 10.0, (16, 12))
        for _ in range(3):
            writer.write(cv2.merge([grey] * 3))
        writer.release()
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("sqlite3", "mcap", "ros1"):
            path = write_bag(Path(folder) / kind, kind, [grey] * 2)
            if kind == "ros1":
                (CORPUS / "images.bag").write_bytes(path.read_bytes())
                continue
            file = next(p for p in path.iterdir() if p.suffix in (".db3", ".mcap"))
            (CORPUS / file.name).write_bytes(file.read_bytes())
            (CORPUS / f"{file.name}.yaml").write_bytes((path / "metadata.yaml").read_bytes())
    state = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(1, dtype=torch.int64)}
    save_file(state, str(CORPUS / "small.safetensors"))
    (CORPUS / "small.safetensors").chmod(0o644)
    torch.save({"state_dict": state}, CORPUS / "small.pth")


def crc_repaired(data: bytes) -> bytes:
    """A PNG with the checksums of its chunks made right, so that its content is looked at."""
    out, at = bytearray(data[:8]), 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        body = data[at + 4 : at + 8 + size]
        if len(body) < size + 4:
            break
        out += data[at : at + 4] + body + zlib.crc32(body).to_bytes(4, "big")
        at += 12 + size
    return bytes(out) + data[at:]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cases", type=int, default=20000, metavar="N", help="in all, shared among the targets")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, metavar="K", help="number of the first case of each target")
    parser.add_argument("--targets", nargs="+", choices=list(TARGETS), default=list(TARGETS), metavar="NAME")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    parser.add_argument("--corpus", action="store_true", help="write test/corpus anew, and do nothing else")
    options = parser.parse_args(arguments)
    if options.corpus:
        write_corpus()
        return 0
    total = sum(SHARES[name] for name in options.targets)
    results = {}
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the decoders of OpenCV tell all that they find
    print(
        f"{'target':<12} {'cases':>7} {'accepted':>8} {'refused':>8} {'seconds':>8} {'slowest':>8}  memory MB, faults"
    )
    for name in options.targets:
        cases = math.ceil(options.cases * SHARES[name] / total)
        results[name] = found = run(name, cases, options.seed, options.first)
        memory = f"{found.memory_mb[0]:.0f} -> {found.memory_mb[-1]:.0f}"
        numbers = (
            f"{found.cases:>7} {found.accepted:>8} {found.refused:>8} {found.seconds:>8.1f} {found.slowest_s:>7.3f}s"
        )
        print(f"{name:<12} {numbers}  {memory}, {len(found.faults)}", flush=True)
        for fault in found.faults[:5]:
            print(f"    {fault}", flush=True)
    faults = sum(len(found.faults) for found in results.values())
    print(f"{sum(found.cases for found in results.values())} cases, {faults} faults")
    if options.json:
        options.json.write_text(json.dumps({name: asdict(found) for name, found in results.items()}, indent=1))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
