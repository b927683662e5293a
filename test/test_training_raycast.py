# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Pairs rendered many at a time are those rendered one by one."""

import dataclasses

import cv2
import numpy as np
import pytest
import torch
from support import texture

from loftr_ros.synthetic.textures import Textures
from loftr_ros.training.config import BatchSize, TrainingConfig
from loftr_ros.training.data import TrainingBatches, TrainingPlans, collate, drawn, drawn_ahead
from loftr_ros.training.raycast import Atlas, Plans
from loftr_ros.training.views import overlap, random_plan, rendered

SIZE = (128, 96)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CONFIG = TrainingConfig(sizes=(BatchSize(*SIZE, 2),), workers=0)


@pytest.fixture(scope="module")
def textures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for k in range(6):
        cv2.imwrite(str(folder / f"{k}.png"), texture(90 + 13 * k, 130 - 7 * k, k))
    return Textures(folder)


@pytest.fixture(scope="module")
def atlas(textures):
    return Atlas(textures, DEVICE)


@pytest.fixture(scope="module")
def plans(textures):
    """Scenes of all kinds, without noise."""
    made = [random_plan(np.random.default_rng(k), textures, SIZE) for k in range(12)]
    return [
        dataclasses.replace(plan, effects=tuple(dataclasses.replace(e, noise=0.0, quality=0) for e in plan.effects))
        for plan in made
    ]


def test_pictures_and_targets_are_those_of_the_z_buffer(plans, textures, atlas):
    one_by_one = collate([rendered(plan, textures, SIZE) for plan in plans], 0)
    together = drawn(Plans.of(plans, SIZE, 0).to(DEVICE), atlas)
    for name in ("images0", "images1"):
        mine, theirs = getattr(together, name).cpu().int(), getattr(one_by_one, name).int()
        difference = (mine - theirs).abs().float()
        assert difference.mean() < 0.5
        assert (difference > 4).float().mean() < 0.015  # borders of textures, whose halvings see what lies beyond
    for name in ("visible01", "hidden01", "visible10", "hidden10"):
        assert (getattr(together, name).cpu() != getattr(one_by_one, name)).float().mean() < 0.002
    for side in ("01", "10"):
        seen = getattr(one_by_one, f"visible{side}") & getattr(together, f"visible{side}").cpu()
        assert seen.float().mean() > 0.3
        points = [getattr(batch, f"points{side}").cpu()[seen] for batch in (together, one_by_one)]
        assert (points[0] - points[1]).abs().max() < 1e-3


def test_the_size_of_the_pieces_does_not_matter(plans, atlas, monkeypatch):
    whole = drawn(Plans.of(plans, SIZE, 0).to(DEVICE), atlas)
    for name in ("_MOST_HITS", "_MOST_HITS_CPU"):
        monkeypatch.setattr(f"loftr_ros.training.raycast.{name}", 1)
    pieces = drawn(Plans.of(plans, SIZE, 0).to(DEVICE), atlas)
    assert torch.equal(whole.images0, pieces.images0) and torch.equal(whole.points01, pieces.points01)


def test_both_views_share_what_was_asked_for(plans, textures):
    for plan in plans:
        told = overlap(plan.surfaces, plan.intrinsics, plan.poses, SIZE)
        seen = rendered(plan, textures, SIZE).targets0.visible.mean()
        assert told >= 0.2 or seen >= 0.1
        assert told == pytest.approx(seen, abs=0.12)


def test_batches_drawn_ahead_are_the_same_in_the_same_order(textures, atlas):
    planned = TrainingPlans(CONFIG, textures, 0)
    ahead = list(drawn_ahead((planned[step] for step in range(4)), atlas, DEVICE))
    assert len(ahead) == 4
    for step, batch in enumerate(ahead):
        alone = drawn(planned[step].to(DEVICE), atlas)
        assert batch.seed == alone.seed and torch.equal(batch.images1, alone.images1)


def test_drawing_ahead_ends_with_what_went_wrong(textures, atlas):
    def planned():
        yield TrainingPlans(CONFIG, textures, 0)[0]
        raise ValueError("no more plans")

    batches = drawn_ahead(planned(), atlas, DEVICE)
    next(batches)
    with pytest.raises(ValueError, match="no more plans"):
        next(batches)


def test_a_step_shows_the_same_scenes_on_both_ways(textures, atlas):
    on_cpu = TrainingBatches(CONFIG, textures, rank=3)[7]
    drawn_there = drawn(TrainingPlans(CONFIG, textures, rank=3)[7].to(DEVICE), atlas)
    assert on_cpu.seed == drawn_there.seed
    assert (on_cpu.points01 - drawn_there.points01.cpu()).abs()[on_cpu.visible01].max() < 1e-2
