# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Training: data, losses, exact resumption, whole checkpoints."""

import csv
import dataclasses
import json
import os

import numpy as np
import pytest
import torch

from loftr_ros import cli
from loftr_ros.errors import InputError, WeightsError
from loftr_ros.loftr import CONFIGS, LoFTR, load_network
from loftr_ros.loftr.coarse_matching import log_assignment, similarity
from loftr_ros.loftr.weights import find_weights, read_state_dict
from loftr_ros.synthetic.textures import Textures
from loftr_ros.training import train as command
from loftr_ros.training.assignment import Assignment, teacher_loss, token_loss
from loftr_ros.training.config import BatchSize, TrainingConfig
from loftr_ros.training.data import Batch, TrainingBatches, size_of_step, validation_batches
from loftr_ros.training.losses import fine_loss, fine_targets, likelihood_loss, mutual_cells
from loftr_ros.training.trainer import COARSE_PARTS, FINE_PARTS, Trainer, _renumbered, trained_parts
from loftr_ros.training.validation import validate
from loftr_ros.training.views import random_motion, random_sample

CPU = torch.device("cpu")
SMALL = TrainingConfig(steps=4, workers=0, warmup=2, sizes=(BatchSize(96, 64, 1),), validation_pairs=2)
GRID = (8, 12)


@pytest.fixture(scope="module")
def batch() -> Batch:
    return TrainingBatches(SMALL, Textures(), rank=0)[0]


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_samples_follow_the_seed():
    first, second = (random_sample(np.random.default_rng(7), Textures(), (96, 64)) for _ in range(2))
    assert first.images.shape == (2, 64, 96) and first.images.dtype == np.uint8
    assert np.array_equal(first.images, second.images)
    assert np.array_equal(first.targets0.points, second.targets0.points)


def test_there_and_back_is_the_same_place():
    checked = 0
    for seed in range(8):
        sample = random_sample(np.random.default_rng(seed), Textures(), (192, 144))
        there, back = sample.targets0, sample.targets1
        cells = np.rint(there.points / 8).astype(int)
        near = (
            there.visible
            & (np.abs(there.points - 8 * cells).max(axis=1) < 0.5)
            & (cells < [24, 18]).all(axis=1)
        )
        for cell in np.flatnonzero(near):
            partner = cells[cell, 1] * 24 + cells[cell, 0]
            if back.visible[partner]:
                home = np.array([cell % 24, cell // 24]) * 8
                assert (
                    np.linalg.norm(back.points[partner] - home) < 3.0
                )  # half a pixel there, scales up to 3 back
                checked += 1
    assert checked > 20


def test_no_cell_is_both_visible_and_hidden(batch):
    assert not (batch.visible01 & batch.hidden01).any()
    assert not (batch.visible10 & batch.hidden10).any()


def test_motions_keep_to_their_lengths():
    lengths = [np.linalg.norm(random_motion(np.random.default_rng(k), 2.0, True)[:3, 3]) for k in range(200)]
    assert 0 < min(lengths) < 0.08 and 0.3 < max(lengths) <= 1.1


def test_assignment_is_the_dual_softmax():
    generator = torch.Generator().manual_seed(0)
    tokens0, tokens1 = (torch.randn(2, count, 16, generator=generator) for count in (6, 9))
    log_p = log_assignment(similarity(tokens0, tokens1, 0.1))
    assignment = Assignment.of(tokens0, tokens1, 0.1)
    index, cell0, cell1 = torch.tensor([0, 1]), torch.tensor([5, 2]), torch.tensor([3, 8])
    assert torch.allclose(assignment.log_p(index, cell0, cell1), log_p[index, cell0, cell1], atol=1e-5)
    marked = torch.zeros(2, 9, dtype=torch.bool)
    marked[1, 4] = True
    assert torch.allclose(assignment.reversed().matched(marked), log_p.exp().sum(dim=1)[1, 4], atol=1e-6)


def test_divergence_is_that_of_kullback_and_leibler():
    generator = torch.Generator().manual_seed(1)
    own, teacher = (
        Assignment.of(*(torch.randn(2, count, width, generator=generator) for count in (6, 9)), 0.1)
        for width in (8, 16)
    )
    parts = []
    for dim in (2, 1):
        p, q = (each.scores.softmax(dim=dim) for each in (own, teacher))
        parts.append(float((q * (q / p).log()).sum(dim=dim).mean()))
    assert own.divergence(teacher) == pytest.approx(parts[0], rel=1e-4)
    assert teacher_loss(own, teacher) == pytest.approx(sum(parts), rel=1e-4)
    assert teacher.divergence(teacher) == 0 < own.divergence(teacher)
    assert token_loss(torch.full((1, 2, 3), 3.0), torch.full((1, 2, 3), 2.0)) == 0.25


def test_mutual_cells_are_one_to_one(batch):
    index, cell0, cell1 = mutual_cells(batch, GRID, GRID)
    assert len(index) > 10
    assert len(set(zip(index.tolist(), cell0.tolist()))) == len(index)
    assert len(set(zip(index.tolist(), cell1.tolist()))) == len(index)


def test_fine_targets_lead_from_the_cell_to_the_truth(batch):
    matches, offset = fine_targets(batch, GRID, SMALL, torch.Generator().manual_seed(0))
    center = torch.stack([matches.cell1 % GRID[1], matches.cell1 // GRID[1]], dim=1) * 8.0
    assert torch.allclose(center + 2 * offset, batch.points01[matches.batch, matches.cell0], atol=1e-4)
    inside = (batch.points01[matches.batch, matches.cell0] <= torch.tensor([8 * 11, 8 * 7])).all(dim=1)
    assert offset[inside].abs().max() <= (4 + SMALL.cell_jitter) / 2 + 1e-6
    assert batch.visible01[matches.batch, matches.cell0].all()


def test_likelihood_is_best_where_deviation_equals_error():
    error = 0.4 * torch.randn(20000, 2, generator=torch.Generator().manual_seed(0))
    candidates = torch.linspace(0.2, 0.8, 61)
    values = torch.stack([likelihood_loss(error, torch.full_like(error, float(d))) for d in candidates])
    assert float(candidates[values.argmin()]) == pytest.approx(0.4, abs=0.04)


def test_fine_loss_trusts_certain_matches_more():
    error = torch.tensor([[1.0, 0.0], [0.0, 0.1]])
    certain_is_right = fine_loss(error, torch.tensor([[1.0, 1.0], [0.2, 0.2]]))
    certain_is_wrong = fine_loss(error, torch.tensor([[0.2, 0.2], [1.0, 1.0]]))
    assert certain_is_wrong > 2 * certain_is_right


def test_one_pair_can_be_learned(batch, one_thread):
    trainer = Trainer(dataclasses.replace(SMALL, steps=40), CPU)
    history = [trainer.train_step(batch) for _ in range(40)]
    assert history[-1].coarse < 0.3 * history[0].coarse
    assert history[-1].fine < 0.7 * history[0].fine


def wide_network(**changes) -> LoFTR:
    torch.manual_seed(3)
    return LoFTR(dataclasses.replace(CONFIGS["tiny_wide"], **changes))


@pytest.mark.parametrize("stage", ["all", "coarse"])
def test_resumed_training_equals_an_uninterrupted_one(stage, tmp_path, one_thread):
    """A teacher is resumed as well."""
    config = dataclasses.replace(SMALL, stage=stage)
    data = TrainingBatches(config, Textures(), rank=0)
    whole, first, second = (Trainer(config, CPU) for _ in range(3))
    if stage == "coarse":
        for trainer in (whole, first):
            trainer.start_from(wide_network().state_dict())
    for step in range(4):
        whole.train_step(data[step])
    for step in range(2):
        first.train_step(data[step])
    first.save_checkpoint(tmp_path / "checkpoint.pt")
    second.load_checkpoint(tmp_path / "checkpoint.pt")
    for step in range(second.step, 4):
        second.train_step(data[step])
    assert (second.step, second.progress) == (4, 1.0)
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, second.network.state_dict()[name]), name
        assert torch.equal(whole.average[name], second.average[name]), name


def test_a_checkpoint_is_whole_or_the_old_one(tmp_path, monkeypatch):
    trainer, path = Trainer(SMALL, CPU), tmp_path / "checkpoint.pt"
    trainer.save_checkpoint(path)
    before = path.read_bytes()

    def broken(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(InputError, match="checkpoint.pt cannot be written: No space left on device"):
        trainer.save_checkpoint(path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_training_leaves_weights_log_curve_and_recipe(tmp_path):
    run = command.Run(dataclasses.replace(SMALL, steps=2), tmp_path / "out", None, None, False)
    command.prepare_output(run)
    command.start(run)
    assert load_network("tiny", run.weights)
    rows = command.log.read_rows(tmp_path / "out" / "log.csv")
    assert [row["step"] for row in rows] == [2]
    assert 0 <= rows[0]["recall"] <= 1
    assert (tmp_path / "out" / "curve.png").stat().st_size > 1000
    assert json.loads((tmp_path / "out" / "config.json").read_text())["steps"] == 2
    with pytest.raises(InputError, match="holds a training"):
        command.prepare_output(run)


def test_a_whole_training_runs_its_stages_and_resumes(tmp_path, monkeypatch):
    start, started = command.start, []
    monkeypatch.setattr(command, "start", lambda run: started.append(run) or start(run))
    run = command.Run(dataclasses.replace(SMALL, steps=10), tmp_path / "out", None, None, False)
    command.train_all(run)
    assert [part.config.stage for part in started] == ["all", "coarse", "fine", "jitter", "found"]
    assert [part.config.config for part in started] == ["tiny_wide", "tiny", "tiny", "tiny", "tiny"]
    assert [part.config.steps for part in started] == [4, 2, 2, 1, 2]
    assert [part.init for part in started] == [None, *(part.weights for part in started[:4])]
    assert run.weights.read_bytes() == started[4].weights.read_bytes()
    wide, short, first, last = (read_state_dict(started[k].weights) for k in (0, 1, 2, 4))
    assert all(torch.equal(first[name], last[name]) for name in first if not name.startswith("refinement."))
    assert all(torch.equal(first[name], short[name]) for name in first if not name.startswith(FINE_PARTS))
    later = COARSE_PARTS + FINE_PARTS
    assert all(torch.equal(short[name], wide[name]) for name in short if not name.startswith(later))
    with pytest.raises(InputError, match="holds a training"):
        command.train_all(run)
    started[4].checkpoint.unlink()
    command.train_all(dataclasses.replace(run, resume=True))
    assert [part.config.stage for part in started[5:]] == ["found"]


def test_stages_are_those_that_a_size_has(tmp_path):
    steps = {}
    for size in ("outdoor", "tiny", "tiny_wide"):
        run = command.Run(TrainingConfig(config=size, steps=8000, minutes=80), tmp_path, None, None, False)
        parts = command.stage_runs(run)
        steps[size] = {part.config.stage: part.config.steps for part in parts}
        assert sum(part.config.minutes for part in parts) == pytest.approx(80)
    assert steps["outdoor"] == {"all": 8000}
    assert steps["tiny"] == {"all": 3200, "coarse": 1200, "fine": 1600, "jitter": 800, "found": 1200}
    assert steps["tiny_wide"] == {"all": 4923, "jitter": 1231, "found": 1846}


def test_a_size_without_second_refinement_has_no_stage_for_it(tmp_path, capsys):
    arguments = ["--output", str(tmp_path / "out"), "--config", "outdoor", "--stage", "jitter"]
    assert cli.run(command.main, arguments) == 2
    assert "jitter trains a second refinement, which outdoor does not have" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    parts = trained_parts(LoFTR(dataclasses.replace(CONFIGS["tiny"], refine_side=0)), "fine")
    assert len(parts) == len(FINE_PARTS) - 1


def test_the_coarse_stage_has_a_teacher(tmp_path, capsys):
    arguments = ["--output", str(tmp_path / "out"), "--stage", "coarse"]
    assert cli.run(command.main, arguments) == 2
    assert "learns from tiny_wide: name the weights of that by --init" in capsys.readouterr().err
    assert cli.run(command.main, [*arguments, "--config", "tiny_wide"]) == 2
    assert "needs a teacher, and tiny_wide has none" in capsys.readouterr().err
    bundled = str(find_weights("tiny"))
    assert cli.run(command.main, [*arguments, "--steps", "1", "--workers", "0", "--init", bundled]) == 2
    assert "are to be those of tiny_wide, the teacher" in capsys.readouterr().err


@pytest.mark.parametrize("stage", ["fine", "found"])
def test_weights_that_hold_more_than_the_network_are_refused(stage):
    state = load_network("tiny").state_dict() | {"refinement.conv9.weight": torch.zeros(1)}
    with pytest.raises(WeightsError, match=r"refinement\.conv9\.weight"):
        Trainer(dataclasses.replace(SMALL, stage=stage), CPU).start_from(state)


def test_the_coarse_stage_comes_closer_to_its_teacher(one_thread):
    """With layers of it to begin with; all else stays to the bit."""
    wide = wide_network().state_dict()
    config = dataclasses.replace(SMALL, stage="coarse", steps=60, learning_rate=3e-3, sizes=(BatchSize(160, 128, 2),))
    trainer = Trainer(config, CPU)
    trainer.start_from(wide)
    before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    weights = [layer.mlp[0].weight for layer in trainer.network.loftr_coarse.layers]
    assert len(weights) == 1 and torch.equal(weights[0], wide["loftr_coarse.layers.1.mlp.0.weight"]), "the first cross"
    data = TrainingBatches(config, Textures(), rank=0)
    batches = [data[k].to(CPU) for k in range(2)]
    history = [trainer.train_step(batches[k % 2]) for k in range(config.steps)]
    teacher = [float(each.teacher.detach()) for each in history]
    assert sum(teacher[-6:]) < 0.7 * sum(teacher[:6])
    assert history[-2].coarse < history[0].coarse, "of the same batch"
    assert history[-1].fine == history[-1].refinement == 0
    moved = [name for name, value in trainer.network.named_parameters() if not torch.equal(value, before[name])]
    assert moved == [name for name, _ in trainer.network.named_parameters() if name.startswith(COARSE_PARTS)]
    kept = [name for name in before if not name.startswith(COARSE_PARTS + FINE_PARTS)]
    assert len(kept) > 50 and all(torch.equal(trainer.network.state_dict()[name], wide[name]) for name in kept)


def test_layers_of_a_longer_transformer_are_taken_in_their_order():
    state = {f"loftr_coarse.layers.{k}.x": torch.tensor(k) for k in range(4)} | {"other": torch.tensor(9)}
    fewer = _renumbered(state, ("self", "cross") * 2, ("self", "cross", "cross"))
    assert fewer == {f"loftr_coarse.layers.{k}.x": v for k, v in enumerate((0, 1, 3))} | {"other": 9}


def test_what_follows_the_coarse_stage_can_be_trained_alone(one_thread):
    """From a network in which it is wider: its coarse stage stays to the bit."""
    tiny = CONFIGS["tiny"]
    same = ("coarse_layers", "match_dim", "pyramid_convs", "fine_layers")
    wide = wide_network(**{name: getattr(tiny, name) for name in same})
    config = dataclasses.replace(SMALL, stage="fine", steps=40, learning_rate=3e-3, sizes=(BatchSize(160, 128, 2),))
    trainer = Trainer(config, CPU)
    trainer.start_from(wide.state_dict())
    before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    data = TrainingBatches(config, Textures(), rank=0)
    batches = [data[k].to(CPU) for k in range(2)]
    history = [trainer.train_step(batches[k % 2]) for k in range(config.steps)]
    fine = [float(each.fine.detach()) for each in history]
    assert sum(fine[-6:]) < 0.95 * sum(fine[:6])
    assert all(each.coarse == each.negative == 0 for each in history)
    for name, value in trainer.network.state_dict().items():
        if not name.startswith(FINE_PARTS):
            assert torch.equal(value, before[name]) and torch.equal(value, wide.state_dict()[name]), name
    moved = [name for name, value in trainer.network.named_parameters() if not torch.equal(value, before[name])]
    assert moved == [name for name, _ in trainer.network.named_parameters() if name.startswith(FINE_PARTS)]
    image = batches[0].images0
    with torch.no_grad():
        tokens = [network.eval().extract(image).tokens for network in (wide, trainer.averaged_network())]
    assert torch.equal(*tokens)


def test_there_is_nothing_to_resume(tmp_path, capsys):
    assert cli.run(command.main, ["--output", str(tmp_path), "--stage", "jitter", "--resume"]) == 2
    assert "no checkpoint" in capsys.readouterr().err


def test_larger_pictures_come_later():
    config = TrainingConfig(sizes=(BatchSize(96, 64, 1), BatchSize(320, 240, 1, 100)))
    assert {size_of_step(config, step).width for step in range(100)} == {96}
    assert {size_of_step(config, step).width for step in range(100, 140)} == {96, 320}


def test_a_gpu_may_have_more_pairs_a_step(tmp_path, capsys):
    config = dataclasses.replace(SMALL, sizes=(BatchSize(96, 64, 2),))
    few, many = (
        TrainingBatches(dataclasses.replace(config, pairs_factor=factor), Textures(), rank=0)[5]
        for factor in (1, 3)
    )
    assert len(few.images0) == 2 and len(many.images0) == len(many.points01) == 6
    assert torch.equal(many.images0[:2], few.images0) and not torch.equal(many.images0[2:4], few.images0)
    assert cli.run(command.main, ["--output", str(tmp_path), "--pairs-factor", "0"]) == 2
    assert "pairs factor" in capsys.readouterr().err


def test_the_log_holds_the_means_of_the_losses(tmp_path, monkeypatch):
    run = command.Run(dataclasses.replace(SMALL, steps=4, validate_every=4, stage="all"), tmp_path, None, None, False)
    step, seen = Trainer.train_step, []
    monkeypatch.setattr(Trainer, "train_step", lambda self, batch: seen.append(step(self, batch)) or seen[-1])
    command.train(0, run)
    row = next(csv.DictReader((tmp_path / "log.csv").open()))
    assert int(row["step"]) == 4
    assert float(row["total"]) == pytest.approx(sum(each.total.item() for each in seen) / 4, rel=1e-4)
    assert float(row["fine"]) == pytest.approx(sum(each.fine.item() for each in seen) / 4, rel=1e-4)


def test_validation_of_an_untrained_network_is_poor_but_valid():
    scores = validate(Trainer(SMALL, CPU).averaged_network(), validation_batches(SMALL, None), CPU)
    assert 0 <= scores.recall < 0.2 and 0 <= scores.precision <= 1
