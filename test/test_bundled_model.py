# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""The bundled model on rendered pairs whose truth is known exactly."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from loftr_ros.loftr import CONFIGS, LoFTR, load_network
from loftr_ros.loftr.weights import find_weights, read_state_dict
from loftr_ros.matching import load_matcher
from loftr_ros.synthetic.room import make_room, room_camera, round_trip
from loftr_ros.synthetic.scene import transfer_pixels
from loftr_ros.training.config import TrainingConfig
from loftr_ros.training.data import Batch, validation_batches
from loftr_ros.training.validation import Scores, validate

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def held_out() -> list[Batch]:
    """Pairs that no training has seen, with procedural textures."""
    return validation_batches(dataclasses.replace(TrainingConfig(), validation_pairs=16, seed=5), None)


@pytest.fixture(scope="module")
def scores(held_out) -> Scores:
    return validate(load_network("tiny"), held_out, CPU)


def test_it_is_small():
    assert find_weights("tiny").stat().st_size < 6e6


def test_most_matches_are_right_and_near(scores):
    assert scores.precision > 0.85 and scores.recall > 0.5
    assert scores.median_error < 0.55 and scores.within_1px > 0.7


def test_deviations_are_honest(scores):
    assert 0.75 < scores.calibration < 1.35


def test_the_second_refinement_is_worth_it(held_out, scores):
    """The same weights without it."""
    network = LoFTR(dataclasses.replace(CONFIGS["tiny"], refine_side=0))
    state = read_state_dict(find_weights("tiny"))
    network.load_state_dict({name: value for name, value in state.items() if not name.startswith("refinement.")})
    assert scores.median_error < 0.75 * validate(network, held_out, CPU).median_error


@pytest.fixture(scope="module")
def room_pair():
    """Two frames of a walk, and the truth of the first one's cells in the second."""
    camera = room_camera(320, 240)
    poses = round_trip(60)[10:13:2]
    room = make_room(camera)
    (image0, depth0), (image1, depth1) = (room.view(pose, k) for k, pose in enumerate(poses))

    def truth(points0: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return transfer_pixels(points0, depth0, camera.matrix, poses[0], depth1, camera.matrix, poses[1])

    return (image0, image1), truth


def test_the_matcher_finds_a_walk_to_a_fraction_of_a_pixel(room_pair):
    images, truth = room_pair
    matches = load_matcher("tiny").match(*images)
    points1, visible = truth(matches.points0)
    error = np.linalg.norm(matches.points1 - points1, axis=1)[visible]
    assert len(error) > 150
    assert np.median(error) < 0.35 and np.mean(error < 1.0) > 0.85


def test_uncertain_matches_are_dropped_by_default(room_pair):
    images, truth = room_pair
    few, many = (load_matcher("tiny", max_deviation_px=limit).match(*images) for limit in (0.2, 0.0))
    assert 500 <= len(few) < len(many)
    assert set(few.index0.tolist()) <= set(many.index0.tolist())
    assert few.sigma.max() <= np.sort(many.sigma)[len(few) - 1]
