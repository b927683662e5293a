# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Relative poses and the similarity of rendered pairs whose truth is known, and the command `match`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.stats import spearmanr
from support import angle_deg, camera_info_yaml, is_one_sentence, texture

from loftr_ros import cli
from loftr_ros.geometry.se3 import inverse, rotation_angle_deg
from loftr_ros.matching import load_matcher
from loftr_ros.pictures import pair_picture
from loftr_ros.synthetic.room import look, make_room, room_camera
from loftr_ros.synthetic.scene import transfer_pixels
from loftr_ros.types import Matches
from loftr_ros.uses import match
from loftr_ros.uses.relative_pose import relative_pose
from loftr_ros.uses.similarity import coverage, score, similarity, verify

CAMERA = room_camera(320, 240)


def rendered_pair(rng, room, spread):
    """Two images, their depths and poses; a larger spread means less overlap."""
    place = np.array([rng.uniform(-1.2, 1.2), rng.uniform(-1.0, 1.0), 1.4])
    yaw = rng.uniform(0, 2 * np.pi)
    poses = [look(place, yaw), look(place + rng.uniform(-0.4, 0.4, 3) * spread, yaw + 1.4 * spread, 0.1 * spread)]
    return [(*room.view(pose, i), pose) for i, pose in enumerate(poses)]


def true_overlap(view0, view1):
    """Share of the pixels of both images that the other one sees too."""
    x, y = np.meshgrid(np.arange(4.0, 320, 8), np.arange(4.0, 240, 8))
    pixels = np.column_stack([x.ravel(), y.ravel()])
    seen = []
    for (_, depth_a, pose_a), (_, depth_b, pose_b) in ((view0, view1), (view1, view0)):
        seen.append(transfer_pixels(pixels, depth_a, CAMERA.matrix, pose_a, depth_b, CAMERA.matrix, pose_b)[1].mean())
    return float(np.mean(seen))


@pytest.fixture(scope="module")
def tiny():
    return load_matcher("tiny")


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(3)
    return [rendered_pair(rng, make_room(CAMERA, seed), s) for seed in (1, 2) for s in np.linspace(0.05, 1.0, 9)]


@pytest.fixture(scope="module")
def turned():
    """A pair with a wide baseline: views (image, depth, pose) and the true pose of the second in the first."""
    room = make_room(CAMERA, 0)
    poses = [look(np.array([0.3, -0.8, 1.4]), 0.6), look(np.array([0.6, -0.5, 1.45]), 0.75, 0.05)]
    views = [(*room.view(pose, i), pose) for i, pose in enumerate(poses)]
    return views, inverse(poses[0]) @ poses[1]


def test_similarity_grows_with_the_overlap(tiny, pairs):
    overlap = [true_overlap(*pair) for pair in pairs]
    scores = [similarity(tiny, pair[0][0], pair[1][0]) for pair in pairs]
    assert min(overlap) < 0.3 and max(overlap) > 0.85
    assert spearmanr(overlap, scores)[0] >= 0.9
    assert np.abs(np.array(overlap) - scores).mean() < 0.1


def test_similarity_of_different_places_is_low(tiny, pairs):
    assert max(similarity(tiny, pairs[i][0][0], pairs[i + 9][1][0]) for i in (0, 3, 6)) < 0.1


@pytest.mark.parametrize("name", ["tiny", "sift", "orb"])
def test_similarity_of_the_same_view_is_high(name, pairs):
    image = pairs[0][0][0]
    assert 0.9 < similarity(load_matcher(name), image, image) <= 1.0


def test_similarity_is_symmetric_to_the_last_bit(tiny, pairs):
    (first, *_), (second, *_) = pairs[4]
    assert 0 < similarity(tiny, first, second) == similarity(tiny, second, first) < 1


def test_score_of_known_matches():
    x, y = np.meshgrid(np.arange(0.0, 200, 4), np.arange(0.0, 100, 4))
    points = np.column_stack([x.ravel(), y.ravel()])
    count = len(points)
    matches = Matches(points, points, np.full(count, 0.8), np.arange(count), np.ones(count))
    everything, left = np.ones(count, bool), points[:, 0] < 100
    assert score(matches, everything, (100, 200), (100, 200)) == pytest.approx(1.0)
    # Half of the image, and half of the confidence: two thirds of the way from 30 % to 60 %.
    half = score(matches, left, (100, 200), (100, 200))
    assert half == pytest.approx(coverage(points[left], (100, 200)) * 2 / 3, rel=0.02)
    assert 0.5 < coverage(points[left], (100, 200)) < 0.58
    assert score(matches, np.zeros(count, bool), (100, 200), (100, 200)) == 0.0
    # Of an area in which alone the matcher finds anything, all is seen.
    assert coverage(points[left], (100, 200), points[left]) == 1.0


def test_no_matches_verify_nothing():
    assert len(verify(Matches.empty(), (100, 100))) == 0


def test_relative_pose_of_a_rendered_pair(tiny, turned):
    ((image0, _, _), (image1, _, _)), truth = turned
    matches = tiny.match(image0, image1)
    found = relative_pose(matches, CAMERA)
    assert rotation_angle_deg(found.pose_0_1[:3, :3] @ truth[:3, :3].T) < 1.0
    assert angle_deg(found.pose_0_1[:3, 3], truth[:3, 3]) < 4.0
    assert np.linalg.norm(found.pose_0_1[:3, 3]) == pytest.approx(1.0)
    assert not found.metric and found.reason == "" and found.inliers.mean() > 0.8


def test_depth_and_baseline_make_the_pose_metric(tiny, turned):
    ((image0, depth0, _), (image1, _, _)), truth = turned
    matches, length = tiny.match(image0, image1), np.linalg.norm(truth[:3, 3])
    by_depth = relative_pose(matches, CAMERA, depth0=depth0)
    assert by_depth.metric and np.linalg.norm(by_depth.pose_0_1[:3, 3]) == pytest.approx(length, rel=0.03)
    by_baseline = relative_pose(matches, CAMERA, baseline=2.5)
    assert by_baseline.metric and np.linalg.norm(by_baseline.pose_0_1[:3, 3]) == pytest.approx(2.5)


def test_rotation_alone_is_said(tiny):
    room = make_room(CAMERA, 0)
    views = [room.view(look(np.array([0.0, 0.0, 1.4]), yaw), i)[0] for i, yaw in enumerate((0.5, 0.6))]
    found = relative_pose(tiny.match(*views), CAMERA)
    assert found.parallax_deg < 0.3 and "too small" in found.reason and is_one_sentence(found.reason)


def test_too_few_matches_give_no_pose():
    found = relative_pose(Matches.empty(), CAMERA)
    assert found.pose_0_1 is None and is_one_sentence(found.reason)
    assert found.to_dict()["rotation"] is None


def test_pair_picture_tells_inliers_from_outliers():
    image = np.full((60, 80), 128, np.uint8)
    points = np.array([[10.0, 10.0], [10.0, 50.0]])
    matches = Matches(points, points, np.ones(2), np.arange(2), np.ones(2))
    picture = pair_picture(image, np.full((90, 80), 128, np.uint8), matches, np.array([True, False]), width=320)
    assert picture.shape == (180, 320, 3)
    assert picture[170, 40].tolist() == [0, 0, 0]  # below the lower image
    inlier, outlier = picture[21, 20].astype(int), picture[101, 20].astype(int)
    assert inlier[1] > 200 and outlier[2] > 200 and outlier[1] < 120


def write_pair(folder, views):
    for name, image in zip("ab", views):
        cv2.imwrite(str(folder / f"{name}.png"), image)
    return [str(folder / "a.png"), str(folder / "b.png"), "--output", str(folder / "out.png")]


def test_command_prints_json_and_writes_the_picture(tmp_path, capsys, turned):
    views, truth = turned
    arguments = write_pair(tmp_path, [view[0] for view in views])
    (tmp_path / "camera_info.yaml").write_text(camera_info_yaml(320, 240, CAMERA.focal))
    assert match.main([*arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    pose = result["pose_of_b_in_a"]
    assert rotation_angle_deg(np.array(pose["rotation"]) @ truth[:3, :3].T) < 1.0
    assert angle_deg(np.array(pose["translation"]), truth[:3, 3]) < 4.0
    # The same turn from its three notations.
    w = pose["quaternion_xyzw"][3]
    assert np.degrees(2 * np.arccos(w)) == pytest.approx(rotation_angle_deg(np.array(pose["rotation"])), abs=1e-3)
    assert np.linalg.norm(pose["euler_xyz_deg"]) == pytest.approx(np.degrees(2 * np.arccos(w)), rel=0.05)
    assert result["matches"] == len(result["points0"]) == len(result["is_inlier"]) > 200
    assert 0.5 < result["similarity"] < 1 and result["inliers"] == sum(result["is_inlier"])
    assert cv2.imread(str(tmp_path / "out.png")).shape[1] == 1600


def test_command_without_calibration_gives_no_pose_but_all_else(tmp_path, capsys, turned):
    arguments = write_pair(tmp_path, [view[0] for view in turned[0]])
    assert match.main([*arguments, "--matcher", "sift"]) == 0
    text = capsys.readouterr().out
    assert "no pose: There is no calibration" in text and "similarity 0." in text


def test_second_camera_of_another_size_needs_its_own_calibration(tmp_path, capsys):
    for name, size, seed in (("a", (60, 80), 0), ("b", (64, 96), 1)):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / "x.png"), texture(*size, seed))
        (tmp_path / f"{name}.yaml").write_text(camera_info_yaml(size[1], size[0], 70))
    (tmp_path / "a" / "camera_info.yaml").write_text(camera_info_yaml(80, 60, 70))
    arguments = [str(tmp_path / "a" / "x.png"), str(tmp_path / "b" / "x.png"), "--output", str(tmp_path / "out.png")]
    assert cli.run(match.main, [*arguments, "--matcher", "sift", "--camera-info1", str(tmp_path / "b.yaml")]) == 0
    capsys.readouterr()
    assert cli.run(match.main, [*arguments, "--matcher", "sift"]) == 2
    message = capsys.readouterr().err.strip()
    assert "--camera-info1" in message and is_one_sentence(message)


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        (["--baseline", "-1"], "--baseline"),
        (["--baseline", "1"], "needs a calibration"),
        (["--output", "picture.txt"], "'.txt'"),
        (["--camera-info", "missing.yaml"], "missing.yaml"),
        (["--threshold", "2"], "threshold"),
    ],
)
def test_bad_input_gets_one_sentence(tmp_path, capsys, extra, told):
    arguments = write_pair(tmp_path, [texture(60, 80, seed) for seed in (0, 1)])
    assert cli.run(match.main, [*arguments, "--matcher", "sift", *extra]) == 2
    message = capsys.readouterr().err.strip()
    assert told in message and is_one_sentence(message)


def test_image_that_is_none(tmp_path, capsys):
    (tmp_path / "a.png").write_text("not a picture")
    assert cli.run(match.main, [str(tmp_path / "a.png"), str(tmp_path / "b.png")]) == 2
    assert is_one_sentence(capsys.readouterr().err.strip())


def test_example_of_the_readme(tmp_path, monkeypatch, turned):
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    (block,) = (b for b in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "pair_picture" in b)
    (tmp_path / "camera_info.yaml").write_text(camera_info_yaml(320, 240, CAMERA.focal))
    monkeypatch.chdir(tmp_path)
    names = {"image0": turned[0][0][0], "image1": turned[0][1][0]}
    exec(block, names)
    assert rotation_angle_deg(names["pose"].pose_0_1[:3, :3] @ turned[1][:3, :3].T) < 1.0
    assert names["picture"].shape == (600, 1600, 3) and names["pose"].inliers.shape == (len(names["matches"]),)
