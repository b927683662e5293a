"""The odometry: frames in, Estimates out."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
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
from loftr_ros.odometry.start import rotation_and_parallax, start_map
from loftr_ros.odometry.trace import Step, Trace
from loftr_ros.odometry.tracking import Track, track
from loftr_ros.odometry.unit import MapUnit, stretch_depths, stretched_covariance, stretched_pose
from loftr_ros.types import Array, Estimate, Frame, Matches, MotionState

# Thresholds in pixels are meant for this focal length, so that they are angles.
_FOCAL = 500.0
_RECENT_KEYFRAMES = 5
# Covariances of (position, rotation vector): of the first pose, and of the one after the camera was lost.
_EXACT = np.diag([1e-6**2] * 6)
_UNKNOWN = np.diag([1e3**2] * 3 + [np.pi**2] * 3)


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

    def reset(self, pose_world_camera: Array | None = None, covariance: Array | None = None) -> None:
        """Forget everything and start anew at a pose with its covariance (the identity, exactly, unless given)."""
        self._start_pose = np.eye(4) if pose_world_camera is None else pose_world_camera
        self._start_covariance = _EXACT if covariance is None else covariance
        self._keyframe: Keyframe | None = None
        self._recent: deque[Keyframe] = deque(maxlen=_RECENT_KEYFRAMES)
        self._reference = Reference()
        self._trace = Trace()
        self._pose_last_keyframe: Array | None = None
        self._misses = 0
        self._has_map = False
        self._unit = MapUnit(self.scale)

    @property
    def keyframe(self) -> Keyframe | None:
        """The present keyframe, with its depths."""
        return self._keyframe

    def process(self, frame: Frame) -> Estimate:
        """One frame's estimate. Frames must come in the order of their stamps."""
        self._unit.add_distance(frame.distance)
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
        self._unit.forget_distance()
        self._keyframe = Keyframe(frame, features, self._start_pose, self._start_covariance)
        self._reference = Reference()
        if self.scale.source == "depth":
            itself = self.matcher.match_features(features, features)  # all its keypoints
            self._has_map = self._unit.metric = self._from_depth_image(self._keyframe, itself)
        state = MotionState.OK if self._has_map else MotionState.INITIALIZING
        reason = "" if self._has_map else "The first keyframe has no depths yet: the camera must move."
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
            self._unit.forget_distance()
            self._keyframe = Keyframe(frame, features, pose, covariance)
            self._reference = Reference()
        return estimate

    def _restart(self, frame: Frame, features: Any, matches: Matches, reason: str) -> Estimate:
        """The first keyframe is out of sight: take this frame instead, if it can be matched at all."""
        estimate = self._estimate(frame, MotionState.INITIALIZING, None, matches=matches, reason=reason)
        itself = self.matcher.match_features(features, features)
        if len(itself) >= self.config.min_matches:
            self._unit.forget_distance()
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
        pose = keyframe.pose_world_keyframe @ inverse(found.pose_frame_keyframe)
        near = 1.0 / max(float(np.quantile(found.inverse_depth[found.inliers], 0.75)), 1e-9)
        self._trace.refuse_jump(frame.stamp_ns, pose, near, self.config.max_speed_ratio)

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
        if motion is Motion.MOVING:
            self._unit.add_step(self._trace.length_to(pose))
        hidden = self._unit.awaited
        state = MotionState.INITIALIZING if hidden else self._state(motion)
        wants_keyframe = motion is not Motion.STILL and self._needs_keyframe(matches, found)
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
            moving=motion is Motion.MOVING,
        )
        if motion is not Motion.STILL:
            self._pose_last_keyframe = found.pose_frame_keyframe
        if motion is Motion.MOVING:
            self._reference = Reference.of(matches, found.inliers)
        if wants_keyframe and self._replace_keyframe(frame, features, pose, covariance, found):
            estimate = replace(estimate, is_keyframe=True)
        if hidden:
            self._fix_unit()
            return without_pose(estimate)
        return estimate

    def _world_pose(self, keyframe: Keyframe, found: Track, motion: Motion) -> Array:
        """A camera that stands still keeps its pose; one that only turns keeps its position."""
        pose = normalized(keyframe.pose_world_keyframe @ inverse(found.pose_frame_keyframe))
        last = self._trace.last
        if last is None or motion is Motion.MOVING:
            return pose
        return last.pose if motion is Motion.STILL else make_pose(pose[:3, :3], last.pose[:3, 3])

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

    def _replace_keyframe(self, frame: Frame, features: Any, pose: Array, covariance: Array, found: Track) -> bool:
        """Match the new keyframe's own keypoints back to the old one: their depths carry the scale over.

        False when the new one has too few depths: the old one stays.
        """
        old = self._keyframe
        assert old is not None
        new = Keyframe(frame, features, pose, covariance)
        matches = self.matcher.match_features(features, old.features)
        points = normalize(matches, self.camera)
        triangulate_keyframe(new, matches, points, inverse(found.pose_frame_keyframe), self._threshold)
        hand_over_depths(old, new, found.pose_frame_keyframe, matches, points)
        self._from_depth_image(new, matches)
        if len(new.depths.precise) < self.config.min_matches:
            return False
        self._recent.append(old)
        self._correct_unit(new)
        self._keyframe = new
        self._reference = Reference()
        self._pose_last_keyframe = np.eye(4)
        self._trace.became_keyframe(_EXACT)
        return True

    # -- scale ---------------------------------------------------------------------------------------------------

    def _correct_unit(self, keyframe: Keyframe) -> None:
        """Stretch a new keyframe's depths, and those of the recent ones that may be tracked again, towards metres.

        Their poses stay, so the odometry does not jump.
        """
        factor = self._unit.correct(keyframe.depths)
        if factor is not None:
            self._stretch((*self._recent, keyframe), factor)

    def _fix_unit(self) -> None:
        """Once metres are known for the first time, turn the whole map into metres. No pose was published so far."""
        keyframe, last, relative = self._keyframe, self._trace.last, self._pose_last_keyframe
        assert keyframe is not None and last is not None and relative is not None
        factor = self._unit.first_factor(keyframe.depths)
        if factor is None:
            return
        keyframes = (*self._recent, keyframe)
        self._stretch(keyframes, factor)
        for each in keyframes:
            each.pose_world_keyframe = stretched_pose(each.pose_world_keyframe, self._start_pose, factor)
            each.covariance = stretched_covariance(each.covariance, factor)
        self._trace.last = replace(
            last,
            pose=stretched_pose(last.pose, self._start_pose, factor),
            covariance=stretched_covariance(last.covariance, factor),
        )
        self._pose_last_keyframe = make_pose(relative[:3, :3], factor * relative[:3, 3])
        self._unit.metric = True

    def _stretch(self, keyframes: Sequence[Keyframe], factor: float) -> None:
        stretch_depths(keyframes, factor)
        self._unit.stretched(factor)
        self._trace.rescale_speeds(factor)

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
        last = self._trace.last
        self.reset(None if last is None else last.pose, _UNKNOWN)
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
            metric=self._unit.metric,
            matches=matches,
            inliers=np.zeros(len(matches), bool) if inliers is None else inliers,
            parallax_deg=parallax_deg,
            keyframe_stamp_ns=self._keyframe.frame.stamp_ns,
            is_keyframe=is_keyframe,
            reason=reason,
        )
        if pose is None:
            return estimate
        step = Step(frame.stamp_ns, pose, _EXACT if step_covariance is None else step_covariance)
        twist, twist_covariance = self._trace.twist_to(step, self._keyframe.pose_world_keyframe[:3, :3])
        self._trace.add(step, moving)
        return replace(estimate, twist_camera=twist, twist_covariance=twist_covariance)


def without_pose(estimate: Estimate) -> Estimate:
    """The same without pose and twist."""
    return replace(estimate, pose_world_camera=None, pose_covariance=None, twist_camera=None, twist_covariance=None)
