"""The pair benchmark: its error, its area under the curve, and a run on a rendered sequence."""

from __future__ import annotations

import json

import numpy as np
import pytest

from loftr_ros.evaluation.pairs import area_under_curve, main, pair_indices, pose_error_deg
from loftr_ros.evaluation.render_room import write_sequence
from loftr_ros.geometry.se3 import make_pose, rotation_from_vector
from loftr_ros.synthetic.room import make_room, room_camera, round_trip


def test_area_under_the_curve_of_known_errors():
    assert area_under_curve(np.zeros(10), 5.0) == pytest.approx(100.0)
    assert area_under_curve(np.full(10, 180.0), 5.0) == pytest.approx(0.0)
    # One error at half of the limit: linear up to 1 there, then 1.
    assert area_under_curve(np.array([2.5]), 5.0) == pytest.approx(75.0)


def test_error_is_the_larger_of_rotation_and_direction():
    truth = make_pose(np.eye(3), np.array([1.0, 0.0, 0.0]))
    turned = make_pose(rotation_from_vector(np.array([0.0, 0.0, np.radians(3)])), np.array([1.0, 0.0, 0.0]))
    aside = make_pose(np.eye(3), np.array([np.cos(np.radians(7)), np.sin(np.radians(7)), 0.0]))
    assert pose_error_deg(truth, truth) == pytest.approx(0.0, abs=1e-9)
    assert pose_error_deg(turned, truth) == pytest.approx(3.0)
    assert pose_error_deg(aside, truth) == pytest.approx(7.0)


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
