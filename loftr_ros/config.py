# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Every setting of the package, its default, its range and its description: the one place where they are written.

The command line, the YAML files and the ROS parameters are made from these classes. Groups are for the code; users
see one flat list of keys.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import reprlib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from loftr_ros.errors import ConfigError
from loftr_ros.files import read_yaml

MATCHERS = ("tiny", "outdoor", "indoor", "sift", "orb")
ALL_MATCHES = 1_000_000  # more than any image has cells
SCALE_SOURCES = ("none", "depth", "odometry", "camera_height")
TRAJECTORY_FORMATS = ("tum", "kitti")

_MOST_LEVELS = 10  # of a ROS parameter file, above the parameters
_MOST_SHOWN = 200
_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxstring, _REPR.maxother, _REPR.maxlist, _REPR.maxtuple = 2, 100, 100, 8, 8


@dataclass(frozen=True)
class Limits:
    """What a setting may be, its key for users ("": the field's own name), and whether a running node may change it."""

    text: str
    key: str = ""
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    lengths: tuple[int, ...] = ()
    read_only: bool = True


def setting(default: Any, text: str, **limits: Any) -> Any:
    """A dataclass field with its description and range; see Limits."""
    metadata = {"limits": Limits(text, **limits)}
    if isinstance(default, tuple):
        return field(default_factory=lambda: default, metadata=metadata)
    return field(default=default, metadata=metadata)


def limits_of(item: dataclasses.Field[Any]) -> Limits:
    return item.metadata["limits"]


def key_of(item: dataclasses.Field[Any]) -> str:
    """The name of a setting in files, parameters and messages."""
    return limits_of(item).key or item.name


def default_of(item: dataclasses.Field[Any]) -> Any:
    return item.default if item.default_factory is dataclasses.MISSING else item.default_factory()


class Group:
    """Base of the groups: takes ints for floats and lists for tuples, and refuses what Limits forbid."""

    def __post_init__(self) -> None:
        for item in fields(self):  # type: ignore[arg-type]
            value = _coerced(getattr(self, item.name), default_of(item), key_of(item))
            object.__setattr__(self, item.name, value)
            _check(value, limits_of(item), key_of(item))


def _coerced(value: Any, default: Any, name: str) -> Any:
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return _float(value)
    if isinstance(default, tuple):
        if not isinstance(value, (list, tuple)) or any(type(v) not in (int, float) for v in value):
            raise ConfigError(f"{name} must be a list of numbers, not {_shown(value)}.")
        return tuple(_float(v) for v in value)
    if type(value) is not type(default):
        raise ConfigError(f"{name} must be of type {type(default).__name__}, not {_shown(value)}.")
    return value


def _shown(value: Any) -> str:
    """The value for a message: YAML can hold one that would fill the memory as text, and one of many lines."""
    text = _REPR.repr(value)
    return text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + "..."


def _float(value: float) -> float:
    """A whole number too large for a float becomes infinite, and is refused as such."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _check(value: Any, limits: Limits, name: str) -> None:
    numbers = value if isinstance(value, tuple) else (value,)
    if any(isinstance(v, float) and not math.isfinite(v) for v in numbers):
        raise ConfigError(f"{name} must be finite, not {_shown(value)}.")
    if limits.choices and value not in limits.choices:
        raise ConfigError(f"{name} must be one of {', '.join(limits.choices)}, not {_shown(value)}.")
    if limits.minimum is not None and any(v < limits.minimum for v in numbers):
        raise ConfigError(f"{name} must be at least {limits.minimum:g}, not {_shown(value)}.")
    if limits.maximum is not None and any(v > limits.maximum for v in numbers):
        raise ConfigError(f"{name} must be at most {limits.maximum:g}, not {_shown(value)}.")
    if limits.lengths and len(value) not in limits.lengths:
        wanted = " or ".join(str(n) for n in limits.lengths)
        raise ConfigError(f"{name} must have {wanted} numbers, not {len(value)}.")


@dataclass(frozen=True)
class MatcherConfig(Group):
    name: str = setting("tiny", "LoFTR in a size, or a classical pipeline.", key="matcher", choices=MATCHERS)
    weights: str = setting("", "File of LoFTR weights; empty: the bundled or downloaded file of that size.")
    device: str = setting(
        "auto",
        "Where LoFTR runs; auto: the GPU if there is one. `device` in `/diagnostics` says where it does.",
        choices=("auto", "cpu", "cuda"),
    )
    max_side: int = setting(
        640,
        "Images are shrunk for LoFTR until their longer side is this, in pixels; 0: never.",
        minimum=0,
        maximum=8192,
    )
    target_rate: float = setting(
        0.0,
        "Frames a second to reach: the first frame is timed, and max_side lowered until they are; 0: off.",
        minimum=0.0,
        maximum=1000.0,
    )
    out_of_memory: str = setting(
        "adapt",
        "What LoFTR does where the memory does not suffice: adapt (smaller images, then the CPU) or stop (an error).",
        choices=("adapt", "stop"),
    )
    precision: str = setting(
        "auto",
        "Numbers that LoFTR computes with; bfloat16 is for GPUs and new CPUs, float16 for GPUs; auto: float32, but for "
        "`tiny` float16 on a GPU, and bfloat16 on a CPU with instructions for it.",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    compile: bool = setting(
        False,
        "Compile LoFTR for its input size with torch.compile, which takes a minute; a GPU has CUDA graphs without.",
    )
    threshold: float = setting(
        0.2, "Least confidence of a coarse LoFTR match.", minimum=0.0, maximum=1.0, read_only=False
    )
    max_matches: int = setting(
        0,
        "LoFTR refines and keeps only so many of its matches, confident ones all over the image; 0: 1000 with `tiny` "
        "(350 where enough of the keyframe's depths are known, 500 for those of a new one), all with the other sizes.",
        minimum=0,
        maximum=ALL_MATCHES,
    )
    max_deviation_px: float = setting(
        0.5,
        "Matches of `tiny` whose position is less certain than this many pixels are dropped, as long as 500 better "
        "ones remain; 0: none.",
        minimum=0.0,
        maximum=100.0,
    )
    max_keypoints: int = setting(3000, "Most keypoints of ORB and SIFT per image.", minimum=16, maximum=100000)
    ratio: float = setting(
        0.8, "Lowe's ratio of ORB and SIFT: best distance over second best.", minimum=0.1, maximum=1.0, read_only=False
    )
    mask_file: str = setting("", "Image whose black pixels are ignored (the robot's own body, say); empty: none.")


@dataclass(frozen=True)
class OdometryConfig(Group):
    min_matches: int = setting(
        30, "Fewer inlier matches than this give no pose.", minimum=8, maximum=10000, read_only=False
    )
    inlier_threshold_px: float = setting(
        1.0,
        "Largest distance of an inlier from its prediction, at a focal length of 500 pixels.",
        minimum=0.05,
        maximum=20.0,
        read_only=False,
    )
    init_parallax_deg: float = setting(
        0.5, "Median parallax with which the map is started.", minimum=0.05, maximum=45.0, read_only=False
    )
    keyframe_inlier_ratio: float = setting(
        0.5,
        "New keyframe when the tracked share of the keyframe's first matches falls below this.",
        minimum=0.0,
        maximum=1.0,
        read_only=False,
    )
    keyframe_flow: float = setting(
        0.10,
        "New keyframe when the median image motion exceeds this share of the image width.",
        minimum=0.001,
        maximum=1.0,
        read_only=False,
    )
    keyframe_rotation_deg: float = setting(
        12.0, "New keyframe when the camera has turned this far from it.", minimum=0.5, maximum=90.0, read_only=False
    )
    window: int = setting(
        6, "Keyframes that are adjusted together (bundle adjustment); below 3: none.", minimum=1, maximum=50
    )
    refine_calibration: bool = setting(
        True,
        "Learn from the matches what the calibration leaves: the lens, the focal length and the centre.",
        read_only=False,
    )
    static_px: float = setting(
        0.3,
        "Median image motion between two frames, in pixels, below which the camera stands still.",
        minimum=0.0,
        maximum=10.0,
        read_only=False,
    )
    max_speed_ratio: float = setting(
        5.0,
        "A step this many times longer than the recent ones is a jump and is refused.",
        minimum=1.5,
        maximum=1000.0,
        read_only=False,
    )
    keyframes_kept: int = setting(
        10,
        "Past keyframes that a lost camera can come back to; each keeps its features in memory.",
        minimum=1,
        maximum=10000,
    )
    lost_after: int = setting(
        10, "Frames without a pose after which the state is LOST.", minimum=1, maximum=10000, read_only=False
    )
    restart_after: int = setting(
        60,
        "Frames without a pose, though they show something, after which a new map starts at the last pose; 0: never.",
        minimum=0,
        maximum=1000000,
        read_only=False,
    )


@dataclass(frozen=True)
class ScaleConfig(Group):
    source: str = setting("none", "Where metres come from.", key="scale", choices=SCALE_SOURCES)
    camera_height_m: float = setting(
        0.0,
        "Height of the camera above the ground in metres, for scale: camera_height.",
        key="camera_height",
        minimum=0.0,
        maximum=1000.0,
    )
    level_ground: bool = setting(
        True,
        "With scale: none, keep lengths from drifting by the constant height over the ground, where the camera is seen "
        "to move along one, as on a vehicle.",
    )
    max_depth_m: float = setting(
        10.0, "Depth images are used up to this many metres.", key="max_depth", minimum=0.1, maximum=1000.0
    )


@dataclass(frozen=True)
class FramesConfig(Group):
    odom: str = setting("odom", "Fixed frame of the odometry.", key="odom_frame")
    base: str = setting("base_link", "Frame of the robot, whose pose is published.", key="base_frame")
    optical: str = setting("", "Optical frame of the camera; empty: the image's frame_id.", key="camera_frame")
    extrinsics: tuple[float, ...] = setting(
        (), "Pose of the optical frame in the base frame: x y z qx qy qz qw; empty: taken from TF.", lengths=(0, 7)
    )
    prefix: str = setting(
        "", "Put before odom_frame, base_frame and camera_frame: one for each robot (robot1/).", key="frame_prefix"
    )
    publish_tf: bool = setting(True, "Publish the transform odom -> base on /tf.")
    invert_tf: bool = setting(
        False, "Publish it as base -> odom instead: for trees in which the base frame has a parent already."
    )


@dataclass(frozen=True)
class OutputConfig(Group):
    path_length: int = setting(2000, "Poses kept in the published path.", minimum=1, maximum=1000000)
    path_rate_hz: float = setting(
        2.0, "How often the path and the points are published.", minimum=0.01, maximum=100.0, read_only=False
    )
    picture_rate_hz: float = setting(5.0, "Most match pictures a second.", minimum=0.01, maximum=100.0, read_only=False)
    picture_width: int = setting(
        1280, "Width of the match picture in pixels.", minimum=64, maximum=8192, read_only=False
    )
    trajectory_folder: str = setting("", "Where ~/save_trajectory may write; empty: nowhere.")
    trajectory_file: str = setting(
        "trajectory.txt", "File in that folder that ~/save_trajectory writes.", read_only=False
    )
    pose_log_file: str = setting(
        "",
        "File in trajectory_folder to which every pose is added as it is published, as TUM; empty: none. "
        "It survives the node's death.",
    )
    trajectory_format: str = setting(
        "tum", "What ~/save_trajectory writes.", choices=TRAJECTORY_FORMATS, read_only=False
    )
    viewer: str = setting(
        "", "Live view with rerun: spawn (a window), serve (rerun connects to here), a rerun URL, or a FILE.rrd."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("trajectory_file", "pose_log_file"):
            value = getattr(self, name)
            file = Path(value)
            if name == "pose_log_file" and not value:
                continue
            if "\0" in value or file.is_absolute() or ".." in file.parts or not file.name:
                raise ConfigError(f"{name} must be a file inside trajectory_folder, not {_shown(value)}.")
        if self.pose_log_file and not self.trajectory_folder:
            raise ConfigError("pose_log_file needs trajectory_folder, the folder that it lies in.")


@dataclass(frozen=True)
class InputConfig(Group):
    image_transport: str = setting(
        "raw", "Which images are subscribed to: image, or image/compressed (JPEG, PNG).", choices=("raw", "compressed")
    )
    camera_info_file: str = setting("", "Calibration file (camera_info YAML) instead of the camera_info topic.")
    reliable: bool = setting(
        False, "Subscribe to images reliably and keep 300 of them: for recordings that must not drop frames."
    )
    max_delay_s: float = setting(
        0.15,
        "Images whose turn comes this many seconds (and more than a period of the camera) later after their stamp than "
        "that of the quickest of the last ones are dropped and counted; 0: none. Not with reliable.",
        key="max_delay",
        minimum=0.0,
        maximum=5.0,
        read_only=False,
    )


@dataclass(frozen=True)
class NodeConfig(Group):
    autostart: bool = setting(True, "Configure and activate the lifecycle node at its start, without being asked to.")


GROUP_NAMES: dict[type, str] = {
    MatcherConfig: "matcher",
    OdometryConfig: "odometry",
    ScaleConfig: "scale",
    FramesConfig: "frames",
    InputConfig: "input",
    OutputConfig: "output",
    NodeConfig: "node",
}


@dataclass(frozen=True)
class Config:
    """All settings, by group."""

    matcher: MatcherConfig = field(default_factory=MatcherConfig)
    odometry: OdometryConfig = field(default_factory=OdometryConfig)
    scale: ScaleConfig = field(default_factory=ScaleConfig)
    frames: FramesConfig = field(default_factory=FramesConfig)
    input: InputConfig = field(default_factory=InputConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    node: NodeConfig = field(default_factory=NodeConfig)

    def __post_init__(self) -> None:
        if self.scale.source == "camera_height" and self.scale.camera_height_m <= 0:
            raise ConfigError("camera_height must be greater than 0 when scale is camera_height.")


def settings() -> dict[str, tuple[str, dataclasses.Field[Any]]]:
    """Every setting by its key: the name of its group in Config, and its field."""
    return {key_of(item): (name, item) for group, name in GROUP_NAMES.items() for item in fields(group)}


def config_from_dict(values: dict[str, Any]) -> Config:
    """Build a Config from settings by key. Raises ConfigError, naming the nearest key for one that does not exist."""
    known = settings()
    groups: dict[str, dict[str, Any]] = {name: {} for name in GROUP_NAMES.values()}
    for key, value in values.items():
        if key not in known:
            raise ConfigError(unknown(str(key), list(known)))
        name, item = known[key]
        groups[name][item.name] = value
    return Config(**{name: group(**groups[name]) for group, name in GROUP_NAMES.items()})


def config_to_dict(config: Config) -> dict[str, Any]:
    """All settings by key."""
    return {key: getattr(getattr(config, name), item.name) for key, (name, item) in settings().items()}


def load_settings(path: str | Path) -> dict[str, Any]:
    """Settings by key from a YAML file, plain or a ROS parameter file (`/**: ros__parameters:`), not yet checked.

    Raises ConfigError where the file cannot be read.
    """
    values = _ros_parameters(read_yaml(path, "configuration file", ConfigError) or {})
    if not isinstance(values, dict):
        raise ConfigError(f"The configuration file {path} must hold settings, one 'key: value' a line.")
    return {str(key): value for key, value in values.items() if key != "use_sim_time"}


def load_config(path: str | Path) -> Config:
    """A checked Config from a YAML file; see load_settings. Raises ConfigError."""
    return config_from_dict(load_settings(path))


def _ros_parameters(values: Any) -> Any:
    """What stands under the one `ros__parameters` of a ROS parameter file; other files as they are."""
    inner = values
    for _ in range(_MOST_LEVELS):  # YAML may hold itself
        if not (isinstance(inner, dict) and len(inner) == 1 and isinstance(next(iter(inner.values())), dict)):
            break
        key, inner = next(iter(inner.items()))
        if key == "ros__parameters":
            return inner
    return values


def unknown(key: str, known: list[str]) -> str:
    """A sentence about a key that does not exist, with the nearest one that does."""
    key = key if len(key) <= _MOST_SHOWN else key[:_MOST_SHOWN] + "..."
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
    return f"There is no setting '{key}'; did you mean '{near[0]}'?" if near else f"There is no setting '{key}'."
