# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""What the odometry learns of a lens: against lenses whose error is known, and that a right calibration stays."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from test_odometry import CAMERA, FORWARD, SIDEWAYS, WOBBLE, FakeMatcher, errors, frames, relative, unit_of

from loftr_ros.config import OdometryConfig
from loftr_ros.evaluation import replay
from loftr_ros.evaluation.render_room import write_sequence
from loftr_ros.evaluation.replay import save_calibration
from loftr_ros.geometry.camera import Camera, calibration_lines, load_camera
from loftr_ros.geometry.se3 import inverse, make_pose, rotation_from_vector, transform
from loftr_ros.odometry import VisualOdometry
from loftr_ros.odometry.depth import DepthMap
from loftr_ros.odometry.keyframe import DEPENDENT
from loftr_ros.odometry.self_calibration import _PRIOR as PRIOR
from loftr_ros.odometry.self_calibration import SelfCalibration, recorrected
from loftr_ros.odometry.self_calibration import _evidence as evidence
from loftr_ros.odometry.self_calibration import _Pair as Pair
from loftr_ros.synthetic.room import make_room, room_camera, round_trip
from loftr_ros.types import Matches

LENS = CAMERA.with_correction(np.array([0.03, -0.002, 0.001, 0.012, 0.006, -0.005]))
OUTLINE = np.array([[0, 0], [320, 0], [639, 0], [639, 240], [639, 479], [320, 479], [0, 479], [0, 240]], float)


class Through(FakeMatcher):
    """The camera has another lens than the odometry is told."""

    def __init__(self, world, lens: Camera) -> None:
        super().__init__(world)
        self._lens = lens

    def extract(self, image):
        index, pixels = super().extract(image)
        rays = np.column_stack([CAMERA.normalize(pixels), np.ones(len(pixels))])
        return index, self._lens.project(rays)


def play(world, lens: Camera, refine: bool = True) -> tuple[float, VisualOdometry]:
    """The largest position error as a share of the way, and the odometry that made it."""
    odometry = VisualOdometry(Through(world, lens), CAMERA, OdometryConfig(refine_calibration=refine))
    estimates = [odometry.process(frame) for frame in frames(world)]
    truth = relative(world)
    way = sum(np.linalg.norm(b[:3, 3] - a[:3, 3]) for a, b in zip(truth, truth[1:]))
    return errors(estimates, truth, unit_of(estimates, truth))[0] / way, odometry


def deviations(learned: SelfCalibration) -> np.ndarray:
    return np.sqrt(np.diag(np.linalg.inv(learned._information)))


def distance_px(first: Camera, second: Camera) -> float:
    """Largest distance between where two cameras see the edge of the image."""
    return float(np.linalg.norm(first.normalize(OUTLINE) - second.normalize(OUTLINE), axis=1).max() * CAMERA.focal)


@pytest.mark.parametrize("world", [SIDEWAYS, WOBBLE], ids=["sideways", "wobble"])
def test_the_way_is_right_though_the_calibration_is_not(world):
    refined, _ = play(world, LENS)
    plain, odometry = play(world, LENS, refine=False)
    assert refined < 0.65 * plain
    assert odometry.refined_camera is odometry.camera is CAMERA


def test_the_lens_itself_is_found():
    _, odometry = play(WOBBLE, LENS)
    learned = odometry._calibration
    off = np.abs(learned.correction - np.array(LENS.correction))
    assert (off < 3 * deviations(learned)).all() and deviations(learned)[0] < 0.005
    assert distance_px(odometry.refined_camera, LENS) < 0.6 * distance_px(CAMERA, LENS)


def test_what_a_straight_way_ahead_does_not_tell_is_not_invented():
    """Whoever only goes straight sees points move along their epipolar lines, whatever the lens."""
    refined, odometry = play(FORWARD, LENS)
    plain, _ = play(FORWARD, LENS, refine=False)
    assert refined < 1.1 * plain
    assert abs(odometry._calibration.correction[0]) < 0.005 and deviations(odometry._calibration)[0] > 0.015


@pytest.mark.parametrize("world", [FORWARD, WOBBLE], ids=["forward", "wobble"])
def test_a_right_calibration_stays(world):
    refined, odometry = play(world, CAMERA)
    plain, _ = play(world, CAMERA, refine=False)
    assert distance_px(odometry.refined_camera, CAMERA) < 0.2
    assert refined < 1.05 * plain


def pairs(count: int, noise_px: float, lens: Camera, seed: int) -> list[tuple[Matches, np.ndarray]]:
    """Matches of pairs of views that go mostly forward, turning a little, through a lens; and their poses."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        points = rng.uniform([-6, -4, 3], [6, 4, 15], (600, 3))
        turn = rotation_from_vector(rng.normal(0, [0.02, 0.04, 0.02]))
        pose = make_pose(turn, np.array([*rng.normal(0, 0.06, 2), -0.3]))
        sights = [lens.project(transform(p, points)) for p in (np.eye(4), pose)]
        inside = np.all([((s >= 0) & (s <= [639, 479])).all(axis=1) for s in sights], axis=0)
        first, second = (s[inside] for s in sights)
        second = second + noise_px * rng.standard_normal(second.shape)
        ones = np.ones(len(first))
        made.append((Matches(first, second, ones, np.arange(len(first)), noise_px * ones), pose))
    return made


@pytest.mark.parametrize("lens", [CAMERA, LENS], ids=["right", "wrong"])
@pytest.mark.parametrize("noise_px", [0.2, 1.5])
def test_noise_does_not_pull_it_to_one_side(lens, noise_px):
    """Distances from epipolar lines shrink with the image: an estimate that minimizes them there shrinks it."""
    learned = SelfCalibration(CAMERA)
    for matches, pose in pairs(80, noise_px, lens, seed=5):
        learned.learn(matches, pose)
    truth = np.array(lens.correction) if lens.correction else np.zeros(6)
    found = np.linalg.solve(learned._information, learned._weighted)  # before it is shrunk
    assert (np.abs(found - truth) < 2 * deviations(learned)).all()
    assert deviations(learned)[0] < 0.01


def test_a_wrong_start_of_the_motion_and_wrong_matches_do_no_harm():
    rng = np.random.default_rng(3)
    clean, learned = SelfCalibration(CAMERA), SelfCalibration(CAMERA)
    for matches, pose in pairs(40, 0.2, LENS, seed=6):
        clean.learn(matches, pose)
        wrong = rng.permutation(len(matches))[: len(matches) // 20]
        points1 = matches.points1.copy()
        points1[wrong] += rng.uniform(-30, 30, (len(wrong), 2))
        start = make_pose(rotation_from_vector(rng.normal(0, 0.003, 3)) @ pose[:3, :3], 5 * pose[:3, 3])
        learned.learn(Matches(matches.points0, points1, matches.confidence, matches.index0, matches.sigma), start)
    assert (np.abs(learned.correction - clean.correction) < deviations(clean)).all()
    assert distance_px(learned.camera, LENS) < 0.5 * distance_px(CAMERA, LENS)


def test_evidence_does_not_depend_on_where_it_is_taken():
    """Each pair's is taken once: where a step falls short, that stays."""
    truth = np.array(LENS.correction)
    found = []
    for start in (0 * truth, 1.5 * truth):
        information, weighted = np.diag(PRIOR**-2), np.zeros(6)
        for matches, pose in pairs(40, 0.3, LENS, seed=9):
            points0, points1 = CAMERA.normalize(matches.points0), CAMERA.normalize(matches.points1)
            pair = Pair(points0, points1, matches.sigma / CAMERA.focal)
            each = evidence(pair, start, pose)
            information, weighted = information + each[0] / DEPENDENT, weighted + each[1] / DEPENDENT
        found.append(np.linalg.solve(information, weighted))
    spread = np.sqrt(np.diag(np.linalg.inv(information)))
    assert (np.abs(found[0] - found[1]) < 0.5 * spread).all()
    assert abs(found[0][0] - truth[0]) < spread[0]


def stale(odometry: VisualOdometry) -> float:
    """Largest distance in pixels of all that is kept from where the camera, as it is known now, has it."""
    camera, worst = odometry.refined_camera, 0.0
    window = odometry._window
    known = {id(k): k for k in (*window.keyframes, *odometry._known, *window._links)}.values()

    def off(points: np.ndarray, keyframe, index: np.ndarray) -> float:
        ids, pixels = keyframe.features
        places = camera.normalize(pixels[np.searchsorted(ids, index)])
        return float(np.abs(points - places).max(initial=0.0) * CAMERA.focal)

    for keyframe in known:
        index = np.flatnonzero(np.isfinite(keyframe.depths.lookup(keyframe.features[0])[1]))
        index = keyframe.features[0][index]
        worst = max(worst, off(keyframe.depths.points(index), keyframe, index))
        for link in window.links(keyframe):
            if hasattr(link.target, "features"):
                worst = max(worst, off(link.seen, link.target, link.index))
    return worst


@pytest.mark.parametrize("window", [6, 1])
def test_all_that_is_kept_follows_what_is_learned(window):
    odometry = VisualOdometry(Through(WOBBLE, LENS), CAMERA, OdometryConfig(window=window, keyframe_flow=0.05))
    changes = 0
    for frame in frames(WOBBLE):
        before = odometry.refined_camera
        odometry.process(frame)
        changes += odometry.refined_camera is not before
        assert stale(odometry) < 1e-3
    assert changes > 3


def test_a_camera_that_comes_with_a_correction_goes_on_from_it():
    learned = SelfCalibration(LENS)
    for matches, pose in pairs(40, 0.2, LENS, seed=6):
        learned.learn(matches, pose)
    assert distance_px(learned.camera, LENS) < 0.6 * distance_px(CAMERA, LENS)


def test_little_is_learned_from_little():
    learned = SelfCalibration(CAMERA)
    matches, pose = pairs(1, 0.2, LENS, seed=7)[0]
    assert not learned.learn(matches[np.arange(40)], pose)
    assert not learned.learn(matches, make_pose(pose[:3, :3], np.zeros(3)))
    assert learned.camera is CAMERA


@pytest.mark.parametrize(
    "camera",
    [
        Camera(640, 480, CAMERA.matrix, "equidistant", (0.0, 0.0, 0.0, 0.0)),
        Camera(640, 480, np.array([[140.0, 0, 319.5], [0, 140.0, 239.5], [0, 0, 1]])),
    ],
    ids=["equidistant", "wide"],
)
def test_lenses_that_the_model_does_not_suit_are_left_alone(camera):
    learned = SelfCalibration(camera)
    assert not any(learned.learn(*pair) for pair in pairs(5, 0.2, LENS, seed=8))
    assert learned.camera is camera


def test_points_follow_their_camera():
    pixels = np.random.default_rng(0).uniform([0, 0], [639, 479], (50, 2))
    other = CAMERA.with_correction(np.array([-0.01, 0.001, 0.0, -0.01, 0.002, 0.0]))
    for before, after in ((CAMERA, LENS), (LENS, other), (other, CAMERA)):
        found = recorrected(before.normalize(pixels), before, after)
        np.testing.assert_allclose(found, after.normalize(pixels), atol=1e-7)


def test_a_reset_forgets_the_lens_and_a_new_map_does_not():
    _, odometry = play(WOBBLE, LENS)
    refined = odometry.refined_camera
    view = odometry._view(odometry.keyframe, frames(WOBBLE)[-1], odometry.matcher.extract(frames(WOBBLE)[-1].image))
    odometry._start_again(view)
    assert odometry.refined_camera is refined
    odometry.reset()
    assert odometry.refined_camera is CAMERA


def test_poses_are_still_those_of_the_first_camera():
    """Nothing jumps when the camera becomes another one: each step is as long as the truth says."""
    odometry = VisualOdometry(Through(WOBBLE, LENS), CAMERA)
    estimates = [odometry.process(frame) for frame in frames(WOBBLE)]
    truth = relative(WOBBLE)
    unit = unit_of(estimates, truth)
    for i in range(10, len(truth) - 1):
        step = inverse(estimates[i].pose_world_camera) @ estimates[i + 1].pose_world_camera
        wanted = inverse(truth[i]) @ truth[i + 1]
        assert np.linalg.norm(step[:3, 3] / unit - wanted[:3, 3]) < 0.01, i  # of 0.08


def test_what_was_learned_is_told_in_pixels_and_numbers():
    _, odometry = play(WOBBLE, LENS)
    told, correction = odometry.learned_calibration, np.array(odometry.refined_camera.correction)
    assert told["off_px"] == pytest.approx(distance_px(odometry.refined_camera, CAMERA), abs=0.05)
    numbers = [told["k1"], told["p1"], told["p2"], told["focal_percent"] / 100]
    np.testing.assert_allclose(numbers, correction[:4], atol=6e-6)
    centre = np.array([told["centre_x_px"], told["centre_y_px"]])
    np.testing.assert_allclose(centre, correction[4:] * CAMERA.focal, atol=0.006)
    odometry.reset()
    assert not any(odometry.learned_calibration.values())


def test_replay_says_and_writes_only_what_is_much(tmp_path, capsys):
    path = tmp_path / "camera_info_refined.yaml"
    _, odometry = play(WOBBLE, LENS)
    save_calibration(odometry, tmp_path)
    told = odometry.learned_calibration
    wanted = f"calibration off by up to {told['off_px']:.1f} px at the edge of the image (k1 {told['k1']:g}, p1 "
    said = capsys.readouterr().out
    assert told["off_px"] > 5 and said.startswith(wanted) and said.endswith(f"), corrected in {path}\n")
    assert distance_px(load_camera(path), odometry.refined_camera) < 0.1
    odometry.reset()
    save_calibration(odometry, tmp_path)
    assert not capsys.readouterr().out and not path.exists()  # it was of the run before


def test_replay_writes_a_calibration_that_the_next_one_starts_from(tmp_path, capsys):
    room = make_room(room_camera(320, 240))
    write_sequence(tmp_path / "sequence", room, round_trip(120)[:60], rate_hz=10.0)
    told = Camera(320, 240, room.camera.matrix, "plumb_bob", (0.08, 0.0, 0.0, 0.0, 0.0))
    (tmp_path / "told.yaml").write_text("\n".join(calibration_lines(told, "told")))
    first, second = (tmp_path / "first", tmp_path / "second")

    def play_with(calibration: Path, output: Path) -> dict:
        options = ["--matcher", "sift", "--quiet", "--camera-info", str(calibration), "--output", str(output)]
        assert replay.main([str(tmp_path / "sequence"), *options]) == 0
        return json.loads((output / "metrics.json").read_text())

    learned = play_with(tmp_path / "told.yaml", first)
    assert f"corrected in {first / 'camera_info_refined.yaml'}" in capsys.readouterr().out
    again = play_with(first / "camera_info_refined.yaml", second)
    assert learned["learned_calibration"]["off_px"] > 1.0
    assert again["ate_sim3_rmse_m"] < learned["ate_sim3_rmse_m"]


def test_the_points_of_several_keyframes_move_in_one_call_and_unknown_ones_stay():
    index, unknown = np.array([0, 2]), np.array([np.inf, 0.1])
    first, second, nothing = DepthMap(), DepthMap(), DepthMap()
    first.store(index, np.array([[0.1, 0.2], [0.3, 0.4]]), np.ones(2), unknown)
    second.store(index, np.array([[0.5, 0.6], [0.7, 0.8]]), np.ones(2), np.full(2, 0.1))
    calls = []

    def moved(points):
        calls.append(len(points))
        return points + 1.0

    DepthMap.move([first, nothing, second], moved)
    assert calls == [3]
    np.testing.assert_allclose(first.points(index), [[0.1, 0.2], [1.3, 1.4]])
    np.testing.assert_allclose(second.points(index), [[1.5, 1.6], [1.7, 1.8]])
