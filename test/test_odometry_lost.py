# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Ways back after frames without a pose: at another scale, not by chance, and not before there is something to see."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from test_odometry import CAMERA, SIDEWAYS, FakeMatcher, World, cloud, frames, moved, relative, states, unit_of

from loftr_ros.config import MatcherConfig, OdometryConfig
from loftr_ros.errors import GeometryError
from loftr_ros.evaluation.sequences import open_recording
from loftr_ros.evaluation.trajectory import read_table
from loftr_ros.geometry.se3 import inverse, make_pose, rotation_angle_deg
from loftr_ros.matching import matcher_from_config
from loftr_ros.matching.loftr import LoFTRMatcher
from loftr_ros.odometry import VisualOdometry
from loftr_ros.odometry import odometry as module
from loftr_ros.odometry.loss import Loss
from loftr_ros.odometry.tracking import Track, refuse_doubtful
from loftr_ros.synthetic.room import make_room, room_camera, round_trip
from loftr_ros.types import Matches, MotionState


class OneScale(FakeMatcher):
    """Knows a point again only where it is about as large as before, or where the image is magnified until it is."""

    def extract(self, image: np.ndarray, zoom: float = 1.0):
        index = int(image[0, 0]) * 256 + int(image[0, 1])
        points, pixels = self.world.seen(index)
        shown = np.abs(pixels - [319.5, 239.5]).max(axis=1) < 320 / zoom
        size = zoom / self.world.local(index)[points[shown], 2]
        return points[shown], pixels[shown], size

    def match_features(self, features0, features1) -> Matches:
        matches = super().match_features(features0[:2], features1[:2])
        _, at0, at1 = np.intersect1d(features0[0], features1[0], return_indices=True)
        ratio = features1[2][at1] / features0[2][at0]
        return matches[np.flatnonzero((ratio > 0.8) & (ratio < 1.25))]


class CannotZoom(OneScale):
    def extract(self, image: np.ndarray):
        return super().extract(image)


BLACK = range(25, 57)


def ride(forward: bool) -> World:
    """A quarter of a metre a frame through a cloud of points; for 8 m nothing is seen."""
    points = cloud([-14, -6, 2], [14, 6, 60], 9000, seed=2)
    way = [0.25 * i if forward else 22 - 0.25 * i for i in range(72)]
    return World(points, [moved((0, 0, z)) for z in way], hidden=dict.fromkeys(BLACK, 12))


@pytest.mark.parametrize("forward", [True, False])
def test_a_camera_that_went_far_is_found_by_magnified_images(forward):
    world = ride(forward)
    truth = relative(world)
    odometry = VisualOdometry(OneScale(world), CAMERA)
    estimates = [odometry.process(frame) for frame in frames(world)]
    unit = unit_of(estimates[:25], truth[:25])
    # Of the first frame that sees anything again nothing is known, not even that it sees.
    assert all(e.pose_world_camera is None for e in estimates[25:58])
    assert estimates[58].is_keyframe, "the old keyframe is of no use any more"
    for e, t in zip(estimates[58:], truth[58:]):
        assert e.state is MotionState.OK, e.reason
        # of the 8 m between
        assert np.linalg.norm(e.pose_world_camera[:3, 3] / unit - t[:3, 3]) < 0.25
        assert rotation_angle_deg(e.pose_world_camera[:3, :3] @ t[:3, :3].T) < 0.3
    blind = VisualOdometry(CannotZoom(world), CAMERA)
    assert [blind.process(frame).state for frame in frames(world)][57:65] == [MotionState.LOST] * 8


def test_black_frames_are_not_magnified():
    """That would be two more images a frame, for nothing."""
    world = ride(True)
    asked = []

    class Watched(OneScale):
        def extract(self, image: np.ndarray, zoom: float = 1.0):
            asked.append(zoom)
            return super().extract(image, zoom)

    odometry = VisualOdometry(Watched(world), CAMERA)
    for frame in frames(world)[:57]:
        odometry.process(frame)
    assert asked == [1.0] * 57


COVERED = range(20, 60)


def covered(restart_after: int) -> list:
    """A camera that stops, and is covered for 40 frames."""
    way = [0.1 * min(i, 20) for i in range(75)]
    world = World(SIDEWAYS.points, [moved((x, 0, 0)) for x in way], hidden=dict.fromkeys(COVERED, 12))
    odometry = VisualOdometry(FakeMatcher(world), CAMERA, OdometryConfig(restart_after=restart_after))
    return [odometry.process(frame) for frame in frames(world)]


def test_a_covered_camera_keeps_its_map():
    estimates = covered(restart_after=5)
    assert states(estimates[40:60]) == ["LOST"] * 20
    assert not any("a new map starts" in e.reason for e in estimates)
    assert all(e.pose_world_camera is not None for e in estimates[60:])
    before, after = estimates[19].pose_world_camera, estimates[60].pose_world_camera
    step = np.linalg.norm(estimates[18].pose_world_camera[:3, 3] - before[:3, 3])
    assert np.linalg.norm(after[:3, 3] - before[:3, 3]) < 1.5 * step


def test_a_new_map_starts_once_the_camera_sees_another_place_for_long():
    walk = [moved((0.1 * i, 0, 0)) for i in range(20)]
    elsewhere = [moved((60 + 0.1 * i, 0, 0)) for i in range(20)]
    points = np.vstack([SIDEWAYS.points, SIDEWAYS.points + [60, 0, 0]])
    world = World(points, walk + elsewhere, hidden=dict.fromkeys(range(20, 24), 12))
    odometry = VisualOdometry(FakeMatcher(world), CAMERA, OdometryConfig(restart_after=6))
    estimates = [odometry.process(frame) for frame in frames(world)]
    # Four black frames do not count, nor does the first one after them: it has none to be compared with.
    starts = [i for i, e in enumerate(estimates) if "a new map starts" in e.reason]
    assert starts == [30]
    assert states(estimates)[-2:] == ["OK"] * 2
    assert np.sqrt(estimates[-1].pose_covariance[0, 0]) > 100, "nobody knows what lies between"


def a_track(inliers: int, sigma: float) -> tuple[Track, np.ndarray]:
    """100 matches, the first 50 with a depth of 5; the last ones are inliers."""
    agreeing = np.zeros(100, bool)
    agreeing[100 - inliers :] = True
    found = Track(
        pose_frame_keyframe=np.eye(4),
        covariance=np.diag([sigma**2] * 3 + [1e-6] * 3),
        inliers=agreeing,
        inverse_depth=np.full(100, 0.2),
        sigma=np.full(100, 0.01),
        parallax_deg=1.0,
    )
    return found, np.arange(100) < 50


def test_what_agrees_by_chance_is_no_way_back():
    """Matches without a depth agree with many motions. It is the known points that tell, and where the camera is."""
    refuse_doubtful(*a_track(58, sigma=0.1))
    with pytest.raises(GeometryError, match="Only 7 of 50 points of known depth"):
        refuse_doubtful(*a_track(57, sigma=0.1))
    with pytest.raises(GeometryError, match="uncertain"):
        refuse_doubtful(*a_track(80, sigma=0.2))
    found, _ = a_track(9, sigma=0.1)
    with pytest.raises(GeometryError, match="Only 9 of 100"):  # fewer than a tenth
        refuse_doubtful(found, np.ones(100, bool))


def test_only_after_a_loss_is_a_pose_doubted(monkeypatch):
    asked = []
    monkeypatch.setattr(module, "refuse_doubtful", lambda found, known: asked.append(int(known.sum())))
    world = World(SIDEWAYS.points, SIDEWAYS.poses[:30], hidden={20: 12, 21: 12})
    odometry = VisualOdometry(FakeMatcher(world), CAMERA)
    estimates = [odometry.process(frame) for frame in frames(world)]
    assert states(estimates)[19:23] == ["OK", "FEW_MATCHES", "FEW_MATCHES", "OK"]
    assert len(asked) == 1 and asked[0] > 100

    def doubt(*_):
        raise GeometryError("The position found again is too uncertain.")

    monkeypatch.setattr(module, "refuse_doubtful", doubt)
    odometry = VisualOdometry(FakeMatcher(world), CAMERA)
    estimates = [odometry.process(frame) for frame in frames(world)]
    assert states(estimates)[19] == "OK" and all(e.pose_world_camera is None for e in estimates[20:])


def test_the_least_number_of_matches_may_change_while_the_camera_is_lost():
    with_previous = [Matches.empty()]
    loss = Loss(lambda features0, features1: with_previous[0])
    ten = Matches(*(np.ones((10, 2)),) * 2, np.ones(10), np.arange(10), np.ones(10))
    assert loss.judge("a", ten, least=10) and not loss.judge("b", ten, least=11)
    with_previous[0] = ten
    assert loss.judge("c", Matches.empty(), least=10) and not loss.judge("d", Matches.empty(), least=11)
    assert loss.seen == 2


def test_a_car_is_found_again_after_ten_black_frames(data_folder):
    """At 1.2 m a frame it has gone 13 m then."""
    recording = open_recording(data_folder / "kitti06")
    table = read_table(recording.groundtruth, "ground truth")
    poses = [make_pose(Rotation.from_quat(row[4:]).as_matrix(), row[1:4]) for row in table]
    odometry = VisualOdometry(matcher_from_config(MatcherConfig(name="tiny")), recording.camera)
    estimates, truth = [], []
    for i, frame in zip(range(40), recording.frames()):
        black = 24 <= i < 34
        estimates.append(odometry.process(replace(frame, image=0 * frame.image) if black else frame))
        truth.append(poses[int(np.argmin(np.abs(table[:, 0] - 1e-9 * frame.stamp_ns)))])
    assert all(e.pose_world_camera is None for e in estimates[24:34])
    back = [i for i in range(34, 40) if estimates[i].pose_world_camera is not None]
    assert len(back) >= 5
    unit = _length(estimates[23].pose_world_camera, estimates[10].pose_world_camera) / _length(truth[23], truth[10])
    for i in back:
        way = _length(estimates[i].pose_world_camera, estimates[23].pose_world_camera) / unit
        assert way == pytest.approx(_length(truth[i], truth[23]), rel=0.1)
        turned = estimates[23].pose_world_camera[:3, :3].T @ estimates[i].pose_world_camera[:3, :3]
        assert rotation_angle_deg(turned.T @ (inverse(truth[23]) @ truth[i])[:3, :3]) < 1.0


@pytest.mark.parametrize(("size", "masked_share"), [((128, 96), 0.0), ((160, 120), 0.5)])
def test_little_images_and_masked_ones_are_not_lost(size, masked_share):
    """They have few matches, and need all of them."""
    camera, matcher = room_camera(*size), LoFTRMatcher("tiny", device="cpu")
    matcher.mask = np.full(size[::-1], 255, np.uint8)
    matcher.mask[round(size[1] * (1 - masked_share)) :] = 0
    odometry = VisualOdometry(matcher, camera)
    estimates = [odometry.process(frame) for frame in make_room(camera).frames(round_trip(120)[:30])]
    assert states(estimates).count("OK") >= 26
    assert sum(e.pose_world_camera is None for e in estimates) <= 2


def _length(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a[:3, 3] - b[:3, 3]))


def test_a_map_that_does_not_start_is_tried_anew_while_the_first_keyframe_is_still_in_sight(monkeypatch):
    """Later the two frames would have ever less in common, and it would never start."""
    world = World(SIDEWAYS.points, [moved((0.25 * i, 0, 0)) for i in range(24)])
    start, first = module.start_map, []

    def not_from_the_first(matches, *given):
        """Fails for the keyframe that the first match was with."""
        if not first:
            first.append(odometry.keyframe)
        if odometry.keyframe is first[0]:
            raise GeometryError("Two different motions explain the matches: the scene may be a plane.")
        return start(matches, *given)

    monkeypatch.setattr(module, "start_map", not_from_the_first)
    odometry = VisualOdometry(FakeMatcher(world), CAMERA)
    estimates = [odometry.process(frame) for frame in frames(world)]
    anew = next(i for i, e in enumerate(estimates) if e.keyframe_stamp_ns != estimates[0].keyframe_stamp_ns)
    kept = len(estimates[anew - 1].matches)
    assert kept > 0.4 * len(estimates[1].matches), "much is still in sight"
    assert states(estimates)[1:anew] == ["INITIALIZING"] * (anew - 1)
    assert states(estimates)[-2:] == ["OK"] * 2
