# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Training of the second refinement: what it sees, its losses, and that nothing else moves."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from loftr_ros.errors import WeightsError
from loftr_ros.loftr import load_network
from loftr_ros.synthetic.textures import Textures
from loftr_ros.training.config import BatchSize, TrainingConfig
from loftr_ros.training.data import Batch, TrainingBatches
from loftr_ros.training.refinement import deviation_loss, found_matches, jittered_matches, near, position_loss
from loftr_ros.training.trainer import Trainer

CPU = torch.device("cpu")
SMALL = TrainingConfig(
    stage="jitter", steps=60, warmup=5, learning_rate=3e-3, sizes=(BatchSize(160, 128, 3),), ema_decay=0.9
)


@pytest.fixture(scope="module")
def batch() -> Batch:
    return TrainingBatches(SMALL, Textures(), 0)[0].to(CPU)


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_jitter_is_mostly_below_a_pixel_with_a_long_tail(batch):
    guesses = jittered_matches(batch, torch.Generator().manual_seed(0))
    assert batch.visible01[guesses.batch, guesses.cell0].all()
    assert torch.equal(guesses.truth1, batch.points01[guesses.batch, guesses.cell0])
    error = (guesses.points1 - guesses.truth1).norm(dim=1)
    assert 0.3 < error.median() < 1.2
    assert 0.02 < (error > 4).float().mean() < 0.2
    assert torch.equal(guesses.judged, error < 4)
    again = jittered_matches(batch, torch.Generator().manual_seed(0))
    assert torch.equal(guesses.points1, again.points1)


def test_found_matches_have_their_truth_where_there_is_one(batch):
    guesses = found_matches(load_network("tiny"), batch)
    visible = batch.visible01[guesses.batch, guesses.cell0]
    hidden = batch.hidden01[guesses.batch, guesses.cell0]
    assert len(guesses.batch) > 100
    assert torch.equal(guesses.judged, visible | hidden)
    assert torch.equal(
        guesses.truth1[visible], batch.points01[guesses.batch[visible], guesses.cell0[visible]]
    )
    assert not near(guesses.points1, guesses.truth1)[~visible].any()
    assert near(guesses.points1, guesses.truth1)[visible].float().mean() > 0.8


def test_deviation_loss_is_least_at_the_error():
    error = 0.4 * torch.randn(20000, 2, generator=torch.Generator().manual_seed(0))
    candidates = torch.linspace(0.2, 0.8, 61)
    values = torch.stack([deviation_loss(error, torch.full((20000,), float(d))) for d in candidates])
    assert float(candidates[values.argmin()]) == pytest.approx(0.4, abs=0.02)


def test_what_is_lost_has_the_clipped_error():
    lost = torch.full((10, 2), -torch.inf)
    candidates = torch.linspace(1.0, 5.0, 41)
    values = torch.stack([deviation_loss(lost, torch.full((10,), float(d))) for d in candidates])
    assert float(candidates[values.argmin()]) == pytest.approx(3.0, abs=0.1)


def test_position_loss_trusts_certain_matches_more():
    error = torch.tensor([[1.0, 0.0], [0.0, 0.1]])
    certain_is_right = position_loss(error, torch.tensor([1.0, 0.2]))
    certain_is_wrong = position_loss(error, torch.tensor([0.2, 1.0]))
    assert certain_is_wrong > 2 * certain_is_right


@pytest.mark.parametrize(("stage", "new", "rate"), [("jitter", True, 3e-3), ("found", False, 1e-3)])
def test_its_loss_falls_and_nothing_else_moves(stage, new, rate, one_thread):
    config = dataclasses.replace(SMALL, stage=stage, learning_rate=rate)
    trainer = Trainer(config, CPU)
    start = load_network("tiny").state_dict()
    kept = {name: value for name, value in start.items() if not (new and name.startswith("refinement."))}
    trainer.start_from(kept)
    data = TrainingBatches(config, Textures(), 0)
    batches = [data[k] for k in range(2)]
    history = [float(trainer.train_step(batches[k % 2]).refinement.detach()) for k in range(config.steps)]
    assert sum(history[-6:]) < 0.8 * sum(history[:6])
    for name, value in trainer.network.state_dict().items():
        assert name.startswith("refinement.") or torch.equal(value, start[name]), name


def test_calibration_multiplies_the_deviations(batch):
    trainer = Trainer(SMALL, CPU)
    trainer.start_from(load_network("tiny").state_dict())
    outputs = [trainer.averaged_network()(batch.images0, batch.images1)]
    trainer.calibrate(0.7)
    outputs.append(trainer.averaged_network()(batch.images0, batch.images1))
    assert torch.allclose(outputs[1].deviation, 0.7 * outputs[0].deviation, rtol=1e-4)
    assert torch.allclose(outputs[1].points1, outputs[0].points1)


def test_weights_that_lack_more_than_the_refinement_are_refused():
    state = load_network("tiny").state_dict()
    del state["backbone.conv1.weight"]
    with pytest.raises(WeightsError, match=r"backbone\.conv1\.weight"):
        Trainer(SMALL, CPU).start_from(state)
