# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""The ground under a vehicle: the plane, the filter of its height, and what both do for the scale."""

from __future__ import annotations

import numpy as np
import pytest
from test_odometry import CAMERA, FakeMatcher, World, cloud, frames, moved

from loftr_ros.config import OdometryConfig, ScaleConfig
from loftr_ros.geometry.se3 import rotation_from_vector
from loftr_ros.odometry import VisualOdometry
from loftr_ros.odometry.depth import DepthMap
from loftr_ros.odometry.ground import find_ground
from loftr_ros.odometry.scale import GroundScale, HeightFilter

HEIGHT = 1.5
FORWARD = np.array([0.0, 0.0, 1.0])


def sight(normal, height: float = HEIGHT, others: int = 0, noise: float = 0.005, seed: int = 0):
    """Normalized points, inverse depths and deviations of 300 points of a plane, and of others above and below it."""
    rng = np.random.default_rng(seed)
    points = np.stack([rng.uniform(-0.6, 0.6, 300), rng.uniform(0.1, 0.45, 300)], axis=1)
    inverse_depth = np.column_stack([points, np.ones(300)]) @ np.asarray(normal) / height
    elsewhere = np.stack([rng.uniform(-0.6, 0.6, others), rng.uniform(-0.4, 0.45, others)], axis=1)
    inverse_depth = np.concatenate([inverse_depth, rng.uniform(0.02, 0.3, others)])
    sigma = noise * inverse_depth
    return np.concatenate([points, elsewhere]), inverse_depth + sigma * rng.standard_normal(len(sigma)), sigma


def tilted(roll_deg: float = 0.0, slope_deg: float = 0.0) -> np.ndarray:
    """The normal of a plane, turned about the direction of motion and across it."""
    turn = rotation_from_vector(np.radians([slope_deg, 0.0, 0.0])) @ rotation_from_vector(
        np.radians([0, 0, -roll_deg])
    )
    return turn @ [0.0, 1.0, 0.0]


def depths_of(points, inverse_depth, sigma) -> DepthMap:
    depths = DepthMap()
    depths.store(np.arange(len(points)), points, inverse_depth, sigma)
    return depths


@pytest.mark.parametrize("others", [0, 200])
@pytest.mark.parametrize("roll", [-6.0, 0.0, 3.0])
def test_the_plane_is_found_among_other_points(roll, others):
    ground = find_ground(*sight(tilted(roll), others=others), 2.0 * FORWARD)
    assert ground.height == pytest.approx(HEIGHT, rel=0.01)
    assert abs(np.degrees(ground.roll)) == pytest.approx(abs(roll), abs=0.3)
    assert np.sign(ground.roll) == np.sign(find_ground(*sight(tilted(roll)), FORWARD).roll)
    assert np.degrees(ground.slope) == pytest.approx(0.0, abs=0.5)


def test_a_camera_that_looks_down_finds_it_by_its_motion():
    """Pitched by 30 degrees: the way leads upwards in the image."""
    down = np.radians(30)
    rng = np.random.default_rng(1)
    points = np.stack([rng.uniform(-0.5, 0.5, 300), rng.uniform(-0.3, 0.4, 300)], axis=1)
    normal = np.array([0.0, np.cos(down), np.sin(down)])
    inverse_depth = np.column_stack([points, np.ones(300)]) @ normal / HEIGHT
    travel = np.array([0.0, -np.sin(down), np.cos(down)])
    ground = find_ground(points, inverse_depth, 0.01 * inverse_depth, travel)
    assert ground.height == pytest.approx(HEIGHT, rel=1e-6)
    assert ground.slope == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("slope", [-6.0, 4.0])
def test_a_plane_that_the_camera_approaches_or_leaves_has_a_slope(slope):
    ground = find_ground(*sight(tilted(slope_deg=slope)), FORWARD)
    assert abs(np.degrees(ground.slope)) == pytest.approx(abs(slope), abs=0.5)
    other = find_ground(*sight(tilted(slope_deg=-slope)), FORWARD)
    assert np.sign(other.slope) == -np.sign(ground.slope)


def test_a_known_roll_steadies_a_narrow_sight():
    """Points of a narrow strip say little about the roll."""
    points, inverse_depth, sigma = sight(tilted(), noise=0.03)
    narrow = np.abs(points[:, 0]) < 0.04
    strip = points[narrow], inverse_depth[narrow], sigma[narrow]
    assert len(strip[0]) >= 20
    free, held = (find_ground(*strip, FORWARD, roll) for roll in (None, 0.0))
    assert abs(held.roll) < min(abs(free.roll), np.radians(1.0))
    assert held.height == pytest.approx(HEIGHT, rel=0.03)


def test_where_there_is_no_ground_none_is_found():
    points, inverse_depth, sigma = sight(tilted())
    assert find_ground(points[:19], inverse_depth[:19], sigma[:19], FORWARD) is None, "too few points"
    assert find_ground(points, inverse_depth, 0.2 * inverse_depth, FORWARD) is None, "depths too uncertain"
    assert find_ground(points * [1, -1], inverse_depth, sigma, FORWARD) is None, "all points above"
    assert find_ground(points, inverse_depth, sigma, np.array([0.0, 1.0, 0.1])) is None, "moving down"
    wall = np.full(len(points), 0.2)  # a wall ahead: the same depth everywhere
    assert find_ground(points, wall, 0.005 * wall, FORWARD) is None


def test_the_filter_follows_the_drift_and_not_the_noise():
    rng = np.random.default_rng(0)
    drift = np.cumsum(np.full(150, 0.001))  # of the logarithm: 0.15 in all
    heights = 0.3 * np.exp(drift + 0.03 * rng.standard_normal(150))
    heights[60:65] *= 1.5  # a kerb
    found = HeightFilter()
    errors = []
    for k, height in enumerate(heights):
        found.add(height)
        errors.append(found.scale_error - drift[k])
    assert errors[0] == pytest.approx(-0.001, rel=1e-3), "the scale at the start is right"
    assert np.abs(errors).max() < 0.05
    assert np.abs(errors[-50:]).mean() < 0.02


def test_the_filter_knows_that_the_map_was_stretched():
    found = HeightFilter()
    for _ in range(20):
        found.add(0.5)
    found.rescaled(1.1)
    assert found.scale_error == pytest.approx(np.log(1.1))
    for _ in range(20):
        found.add(0.55)
    assert found.scale_error == pytest.approx(np.log(1.1), abs=1e-6)


def test_with_a_known_height_the_first_measurement_gives_the_scale():
    found = HeightFilter(1.65)
    found.add(0.165)
    assert found.scale_error == pytest.approx(np.log(0.1), abs=0.01)


def corrections(source: GroundScale, normals, heights) -> list[float | None]:
    return [
        source.correction(depths_of(*sight(normal, height, seed=k)), FORWARD)
        for k, (normal, height) in enumerate(zip(normals, heights))
    ]


def test_a_vehicle_keeps_the_height_of_its_start():
    """The map grows by a tenth, in a turn, say: it is to be shrunk by that."""
    heights = [1.0] * 15 + [1.02, 1.04, 1.06, 1.08] + [1.1] * 21
    found = corrections(GroundScale(), [tilted(1.0)] * 40, heights)
    assert found[:7] == [None] * 7, "what kind of camera it is must be seen first"
    assert found[14] == pytest.approx(1.0, abs=0.01)
    assert found[-1] == pytest.approx(1 / 1.1, abs=0.02)


def test_a_camera_that_flies_keeps_its_lengths():
    """It climbs by 3 to 8 degrees over a level ground, which must not be taken for a drift."""
    slopes = np.random.default_rng(0).uniform(3, 8, 40)
    heights = 1.0 * np.exp(0.02 * np.arange(40))
    assert corrections(GroundScale(), [tilted(slope_deg=s) for s in slopes], heights) == [None] * 40


def test_a_vehicle_that_was_lifted_starts_with_its_new_height():
    source = GroundScale()
    level, lifted = [tilted()] * 20, [tilted(slope_deg=8.0)] * 20
    found = corrections(source, level + lifted + level, [1.0] * 20 + [2.0] * 20 + [3.0] * 20)
    assert found[19] == pytest.approx(1.0, abs=0.01)
    assert found[39] is None
    assert found[-1] == pytest.approx(1.0, abs=0.01)


def test_no_way_no_measurement():
    source = GroundScale(HEIGHT)
    depths = depths_of(*sight(tilted()))
    assert source.first_factor(depths, np.zeros(3)) is None
    assert source.first_factor(depths, 0.05 * HEIGHT * FORWARD) is None
    assert source.first_factor(depths, 0.5 * HEIGHT * FORWARD) == pytest.approx(1.0, abs=0.01)


class Street(World):
    """Nothing is seen beyond 20 m, so that keyframes follow each other."""

    def seen(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        found, pixels = super().seen(index)
        near = self.local(index)[found, 2] < 20
        return found[near], pixels[near]


@pytest.fixture(scope="module")
def street() -> Street:
    ground = cloud([-8, 1.6, 2], [8, 1.6, 120], 4000, seed=1)
    walls = cloud([-12, -4, 2], [12, 1, 120], 2000, seed=2)
    return Street(np.concatenate([ground, walls]), [moved((0, 0, 0.5 * i)) for i in range(190)])


def last_steps(world: World, level_ground: bool) -> tuple[float, float]:
    """Mean length of the steps before the map is wrongly stretched by 6 %, and at the end."""
    config, scale = OdometryConfig(keyframe_flow=0.04), ScaleConfig(level_ground=level_ground)
    odometry = VisualOdometry(FakeMatcher(world), CAMERA, config, scale)
    positions = []
    for k, frame in enumerate(frames(world)):
        if k == 80:
            odometry._unit._source, source = None, odometry._unit._source  # it is not told
            odometry._stretch(odometry.keyframe.pose_world_camera, 1.06)
            odometry._unit._source = source
        estimate = odometry.process(frame)
        if estimate.pose_world_camera is not None:
            positions.append(estimate.pose_world_camera[:3, 3])
        assert not estimate.metric
    lengths = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    return float(lengths[60:75].mean()), float(lengths[-20:].mean())


def test_a_vehicle_recovers_from_a_wrong_scale(street):
    before, after = last_steps(street, level_ground=True)
    assert after == pytest.approx(before, rel=0.02)


def test_without_the_ground_a_wrong_scale_stays(street):
    before, after = last_steps(street, level_ground=False)
    assert after == pytest.approx(1.06 * before, rel=0.02)
