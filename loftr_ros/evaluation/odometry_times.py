# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""How long each stage of the odometry takes, from a frame to its estimate."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from loftr_ros.evaluation.stopwatch import Stopwatch, Times
from loftr_ros.geometry.camera import Camera
from loftr_ros.matching import Matcher
from loftr_ros.matching.loftr import LoFTRMatcher
from loftr_ros.odometry import VisualOdometry
from loftr_ros.odometry.window import Window
from loftr_ros.types import Estimate, Frame, Image

STAGES = ("convert", "upload", "backbone", "coarse", "match", "fine", "download", "pose", "window", "publish")
WARM_UP_FRAMES = 5


class Messages(Protocol):
    """What a node adds to the odometry."""

    def message(self, image: Image) -> Any:
        """An image as it arrives; not timed."""
        ...

    def convert(self, message: Any) -> Image: ...

    def publish(self, frame: Frame, estimate: Estimate, odometry: VisualOdometry) -> None: ...


@dataclass(frozen=True)
class OdometryTimes:
    """Of the frames of one sequence.

    Attributes:
        size: of the frames.
        frames, tracked: how many there are, and how many got a pose.
        rate_hz: frames a second, from the mean time of a frame.
        frame: times of whole frames.
        stages: times by stage; a stage that a frame does not need takes it 0 ms.
    """

    matcher: str
    size: str
    frames: int
    tracked: int
    rate_hz: float
    frame: Times
    stages: dict[str, Times]


def time_odometry(
    matcher: Matcher, frames: Sequence[Frame], camera: Camera, messages: Messages | None = None
) -> OdometryTimes:
    """Run frames through a new odometry; the first WARM_UP_FRAMES are not counted in the times."""
    watch = stopwatch_for(matcher)
    odometry = VisualOdometry(matcher, camera)
    seconds, tracked = [], 0
    with instrumented(matcher, watch):
        for frame in frames:
            message = messages.message(frame.image) if messages else None
            watch.next_frame()
            started = time.perf_counter()
            estimate = _one_frame(odometry, frame, message, messages, watch)
            seconds.append(time.perf_counter() - started)
            tracked += estimate.pose_world_camera is not None
    rows, seconds = watch.frames[WARM_UP_FRAMES:], seconds[WARM_UP_FRAMES:]
    return OdometryTimes(
        matcher=matcher.name,
        size=f"{camera.width}x{camera.height}",
        frames=len(frames),
        tracked=tracked,
        rate_hz=round(1 / float(np.mean(seconds)), 2),
        frame=Times.of(seconds),
        stages={name: Times.of([r.get(name, 0.0) for r in rows]) for name in STAGES if any(name in r for r in rows)},
    )


def stopwatch_for(matcher: Matcher) -> Stopwatch:
    on_gpu = isinstance(matcher, LoFTRMatcher) and matcher.device.type == "cuda"
    return Stopwatch(torch.cuda.synchronize if on_gpu else None)


def _one_frame(
    odometry: VisualOdometry, frame: Frame, message: Any, messages: Messages | None, watch: Stopwatch
) -> Estimate:
    """As the node does it: convert, step, publish."""
    if messages:
        with watch.stage("convert"):
            frame = Frame(frame.stamp_ns, messages.convert(message))
    with watch.stage("pose"):
        estimate = odometry.process(frame)
    if messages:
        with watch.stage("publish"):
            messages.publish(frame, estimate, odometry)
    return estimate


@contextmanager
def instrumented(matcher: Matcher, watch: Stopwatch) -> Iterator[None]:
    """Time the stages of a matcher, and of the odometry's window, while the context lasts."""
    targets = [(Window, "adjust", "window"), *_stages_of(matcher)]
    before = [vars(target).get(name) for target, name, _ in targets]
    for target, name, stage in targets:
        setattr(target, name, watch.timed(stage, getattr(target, name)))
    try:
        yield
    finally:
        for (target, name, _), own in zip(targets, before):
            if own is not None:
                setattr(target, name, own)
            elif name in vars(target):  # not where a lack of memory undid what was there
                delattr(target, name)


def _stages_of(matcher: Matcher) -> list[tuple[Any, str, str]]:
    """(object, name of a method, stage)."""
    if not isinstance(matcher, LoFTRMatcher):
        return [(matcher, "extract", "backbone"), (matcher, "match_features", "match")]
    network = matcher.network
    second = [] if network.refinement is None else [(network.refinement, "forward", "fine")]
    return [
        (matcher, "extract", "upload"),
        (matcher, "match_features", "download"),
        (matcher, "match_back", "download"),
        (network, "features", "backbone"),
        (network.loftr_coarse, "alone", "coarse"),
        (network.loftr_coarse, "together", "coarse"),
        (network, "match_cells", "match"),
        (network, "refine", "fine"),
        *second,
    ]
