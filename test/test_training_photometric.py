# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""What the training's camera does to pictures, each effect against what OpenCV or arithmetic says."""

import dataclasses

import cv2
import numpy as np
import pytest
import torch
from support import NO_EFFECTS, texture

from loftr_ros.training.photometric import compressed, degrade, motion_kernel, random_effects, stacked


def after(image, **changes):
    """The picture of an image by a camera with these effects alone."""
    effects = stacked([dataclasses.replace(NO_EFFECTS, **changes)])
    images = torch.from_numpy(np.asarray(image, np.float32))[None]
    return degrade(images, effects, torch.Generator().manual_seed(0))[0].numpy()


@pytest.fixture(scope="module")
def image():
    return texture(64, 96, 3)


def test_a_camera_without_effects_changes_nothing(image):
    assert np.array_equal(after(image), image)


def test_focus_is_a_gaussian_or_its_opposite(image):
    soft = cv2.GaussianBlur(image.astype(np.float32), (9, 9), 0.8)
    assert np.abs(after(image, focus=0.8) - soft).max() <= 1
    blurred = cv2.GaussianBlur(image.astype(np.float32), (9, 9), 1.0)
    sharp = np.clip(image + 0.5 * (image - blurred), 0, 255)
    assert np.abs(after(image, focus=-0.5) - sharp).max() <= 1


def test_motion_blur_spreads_a_point_along_its_direction():
    point = np.zeros((31, 31), np.float32)
    point[15, 15] = 250
    across, down = (after(point, motion=motion_kernel(5.0, angle)) for angle in (0.0, np.pi / 2))
    assert np.flatnonzero(across.sum(axis=1)).tolist() == [15] and np.flatnonzero(down.sum(axis=0)).tolist() == [15]
    assert 5 <= np.count_nonzero(across[15]) <= 7
    assert float(across.sum()) == pytest.approx(250, abs=4)
    for length, angle in ((1.5, 0.3), (5.0, 1.0), (9.0, 2.0)):
        kernel = motion_kernel(length, angle)
        assert kernel.shape == (7, 7) and kernel.sum() == pytest.approx(1)


def test_a_patch_of_light_has_its_gain_inside_and_soft_edges():
    grey = np.full((60, 80), 100, np.float32)
    corners = np.array([[0.25, 0.25], [0.75, 0.25], [0.25, 0.75]])
    for turned in (corners, corners[::-1]):
        lit = after(grey, light=turned, light_gain=0.5, light_softness=1.5).astype(int)
        assert lit[20, 26] == 50 and lit[50, 70] == 100 and lit[5, 5] == 100
        assert lit[15, 30] == pytest.approx(75, abs=2)  # on an edge
        assert np.all(np.diff(lit[5:25, 30]) <= 0)


def test_vignette_takes_its_share_from_the_corners():
    seen = after(np.full((41, 61), 200, np.float32), vignette=0.4)
    assert seen[20, 30] == 200
    assert {int(seen[y, x]) for y in (0, -1) for x in (0, -1)} == {120}
    assert seen[20, 0] == seen[0, 30] == 160


def test_exposure_is_gamma_gain_and_offset():
    seen = after(np.full((16, 16), 64, np.float32), gamma=0.5, gain=1.2, offset=-5.0)
    assert np.all(seen == round(255 * (64 / 255) ** 0.5 * 1.2 - 5))


def test_noise_has_its_deviation_and_follows_the_generator():
    grey = np.full((100, 100), 120, np.float32)
    seen = after(grey, noise=4.0)
    assert seen.std() == pytest.approx(4.0, rel=0.05) and seen.mean() == pytest.approx(120, abs=0.2)
    assert np.array_equal(seen, after(grey, noise=4.0))


def test_compression_is_that_of_opencv(image):
    image = image[:, :90]  # no multiple of eight
    for quality in (30, 60, 92):
        mine = compressed(torch.from_numpy(image.astype(np.float32))[None], torch.tensor([float(quality)]))[0].numpy()
        packed = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        theirs = cv2.imdecode(packed, cv2.IMREAD_GRAYSCALE).astype(float)
        assert np.abs(mine - theirs).mean() < 0.3  # theirs multiplies integers: some coefficients round the other way
        assert np.abs(theirs - image).mean() > 4 * np.abs(mine - theirs).mean()
    assert np.abs(after(image, quality=92) - theirs).mean() < 0.3


def test_effects_follow_the_seed_and_pictures_do_not_mix(image):
    drawn = [random_effects(np.random.default_rng(k), dark=False) for k in (1, 1, 2)]
    images = torch.from_numpy(image.astype(np.float32)).expand(3, -1, -1)
    together = degrade(images, stacked([dataclasses.replace(item, noise=0.0) for item in drawn]), torch.Generator())
    assert torch.equal(together[0], together[1]) and not torch.equal(together[0], together[2])
    alone = degrade(images[:1], stacked([dataclasses.replace(drawn[2], noise=0.0)]), torch.Generator())
    assert (alone[0].int() - together[2].int()).abs().max() <= 1


def test_darkness_keeps_a_third_of_the_light():
    view = torch.full((40, 48, 64), 120.0)
    means = []
    for dark in (False, True):
        effects = stacked([random_effects(np.random.default_rng(k), dark) for k in range(40)])
        means.append(degrade(view, effects, torch.Generator().manual_seed(0)).float().mean())
    assert 0.1 < means[1] / means[0] < 0.4
