# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""`benchmark`: how fast the matchers and the odometry are on this machine, stage by stage and beside others.

All times are of one run on one machine with the same images: compare them with each other.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import torch
from safetensors.torch import save_file

import loftr_ros
from loftr_ros import cli
from loftr_ros.config import MatcherConfig, config_from_dict
from loftr_ros.errors import InputError
from loftr_ros.evaluation.contender_process import processes
from loftr_ros.evaluation.contenders import NAMES, PAIR, TITLES, TRACKED, Setup, available, has_weights, works
from loftr_ros.evaluation.odometry_times import Messages, OdometryTimes, instrumented, stopwatch_for, time_odometry
from loftr_ros.evaluation.random_network import random_network
from loftr_ros.evaluation.sequences import open_recording
from loftr_ros.evaluation.stopwatch import Times
from loftr_ros.files import write_atomically
from loftr_ros.geometry.camera import Camera
from loftr_ros.matching import Matcher, matcher_from_config
from loftr_ros.matching.loftr import LoFTRMatcher, choose_device
from loftr_ros.synthetic.room import make_room, room_camera, round_trip
from loftr_ros.types import Frame, Image

_SHARE_SIZES = ((320, 240), (640, 480), (1280, 960))
_SHARE_REPEATS = 5
_APART = 2  # frames between the two of a pair
_SLOW_SECONDS = 2.0  # contenders that take longer are repeated a quarter as often
_ROOM_POSES = 120


@dataclass(frozen=True)
class Score:
    """A contender's result, in a process of its own.

    peak_mib: the largest resident memory of that process, or the most that it held of the GPU's where it used one.
    """

    name: str
    work: str
    times: Times
    matches: int
    peak_mib: float | None


@dataclass(frozen=True)
class Share:
    """Of the dual softmax in the time of a tracked frame; cells: of one image."""

    size: str
    cells: int
    dual_softmax_ms: float
    frame_ms: float
    percent: float


@dataclass(frozen=True)
class Report:
    """ratios: by our contender, how many times as long each other one's pair takes as our tracked frame."""

    machine: dict[str, Any]
    odometry: list[OdometryTimes]
    scores: list[Score]
    ratios: dict[str, dict[str, float]]
    dual_softmax: list[Share]


def load_frames(recording: str, size: tuple[int, int], count: int) -> tuple[list[Frame], Camera]:
    """The first frames in a size (width, height), and their camera; of the rendered room where no recording is named.

    Frames of another shape lose their edges.
    """
    if not recording:
        room = make_room(room_camera(*size))
        return list(room.frames(round_trip(_ROOM_POSES)[:count])), room.camera
    source = open_recording(recording)
    rows, columns, camera = centre(source.camera, size)
    frames = [
        Frame(frame.stamp_ns, cv2.resize(frame.image[rows, columns], size, interpolation=cv2.INTER_AREA))
        for frame, _ in zip(source.frames(), range(count))
    ]
    if len(frames) < count:
        raise InputError(f"{recording} has only {len(frames)} frames; {count} are needed.")
    return frames, camera.resized(*size)


def centre(camera: Camera, size: tuple[int, int]) -> tuple[slice, slice, Camera]:
    """Rows and columns of the largest centred part with the shape of `size` (width, height), and its camera."""
    ratio = min(camera.width / size[0], camera.height / size[1])
    width, height = round(size[0] * ratio), round(size[1] * ratio)
    left, top = (camera.width - width) // 2, (camera.height - height) // 2
    matrix = camera.matrix.copy()
    matrix[:2, 2] -= (left, top)
    part = dataclasses.replace(camera, width=width, height=height, matrix=matrix)
    return slice(top, top + height), slice(left, left + width), part


def machine(config: MatcherConfig, matcher: Matcher, outdoor_weights: str | None) -> dict[str, Any]:
    """What the numbers depend on; None for what does not matter."""
    device = choose_device(config.device)
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "opencv": cv2.__version__,
        "loftr_ros": loftr_ros.__version__,
        "precision": str(matcher.precision).partition(".")[2] if isinstance(matcher, LoFTRMatcher) else None,
        "outdoor_weights": outdoor_weights,
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def time_runs(runs: Sequence[Callable[[], tuple[float, int]]], repeats: int, quiet: bool) -> list[tuple[Times, int]]:
    """Times and matches of runs that answer (seconds, matches), after two of each to warm up.

    They take turns, so that all of them see the same changes of the machine. At its turn a quick one runs once more
    before it is timed: the processor's caches are full of what the one before it left, which no camera does.
    """
    for run in runs:
        run()
    quick = [run()[0] < _SLOW_SECONDS for run in runs]
    wanted = [repeats if each else max(3, repeats // 4) for each in quick]
    seconds: list[list[float]] = [[] for _ in runs]
    matches = [0] * len(runs)
    for turn in cli.progress(range(repeats), repeats, "matchers", quiet):
        for i, run in enumerate(runs):
            if turn < wanted[i]:
                if quick[i]:
                    run()
                elapsed, matches[i] = run()
                seconds[i].append(elapsed)
    return [(Times.of(each), count) for each, count in zip(seconds, matches)]


def compare(names: Sequence[str], setup: Setup, repeats: int, quiet: bool) -> list[Score]:
    """A score for each contender of the given names."""
    if not names:
        return []
    named = [(name, work) for name in names for work in works(name)]
    with processes(named, setup) as contenders:
        times = time_runs([contender.run for contender in contenders], repeats, quiet)
        peaks = [contender.peak_mib() for contender in contenders]
    return [
        Score(TITLES.get(name, name), work, time, count, peak)
        for (name, work), (time, count), peak in zip(named, times, peaks)
    ]


def ratios(scores: Sequence[Score]) -> dict[str, dict[str, float]]:
    """See Report."""
    ours = {score.name: score.times.median for score in scores if score.work == TRACKED}
    others = [score for score in scores if score.work == PAIR and score.name not in ours]
    return {
        name: {other.name: round(other.times.median / median, 2) for other in others} for name, median in ours.items()
    }


def dual_softmax_shares(matcher: LoFTRMatcher, recording: str) -> list[Share]:
    """At the sizes of the table in the README."""
    return [
        _share(matcher, *(f.image for f in load_frames(recording, size, _APART + 1)[0][::_APART]))
        for size in _SHARE_SIZES
    ]


def _share(matcher: LoFTRMatcher, image0: Image, image1: Image) -> Share:
    watch = stopwatch_for(matcher)
    keyframe = matcher.extract(image0)
    matcher.match_features(keyframe, matcher.extract(image1))
    with instrumented(matcher, watch):
        for _ in range(_SHARE_REPEATS):
            watch.next_frame()
            matcher.match_features(keyframe, matcher.extract(image1))
    dual_softmax = Times.of([row["match"] for row in watch.frames]).median
    frame = Times.of([sum(row.values()) for row in watch.frames]).median
    height, width = image0.shape
    return Share(f"{width}x{height}", width * height // 64, dual_softmax, frame, round(100 * dual_softmax / frame, 1))


def tables(report: Report) -> str:
    """Markdown."""
    about = "; ".join(f"{key} {value}" for key, value in report.machine.items() if value is not None)
    parts = [about + "."]
    parts += [odometry_table(times) for times in report.odometry]
    if report.scores:
        parts.append(score_table(report.scores, report.ratios))
    if report.dual_softmax:
        parts.append(share_table(report.dual_softmax))
    return "\n\n".join(parts)


def odometry_table(times: OdometryTimes) -> str:
    rows = [f"| {name} | {stage.median:.1f} | {stage.p95:.1f} |" for name, stage in times.stages.items()]
    rows.append(f"| whole frame | {times.frame.median:.1f} | {times.frame.p95:.1f} |")
    head = f"Odometry with `{times.matcher}` at {times.size}: {times.rate_hz:.1f} frames a second"
    return "\n".join(
        [
            f"{head} ({times.tracked} of {times.frames} frames with a pose)",
            "",
            "| stage | median ms | p95 ms |",
            "|---|---|---|",
            *rows,
        ]
    )


def score_table(scores: Sequence[Score], by_ours: dict[str, dict[str, float]]) -> str:
    """A line per contender; the last columns say how many times as long it takes as each tracked frame of ours."""
    titles = ["matcher", "work", "median ms", "p95 ms", "repeats", "matches", "peak MiB"]
    lines = ["| " + " | ".join(titles + [f"/ {name}" for name in by_ours]) + " |"]
    lines.append("|---" * (len(titles) + len(by_ours)) + "|")
    for score in scores:
        times, peak = score.times, "" if score.peak_mib is None else f"{score.peak_mib:.0f}"
        row = [score.name, score.work, f"{times.median:.1f}", f"{times.p95:.1f}", str(times.count)]
        row += [str(score.matches), peak]
        row += ["" if score.name in by_ours else f"{ours[score.name]:.1f}" for ours in by_ours.values()]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def share_table(shares: Sequence[Share]) -> str:
    rows = [
        f"| {s.size} | {s.cells} | {s.dual_softmax_ms:.1f} | {s.frame_ms:.1f} | {s.percent:.0f} % |" for s in shares
    ]
    return "\n".join(["| size | cells | dual softmax ms | tracked frame ms | share |", "|---|---|---|---|---|", *rows])


def benchmark(options: argparse.Namespace, config: MatcherConfig, messages: Messages | None) -> Report:
    """Everything that the options ask for."""
    names = [name for name in options.contenders if available(name)]
    for name in set(options.contenders) - set(names):
        print(f"{name} is not installed and is left out.", file=sys.stderr)
    matcher = matcher_from_config(config)
    odometry = []
    for size in options.sizes:
        frames, camera = load_frames(options.recording, size, options.frames)
        odometry.append(time_odometry(matcher, frames, camera, messages))
    scores, outdoor_weights = contest(names, options, config)
    shares = []
    if options.shares and isinstance(matcher, LoFTRMatcher):
        shares = dual_softmax_shares(matcher, options.recording)
    return Report(machine(config, matcher, outdoor_weights), odometry, scores, ratios(scores), shares)


def contest(names: Sequence[str], options: argparse.Namespace, config: MatcherConfig) -> tuple[list[Score], str | None]:
    """Scores of the contenders, and which weights the outdoor size had: official, random where there are none here."""
    needs_outdoor = bool({"outdoor", "kornia", "kornia-autocast"} & set(names))
    random = needs_outdoor and not has_weights("outdoor")
    images = [frame.image for frame in load_frames(options.recording, options.pair_size, _APART + 1)[0][::_APART]]
    with tempfile.TemporaryDirectory() as folder:
        weights = {"outdoor": random_weights(Path(folder), images[0])} if random else {}
        setup = Setup(images[0], images[1], weights, config.device, config.precision)
        scores = compare(names, setup, options.repeats, options.quiet)
    return scores, ("random" if random else "official") if needs_outdoor else None


def random_weights(folder: Path, image: Image) -> str:
    """A file of random weights of the outdoor size."""
    path = folder / "outdoor.safetensors"
    state = random_network("outdoor", image).state_dict()
    save_file({key: value.contiguous() for key, value in state.items()}, str(path))
    return str(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmark", description="Times of matchers and odometry on this machine.")
    parser.add_argument("recording", nargs="?", default="", help="what `replay` takes; without it a rendered room")
    parser.add_argument("--matcher", default="tiny", help="of the odometry (tiny)")
    parser.add_argument(
        "--sizes",
        type=_sizes,
        default=[(320, 240), (640, 480)],
        metavar="WxH,WxH",
        help="of the odometry's frames (320x240,640x480)",
    )
    parser.add_argument("--frames", type=int, default=40, metavar="N", help="of the odometry (40)")
    parser.add_argument(
        "--contenders",
        type=_names,
        default=["tiny", "outdoor", "kornia", "xfeat", "xfeat-10k", "sift", "orb"],
        metavar="NAME,NAME",
        help=f"of {', '.join(NAMES)}; none: no comparison",
    )
    parser.add_argument("--pair-size", type=_size, default=(640, 480), metavar="WxH", help="of their images (640x480)")
    parser.add_argument("--repeats", type=int, default=20, metavar="N", help="of each contender (20)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="where networks run")
    parser.add_argument("--precision", default=MatcherConfig.precision, help="of our LoFTR (%(default)s)")
    parser.add_argument("--compile", action="store_true", help="run the odometry's LoFTR through torch.compile")
    parser.add_argument("--shares", action="store_true", help="also the share of the dual softmax, by size")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there too")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit()) or min(int(width), int(height)) < 64:
        raise argparse.ArgumentTypeError(f"'{text}' is not a size such as 640x480")
    return int(width), int(height)


def _sizes(text: str) -> list[tuple[int, int]]:
    return [_size(word) for word in text.split(",")]


def _names(text: str) -> list[str]:
    names = [] if text == "none" else text.split(",")
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise argparse.ArgumentTypeError(f"there is no '{unknown[0]}'; there are {', '.join(NAMES)}")
    return names


def main(arguments: Sequence[str], messages: Messages | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.frames < 10 or options.repeats < 3:
        raise InputError("--frames must be at least 10 and --repeats at least 3.")
    config = config_from_dict(
        {
            "matcher": options.matcher,
            "device": options.device,
            "precision": options.precision,
            "compile": options.compile,
            "max_side": 0,  # the frames come in the sizes that are wanted
        }
    )
    report = benchmark(options, config.matcher, messages)
    print(tables(report))
    if options.json:
        write_atomically(options.json, [json.dumps(dataclasses.asdict(report), indent=2)])
    return 0


def entry_point() -> int:
    return cli.run(main)


if __name__ == "__main__":
    sys.exit(entry_point())
