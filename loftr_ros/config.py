"""Every setting of the package, its default, its range and its description: the one place where they are written.

The command line, the YAML files and the ROS parameters (named `group.field`) are made from these classes.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from loftr_ros.errors import ConfigError

MATCHERS = ("tiny", "outdoor", "indoor", "sift", "orb")
SCALE_SOURCES = ("none", "depth", "odometry", "camera_height")


@dataclass(frozen=True)
class Limits:
    """What a setting may be, and whether it may change while the node runs."""

    text: str
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


def default_of(item: dataclasses.Field[Any]) -> Any:
    return item.default if item.default_factory is dataclasses.MISSING else item.default_factory()


class Group:
    """Base of the groups: takes ints for floats and lists for tuples, and refuses what Limits forbid."""

    def __post_init__(self) -> None:
        for item in fields(self):  # type: ignore[arg-type]
            value = _coerced(getattr(self, item.name), default_of(item), self._name(item))
            object.__setattr__(self, item.name, value)
            _check(value, limits_of(item), self._name(item))

    def _name(self, item: dataclasses.Field[Any]) -> str:
        return f"{GROUP_NAMES[type(self)]}.{item.name}"


def _coerced(value: Any, default: Any, name: str) -> Any:
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(default, tuple):
        if not isinstance(value, (list, tuple)) or any(isinstance(v, (bool, str)) for v in value):
            raise ConfigError(f"{name} must be a list of numbers, not {value!r}.")
        return tuple(float(v) for v in value)
    if type(value) is not type(default):
        raise ConfigError(f"{name} must be of type {type(default).__name__}, not {value!r}.")
    return value


def _check(value: Any, limits: Limits, name: str) -> None:
    numbers = value if isinstance(value, tuple) else (value,)
    if any(isinstance(v, float) and not math.isfinite(v) for v in numbers):
        raise ConfigError(f"{name} must be finite, not {value!r}.")
    if limits.choices and value not in limits.choices:
        raise ConfigError(f"{name} must be one of {', '.join(limits.choices)}, not {value!r}.")
    if limits.minimum is not None and any(v < limits.minimum for v in numbers):
        raise ConfigError(f"{name} must be at least {limits.minimum:g}, not {value!r}.")
    if limits.maximum is not None and any(v > limits.maximum for v in numbers):
        raise ConfigError(f"{name} must be at most {limits.maximum:g}, not {value!r}.")
    if limits.lengths and len(value) not in limits.lengths:
        wanted = " or ".join(str(n) for n in limits.lengths)
        raise ConfigError(f"{name} must have {wanted} numbers, not {len(value)}.")


@dataclass(frozen=True)
class MatcherConfig(Group):
    name: str = setting("tiny", "Matcher: a LoFTR size, or a classical pipeline.", choices=MATCHERS)
    weights: str = setting("", "File of LoFTR weights; empty: the bundled or downloaded file of that size.")
    device: str = setting("auto", "Where LoFTR runs; auto: the GPU if there is one.", choices=("auto", "cpu", "cuda"))
    max_side: int = setting(
        640, "Images are shrunk for LoFTR until their longer side is this, in pixels; 0: never.", minimum=0, maximum=8192
    )
    threshold: float = setting(0.2, "Least confidence of a coarse LoFTR match.", minimum=0.0, maximum=1.0, read_only=False)
    max_keypoints: int = setting(3000, "Most keypoints of ORB and SIFT per image.", minimum=16, maximum=100000)
    ratio: float = setting(
        0.8, "Lowe's ratio of ORB and SIFT: best distance over second best.", minimum=0.1, maximum=1.0, read_only=False
    )
    mask_file: str = setting("", "Image whose black pixels are ignored (the robot's own body, say); empty: none.")


@dataclass(frozen=True)
class OdometryConfig(Group):
    min_matches: int = setting(30, "Fewer inlier matches than this give no pose.", minimum=8, maximum=10000)
    inlier_threshold_px: float = setting(
        1.0, "Largest distance of an inlier from its prediction, at a focal length of 500 pixels.", minimum=0.05, maximum=20.0
    )
    init_parallax_deg: float = setting(
        0.5, "Median parallax with which the map is started.", minimum=0.05, maximum=45.0
    )
    keyframe_inlier_ratio: float = setting(
        0.5, "New keyframe when the tracked share of the keyframe's first matches falls below this.", minimum=0.0, maximum=1.0
    )
    keyframe_flow: float = setting(
        0.10, "New keyframe when the median image motion exceeds this share of the image width.", minimum=0.001, maximum=1.0
    )
    keyframe_rotation_deg: float = setting(
        12.0, "New keyframe when the camera has turned this far from it.", minimum=0.5, maximum=90.0
    )
    static_px: float = setting(
        0.3, "Median image motion between two frames, in pixels, below which the camera stands still.", minimum=0.0, maximum=10.0
    )
    max_speed_ratio: float = setting(
        5.0, "A step this many times longer than the recent ones is a jump and is refused.", minimum=1.5, maximum=1000.0
    )
    lost_after: int = setting(10, "Frames without a pose after which the state is LOST.", minimum=1, maximum=10000)


@dataclass(frozen=True)
class ScaleConfig(Group):
    source: str = setting("none", "Where metres come from.", choices=SCALE_SOURCES)
    camera_height_m: float = setting(0.0, "Height of the camera above the ground in metres, for camera_height.", minimum=0.0, maximum=1000.0)
    max_depth_m: float = setting(10.0, "Depth images are used up to this many metres.", minimum=0.1, maximum=1000.0)


@dataclass(frozen=True)
class FramesConfig(Group):
    odom: str = setting("odom", "Fixed frame of the odometry.")
    base: str = setting("base_link", "Frame of the robot whose pose is published.")
    optical: str = setting("", "Optical frame of the camera; empty: the image's frame_id.")
    extrinsics: tuple[float, ...] = setting(
        (), "Pose of the optical frame in the base frame: x y z qx qy qz qw; empty: taken from TF.", lengths=(0, 7)
    )
    publish_tf: bool = setting(True, "Publish the transform odom -> base on /tf.")


@dataclass(frozen=True)
class OutputConfig(Group):
    path_length: int = setting(2000, "Poses kept in the published path.", minimum=1, maximum=1000000)
    path_rate_hz: float = setting(2.0, "How often the path is published.", minimum=0.01, maximum=100.0, read_only=False)
    picture_rate_hz: float = setting(5.0, "Most match pictures a second.", minimum=0.01, maximum=100.0, read_only=False)
    picture_width: int = setting(1280, "Width of the match picture in pixels.", minimum=64, maximum=8192, read_only=False)


@dataclass(frozen=True)
class InputConfig(Group):
    camera_info_file: str = setting("", "Calibration file (camera_info YAML) instead of the camera_info topic.")
    reliable: bool = setting(
        False, "Subscribe to images reliably and keep 100 of them: for recordings that must not drop frames."
    )


GROUP_NAMES: dict[type, str] = {
    MatcherConfig: "matcher",
    OdometryConfig: "odometry",
    ScaleConfig: "scale",
    FramesConfig: "frames",
    InputConfig: "input",
    OutputConfig: "output",
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

    def __post_init__(self) -> None:
        if self.scale.source == "camera_height" and self.scale.camera_height_m <= 0:
            raise ConfigError("scale.camera_height_m must be greater than 0 when scale.source is camera_height.")


T = TypeVar("T", bound=Group)


def group_from_dict(group: type[T], values: dict[str, Any]) -> T:
    """Build one group. Raises ConfigError for an unknown key (naming the nearest known one) or a bad value."""
    known = [item.name for item in fields(group)]  # type: ignore[arg-type]
    for key in values:
        _refuse_unknown(str(key), known, f"{GROUP_NAMES[group]}.")
    return group(**values)


def config_from_dict(values: dict[str, Any]) -> Config:
    """Build a Config from nested dictionaries, as YAML gives them. Raises ConfigError."""
    groups = {name: group for group, name in GROUP_NAMES.items()}
    for key, value in values.items():
        _refuse_unknown(str(key), list(groups), "")
        if not isinstance(value, dict):
            raise ConfigError(f"{key} must hold settings, not {value!r}.")
    return Config(**{name: group_from_dict(groups[name], value) for name, value in values.items()})


def load_config(path: str | Path) -> Config:
    """Read a YAML file: plain groups, or a ROS parameter file (`/**: ros__parameters:`). Raises ConfigError."""
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text()) or {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The configuration file {path} cannot be read: {error}.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"The configuration file {path} is not valid YAML: {' '.join(str(error).split())}.") from None
    while isinstance(values, dict) and len(values) == 1 and next(iter(values)) not in GROUP_NAMES.values():
        key, inner = next(iter(values.items()))
        if not (key == "ros__parameters" or isinstance(inner, dict) and "ros__parameters" in inner):
            break
        values = inner
    if not isinstance(values, dict):
        raise ConfigError(f"The configuration file {path} must hold groups of settings.")
    values = {key: value for key, value in values.items() if key != "use_sim_time"}
    return config_from_dict(values)


def _refuse_unknown(key: str, known: list[str], prefix: str) -> None:
    if key in known:
        return
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
    raise ConfigError(f"There is no setting {prefix}{key}; did you mean {prefix}{near[0]}?" if near else f"There is no setting {prefix}{key}.")
