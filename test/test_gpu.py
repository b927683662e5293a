# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""LoFTR on a GPU: the answers of the CPU, recorded, in less precision, and where memory ends."""

from __future__ import annotations

import copy
import logging

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support import lively, texture

from loftr_ros.loftr import CONFIGS, LoFTR
from loftr_ros.loftr.compiled import undo_compilation
from loftr_ros.matching import load_matcher
from loftr_ros.odometry import VisualOdometry
from loftr_ros.synthetic.room import make_room, room_camera, round_trip
from loftr_ros.synthetic.textures import Textures
from loftr_ros.training.config import BatchSize, TrainingConfig
from loftr_ros.training.data import TrainingBatches
from loftr_ros.training.trainer import Trainer
from loftr_ros.uses.attention_weights import follow

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    """Two frames of the rendered room, 320x240."""
    frames = list(make_room(room_camera(320, 240)).frames(round_trip(120)[:4]))
    return frames[0].image, frames[3].image


@pytest.fixture(scope="module")
def outdoor(tmp_path_factory) -> str:
    """A file of random weights."""
    path = tmp_path_factory.mktemp("weights") / "outdoor.safetensors"
    state = lively("outdoor", 0).state_dict()
    save_file({key: value.contiguous() for key, value in state.items()}, str(path))
    return str(path)


def agreement(a, b) -> tuple[float, float]:
    """The share of matches with the same cells of both images (8 pixels), and the median distance of those, pixels."""
    _, of_a, of_b = np.intersect1d(a.index0, b.index0, return_indices=True)
    apart = np.linalg.norm(a.points1[of_a] - b.points1[of_b], axis=1)
    return float((apart < 8).sum() / max(len(a), len(b))), float(np.median(apart))


@pytest.mark.parametrize(
    ("precision", "least_share", "most_apart"),
    [("float32", 0.97, 0.01), ("float16", 0.95, 0.03), ("bfloat16", 0.9, 0.1)],
)
def test_the_matches_are_those_of_the_cpu(pair, precision, least_share, most_apart):
    wanted = load_matcher("tiny", device="cpu", precision="float32").match(*pair)
    found = load_matcher("tiny", device="cuda", precision=precision).match(*pair)
    share, apart = agreement(wanted, found)
    assert share > least_share and apart < most_apart
    np.testing.assert_allclose(found.confidence.mean(), wanted.confidence.mean(), atol=0.02)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_an_outdoor_network_matches_as_on_the_cpu(outdoor, precision):
    image = texture(240, 320, 60)
    pair = image, np.roll(image, 16, axis=1)
    wanted = load_matcher("outdoor", weights=outdoor, device="cpu", precision="float32").match(*pair)
    found = load_matcher("outdoor", weights=outdoor, device="cuda", precision=precision).match(*pair)
    share, apart = agreement(wanted, found)
    assert len(wanted) > 100 and share > 0.9 and apart < 0.1


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_recordings_change_nothing(pair, precision):
    plain = load_matcher("tiny", device="cuda", precision=precision)
    undo_compilation(plain.network)
    recorded = load_matcher("tiny", device="cuda", precision=precision)
    mask = np.full(pair[0].shape, 255, np.uint8)
    mask[:, :80] = 0
    small = tuple(image[:160, :200].copy() for image in pair)
    for images in (pair, small, pair[::-1], pair):
        for matcher in (plain, recorded):
            matcher.mask = mask if images is pair else None
        wanted, found = plain.match(*images), recorded.match(*images)
        share, apart = agreement(wanted, found)
        assert len(wanted) > 100 and share > 0.99 and apart < 0.005


def test_a_tracked_frame_a_zoomed_one_and_the_way_back_are_as_without_recordings(pair):
    answers = []
    for undo in (False, True):
        matcher = load_matcher("tiny", device="cuda", precision="float32")
        if undo:
            undo_compilation(matcher.network)
        keyframe, frame = matcher.extract(pair[0]), matcher.extract(pair[1])
        known = matcher.match_features(keyframe, frame).index0[::2]
        answers.append(
            [
                matcher.match_features(keyframe, frame, known),
                matcher.match_back(keyframe, frame),
                matcher.match_features(keyframe, matcher.extract(pair[1], 0.6)),
                matcher.match_features(keyframe, matcher.extract(pair[1], 1.5)),
            ]
        )
    for a, b in zip(*answers):
        share, apart = agreement(a, b)
        assert len(a) > 50 and share > 0.99 and apart < 0.005


@pytest.mark.parametrize("compile_network", [False, True])
def test_the_odometry_follows_the_room(compile_network, caplog):
    room, poses = make_room(room_camera(320, 240)), round_trip(120)[:40]
    matcher = load_matcher("tiny", device="cuda", precision="float16", compile=compile_network)
    odometry = VisualOdometry(matcher, room.camera)
    estimates = [odometry.process(frame) for frame in room.frames(poses)]
    found = np.array([e.pose_world_camera[:3, 3] for e in estimates[5:]])
    true = np.array([pose[:3, 3] for pose in poses[5:]])
    found, true = found - found.mean(axis=0), true - true.mean(axis=0)
    u, sizes, vt = np.linalg.svd(true.T @ found)
    left = np.sqrt(max(0.0, 1 - sizes.sum() ** 2 / ((found**2).sum() * (true**2).sum())))
    assert left < 0.05  # of the path's extent, after a rotation and a scale
    assert not [record for record in caplog.records if "failed" in record.getMessage()]


def test_without_memory_smaller_images_or_the_cpu_give_the_answers(pair, caplog):
    """The GPU of this process is as good as full."""
    matcher = load_matcher("tiny", device="cuda", precision="float16")
    wanted = load_matcher("tiny", device="cpu", precision="float32").match(*pair)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (1 << 20)) / total)
    try:
        with caplog.at_level(logging.WARNING):
            found = matcher.match(*pair)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    messages = [record.getMessage() for record in caplog.records]
    assert messages and all("ran out of memory" in message for message in messages)
    assert len(found) > 0
    if matcher.device.type == "cuda":  # the smallest images still fitted in what it had
        assert matcher.max_side < 320
    else:
        assert matcher.precision == torch.float32 and matcher.max_side == 640
        share, apart = agreement(wanted, matcher.match(*pair))
        assert share > 0.95 and apart < 0.02


def test_after_leaving_the_gpu_the_weights_are_the_exact_ones(pair):
    matcher = load_matcher("tiny", device="cuda", precision="float16")
    features = matcher.extract(pair[0])
    matcher._leave_gpu()
    exact = load_matcher("tiny", device="cpu", precision="float32")
    for name, value in matcher.network.state_dict().items():
        assert torch.equal(value, exact.network.state_dict()[name])
    share, _ = agreement(matcher.match_features(features, matcher.extract(pair[1])), exact.match(*pair))
    assert share > 0.9
    assert matcher.fingerprint == exact.fingerprint


def test_attention_is_that_of_the_cpu(pair):
    found, wanted = (follow(load_matcher("tiny", device=device), *pair) for device in ("cuda", "cpu"))
    assert [layer.name for layer in found.layers] == [layer.name for layer in wanted.layers]
    np.testing.assert_allclose(found.matching([300, 301]), wanted.matching([300, 301]), atol=1e-6)


def test_each_stage_of_the_training_steps_as_on_the_cpu():
    sizes = (BatchSize(128, 96, 2),)
    for stage in ("all", "coarse", "fine", "jitter", "found"):
        config = TrainingConfig(stage=stage, steps=40, sizes=sizes, pairs_factor=2, warmup=1)
        batch = TrainingBatches(config, Textures(), 0)[0]
        totals = []
        for device in ("cpu", "cuda"):
            trainer = Trainer(config, torch.device(device))
            if stage == "found":
                trainer.start_from(load_matcher_state())
            elif stage == "coarse":
                torch.manual_seed(3)
                trainer.start_from(LoFTR(CONFIGS["tiny_wide"]).state_dict())
            first = trainer.train_step(copy.deepcopy(batch))
            totals.append(first.total.item())
            last = [trainer.train_step(copy.deepcopy(batch)).total.item() for _ in range(15)]
            assert np.isfinite(last).all()
            if stage == "all":
                assert last[-1] < totals[-1]
        assert totals[1] == pytest.approx(totals[0], rel=0.05)


def load_matcher_state():
    """The bundled weights, as they are."""
    from loftr_ros.loftr.weights import find_weights, read_state_dict

    return read_state_dict(find_weights("tiny"))
