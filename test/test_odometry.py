# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""The odometry on trajectories of known points: poses, states, scale, covariance, and what it refuses.

A fake matcher knows the 3D points and where they are seen from each frame, with noise; the number of the frame is
written into the image's first pixels. So nothing here depends on how well a real matcher works.
"""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from support import pinhole

from loftr_ros.config import OdometryConfig, ScaleConfig
from loftr_ros.geometry.se3 import (
    inverse,
    make_pose,
    rotation_angle_deg,
    rotation_from_vector,
    vector_from_rotation,
)
from loftr_ros.odometry import VisualOdometry
from loftr_ros.types import Estimate, Frame, Matches, MotionState

CAMERA = pinhole(640, 480, 500.0)
PERIOD_NS = 100_000_000
NOISE_PX = 0.2


@dataclass
class World:
    """Points, and the poses of the camera among them. `hidden` frames see only so many points."""

    points: np.ndarray
    poses: list[np.ndarray]
    hidden: dict[int, int] = field(default_factory=dict)
    noise: float = NOISE_PX

    def image(self, index: int) -> np.ndarray:
        image = np.zeros((CAMERA.height, CAMERA.width), np.uint8)
        image[0, :2] = divmod(index, 256)
        return image

    def local(self, index: int) -> np.ndarray:
        pose = inverse(self.poses[index])
        return self.points @ pose[:3, :3].T + pose[:3, 3]

    def depth(self, index: int) -> np.ndarray:
        """A depth image with the points' depths at their rounded pixels."""
        depth = np.zeros((CAMERA.height, CAMERA.width), np.float32)
        seen, pixels = self.seen(index)
        column, row = np.rint(pixels).astype(int).T
        inside = (column < CAMERA.width) & (row < CAMERA.height) & (column >= 0) & (row >= 0)
        depth[row[inside], column[inside]] = self.local(index)[seen[inside], 2]
        return depth

    def seen(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Which points a frame sees, and at which pixels: the same ones every time."""
        local = self.local(index)
        front = np.flatnonzero(local[:, 2] > 0.3)
        pixels = CAMERA.project(local[front])
        inside = ((pixels >= 0) & (pixels < [CAMERA.width, CAMERA.height])).all(axis=1)
        front, pixels = front[inside], pixels[inside]
        rng = np.random.default_rng(index)
        pixels = pixels + self.noise * rng.standard_normal(pixels.shape)
        count = self.hidden.get(index, 400)
        chosen = (
            np.sort(rng.permutation(len(front))[:count])
            if len(front) > count and index in self.hidden
            else slice(None)
        )
        return front[chosen], pixels[chosen]


class FakeMatcher:
    name = "fake"

    def __init__(self, world: World) -> None:
        self.world = world

    def extract(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.world.seen(int(image[0, 0]) * 256 + int(image[0, 1]))

    def match_features(self, features0, features1) -> Matches:
        common, at0, at1 = np.intersect1d(features0[0], features1[0], return_indices=True)
        count = len(common)
        return Matches(
            features0[1][at0], features1[1][at1], np.ones(count), common, np.full(count, 1.5 * NOISE_PX)
        )

    def match(self, image0, image1) -> Matches:
        return self.match_features(self.extract(image0), self.extract(image1))


def frames(world: World, depth: bool = False, distances: list[float] | None = None) -> list[Frame]:
    return [
        Frame(
            1_000_000_000 + i * PERIOD_NS,
            world.image(i),
            world.depth(i) if depth else None,
            distances[i] if distances else None,
        )
        for i in range(len(world.poses))
    ]


def run(
    world: World, config: OdometryConfig | None = None, scale: ScaleConfig | None = None, **inputs
) -> list[Estimate]:
    odometry = VisualOdometry(FakeMatcher(world), CAMERA, config, scale)
    return [odometry.process(frame) for frame in frames(world, **inputs)]


def cloud(low, high, count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(low, high, (count, 3))


def moved(position, rotation=(0.0, 0.0, 0.0)) -> np.ndarray:
    return make_pose(rotation_from_vector(np.array(rotation, dtype=float)), np.array(position, dtype=float))


def relative(world: World) -> list[np.ndarray]:
    """The true poses in the first camera's frame."""
    first = inverse(world.poses[0])
    return [first @ pose for pose in world.poses]


def known(estimates: list[Estimate], truth: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Estimated and true poses of the frames whose motion is known: while it starts, the position is only held."""
    with_pose = [(e, t) for e, t in zip(estimates, truth) if e.pose_world_camera is not None]
    return [(e.pose_world_camera, t) for e, t in with_pose if e.state is not MotionState.INITIALIZING]


def unit_of(estimates: list[Estimate], truth: list[np.ndarray]) -> float:
    """Map units per metre, by least squares: both start at the same pose."""
    pairs = [(e[:3, 3], t[:3, 3]) for e, t in known(estimates, truth)]
    return sum(e @ t for e, t in pairs) / sum(t @ t for _, t in pairs)


def errors(estimates: list[Estimate], truth: list[np.ndarray], unit: float) -> tuple[float, float]:
    """Largest position error in metres and rotation error in degrees of the frames that have a pose."""
    pairs = known(estimates, truth)
    position = max(np.linalg.norm(e[:3, 3] / unit - t[:3, 3]) for e, t in pairs)
    return position, max(rotation_angle_deg(e[:3, :3] @ t[:3, :3].T) for e, t in pairs)


def states(estimates: list[Estimate]) -> list[str]:
    return [e.state.value for e in estimates]


FORWARD = World(cloud([-10, -4, 1], [10, 3, 34], 3500), [moved((0, 0, 0.25 * i)) for i in range(50)])
SIDEWAYS = World(cloud([-6, -4, 4], [12, 4, 9], 1600), [moved((0.1 * i, 0, 0)) for i in range(50)])
WOBBLE = World(
    cloud([-6, -5, 3], [6, 5, 9], 1500),
    [
        moved(
            (0.5 * np.sin(0.14 * i), 0.2 * np.sin(0.23 * i), 0.012 * i),
            (0.04 * np.sin(0.2 * i), 0.1 * np.sin(0.11 * i), 0.03 * np.sin(0.3 * i)),
        )
        for i in range(60)
    ],
)
TRAJECTORIES = {"forward": FORWARD, "sideways": SIDEWAYS, "wobble": WOBBLE}


def posed(estimates: list[Estimate]) -> list[Estimate]:
    """Those with a pose: before the map starts, a moving camera has none."""
    return [e for e in estimates if e.pose_world_camera is not None]


@pytest.fixture(scope="module", params=TRAJECTORIES)
def journey(request) -> tuple[World, list[Estimate]]:
    world = TRAJECTORIES[request.param]
    return world, run(world)


def test_known_trajectories_are_recovered(journey):
    world, estimates = journey
    truth = relative(world)
    way = sum(np.linalg.norm(b[:3, 3] - a[:3, 3]) for a, b in zip(truth, truth[1:]))
    position, rotation = errors(estimates, truth, unit_of(estimates, truth))
    assert position < 0.02 * way and rotation < 0.5


def test_every_frame_has_a_pose_and_most_are_ok(journey):
    _, estimates = journey
    assert all((e.pose_world_camera is None) == (e.state is MotionState.INITIALIZING) for e in estimates[1:])
    assert states(estimates)[0] == "INITIALIZING" and states(estimates).count("OK") > 0.85 * len(estimates)
    assert not any(e.metric for e in estimates)
    assert all(e.reason.endswith(".") for e in estimates if e.state is not MotionState.OK)


def test_keyframes_are_replaced_but_not_at_every_frame(journey):
    _, estimates = journey
    count = sum(e.is_keyframe for e in estimates)
    assert 2 <= count < 0.6 * len(estimates)
    stamps = {e.stamp_ns for e in estimates if e.is_keyframe}
    assert all(e.keyframe_stamp_ns in stamps for e in estimates)


class Hurried(FakeMatcher):
    """Looks at no more than `most` matches, others each time; `tells` which share of all that is.

    It prefers those that are wanted, if it `listens`.
    """

    def __init__(self, world: World, most: int, tells: bool = True, listens: bool = True) -> None:
        super().__init__(world)
        self._most, self._tells, self._listens, self._calls = most, tells, listens, 0
        self.wanted: list[np.ndarray | None] = []

    def match_features(self, features0, features1, wanted=None) -> Matches:
        matches = super().match_features(features0, features1)
        self._calls += 1
        self.wanted.append(wanted)
        order = np.random.default_rng(self._calls).permutation(len(matches))
        if self._listens and wanted is not None:
            order = order[np.argsort(~np.isin(matches.index0[order], wanted), kind="stable")]
        kept = np.sort(order[: self._most])
        share = len(kept) / max(len(matches), 1) if self._tells else 1.0
        return replace(matches[kept], share=share)


def test_keyframes_do_not_depend_on_how_many_matches_the_matcher_looks_at():
    """They are replaced when the scene leaves the image, which a matcher that always finds as many would not show."""
    config = OdometryConfig(keyframe_flow=1.0, keyframe_inlier_ratio=0.8)

    def keyframes(matcher: FakeMatcher) -> list[int]:
        odometry = VisualOdometry(matcher, CAMERA, config)
        return [i for i, frame in enumerate(frames(SIDEWAYS)) if odometry.process(frame).is_keyframe]

    every = keyframes(FakeMatcher(SIDEWAYS))
    assert len(every) == 3
    np.testing.assert_allclose(keyframes(Hurried(SIDEWAYS, 150)), every, atol=2)
    assert len(keyframes(Hurried(SIDEWAYS, 150, tells=False))) < len(every)


def test_a_matcher_that_chooses_is_told_which_points_have_depths():
    errors = {}
    for listens in (True, False):
        matcher = Hurried(SIDEWAYS, 60, listens=listens)
        odometry = VisualOdometry(matcher, CAMERA)
        told = []
        for frame in frames(SIDEWAYS):
            known = None if odometry.keyframe is None else odometry.keyframe.depths.precise
            matcher.wanted.clear()
            odometry.process(frame)
            told += [(known, matcher.wanted[0])] if matcher.wanted else []
        for known, wanted in told:
            np.testing.assert_array_equal(wanted, known)
        assert max(len(wanted) for _, wanted in told) >= 40
        points = odometry.keyframe.depths
        errors[listens] = np.median(points.relative_sigma(points.precise))
    assert errors[True] < 0.8 * errors[False]  # the same points again and again


class WayBack(FakeMatcher):
    """Has a way back that is shorter than matching once more."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.before, self.returned = (None, None), 0

    def match_features(self, features0, features1) -> Matches:
        self.before = (features0, features1)
        return super().match_features(features0, features1)

    def match_back(self, features0, features1) -> Matches:
        assert self.before[0] is features0 and self.before[1] is features1
        self.returned += 1
        return super().match_features(features1, features0)


def test_new_keyframes_are_matched_by_the_way_back():
    def estimates(matcher: FakeMatcher) -> list[Estimate]:
        odometry = VisualOdometry(matcher, CAMERA)
        return [odometry.process(frame) for frame in frames(SIDEWAYS)]

    matcher = WayBack(SIDEWAYS)
    plain, shorter = estimates(FakeMatcher(SIDEWAYS)), estimates(matcher)
    assert matcher.returned == sum(e.is_keyframe for e in shorter) - 1 > 1  # the first has none before it
    for a, b in zip(plain, shorter):
        assert a.state is b.state and (a.pose_world_camera is None) == (b.pose_world_camera is None)
        if a.pose_world_camera is not None:
            np.testing.assert_array_equal(a.pose_world_camera, b.pose_world_camera)


def test_rotations_stay_rotations(journey):
    for e in posed(journey[1]):
        rotation = e.pose_world_camera[:3, :3]
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)


def test_covariances_are_symmetric_and_positive_definite(journey):
    for e in posed(journey[1])[1:]:
        for covariance in (e.pose_covariance, e.twist_covariance):
            np.testing.assert_allclose(covariance, covariance.T, rtol=1e-6, atol=1e-18)
            assert np.linalg.eigvalsh((covariance + covariance.T) / 2).min() > 0
            assert np.isfinite(covariance).all()


@pytest.mark.parametrize("name", TRAJECTORIES)
def test_uncertainty_is_never_below_that_of_the_keyframe(name):
    """The keyframe's own at that moment: later frames make it smaller."""
    world = TRAJECTORIES[name]
    odometry, compared = VisualOdometry(FakeMatcher(world), CAMERA), 0
    for frame in frames(world):
        e = odometry.process(frame)
        keyframe = odometry.keyframe
        if e.pose_covariance is None or keyframe.frame.stamp_ns != e.keyframe_stamp_ns or e.state.value != "OK":
            continue
        if len(odometry._window.keyframes) == 1 or e.is_keyframe:
            continue  # adjusted together with its keyframe, which is fixed exactly
        compared += 1
        assert np.linalg.eigvalsh(e.pose_covariance[3:, 3:] - keyframe.covariance[3:, 3:]).min() > 0
    assert compared > 5


def test_uncertainty_of_the_position_grows_along_the_way():
    estimates = posed(run(FORWARD))
    first, last = (
        np.sqrt(np.trace(e.pose_covariance[:3, :3]))
        for e in (next(e for e in estimates[1:] if e.is_keyframe), estimates[-1])
    )
    assert last > first


def test_covariance_is_that_of_the_errors():
    """Normalized errors squared of 6 numbers, over runs along random ways, with lengths fitted.

    Their mean would be 6 for matches whose errors are as they seem. Those here are independent, and the odometry
    expects real ones, which are not: it says deviations of about twice the errors.
    """
    values = []
    for seed in range(10):
        world = World(cloud([-5, -4, -5], [5, 4, 9], 6000, seed), random_way(seed))
        estimates, truth = run(world), relative(world)
        pairs = known(estimates, truth)
        unit = sum(e[:3, 3] @ t[:3, 3] for e, t in pairs) / sum(t[:3, 3] @ t[:3, 3] for _, t in pairs)
        for at in (len(estimates) // 2, len(estimates) - 1):
            pose, true = estimates[at].pose_world_camera, truth[at]
            turn = vector_from_rotation(pose[:3, :3] @ true[:3, :3].T)
            error = np.concatenate([pose[:3, 3] - unit * true[:3, 3], turn])
            values.append(error @ np.linalg.solve(estimates[at].pose_covariance, error))
    assert 0.5 < np.mean(values) < 6.0


def random_way(seed: int, count: int = 25) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    step, turn = rng.uniform(-1, 1, 3) * [0.08, 0.03, 0.08], rng.uniform(-0.015, 0.015, 3)
    return [moved(step * i, turn * i) for i in range(count)]


def test_twist_is_the_true_velocity(journey):
    world, estimates = journey
    truth, seconds = relative(world), PERIOD_NS * 1e-9
    unit = unit_of(estimates, truth)
    start = next(i for i, e in enumerate(estimates) if e.state is MotionState.OK) + 1
    linear, angular, speed = [], [], []
    for i in range(start, len(truth)):
        step = truth[i][:3, :3].T @ (truth[i][:3, 3] - truth[i - 1][:3, 3]) / seconds
        turn = truth[i][:3, :3].T @ vector_from_rotation(truth[i][:3, :3] @ truth[i - 1][:3, :3].T) / seconds
        linear.append(np.linalg.norm(estimates[i].twist_camera[:3] / unit - step))
        angular.append(np.degrees(np.linalg.norm(estimates[i].twist_camera[3:] - turn)))
        speed.append(np.linalg.norm(step))
    assert np.median(linear) < 0.1 * np.median(speed) and np.median(angular) < 1.0


def test_the_same_frames_give_the_same_bits(journey):
    world, first = journey
    for one, two in zip(first, run(world)):
        assert (one.stamp_ns, one.state, one.reason, one.is_keyframe) == (
            two.stamp_ns,
            two.state,
            two.reason,
            two.is_keyframe,
        )
        for name in ("pose_world_camera", "pose_covariance", "twist_camera", "twist_covariance", "inliers"):
            a, b = getattr(one, name), getattr(two, name)
            assert (a is None and b is None) or a.tobytes() == b.tobytes()


def test_reset_starts_anew_at_the_given_pose():
    odometry = VisualOdometry(FakeMatcher(SIDEWAYS), CAMERA)
    some = frames(SIDEWAYS)[:12]
    first = [odometry.process(frame) for frame in some]
    start = moved((5, 6, 7), (0.1, 0.2, 0.3))
    odometry.reset(start)
    second = [odometry.process(frame) for frame in some]
    np.testing.assert_array_equal(second[0].pose_world_camera, start)
    np.testing.assert_allclose(second[-1].pose_world_camera, start @ first[-1].pose_world_camera, atol=1e-6)


def test_standing_still_is_static_and_the_pose_is_held():
    way = [0.1 * i for i in range(15)] + [1.4] * 12 + [1.4 + 0.1 * i for i in range(1, 10)]
    world = World(SIDEWAYS.points, [moved((x, 0, 0)) for x in way])
    estimates = run(world)
    still = estimates[16:27]
    assert {e.state.value for e in still} == {"STATIC"}
    for e in still:
        np.testing.assert_array_equal(e.pose_world_camera, still[0].pose_world_camera)
        np.testing.assert_array_equal(e.twist_camera, np.zeros(6))
    assert states(estimates)[29:] == ["OK"] * 7
    truth = relative(world)
    assert errors(estimates, truth, unit_of(estimates, truth))[0] < 0.05


def test_a_camera_that_never_moves_stays_where_it_is():
    estimates = run(World(SIDEWAYS.points, [moved((0, 0, 0))] * 10))
    assert set(states(estimates)[1:]) == {"STATIC"}
    for e in estimates:
        np.testing.assert_array_equal(e.pose_world_camera[:3, 3], np.zeros(3))
        assert rotation_angle_deg(e.pose_world_camera[:3, :3]) < 0.05


def test_pure_rotation_keeps_the_position():
    walk = [moved((0.1 * i, 0, 0)) for i in range(15)]
    turn = [moved((1.4, 0, 0), (0, 0.02 * i, 0)) for i in range(1, 16)]
    world = World(cloud([-12, -5, 2], [12, 5, 12], 5000), walk + turn)
    estimates = run(world)
    turning = estimates[15:]
    assert states(turning).count("PURE_ROTATION") >= 12
    unit = unit_of(estimates, relative(world))
    held = np.array([e.pose_world_camera[:3, 3] / unit for e in turning])
    assert np.abs(held - held[0]).max() < 0.03
    assert errors(estimates, relative(world), unit)[1] < 0.5


def test_pure_rotation_at_the_start_is_followed():
    world = World(
        cloud([-12, -5, 2], [12, 5, 12], 5000), [moved((0, 0, 0), (0, 0.03 * i, 0)) for i in range(15)]
    )
    estimates = run(world)
    assert set(states(estimates)[1:]) == {"PURE_ROTATION"}
    for e, true in zip(estimates, relative(world)):
        assert rotation_angle_deg(e.pose_world_camera[:3, :3] @ true[:3, :3].T) < 0.3
        np.testing.assert_allclose(e.pose_world_camera[:3, 3], np.zeros(3), atol=1e-12)


TURN = 40  # frames


@pytest.fixture(scope="module")
def corner() -> tuple[World, list[Estimate]]:
    """The camera walks, turns by 90 degrees on the spot, and walks on: what it sees then, it never saw before."""
    walk = [moved((0.08 * i, 0, 0.03 * i)) for i in range(15)]
    x, z = walk[-1][0, 3], walk[-1][2, 3]
    turn = [moved((x, 0, z), (0, np.pi / 2 * (i + 1) / TURN, 0)) for i in range(TURN)]
    on = [moved((x + 0.03 * i, 0, z - 0.08 * i), (0, np.pi / 2, 0)) for i in range(1, 20)]
    world = World(cloud([-14, -6, -12], [14, 6, 14], 14000), [*walk, *turn, *on])
    return world, run(world)


def test_a_turn_on_the_spot_keeps_the_position_beyond_all_that_has_depths(corner):
    world, estimates = corner
    truth = relative(world)
    turning = range(16, 15 + TURN)
    assert [estimates[i].state.value for i in turning].count("PURE_ROTATION") >= 0.9 * len(turning)
    held = estimates[15].pose_world_camera[:3, 3]
    for i in turning:
        pose = estimates[i].pose_world_camera
        assert np.linalg.norm(pose[:3, 3] - held) < 0.02  # of the scene's median depth
        assert rotation_angle_deg(pose[:3, :3] @ truth[i][:3, :3].T) < 1.0


def test_after_the_turn_a_new_map_goes_on_from_there(corner):
    world, estimates = corner
    after = estimates[15 + TURN :]
    # Until the new map starts the motion is seen but not its length.
    blind = [e for e in after if e.state is MotionState.LOW_PARALLAX]
    assert all(e.pose_world_camera is not None for e in after)
    assert all(e.reason.endswith(".") for e in after if e.state is not MotionState.OK)
    assert states(after[-8:]) == ["OK"] * 8
    truth = relative(world)
    walked = estimates[-1].pose_world_camera[:3, 3] - estimates[14 + TURN].pose_world_camera[:3, 3]
    true = truth[-1][:3, 3] - truth[14 + TURN][:3, 3]
    assert walked @ true / np.linalg.norm(walked) / np.linalg.norm(true) > np.cos(np.radians(5))
    # Its unit is a guess, and the covariance says so: half of the way or more is possible.
    along = walked / np.linalg.norm(walked)
    deviation = np.sqrt(along @ estimates[-1].pose_covariance[:3, :3] @ along)
    assert deviation > 0.4 * np.linalg.norm(walked)
    assert len(blind) < 10


def test_bursts_of_bad_frames_cause_no_jump_and_are_recovered_from_at_once():
    """30 % of the frames see nothing, up to 10 in a row."""
    rng = np.random.default_rng(3)
    bad: set[int] = set()
    while len(bad) < 0.3 * 60:
        start = int(rng.integers(10, 55))
        bad |= set(range(start, min(start + int(rng.integers(1, 11)), 59)))
    world = World(WOBBLE.points, WOBBLE.poses, hidden=dict.fromkeys(bad, 12))
    estimates, truth = run(world), relative(world)
    after_good = 0
    for i, e in enumerate(estimates):
        after_good = 0 if i in bad else after_good + 1
        assert i not in bad or e.pose_world_camera is None
        assert after_good < 5 or i < 10 or e.pose_world_camera is not None
    assert errors(estimates, truth, unit_of(estimates, truth))[0] < 0.05


LOST_FRAMES = range(20, 35)


@pytest.fixture(scope="module")
def blinded() -> tuple[World, list[Estimate]]:
    """The camera stops; something is held before the lens for 15 frames; then it goes on."""
    way = [min(i, 20) * 0.1 for i in range(36)] + [2.0 + 0.1 * i for i in range(1, 10)]
    world = World(SIDEWAYS.points, [moved((x, 0, 0)) for x in way], hidden=dict.fromkeys(LOST_FRAMES, 12))
    return world, run(world, OdometryConfig(lost_after=10))


def test_few_matches_give_no_pose_then_lost(blinded):
    _, estimates = blinded
    dark = estimates[20:35]
    assert states(dark) == ["FEW_MATCHES"] * 9 + ["LOST"] * 6
    for e in dark:
        assert e.pose_world_camera is None and e.twist_camera is None and e.pose_covariance is None
        assert "matches" in e.reason and e.reason.endswith(".")


def test_the_pose_comes_back_without_a_jump(blinded):
    world, estimates = blinded
    assert (
        all(e.pose_world_camera is not None for e in estimates[35:]) and states(estimates)[-8:] == ["OK"] * 8
    )
    truth = relative(world)
    assert errors(estimates, truth, unit_of(estimates[:20], truth[:20]))[0] < 0.06


class Forgetful(FakeMatcher):
    """Finds nothing of the image with the features `forgotten`."""

    forgotten = None

    def match_features(self, features0, features1) -> Matches:
        return (
            Matches.empty() if features0 is self.forgotten else super().match_features(features0, features1)
        )


def test_coming_back_to_an_old_keyframe_gives_its_place():
    """The present keyframe is lost for good, and the camera reappears exactly where an earlier one was taken."""
    walk = [moved((0.1 * i, 0, 0)) for i in range(24)]
    old = [i for i, e in enumerate(run(World(SIDEWAYS.points, walk))) if e.is_keyframe][-2]
    far = [moved((60, 0, 0))] * 3  # sees nothing of the map
    world = World(SIDEWAYS.points, walk + far + [walk[old]] * 6)
    matcher = Forgetful(world)
    odometry = VisualOdometry(matcher, CAMERA, OdometryConfig(max_speed_ratio=1000.0))
    estimates = []
    for i, frame in enumerate(frames(world)):
        if i == len(walk):
            matcher.forgotten = odometry.keyframe.features
        estimates.append(odometry.process(frame))
    assert all(e.pose_world_camera is None for e in estimates[24:27])
    unit = unit_of(estimates[:24], relative(world)[:24])
    back = [e for e in estimates[27:] if e.pose_world_camera is not None]
    assert len(back) >= 2
    for e in back:
        assert np.linalg.norm(e.pose_world_camera[:3, 3] / unit - walk[old][:3, 3]) < 0.05


class Counting(FakeMatcher):
    """Knows which of the features that it made are still in memory."""

    class Features(list):
        """A list that can be referenced weakly."""

        __hash__ = object.__hash__

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.alive: weakref.WeakSet[Counting.Features] = weakref.WeakSet()

    def extract(self, image: np.ndarray) -> Counting.Features:
        features = self.Features(super().extract(image))
        self.alive.add(features)
        return features


@pytest.fixture
def no_collector():
    """Only counting references frees memory."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_features_that_nobody_needs_are_let_go_at_once(no_collector):
    """Megabytes a frame: they must not wait for the collector of cycles. Walk, loss, return, a new map, the end."""
    walk = [moved((0.1 * i, 0, 0)) for i in range(24)]
    far = [moved((60, 0, 0))] * 2
    again = [moved((0.1 * i, 0, 0)) for i in range(4, 24)]
    points = np.vstack([SIDEWAYS.points, SIDEWAYS.points + [60, 0, 0]])
    world = World(points, [*walk, *far, *again, *far, *far, *far, *walk])
    matcher = Counting(world)
    config = OdometryConfig(
        max_speed_ratio=1000.0, keyframe_flow=0.03, keyframes_kept=2, window=3, lost_after=2, restart_after=4
    )
    odometry = VisualOdometry(matcher, CAMERA, config)
    estimates = []
    for frame in frames(world):
        estimates.append(odometry.process(frame))
        needed = config.keyframes_kept + config.window + 1
        assert len(matcher.alive) <= needed, (len(estimates), estimates[-1].state)
    assert sum(e.is_keyframe for e in estimates) > 3 * needed
    assert {MotionState.LOST, MotionState.OK} <= {e.state for e in estimates}
    assert any("a new map starts" in e.reason for e in estimates)
    del odometry  # as the node does at ~/reset
    assert len(matcher.alive) == 0


def test_a_jump_is_refused():
    """For three frames the matcher sees a picture from elsewhere: the pose is withheld, and then goes on as before."""
    poses = [moved((0.05 * i, 0, 0)) for i in range(40)]
    for i in (25, 26, 27):
        poses[i] = moved((0.05 * i + 3.0, 0, 0))
    world = World(cloud([-8, -4, 4], [10, 4, 9], 3000), poses)
    estimates = run(world)
    assert [e.pose_world_camera is None for e in estimates[25:28]] == [True] * 3
    assert any("jump" in e.reason for e in estimates[25:28])
    assert all(e.pose_world_camera is not None for e in estimates[28:])
    positions = [e.pose_world_camera[:3, 3] for e in estimates[29:]]
    steps = [np.linalg.norm(b - a) for a, b in zip(positions, positions[1:])]
    assert max(steps) < 3 * np.median(steps)


def test_too_few_matches_from_the_start_give_no_pose():
    world = World(SIDEWAYS.points, SIDEWAYS.poses[:8], hidden=dict.fromkeys(range(1, 8), 10))
    estimates = run(world)
    assert [e.pose_world_camera is None for e in estimates] == [False] + [True] * 7
    assert set(states(estimates)) == {"INITIALIZING"}


# -- scale -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sideways", "wobble"])
def test_depth_images_make_it_metric_from_the_first_frame(name):
    world = TRAJECTORIES[name]
    estimates = run(world, scale=ScaleConfig(source="depth"), depth=True)
    truth = relative(world)
    assert all(e.metric for e in estimates) and states(estimates)[0] == "OK"
    assert unit_of(estimates, truth) == pytest.approx(1.0, abs=0.02)
    assert errors(estimates, truth, 1.0)[0] < 0.1


def test_depths_are_measured_wherever_a_keyframe_is_matched():
    """Not only where it is matched with itself, which for a hurried matcher are some of its keypoints."""
    odometry = VisualOdometry(Hurried(SIDEWAYS, 100, listens=False), CAMERA, scale=ScaleConfig(source="depth"))
    for frame in frames(SIDEWAYS, depth=True)[:4]:
        estimate = odometry.process(frame)
        assert estimate.metric and estimate.state is MotionState.OK
    assert odometry.keyframe.frame.stamp_ns == 1_000_000_000
    measured = odometry.keyframe.measured.precise
    assert len(measured) > 200
    depth = 1.0 / odometry.keyframe.measured.lookup(measured)[0]
    right = np.isclose(depth, SIDEWAYS.local(0)[measured, 2], rtol=1e-4)
    assert right.mean() > 0.98  # two points may lie in one pixel of the depth image


def wheels(world: World) -> list[float]:
    truth = relative(world)
    return [0.0] + [float(np.linalg.norm(b[:3, 3] - a[:3, 3])) for a, b in zip(truth, truth[1:])]


def metric_steps(world: World, estimates: list[Estimate]) -> tuple[float, float]:
    """Length of the way since the scale is known: estimated and true."""
    truth = relative(world)
    start = next(i for i, e in enumerate(estimates) if e.metric) + 1
    last = len(truth) - 1
    return (
        float(
            np.linalg.norm(
                estimates[last].pose_world_camera[:3, 3] - estimates[start].pose_world_camera[:3, 3]
            )
        ),
        float(np.linalg.norm(truth[last][:3, 3] - truth[start][:3, 3])),
    )


def test_wheels_give_the_scale():
    estimates = run(SIDEWAYS, scale=ScaleConfig(source="odometry"), distances=wheels(SIDEWAYS))
    start = next(i for i, e in enumerate(estimates) if e.metric)
    assert (
        start < 20
        and all(e.metric for e in estimates[start:])
        and not any(e.metric for e in estimates[:start])
    )
    assert {e.state.value for e in estimates[:start]} == {"INITIALIZING"}
    estimated, true = metric_steps(SIDEWAYS, estimates)
    assert estimated == pytest.approx(true, rel=0.05)


def test_way_before_the_first_frame_does_not_count():
    plain = run(SIDEWAYS, scale=ScaleConfig(source="odometry"), distances=wheels(SIDEWAYS))
    driven = [5.0, *wheels(SIDEWAYS)[1:]]
    estimates = run(SIDEWAYS, scale=ScaleConfig(source="odometry"), distances=driven)
    np.testing.assert_array_equal(estimates[-1].pose_world_camera, plain[-1].pose_world_camera)


def test_wheels_of_frames_without_a_pose_count():
    """Half of the frames are blind: the way of a step that spans several frames is theirs together."""
    world = World(SIDEWAYS.points, SIDEWAYS.poses, hidden=dict.fromkeys(range(8, 50, 2), 12))
    estimates = run(world, scale=ScaleConfig(source="odometry"), distances=wheels(world))
    estimated, true = metric_steps(World(world.points, world.poses), estimates[:-1] + [last_known(estimates)])
    assert estimated == pytest.approx(true, rel=0.08)


def last_known(estimates: list[Estimate]) -> Estimate:
    return next(e for e in reversed(estimates) if e.pose_world_camera is not None)


def test_camera_height_over_a_ground_plane_gives_the_scale():
    height = 1.6
    ground = cloud([-8, height, 2], [8, height, 40], 5000, seed=1)
    walls = cloud([-12, -4, 2], [12, 1, 45], 1500, seed=2)
    world = World(np.concatenate([ground, walls]), [moved((0, 0, 0.7 * i)) for i in range(40)])
    scale = ScaleConfig(source="camera_height", camera_height_m=height)
    estimates = run(world, scale=scale)
    assert sum(e.metric for e in estimates) >= 10
    estimated, true = metric_steps(world, estimates)
    assert estimated == pytest.approx(true, rel=0.08)


# -- real frames -----------------------------------------------------------------------------------------------------


def test_kitti_with_sift(data_folder):
    from loftr_ros.evaluation.metrics import evaluate
    from loftr_ros.evaluation.replay import replay, summary
    from loftr_ros.evaluation.sequences import open_recording
    from loftr_ros.matching import load_matcher

    recording = open_recording(data_folder / "kitti06")
    result = replay(recording, VisualOdometry(load_matcher("sift", max_keypoints=1500), recording.camera))
    found, _ = evaluate(result.trajectory, recording.groundtruth)
    counts = summary(result)
    assert counts["frames"] == counts["poses"] == 51 and counts["states"]["OK"] >= 48
    assert not counts["metric"], "no scale may come from the ground truth"
    assert found.ate_sim3_rmse_m < 0.25 and found.rpe_rotation_rmse_deg < 0.15
    assert found.path_length_m == pytest.approx(60, abs=3)


def test_a_lost_camera_knows_the_place_it_comes_back_to_by_its_looks():
    """Along a room, darkness, and at once back where the way began: found at the first sight of it."""
    from loftr_ros.matching import load_matcher
    from loftr_ros.synthetic.room import make_room, room_camera, round_trip

    room = make_room(room_camera(320, 240))
    way = round_trip(60, share=0.35)
    frames = list(room.frames(way))
    odometry = VisualOdometry(load_matcher("sift"), room.camera, OdometryConfig(keyframes_kept=40))
    estimates = [odometry.process(frame) for frame in frames]
    unit = unit_of(estimates, [inverse(way[0]) @ pose for pose in way])
    assert sum(e.is_keyframe for e in estimates) > 8
    last = frames[-1].stamp_ns
    dark = odometry.process(Frame(last + PERIOD_NS, np.zeros_like(frames[0].image)))
    assert dark.state is MotionState.FEW_MATCHES
    back = odometry.process(Frame(last + 400 * PERIOD_NS, room.view(way[14], 999)[0]))
    assert back.state is MotionState.OK, back.reason
    true = inverse(way[0]) @ way[14]
    np.testing.assert_allclose(back.pose_world_camera[:3, 3] / unit, true[:3, 3], atol=0.06)
    assert rotation_angle_deg(back.pose_world_camera[:3, :3] @ true[:3, :3].T) < 1.0
    assert back.keyframe_stamp_ns <= 16 * PERIOD_NS
