# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Pairs rendered many at a time are those rendered one by one."""

import dataclasses
import itertools
import threading

import cv2
import numpy as np
import pytest
import torch
from support import NO_EFFECTS, texture

from loftr_ros.synthetic.textures import Textures
from loftr_ros.training.config import BatchSize, TrainingConfig
from loftr_ros.training.data import TrainingBatches, TrainingPlans, collate, rendered_ahead, rendered_batch
from loftr_ros.training.raycast import Atlas, Plans, render_pairs
from loftr_ros.training.scenes import Surface
from loftr_ros.training.train import loaded
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
    together = rendered_batch(Plans.of(plans, SIZE, 0).to(DEVICE), atlas)
    for name in ("images0", "images1"):
        mine, theirs = getattr(together, name).cpu().int(), getattr(one_by_one, name).int()
        difference = (mine - theirs).abs().float()
        assert difference.mean() < 0.5
        assert (difference > 4).float().mean() < 0.015  # halvings are of pictures, not of their mirrored parts
    for name in ("visible01", "hidden01", "visible10", "hidden10"):
        assert (getattr(together, name).cpu() != getattr(one_by_one, name)).float().mean() < 0.002
    for side in ("01", "10"):
        seen = getattr(one_by_one, f"visible{side}") & getattr(together, f"visible{side}").cpu()
        assert seen.float().mean() > 0.3
        points = [getattr(batch, f"points{side}").cpu()[seen] for batch in (together, one_by_one)]
        assert (points[0] - points[1]).abs().max() < 1e-3


def test_whole_pictures_are_the_same_to_a_grey_level(plans, textures, atlas):
    def whole(surface):
        height, width = textures.picture(surface.swatch.picture).shape
        swatch = dataclasses.replace(surface.swatch, top=0, left=0, height=height, width=width, mirrored=False)
        return dataclasses.replace(surface, swatch=swatch)

    effects = (NO_EFFECTS, NO_EFFECTS)
    plain = [dataclasses.replace(p, surfaces=[whole(s) for s in p.surfaces], effects=effects) for p in plans]
    one_by_one = collate([rendered(plan, textures, SIZE) for plan in plain], 0)
    together = rendered_batch(Plans.of(plain, SIZE, 0).to(DEVICE), atlas)
    difference = (together.images0.cpu().int() - one_by_one.images0.int()).abs().float()
    assert (difference > 1).float().mean() < 0.002


def test_the_size_of_the_pieces_does_not_matter(plans, atlas, monkeypatch):
    whole = rendered_batch(Plans.of(plans, SIZE, 0).to(DEVICE), atlas)
    for name in ("_MOST_TESTS", "_MOST_TESTS_CPU"):
        monkeypatch.setattr(f"loftr_ros.training.raycast.{name}", 1)
    pieces = rendered_batch(Plans.of(plans, SIZE, 0).to(DEVICE), atlas)
    assert torch.equal(whole.images0, pieces.images0) and torch.equal(whole.points01, pieces.points01)


def test_both_views_share_what_was_asked_for(plans, textures):
    for plan in plans:
        told = overlap(plan.surfaces, plan.intrinsics, plan.poses, SIZE)
        seen = rendered(plan, textures, SIZE).targets0.visible.mean()
        assert told >= 0.2
        assert told == pytest.approx(seen, abs=0.12)


def test_batches_rendered_ahead_are_the_same_in_the_same_order(textures, atlas):
    planned = TrainingPlans(CONFIG, textures, 0)
    ahead = list(rendered_ahead((planned[step] for step in range(4)), atlas, DEVICE))
    assert len(ahead) == 4
    for step, batch in enumerate(ahead):
        alone = rendered_batch(planned[step].to(DEVICE), atlas)
        assert batch.seed == alone.seed and torch.equal(batch.images1, alone.images1)


def test_drawing_ahead_ends_with_what_went_wrong(textures, atlas):
    def planned():
        yield TrainingPlans(CONFIG, textures, 0)[0]
        raise ValueError("no more plans")

    batches = rendered_ahead(planned(), atlas, DEVICE)
    next(batches)
    with pytest.raises(ValueError, match="no more plans"):
        next(batches)


def test_rendering_ahead_ends_when_it_is_closed(textures, atlas):
    planned = TrainingPlans(CONFIG, textures, 0)
    batches = rendered_ahead((planned[step] for step in itertools.count()), atlas, DEVICE)
    next(batches)
    assert "rendering" in {thread.name for thread in threading.enumerate()}
    batches.close()
    assert "rendering" not in {thread.name for thread in threading.enumerate()}


def test_plans_come_whole_from_other_processes(textures):
    config = dataclasses.replace(CONFIG, workers=1, steps=2)
    alone = TrainingPlans(config, textures, 0)
    for step, plans in enumerate(loaded(TrainingPlans(config, textures, 0), config, 0)):
        for name, value in vars(alone[step]).items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(getattr(plans, name), value)
        assert all(torch.equal(plans.effects[name], value) for name, value in alone[step].effects.items())


def test_targets_of_a_size_that_eight_does_not_divide(plans, textures, atlas):
    size = (100, 76)
    one_by_one = collate([rendered(plan, textures, size) for plan in plans], 0)
    together = rendered_batch(Plans.of(plans, size, 0).to(DEVICE), atlas)
    assert together.images0.shape == (len(plans), 1, 76, 100) and together.points01.shape == (len(plans), 130, 2)
    for name in ("visible01", "hidden01", "visible10", "hidden10"):
        assert (getattr(together, name).cpu() != getattr(one_by_one, name)).float().mean() < 0.002


def test_what_no_ray_meets_is_black_and_unknown(plans, textures, atlas):
    """A small quad before the camera, and one that is seen edge-on."""
    plan = plans[0]
    poses = np.stack([np.eye(4), np.eye(4)])
    swatch = dataclasses.replace(plan.surfaces[0].swatch, gain=0.0, offset=200.0)
    facing = Surface(np.array([-0.1, -0.1, 1.0]), np.array([0.2, 0, 0]), np.array([0, 0.2, 0]), swatch)
    edge_on = Surface(np.array([0.0, -1.0, 0.5]), np.array([0, 2.0, 0]), np.array([0, 0, 1.0]), swatch)
    intrinsics = np.array([[100.0, 0, 64.2], [0, 100.0, 48], [0, 0, 1]])
    few = dataclasses.replace(
        plan, surfaces=[facing, edge_on], intrinsics=np.stack([intrinsics] * 2), poses=poses,
        effects=(NO_EFFECTS,) * 2,
    )  # fmt: skip
    images, inverse_depth = render_pairs(Plans.of([few, plan], SIZE, 0).to(DEVICE), atlas)
    assert images[0, 0, 48, 64] == 200 and inverse_depth[0, 0, 48, 64] == 1
    assert images[0, 0, 5, 5] == 0 and inverse_depth[0, 0, 5, 5] == 0
    assert (inverse_depth[0, 0] > 0).sum() == pytest.approx(20 * 20, abs=41)
    assert torch.isfinite(inverse_depth).all()


def test_a_step_shows_the_same_scenes_on_both_ways(textures, atlas):
    on_cpu = TrainingBatches(CONFIG, textures, rank=3)[7]
    on_device = rendered_batch(TrainingPlans(CONFIG, textures, rank=3)[7].to(DEVICE), atlas)
    assert on_cpu.seed == on_device.seed
    assert (on_cpu.points01 - on_device.points01.cpu()).abs()[on_cpu.visible01].max() < 1e-2
