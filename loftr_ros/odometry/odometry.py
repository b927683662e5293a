"""The odometry: frames in, Estimates out."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from loftr_ros.config import OdometryConfig, ScaleConfig
from loftr_ros.errors import GeometryError
from loftr_ros.geometry.camera import Camera
from loftr_ros.geometry.se3 import (
    compose_covariance,
    inverse,
    make_pose,
    normalized,
    rotation_angle_deg,
    vector_from_rotation,
)
from loftr_ros.matching.base import Matcher
from loftr_ros.odometry.keyframe import (
    Keyframe,
    NormalizedMatches,
    hand_over_depths,
    measure_depths,
    normalize,
    triangulate_keyframe,
)
from loftr_ros.odometry.motion import Motion, Reference, judge_motion
from loftr_ros.odometry.scale import gradual, scale_source
from loftr_ros.odometry.start import rotation_and_parallax, start_map
from loftr_ros.odometry.tracking import Track, track
from loftr_ros.types import Array, Estimate, Frame, Matches, MotionState

# Thresholds in pixels are meant for this focal length, so that they are angles.
_FOCAL = 500.0
_RECENT_KEYFRAMES = 5
_RECENT_SPEEDS = 10
# Covariance of the first pose, and deviation of the one after the camera was lost.
_EXACT = np.diag([1e-6**2] * 6)
_LOST_SIGMA = 1e3


@dataclass(frozen=True)
class _Pose:
    """A pose that was published: stamp, pose_world_camera, its covariance, and that of the step in the keyframe."""

    stamp_ns: int
    pose: Array
    covariance: Array
    step_covariance: Array


class VisualOdometry:
    """Keyframe odometry with one camera.

    The world frame is the first camera's frame. The same frames give the same Estimates, bit for bit.

    Args:
        matcher: finds the keyframe's points in each frame.
        camera: calibration of the frames.
        config, scale: settings.
    """

    def __init__(
        self,
        matcher: Matcher,
        camera: Camera,
        config: OdometryConfig | None = None,
        scale: ScaleConfig | None = None,
    ) -> None:
        self.matcher = matcher
        self.camera = camera
        self.config = config or OdometryConfig()
        self.scale = scale or ScaleConfig()
        self._threshold = self.config.inlier_threshold_px / _FOCAL
        self.reset()

    def reset(self, pose_world_camera: Array | None = None) -> None:
        """Forget everything and start anew at a pose (the identity unless given)."""
        self._start_pose = np.eye(4) if pose_world_camera is None else pose_world_camera
        self._start_covariance = _EXACT
        self._keyframe: Keyframe | None = None
        self._recent: deque[Keyframe] = deque(maxlen=_RECENT_KEYFRAMES)
        self._reference = Reference()
        self._last: _Pose | None = None
        self._pose_last_keyframe: Array | None = None
        self._speeds: deque[float] = deque(maxlen=_RECENT_SPEEDS)
        self._misses = 0
        self._has_map = False
        self._scale_source = scale_source(self.scale)
        self._metric = False
        self._distance: float | None = None

    @property
    def keyframe(self) -> Keyframe | None:
        """The present keyframe, with its depths."""
        return self._keyframe

    def process(self, frame: Frame) -> Estimate:
        """One frame's estimate. Frames must come in the order of their stamps."""
        if frame.distance is not None:
            self._distance = (self._distance or 0.0) + frame.distance
        # 1. Features, once per frame
        features = self.matcher.extract(frame.image)
        # 2. The first frame is the first keyframe
        if self._keyframe is None:
            return self._begin(frame, features)
        # 3. Matches with the keyframe
        matches = self.matcher.match_features(self._keyframe.features, features)
        points = normalize(matches, self.camera)
        # 4. The pose relative to it
        if not self._has_map:
            return self._start(frame, features, matches, points)
        try:
            found = self._track(self._keyframe, frame, matches, points)
        except GeometryError as error:
            return self._without_pose(frame, features, matches, str(error))
        # 5. State, pose in the world, next keyframe
        return self._accept(frame, features, matches, points, found)

    # -- start ---------------------------------------------------------------------------------------------------

    def _begin(self, frame: Frame, features: Any) -> Estimate:
        """Make the frame the first keyframe, at the start pose."""
        self._keyframe = Keyframe(frame, features, self._start_pose, self._start_covariance)
        self._reference = Reference()
        if self.scale.source == "depth":
            itself = self.matcher.match_features(features, features)  # all its keypoints
            self._has_map = self._metric = self._from_depth_image(self._keyframe, itself)
        state = MotionState.OK if self._has_map else MotionState.INITIALIZING
        reason = "" if self._has_map else "The first keyframe has no depths yet: the camera must move."
        self._publish(frame.stamp_ns, self._start_pose, self._start_covariance, _EXACT, self._has_map)
        self._pose_last_keyframe = np.eye(4)
        return self._estimate(frame, state, self._start_pose, reason=reason, is_keyframe=True)

    def _from_depth_image(self, keyframe: Keyframe, matches: Matches) -> bool:
        """Depths of a keyframe from its depth image, at the keypoints (0) of any of its matches. True if enough."""
        if self.scale.source != "depth":
            return False
        measure_depths(keyframe, matches, normalize(matches, self.camera), self.scale.max_depth_m)
        return len(keyframe.depths.precise) >= self.config.min_matches

    def _start(self, frame: Frame, features: Any, matches: Matches, points: NormalizedMatches) -> Estimate:
        """Start the map once the camera has moved far enough; until then, follow its rotation."""
        assert self._keyframe is not None
        if len(matches) < self.config.min_matches:
            return self._restart(frame, features, matches, f"Only {len(matches)} matches with the first keyframe.")
        rotation, parallax_deg = rotation_and_parallax(points)
        if parallax_deg < self.config.init_parallax_deg:
            return self._wait(frame, features, matches, rotation, parallax_deg)
        try:
            found = start_map(points, self.config.min_matches, self._threshold)
        except GeometryError as error:
            return self._wait(frame, features, matches, rotation, parallax_deg, str(error))
        if found.inliers.sum() < 0.5 * len(matches):
            return self._wait(frame, features, matches, rotation, parallax_deg, "Too few matches fit one motion.")
        self._has_map = True
        return self._accept(frame, features, matches, points, found)

    def _wait(
        self, frame: Frame, features: Any, matches: Matches, rotation: Array, parallax_deg: float, reason: str = ""
    ) -> Estimate:
        """No map yet. A camera that stands still or only turns has a pose all the same.

        One that moves has none: along a plane a translation looks like a rotation, and which it is only more parallax
        can tell.
        """
        assert self._keyframe is not None
        motion = judge_motion(self._reference, matches, self.camera, self.config.static_px)
        pose = None
        if motion is not Motion.MOVING:
            turned = make_pose(rotation if motion is Motion.ROTATING else np.eye(3), np.zeros(3))
            pose = self._keyframe.pose_world_keyframe @ inverse(turned)
        sigma = np.radians(max(parallax_deg, 0.05))
        step_covariance = np.diag([sigma**2] * 3 + [np.radians(0.2) ** 2] * 3)
        covariance = compose_covariance(
            self._keyframe.pose_world_keyframe, self._keyframe.covariance, np.zeros(3), step_covariance
        )
        state = MotionState.INITIALIZING if pose is None else self._state(motion)
        estimate = self._estimate(
            frame,
            state,
            pose,
            matches=matches,
            inliers=np.full(len(matches), pose is not None),
            parallax_deg=parallax_deg,
            reason=reason or f"The median parallax of {parallax_deg:.2f} degrees is too small to start the map.",
            covariance=covariance,
            step_covariance=step_covariance,
        )
        if pose is not None and rotation_angle_deg(rotation) > self.config.keyframe_rotation_deg:
            self._start_pose, self._start_covariance = pose, covariance
            self._keyframe = Keyframe(frame, features, pose, covariance)
            self._reference = Reference()
        return estimate

    def _restart(self, frame: Frame, features: Any, matches: Matches, reason: str) -> Estimate:
        """The first keyframe is out of sight: take this frame instead, if it can be matched at all."""
        estimate = self._estimate(frame, MotionState.INITIALIZING, None, matches=matches, reason=reason)
        itself = self.matcher.match_features(features, features)
        if len(itself) >= self.config.min_matches:
            self._keyframe = Keyframe(frame, features, self._start_pose, self._start_covariance)
            self._reference = Reference()
        return estimate

    # -- tracking ------------------------------------------------------------------------------------------------

    def _track(self, keyframe: Keyframe, frame: Frame, matches: Matches, points: NormalizedMatches) -> Track:
        """Raises GeometryError where the matches give no pose that can be believed."""
        if len(matches) < self.config.min_matches:
            raise GeometryError(f"Only {len(matches)} matches; {self.config.min_matches} are needed.")
        mean, sigma = keyframe.depths.lookup(matches.index0)
        predicted = self._pose_last_keyframe if keyframe is self._keyframe else None
        found = track(points, mean, sigma, predicted, self._threshold)
        count = int(found.inliers.sum())
        if count < self.config.min_matches or count < 0.25 * len(matches):
            raise GeometryError(f"Only {count} of {len(matches)} matches fit one motion.")
        self._refuse_jump(keyframe, frame, found)
        return found

    def _refuse_jump(self, keyframe: Keyframe, frame: Frame, found: Track) -> None:
        """Raises GeometryError for a step far beyond the recent speed and beyond a part of the scene's depth."""
        if self._last is None or len(self._speeds) < 3:
            return
        pose = keyframe.pose_world_keyframe @ inverse(found.pose_frame_keyframe)
        seconds = max(frame.stamp_ns - self._last.stamp_ns, 1) * 1e-9
        step = float(np.linalg.norm(pose[:3, 3] - self._last.pose[:3, 3]))
        near = 1.0 / max(float(np.quantile(np.maximum(found.inverse_depth[found.inliers], 1e-9), 0.75)), 1e-9)
        allowed = self.config.max_speed_ratio * float(np.median(self._speeds)) * seconds
        if step > max(allowed, 0.3 * near):
            raise GeometryError(f"A step of {step:.3g} in {seconds:.3g} s would be a jump.")

    def _accept(
        self, frame: Frame, features: Any, matches: Matches, points: NormalizedMatches, found: Track
    ) -> Estimate:
        """Publish a tracked frame, refine the keyframe's depths, and choose the next keyframe."""
        keyframe = self._keyframe
        assert keyframe is not None
        self._misses = 0
        keyframe.best_inliers = max(keyframe.best_inliers, int(found.inliers.sum()))
        keyframe.depths.update(matches.index0, points.points0, found.inverse_depth, found.sigma, found.inliers)
        motion = judge_motion(self._reference, matches[found.inliers], self.camera, self.config.static_px)
        pose = self._world_pose(keyframe, found, motion)
        covariance = self._world_covariance(keyframe, found)
        self._measure_scale(pose, motion)
        hidden = self._scale_source is not None and not self._metric
        state = MotionState.INITIALIZING if hidden else self._state(motion)
        next_keyframe = motion is not Motion.STILL and self._needs_keyframe(matches, found)
        estimate = self._estimate(
            frame,
            state,
            pose,
            matches=matches,
            inliers=found.inliers,
            parallax_deg=found.parallax_deg,
            reason=self._reason(state),
            covariance=covariance,
            step_covariance=found.covariance,
            is_keyframe=next_keyframe,
            moving=motion is Motion.MOVING,
        )
        if motion is not Motion.STILL:
            self._pose_last_keyframe = found.pose_frame_keyframe
        if motion is Motion.MOVING:
            self._reference = Reference.of(matches, found.inliers)
        if next_keyframe:
            self._replace_keyframe(frame, features, pose, covariance, found)
        if hidden:
            self._fix_unit()
            return without_pose(estimate)
        return estimate

    def _world_pose(self, keyframe: Keyframe, found: Track, motion: Motion) -> Array:
        """A camera that stands still keeps its pose; one that only turns keeps its position."""
        pose = normalized(keyframe.pose_world_keyframe @ inverse(found.pose_frame_keyframe))
        if self._last is None or motion is Motion.MOVING:
            return pose
        if motion is Motion.STILL:
            return self._last.pose
        return make_pose(pose[:3, :3], self._last.pose[:3, 3])

    def _world_covariance(self, keyframe: Keyframe, found: Track) -> Array:
        position = inverse(found.pose_frame_keyframe)[:3, 3]
        return compose_covariance(keyframe.pose_world_keyframe, keyframe.covariance, position, found.covariance)

    @staticmethod
    def _state(motion: Motion) -> MotionState:
        return {
            Motion.STILL: MotionState.STATIC,
            Motion.ROTATING: MotionState.PURE_ROTATION,
            Motion.MOVING: MotionState.OK,
        }[motion]

    def _reason(self, state: MotionState) -> str:
        return {
            MotionState.INITIALIZING: f"The length of a metre is not known yet from {self.scale.source}.",
            MotionState.STATIC: "The camera stands still: the pose is held.",
            MotionState.PURE_ROTATION: "The camera only turns: the position is held.",
        }.get(state, "")

    # -- keyframes -----------------------------------------------------------------------------------------------

    def _needs_keyframe(self, matches: Matches, found: Track) -> bool:
        """The rule: too few points left, too much image motion, or too much rotation since the keyframe."""
        assert self._keyframe is not None
        kept = matches[found.inliers]
        flow = float(np.median(np.linalg.norm(kept.points1 - kept.points0, axis=1)))
        return bool(
            found.inliers.sum() < self.config.keyframe_inlier_ratio * self._keyframe.best_inliers
            or flow > self.config.keyframe_flow * self.camera.width
            or rotation_angle_deg(found.pose_frame_keyframe[:3, :3]) > self.config.keyframe_rotation_deg
        )

    def _replace_keyframe(self, frame: Frame, features: Any, pose: Array, covariance: Array, found: Track) -> None:
        """Match the new keyframe's own keypoints back to the old one: their depths carry the scale over."""
        old = self._keyframe
        assert old is not None
        new = Keyframe(frame, features, pose, covariance)
        matches = self.matcher.match_features(features, old.features)
        points = normalize(matches, self.camera)
        triangulate_keyframe(new, matches, points, inverse(found.pose_frame_keyframe), self._threshold)
        hand_over_depths(old, new, found.pose_frame_keyframe, matches, points)
        self._from_depth_image(new, matches)
        if len(new.depths.precise) < self.config.min_matches:
            return  # the old keyframe still knows more
        self._recent.append(old)
        self._correct_scale(new)
        self._keyframe = new
        self._reference = Reference()
        self._pose_last_keyframe = np.eye(4)
        if self._last is not None:  # the last pose is the keyframe's now: against it, it has no error
            self._last = replace(self._last, step_covariance=_EXACT)

    # -- scale ---------------------------------------------------------------------------------------------------

    def _measure_scale(self, pose: Array, motion: Motion) -> None:
        """Tell the scale source of the step."""
        source, keyframe = self._scale_source, self._keyframe
        if source is None or keyframe is None or self._last is None:
            return
        if motion is Motion.MOVING:
            # Frames that held the position or had none belong to the step.
            source.add_step(self._distance, float(np.linalg.norm(pose[:3, 3] - self._last.pose[:3, 3])))
            self._distance = None

    def _correct_scale(self, keyframe: Keyframe) -> None:
        """Stretch a new keyframe's depths, and those of the recent ones that may be tracked again, towards metres.

        Their poses stay, so the odometry does not jump.
        """
        measured = self._metres_per_unit(keyframe) if self._metric else None
        if measured is not None:
            self._stretch((*self._recent, keyframe), gradual(measured))

    def _fix_unit(self) -> None:
        """Once metres are known for the first time, turn the whole map into metres. No pose was published so far."""
        assert self._keyframe is not None
        factor = self._metres_per_unit(self._keyframe)
        if factor is None or self._last is None or self._pose_last_keyframe is None:
            return
        keyframes = (*self._recent, self._keyframe)
        self._stretch(keyframes, factor)
        for keyframe in keyframes:
            keyframe.pose_world_keyframe = self._moved_out(keyframe.pose_world_keyframe, factor)
        self._last = replace(self._last, pose=self._moved_out(self._last.pose, factor))
        self._pose_last_keyframe = self._pose_last_keyframe.copy()
        self._pose_last_keyframe[:3, 3] *= factor
        self._metric = True

    def _metres_per_unit(self, keyframe: Keyframe) -> float | None:
        """The scale source's measurement, where there is a source and a sensible measurement."""
        measured = None if self._scale_source is None else self._scale_source.metres_per_unit(keyframe.depths)
        return measured if measured is not None and np.isfinite(measured) and measured > 0 else None

    def _stretch(self, keyframes: Sequence[Keyframe], factor: float) -> None:
        assert self._scale_source is not None
        for keyframe in keyframes:
            keyframe.depths.rescale(factor)
        self._scale_source.rescaled(factor)
        self._speeds = deque((speed * factor for speed in self._speeds), maxlen=_RECENT_SPEEDS)

    def _moved_out(self, pose: Array, factor: float) -> Array:
        """A pose whose distance from the start is `factor` times as long."""
        start = self._start_pose[:3, 3]
        return make_pose(pose[:3, :3], start + factor * (pose[:3, 3] - start))

    # -- frames without a pose -----------------------------------------------------------------------------------

    def _without_pose(self, frame: Frame, features: Any, matches: Matches, reason: str) -> Estimate:
        """Try the recent keyframes; where none helps, say so and publish no pose."""
        self._misses += 1
        if self._recent:
            candidate = self._recent[-1 - self._misses % len(self._recent)]
            estimate = self._try_keyframe(candidate, frame, features)
            if estimate is not None:
                return estimate
        if self.config.restart_after and self._misses >= self.config.restart_after:
            return self._start_again(frame, features)
        state = MotionState.LOST if self._misses >= self.config.lost_after else MotionState.FEW_MATCHES
        return self._estimate(frame, state, None, matches=matches, reason=reason)

    def _start_again(self, frame: Frame, features: Any) -> Estimate:
        """Nothing known is in sight any more: a new map, at the last pose, whose error nobody knows."""
        last = self._last
        self.reset(np.eye(4) if last is None else last.pose)
        self._start_covariance = np.diag([_LOST_SIGMA**2] * 6)
        estimate = self._begin(frame, features)
        return replace(
            estimate, reason="Lost for long: a new map starts at the last pose. What lies between is unknown."
        )

    def _try_keyframe(self, keyframe: Keyframe, frame: Frame, features: Any) -> Estimate | None:
        matches = self.matcher.match_features(keyframe.features, features)
        points = normalize(matches, self.camera)
        try:
            found = self._track(keyframe, frame, matches, points)
        except GeometryError:
            return None
        if self._keyframe is not None:
            self._recent.remove(keyframe)
            self._recent.append(self._keyframe)
        self._keyframe = keyframe
        # The last pose is not the keyframe's: a camera that stands still beside it has come back to it.
        self._reference = Reference.unknown()
        return self._accept(frame, features, matches, points, found)

    # -- output --------------------------------------------------------------------------------------------------

    def _publish(self, stamp_ns: int, pose: Array, covariance: Array, step_covariance: Array, moving: bool) -> None:
        if moving and self._last is not None and stamp_ns > self._last.stamp_ns:
            seconds = (stamp_ns - self._last.stamp_ns) * 1e-9
            self._speeds.append(float(np.linalg.norm(pose[:3, 3] - self._last.pose[:3, 3])) / seconds)
        self._last = _Pose(stamp_ns, pose, covariance, step_covariance)

    def _estimate(
        self,
        frame: Frame,
        state: MotionState,
        pose: Array | None,
        *,
        matches: Matches | None = None,
        inliers: Any = None,
        parallax_deg: float = 0.0,
        reason: str = "",
        covariance: Array | None = None,
        step_covariance: Array | None = None,
        is_keyframe: bool = False,
        moving: bool = False,
    ) -> Estimate:
        assert self._keyframe is not None
        matches = Matches.empty() if matches is None else matches
        if pose is not None and covariance is None:
            covariance = self._start_covariance
        estimate = Estimate(
            stamp_ns=frame.stamp_ns,
            state=state,
            pose_world_camera=pose,
            pose_covariance=covariance if pose is not None else None,
            metric=self._metric,
            matches=matches,
            inliers=np.zeros(len(matches), bool) if inliers is None else inliers,
            parallax_deg=parallax_deg,
            keyframe_stamp_ns=self._keyframe.frame.stamp_ns,
            is_keyframe=is_keyframe,
            reason=reason,
        )
        if pose is None:
            return estimate
        step = _EXACT if step_covariance is None else step_covariance
        twist, twist_covariance = self._twist(frame.stamp_ns, pose, step)
        assert estimate.pose_covariance is not None
        self._publish(frame.stamp_ns, pose, estimate.pose_covariance, step, moving)
        return replace(estimate, twist_camera=twist, twist_covariance=twist_covariance)

    def _twist(self, stamp_ns: int, pose: Array, step_covariance: Array) -> tuple[Array | None, Array | None]:
        """Mean velocity since the last pose, in the axes of the present camera, and its covariance."""
        if self._last is None or stamp_ns <= self._last.stamp_ns:
            return None, None
        seconds = (stamp_ns - self._last.stamp_ns) * 1e-9
        rotation = pose[:3, :3].T
        linear = rotation @ (pose[:3, 3] - self._last.pose[:3, 3])
        angular = rotation @ vector_from_rotation(pose[:3, :3] @ self._last.pose[:3, :3].T)
        # Both ends of the step are measured against the same keyframe, each with its own error.
        covariance = (step_covariance + self._last.step_covariance) / seconds**2
        assert self._keyframe is not None
        turn = np.kron(np.eye(2), rotation @ self._keyframe.pose_world_keyframe[:3, :3])  # keyframe to camera axes
        covariance = turn @ covariance @ turn.T
        return np.concatenate([linear, angular]) / seconds, covariance


def without_pose(estimate: Estimate) -> Estimate:
    """The same without pose and twist."""
    return replace(estimate, pose_world_camera=None, pose_covariance=None, twist_camera=None, twist_covariance=None)
