# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""The odometry: frames in, Estimates out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loftr_ros.config import OdometryConfig, ScaleConfig
from loftr_ros.errors import GeometryError
from loftr_ros.geometry.camera import Camera
from loftr_ros.geometry.se3 import compose_covariance, inverse, make_pose, normalized, rotation_angle_deg
from loftr_ros.matching.base import Matcher
from loftr_ros.odometry.depth import DepthMap, is_precise
from loftr_ros.odometry.guard import Guard
from loftr_ros.odometry.keyframe import (
    Keyframe,
    Node,
    NormalizedMatches,
    hand_over_depths,
    measure_depths,
    normalize,
    triangulate_keyframe,
)
from loftr_ros.odometry.known_places import KnownPlaces
from loftr_ros.odometry.loss import Loss
from loftr_ros.odometry.motion import Motion, Reference, judge_motion
from loftr_ros.odometry.self_calibration import SelfCalibration, recorrected
from loftr_ros.odometry.start import Turn, fit_turn, fits_one_motion, scaled, start_map
from loftr_ros.odometry.trace import Step, Trace
from loftr_ros.odometry.tracking import LEAST_POINTS_FOR_SCALE, Track, refuse_doubtful, track
from loftr_ros.odometry.unit import MapUnit, stretch
from loftr_ros.odometry.window import Window
from loftr_ros.types import Array, Estimate, Frame, Matches, MotionState

# Thresholds in pixels are meant for this focal length, so that they are angles.
_FOCAL = 500.0
# Covariances of (position, rotation vector): of the first pose, and of the one after the camera was lost.
_EXACT = np.diag([1e-6**2] * 6)
_UNKNOWN = np.diag([1e3**2] * 3 + [np.pi**2] * 3)
# The position is too uncertain to be called OK when its deviation exceeds this share of the near part of the scene.
_UNCERTAIN = 0.125
# A rotation explains the matches when it explains this share of them.
_MOST_MATCHES = 0.5
# So many deviations are no chance.
_CLEARLY = 3.0
# So many frames between two keyframes are adjusted together with them.
_PASSING = 2
# A lost frame is tried shrunk and magnified, by these in turn: the camera may have gone far forward or back.
_ZOOMS = ((0.6, 1 / 0.6), (0.5, 2.0))
# A map that starts after another one takes over its depth: lengths may be wrong by this share.
_GUESSED_UNIT_SIGMA = 0.5


@dataclass(frozen=True)
class View:
    """A frame, and its matches (0: keyframe, 1: frame) with a keyframe, in pixels and normalized.

    zoom: by which the frame was magnified before it was matched.
    """

    frame: Frame
    features: Any
    keyframe: Keyframe
    matches: Matches
    points: NormalizedMatches
    zoom: float = 1.0

    def agreeing(self, inliers: NDArray[np.bool_]) -> float:
        """How many inliers there would be, had the matcher looked at all matches."""
        return float(inliers.sum()) / self.matches.share


class VisualOdometry:
    """Keyframe odometry with one camera.

    The world frame is the first camera's frame. The same frames give the same Estimates, bit for bit.

    Args:
        matcher: finds the keyframe's points in each frame.
        camera: calibration of the frames.
        config, scale: settings; `config` may be replaced between frames (all of it but the window's size takes effect).
    """

    def __init__(
        self,
        matcher: Matcher,
        camera: Camera,
        config: OdometryConfig | None = None,
        scale: ScaleConfig | None = None,
    ) -> None:
        self.matcher = Guard(matcher)
        self.camera = camera
        self.config = config or OdometryConfig()
        self.scale = scale or ScaleConfig()
        self.reset()

    def reset(self, pose_world_camera: Array | None = None, covariance: Array | None = None) -> None:
        """Forget everything and start anew at a pose with its covariance (the identity, exactly, unless given)."""
        self._start_pose = np.eye(4) if pose_world_camera is None else pose_world_camera
        self._start_covariance = _EXACT if covariance is None else covariance
        self._keyframe: Keyframe | None = None
        self._known = KnownPlaces(self.matcher.describe, self.config.keyframes_kept)
        self._window = Window(self.config.window)
        self._reference = Reference()
        self._trace = Trace()
        self._loss = Loss(self.matcher.match_features)
        self._calibration = SelfCalibration(self.camera)
        self._maps = 0
        self._scene_depth = 1.0
        self._unit = MapUnit(self.scale)

    @property
    def _threshold(self) -> float:
        """Largest distance of an inlier in normalized units."""
        return self.config.inlier_threshold_px / _FOCAL

    @property
    def keyframe(self) -> Keyframe | None:
        """The present keyframe, with its depths."""
        return self._keyframe

    @property
    def refined_camera(self) -> Camera:
        """The camera with what was learned of it."""
        return self._calibration.camera

    @property
    def learned_calibration(self) -> dict[str, float]:
        """By how much the edge of the image was off (off_px), and what corrects that; see SelfCalibration."""
        return self._calibration.told

    def process(self, frame: Frame) -> Estimate:
        """One frame's estimate. Frames must come in the order of their stamps.

        Raises MatcherError where the matcher fails; what is known is kept, and the next frame may go on from it.
        """
        self._unit.add_distance(frame.distance)
        # 1. Features, once per frame
        features = self.matcher.extract(frame.image)
        # 2. The first frame is the first keyframe
        if self._keyframe is None:
            return self._begin(frame, features)
        if self._brings_metres(frame):
            return self._begin_metric(frame, features)
        # 3. Matches with the keyframe
        view = self._view(self._keyframe, frame, features)
        # 4. State, pose in the world, next keyframe
        try:
            return self._follow(view)
        except GeometryError as error:
            return self._without_pose(view, str(error))

    def missed(self, frame: Frame, reason: str) -> Estimate:
        """The estimate of a frame that failed: no pose, like that of one without matches."""
        self._loss.add()
        stamp_ns = 0 if self._keyframe is None else self._keyframe.frame.stamp_ns
        return Estimate(
            frame.stamp_ns, self._missing_state, metric=self._unit.metric, keyframe_stamp_ns=stamp_ns, reason=reason
        )

    @property
    def _missing_state(self) -> MotionState:
        return MotionState.LOST if self._loss.frames >= self.config.lost_after else MotionState.FEW_MATCHES

    def _view(self, keyframe: Keyframe, frame: Frame, features: Any, zoom: float = 1.0) -> View:
        seen = features if zoom == 1 else self.matcher.extract(frame.image, zoom)
        # Depths grow more precise with every frame that sees the same keypoints.
        matches, points = self._normalized(
            self.matcher.match_features(keyframe.features, seen, keyframe.depths.precise)
        )
        return View(frame, features, keyframe, matches, points, zoom)

    def _normalized(self, matches: Matches) -> tuple[Matches, NormalizedMatches]:
        """Matches, in pixels and normalized, without those whose ray the camera model does not tell."""
        points = normalize(matches, self.refined_camera)
        finite = np.isfinite(np.hstack([points.points0, points.points1])).all(axis=1)
        if finite.all():
            return matches, points
        known = np.flatnonzero(finite)
        return matches[known], points[known]

    def _follow(self, view: View) -> Estimate:
        """Raises GeometryError where the matches give no pose that can be believed."""
        if len(view.matches) < self.config.min_matches:
            if self._maps == 0:
                return self._restart(view, f"Only {len(view.matches)} matches with the first keyframe.")
            raise GeometryError(f"Only {len(view.matches)} matches; {self.config.min_matches} are needed.")
        if self.scale.source == "depth":  # a matcher may choose others of its keypoints in each frame
            measure_depths(view.keyframe, view.matches, view.points, self.scale.max_depth_m)
        known = int(is_precise(*view.keyframe.depths.lookup(view.matches.index0)).sum())
        if known >= self.config.min_matches:
            return self._accept(view, self._track(view))
        if known >= LEAST_POINTS_FOR_SCALE:
            try:
                return self._accept(view, self._track(view))
            except GeometryError:
                pass
        return self._without_depths(view)

    # -- without depths: at the start, and after turning on the spot ---------------------------------------------

    def _begin(self, frame: Frame, features: Any) -> Estimate:
        """Make the frame the first keyframe, at the start pose."""
        keyframe = self._first_keyframe(frame, features, self._start_pose, self._start_covariance)
        has_depths = len(keyframe.depths.precise) >= self.config.min_matches
        state = MotionState.OK if has_depths else MotionState.INITIALIZING
        reason = "" if has_depths else "The first keyframe has no depths yet: the camera must move."
        return self._estimate(frame, keyframe, state, self._start_pose, reason=reason, is_keyframe=True)

    def _brings_metres(self, frame: Frame) -> bool:
        """The depth image of the first keyframe was lost, but this frame has one."""
        assert self._keyframe is not None
        lacking = self.scale.source == "depth" and not self._unit.metric and self._keyframe.frame.depth is None
        return lacking and frame.depth is not None

    def _begin_metric(self, frame: Frame, features: Any) -> Estimate:
        """Go on from this frame at the last pose: depths in metres do not fit a map in another unit."""
        if self._trace.last is not None:
            self._start_pose = self._trace.last.pose
        if self._maps:
            self._start_covariance = _UNKNOWN
        self._known.clear()
        return self._begin(frame, features)

    def _first_keyframe(self, frame: Frame, features: Any, pose: Array, covariance: Array) -> Keyframe:
        """Go on from a keyframe that shares no depths with those before."""
        keyframe = Keyframe(pose, covariance, frame, features)
        self._unit.forget_distance()
        self._keyframe, self._reference = keyframe, Reference(rotation=pose[:3, :3])
        self._window.clear(keyframe)
        if self.scale.source == "depth":
            itself = self._normalized(self.matcher.match_features(features, features))  # all its keypoints
            measure_depths(keyframe, *itself, self.scale.max_depth_m)
            if len(keyframe.depths.precise) >= self.config.min_matches:
                self._unit.metric = True
                self._maps = max(self._maps, 1)
        return keyframe

    def _without_depths(self, view: View) -> Estimate:
        """Start a map once the camera has moved far enough; until then, follow its rotation.

        Raises GeometryError where the matches fit no motion.
        """
        turn = fit_turn(view.points, 3 * self._threshold)
        rigid = fits_one_motion(view.points, self._threshold)
        motion = judge_motion(self._reference, view.matches[rigid], self.refined_camera, self.config.static_px)
        turned = turn.inliers.mean() >= _MOST_MATCHES
        if turned and motion is not Motion.MOVING:
            return self._turned(view, turn, motion)
        reason = f"The median parallax of {turn.parallax_deg:.2f} degrees is too small to start the map."
        fitting, keyframe = view.agreeing(rigid), view.keyframe
        keyframe.best_fitting = max(keyframe.best_fitting, fitting)
        if turn.parallax_deg >= self.config.init_parallax_deg:
            try:
                return self._accept(view, self._start_map(view))
            except GeometryError as error:
                reason = str(error)
            if self._maps == 0 and fitting < self.config.keyframe_inlier_ratio * keyframe.best_fitting:
                return self._restart(view, reason)
        if self._maps == 0:
            return self._estimate(view.frame, view.keyframe, MotionState.INITIALIZING, None, view=view, reason=reason)
        if not turned:
            raise GeometryError(reason)
        return self._low_parallax(view, turn, reason)

    def _turned(self, view: View, turn: Turn, motion: Motion) -> Estimate:
        """The camera stands still or turns on the spot: it has a pose without any depths."""
        keyframe = view.keyframe
        turned = make_pose(turn.rotation if motion is Motion.ROTATING else np.eye(3), np.zeros(3))
        pose = keyframe.pose_world_camera @ inverse(turned)
        step_covariance = self._unseen_covariance()
        covariance = compose_covariance(
            keyframe.pose_world_camera, keyframe.covariance, np.zeros(3), step_covariance
        )
        keyframe.best_inliers = max(keyframe.best_inliers, view.agreeing(turn.inliers))
        wanted = motion is Motion.ROTATING and self._is_leaving(view, turn.inliers, turn.rotation)
        estimate = self._estimate(
            view.frame,
            keyframe,
            _STATES[motion],
            pose,
            view=view,
            inliers=turn.inliers,
            parallax_deg=turn.parallax_deg,
            reason=self._reason(_STATES[motion]),
            covariance=covariance,
            step_covariance=step_covariance,
            is_keyframe=wanted,
        )
        self._loss.end()
        if wanted:
            if self._maps == 0:
                self._start_pose, self._start_covariance = pose, covariance
            self._first_keyframe(view.frame, view.features, pose, covariance)
            self._trace.became_keyframe(_EXACT)
        return estimate

    def _unseen_covariance(self) -> Array:
        """[6, 6] of the motion that a camera may make and still be taken for one that stands still or only turns."""
        unseen = self.config.static_px / self.camera.focal
        return np.diag([(unseen * self._scene_depth) ** 2] * 3 + [unseen**2] * 3)

    def _low_parallax(self, view: View, turn: Turn, reason: str) -> Estimate:
        """The camera moves, but how far cannot be told: the position is held, and may be as wrong as the last speed."""
        keyframe, last = view.keyframe, self._trace.last
        pose = keyframe.pose_world_camera @ inverse(make_pose(turn.rotation, np.zeros(3)))
        if last is not None:
            pose = make_pose(pose[:3, :3], last.pose[:3, 3])
        seconds = 1e-9 * (view.frame.stamp_ns - keyframe.frame.stamp_ns)
        angle = np.radians(max(turn.parallax_deg, 0.05))
        length = max(self._trace.speed * seconds, angle * self._scene_depth)
        step_covariance = np.diag([length**2] * 3 + [angle**2] * 3)
        self._loss.end()
        return self._estimate(
            view.frame,
            keyframe,
            MotionState.LOW_PARALLAX,
            pose,
            view=view,
            inliers=turn.inliers,
            parallax_deg=turn.parallax_deg,
            reason=reason,
            covariance=compose_covariance(
                keyframe.pose_world_camera, keyframe.covariance, np.zeros(3), step_covariance
            ),
            step_covariance=step_covariance,
        )

    def _start_map(self, view: View) -> Track:
        """Raises GeometryError."""
        found = start_map(view.points, self.config.min_matches, self._threshold)
        if found.inliers.sum() < _MOST_MATCHES * len(view.matches):
            raise GeometryError("Too few matches fit one motion.")
        self._maps += 1
        if self._maps > 1:
            # Nothing ties the new map's unit to the old one's; the scene is probably about as deep as it was.
            found = scaled(found, self._scene_depth)
            self._unit = MapUnit(self.scale)
            self._start_pose = view.keyframe.pose_world_camera
            self._known.clear()
        return found

    def _restart(self, view: View, reason: str) -> Estimate:
        """The first keyframe is getting out of sight: take this frame instead, if it can be matched at all."""
        itself = self.matcher.match_features(view.features, view.features)
        if len(itself) >= self.config.min_matches:
            self._first_keyframe(view.frame, view.features, self._start_pose, self._start_covariance)
        return self._estimate(view.frame, view.keyframe, MotionState.INITIALIZING, None, view=view, reason=reason)

    # -- tracking ------------------------------------------------------------------------------------------------

    def _track(self, view: View) -> Track:
        """Raises GeometryError where the matches give no pose that can be believed."""
        mean, sigma = view.keyframe.depths.lookup(view.matches.index0)
        last = self._trace.last
        predicted = None
        if last is not None and view.keyframe is self._keyframe:
            predicted = inverse(last.pose) @ view.keyframe.pose_world_camera
        found = track(view.points, mean, sigma, predicted, self._threshold / min(view.zoom, 1.0))
        count = int(found.inliers.sum())
        if count < self.config.min_matches or count < 0.25 * len(view.matches):
            raise GeometryError(f"Only {count} of {len(view.matches)} matches fit one motion.")
        if self._loss.frames:
            refuse_doubtful(found, is_precise(mean, sigma))
        pose = view.keyframe.pose_world_camera @ inverse(found.pose_frame_keyframe)
        self._trace.refuse_jump(view.frame.stamp_ns, pose, found.near_depth, self.config.max_speed_ratio)
        return found

    def _accept(self, view: View, found: Track) -> Estimate:
        """Publish a tracked frame, refine the keyframe's depths, and choose the next keyframe."""
        keyframe = view.keyframe
        self._loss.end()
        self._scene_depth = found.median_depth
        keyframe.best_inliers = max(keyframe.best_inliers, view.agreeing(found.inliers))
        keyframe.depths.update(
            view.matches.index0, view.points.points0, found.inverse_depth, found.sigma, found.inliers
        )
        tracked = keyframe.pose_world_camera[:3, :3] @ found.pose_frame_keyframe[:3, :3].T
        kept = view.matches[found.inliers]
        motion = judge_motion(self._reference, kept, self.refined_camera, self.config.static_px, tracked)
        pose = self._world_pose(keyframe, found, motion)
        covariance = self._world_covariance(keyframe, found)
        if motion is not Motion.MOVING:
            covariance = covariance + self._unseen_covariance()
        hidden = self._unit.awaited
        if motion is Motion.MOVING:
            self._unit.add_step(self._trace.length_to(pose))
            self._reference = Reference.of(view.matches, found.inliers, tracked)
        new = None
        if motion is not Motion.STILL and self._is_leaving(view, found.inliers, found.pose_frame_keyframe[:3, :3]):
            if motion is Motion.ROTATING:
                pose = self._place_of_turn(keyframe, found)
            new = self._replace_keyframe(view, Keyframe(pose, covariance, view.frame, view.features), found, motion)
        if new is not None:
            pose, covariance = new.pose_world_camera, new.covariance
        elif motion is Motion.MOVING:
            pose, covariance = self._pass_by(view, Node(pose, covariance), found)
        state = MotionState.INITIALIZING if hidden else self._state(motion, found)
        estimate = self._estimate(
            view.frame,
            keyframe,
            state,
            pose,
            view=view,
            inliers=found.inliers,
            parallax_deg=found.parallax_deg,
            reason=self._reason(state),
            covariance=covariance,
            step_covariance=found.covariance,
            is_keyframe=new is not None,
            moving=motion is Motion.MOVING,
        )
        if new is not None:
            self._trace.became_keyframe(_EXACT)
            self._correct_unit(keyframe)
        if hidden:
            self._fix_unit(keyframe if new is not None else None, pose)
            return without_pose(estimate)
        return estimate

    def _world_pose(self, keyframe: Keyframe, found: Track, motion: Motion) -> Array:
        """A camera that stands still keeps its pose; one that only turns keeps its position."""
        pose = normalized(keyframe.pose_world_camera @ inverse(found.pose_frame_keyframe))
        last = self._trace.last
        if last is None or motion is Motion.MOVING:
            return pose
        return last.pose if motion is Motion.STILL else make_pose(pose[:3, :3], last.pose[:3, 3])

    def _place_of_turn(self, keyframe: Keyframe, found: Track) -> Array:
        """Pose of a new keyframe whose image motion is that of a turn: as tracked if it has clearly moved, else held.

        Past a far or flat scene a small step looks like a turn. A keyframe at the place before that step would make all
        that follows longer or shorter; one that moves by noise would take its noise for a base line.
        """
        held = self._world_pose(keyframe, found, Motion.ROTATING)
        tracked = self._world_pose(keyframe, found, Motion.MOVING)
        unseen = self.config.static_px / self.camera.focal * found.near_depth
        step = np.linalg.norm(tracked[:3, 3] - held[:3, 3])
        return tracked if step > _CLEARLY * max(found.position_sigma, unseen) else held

    def _world_covariance(self, keyframe: Keyframe, found: Track) -> Array:
        position = inverse(found.pose_frame_keyframe)[:3, 3]
        return compose_covariance(keyframe.pose_world_camera, keyframe.covariance, position, found.covariance)

    def _state(self, motion: Motion, found: Track) -> MotionState:
        if motion is Motion.MOVING and found.position_sigma > _UNCERTAIN * found.near_depth:
            return MotionState.LOW_PARALLAX
        return _STATES[motion]

    def _reason(self, state: MotionState) -> str:
        return {
            MotionState.INITIALIZING: f"The length of a metre is not known yet from {self.scale.source}.",
            MotionState.STATIC: "The camera stands still: the pose is held.",
            MotionState.PURE_ROTATION: "The camera only turns: the position is held.",
            MotionState.LOW_PARALLAX: "Too little parallax to know the position well.",
        }.get(state, "")

    # -- keyframes -----------------------------------------------------------------------------------------------

    def _is_leaving(self, view: View, inliers: Any, rotation: Array) -> bool:
        """The rule: too few points left, another scale, too much image motion, or rotation since the keyframe."""
        kept = view.matches[inliers]
        flow = float(np.median(np.linalg.norm(kept.points1 - kept.points0, axis=1)))
        return bool(
            view.agreeing(inliers) < self.config.keyframe_inlier_ratio * view.keyframe.best_inliers
            or view.zoom != 1
            or flow > self.config.keyframe_flow * self.camera.width
            or rotation_angle_deg(rotation) > self.config.keyframe_rotation_deg
        )

    def _replace_keyframe(self, view: View, new: Keyframe, found: Track, motion: Motion) -> Keyframe | None:
        """Match the new keyframe's own keypoints back to the old one, so that both have depths of one unit.

        None when the new one has too few depths: the old one stays. A camera that turns on the spot must go on all the
        same.
        """
        old = view.keyframe
        matches, points = self._normalized(self._matches_back(view, new))
        good = triangulate_keyframe(new, matches, points, inverse(found.pose_frame_keyframe), self._threshold)
        hand_over_depths(old, new, found.pose_frame_keyframe, matches, points)
        if self.scale.source == "depth":
            measure_depths(new, matches, points, self.scale.max_depth_m)
        if len(new.depths.precise) < self.config.min_matches:
            if motion is not Motion.ROTATING:
                return None
            return self._first_keyframe(view.frame, view.features, new.pose_world_camera, new.covariance)
        self._window.link(old, new, view.matches, view.points, found.inliers)
        self._window.link(new, old, matches, points, good)
        self._window.cut_after(old)
        self._window.thin(old, _PASSING)
        self._window.add(new)
        self._known.add(old)
        if motion is Motion.MOVING and self._learn_calibration(matches[good], inverse(found.pose_frame_keyframe)):
            points = normalize(matches, self.refined_camera)
        if self._window.adjust():
            relative = inverse(new.pose_world_camera) @ old.pose_world_camera
            hand_over_depths(old, new, relative, matches, points)
        self._keyframe, self._reference = new, Reference(rotation=new.pose_world_camera[:3, :3])
        return new

    def _learn_calibration(self, matches: Matches, pose_1_0: Array) -> bool:
        """Take in what two keyframes say about the lens, and see with it what is known; True where it changes that."""
        before = self.refined_camera
        if not self.config.refine_calibration or not self._calibration.learn(matches, pose_1_0):
            return False
        change = partial(recorrected, before=before, after=self.refined_camera)
        self._window.move_points(change)
        keyframes = {id(each): each for each in (*self._window.keyframes, *self._known)}.values()
        DepthMap.move([each.depths for each in keyframes], change)
        return True

    def _matches_back(self, view: View, new: Keyframe) -> Matches:
        """Of the new keyframe with the old one, which is magnified where the frame was shrunk to match it."""
        old = view.keyframe
        if view.zoom == 1:
            return self.matcher.match_back(old.features, new.features)
        return self.matcher.match_features(new.features, self.matcher.extract(old.frame.image, 1 / view.zoom))

    def _pass_by(self, view: View, node: Node, found: Track) -> tuple[Array, Array]:
        """Keep what a frame sees of the keyframe for the window. Returns its pose and covariance.

        While there is one keyframe only, each frame's error enters the depths and from there the next frames, so they
        are adjusted together at once.
        """
        keyframe = view.keyframe
        self._window.link(keyframe, node, view.matches, view.points, found.inliers)
        self._window.thin(keyframe, _PASSING)
        if len(self._window.keyframes) == 1:
            self._window.adjust()
        return node.pose_world_camera, node.covariance

    # -- scale ---------------------------------------------------------------------------------------------------

    def _correct_unit(self, old: Keyframe) -> None:
        """Stretch the map, seen from the new keyframe, against its drift. The odometry does not jump."""
        assert self._keyframe is not None
        factor = self._unit.correct(self._keyframe.depths, self._travel(old.pose_world_camera))
        if factor is not None:
            self._stretch(self._keyframe.pose_world_camera, factor)

    def _fix_unit(self, old: Keyframe | None, pose: Array) -> None:
        """Once metres are known for the first time, turn the whole map into metres. No pose was published so far.

        The camera has moved from the keyframe to `pose`, or, at a new keyframe, to it from the `old` one.
        """
        assert self._keyframe is not None
        travel = -self._travel(pose) if old is None else self._travel(old.pose_world_camera)
        factor = self._unit.first_factor(self._keyframe.depths, travel)
        if factor is not None:
            self._stretch(self._start_pose, factor)
            self._trace.stretch(self._start_pose, factor)
            self._unit.metric = True

    def _travel(self, pose: Array) -> Array:
        """[3] the way from a pose to the keyframe, in the keyframe's axes."""
        assert self._keyframe is not None
        here = self._keyframe.pose_world_camera
        way: Array = here[:3, :3].T @ (here[:3, 3] - pose[:3, 3])
        return way

    def _stretch(self, center: Array, factor: float) -> None:
        nodes = {id(node): node for node in (*self._known, *self._window.nodes)}
        stretch(nodes.values(), center, factor)
        self._unit.stretched(factor)
        self._trace.rescale_speeds(factor)
        self._scene_depth *= factor

    # -- frames without a pose -----------------------------------------------------------------------------------

    def _without_pose(self, view: View, reason: str) -> Estimate:
        """Try past keyframes; where none helps, say so and publish no pose."""
        self._loss.add()
        sees = self._loss.judge(view.features, view.matches, self.config.min_matches)
        for keyframe, zoom in self._ways_back(view, sees):
            estimate = self._try_keyframe(keyframe, view, zoom)
            if estimate is not None:
                return estimate
        if self.config.restart_after and self._loss.seen >= self.config.restart_after:
            return self._start_again(view)
        return self._estimate(view.frame, view.keyframe, self._missing_state, None, view=view, reason=reason)

    def _ways_back(self, view: View, sees: bool) -> Iterator[tuple[Keyframe, float]]:
        """Keyframes that the frame may show after all, and by how much it is to be magnified for that."""
        if self.matcher.zooms and sees and len(view.keyframe.depths.precise) >= self.config.min_matches:
            for zoom in _ZOOMS[self._loss.frames % len(_ZOOMS)]:
                yield view.keyframe, zoom
        for keyframe in self._known.candidates(view.features, self._loss.frames):
            yield keyframe, 1.0

    def _start_again(self, view: View) -> Estimate:
        """Nothing known is in sight any more: a new map, at the last pose, whose error nobody knows."""
        last, calibration = self._trace.last, self._calibration
        self.reset(None if last is None else last.pose, _UNKNOWN)
        self._calibration = calibration  # of the same lens
        estimate = self._begin(view.frame, view.features)
        return replace(
            estimate, reason="Lost for long: a new map starts at the last pose. What lies between is unknown."
        )

    def _try_keyframe(self, keyframe: Keyframe, lost: View, zoom: float) -> Estimate | None:
        view = self._view(keyframe, lost.frame, lost.features, zoom)
        if len(view.matches) < self.config.min_matches:
            return None
        try:
            found = self._track(view)
        except GeometryError:
            return None
        if self._keyframe is not None and keyframe is not self._keyframe:
            self._known.exchange(keyframe, self._keyframe)
        self._keyframe = keyframe
        # The last pose is not the keyframe's: a camera that stands still beside it has come back to it.
        self._reference = Reference.unknown()
        return self._accept(view, found)

    # -- output --------------------------------------------------------------------------------------------------

    def _estimate(
        self,
        frame: Frame,
        keyframe: Keyframe,
        state: MotionState,
        pose: Array | None,
        *,
        view: View | None = None,
        inliers: Any = None,
        parallax_deg: float = 0.0,
        reason: str = "",
        covariance: Array | None = None,
        step_covariance: Array | None = None,
        is_keyframe: bool = False,
        moving: bool = False,
    ) -> Estimate:
        """`keyframe` is the one that the frame was matched with, and that step_covariance is relative to."""
        matches = Matches.empty() if view is None else view.matches
        estimate = Estimate(
            stamp_ns=frame.stamp_ns,
            state=state,
            pose_world_camera=pose,
            metric=self._unit.metric,
            matches=matches,
            inliers=np.zeros(len(matches), bool) if inliers is None else inliers,
            parallax_deg=parallax_deg,
            keyframe_stamp_ns=keyframe.frame.stamp_ns,
            is_keyframe=is_keyframe,
            reason=reason,
        )
        if pose is None:
            return estimate
        covariance = self._start_covariance if covariance is None else covariance
        step = Step(frame.stamp_ns, pose, _EXACT if step_covariance is None else step_covariance)
        twist, twist_covariance = self._trace.twist_to(step, keyframe.pose_world_camera[:3, :3])
        self._trace.add(step, moving)
        return replace(
            estimate,
            pose_covariance=covariance + self._unit_covariance(pose),
            twist_camera=twist,
            twist_covariance=twist_covariance,
        )

    def _unit_covariance(self, pose: Array) -> Array:
        """[6, 6] by which the covariance grows when the unit of a later map is a guess."""
        covariance = np.zeros((6, 6))
        if self._maps > 1 and not self._unit.metric:
            way = pose[:3, 3] - self._start_pose[:3, 3]
            covariance[:3, :3] = _GUESSED_UNIT_SIGMA**2 * np.outer(way, way)
        return covariance


_STATES = {
    Motion.STILL: MotionState.STATIC,
    Motion.ROTATING: MotionState.PURE_ROTATION,
    Motion.MOVING: MotionState.OK,
}


def without_pose(estimate: Estimate) -> Estimate:
    """The same without pose and twist."""
    return replace(estimate, pose_world_camera=None, pose_covariance=None, twist_camera=None, twist_covariance=None)
