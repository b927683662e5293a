# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""The second refinement: local affine maps, patches, and what the trained one does with a known shift."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from support import texture

from loftr_ros.loftr import CONFIGS, LoFTR, load_network
from loftr_ros.loftr.model import standardized
from loftr_ros.loftr.refinement import Refinement, hints, local_affine, normalized, sample_patches

GRID = (10, 14)
CELLS = torch.arange(GRID[0] * GRID[1])
PLACES = torch.stack([CELLS % GRID[1], CELLS // GRID[1]], dim=1) * 8.0
LAST = PLACES[-1]
UNKNOWN = torch.zeros(len(CELLS), 2)
TYPICAL = hints(torch.full((len(CELLS),), 0.7), torch.full((len(CELLS),), 1.0))
INSIDE = ((PLACES > 16) & (PLACES < LAST - 16)).all(dim=1)


def as_input(image: np.ndarray) -> torch.Tensor:
    return standardized(torch.from_numpy(np.ascontiguousarray(image)).float()[None, None])


def moved_images(affine: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """A picture, and the same where pixel x of the first lies at affine (x, 1), affine [2, 3]."""
    image = cv2.GaussianBlur(texture(80, 112, 3), (0, 0), 1.0)
    return as_input(image), as_input(cv2.warpAffine(image, affine, (112, 80), flags=cv2.INTER_CUBIC))


def test_local_affine_of_an_affine_field():
    affine = torch.tensor([[0.9, -0.3], [0.25, 1.1]])
    found, _ = local_affine(PLACES @ affine.T + torch.tensor([5.0, -3.0]), torch.zeros_like(CELLS), CELLS, GRID, 1)
    assert (found - affine)[INSIDE].abs().max() < 0.02  # the identity counts a little


def test_neighbours_vote_for_what_they_would_do():
    points1 = 1.1 * PLACES
    odd = int(CELLS[INSIDE][3])
    points1[odd] += torch.tensor([1.1, -2.2])
    _, agreement = local_affine(points1, torch.zeros_like(CELLS), CELLS, GRID, 1)
    calm = INSIDE & ((PLACES - PLACES[odd]).abs().max(dim=1).values > 24)
    assert agreement[calm, 0].min() > 0.8 and agreement[calm, 1:].abs().max() < 0.1
    assert agreement[odd, 1:].numpy() == pytest.approx([-1.0, 2.0], abs=0.4)
    points1[odd] += 60.0
    _, agreement = local_affine(points1, torch.zeros_like(CELLS), CELLS, GRID, 1)
    assert agreement[odd, 0] < 0.1


def test_lonely_matches_have_the_identity():
    cells = torch.tensor([5, 93])
    found, _ = local_affine(torch.rand(2, 2) * 50, torch.tensor([0, 1]), cells, GRID, 2)
    assert torch.allclose(found, torch.eye(2).expand(2, 2, 2), atol=1e-6)


def test_another_depth_next_door_hardly_counts():
    points1 = PLACES + torch.where(PLACES[:, :1] > 52, 40.0, 3.0)
    found, _ = local_affine(points1, torch.zeros_like(CELLS), CELLS, GRID, 1)
    assert (found - torch.eye(2))[INSIDE].abs().max() < 0.03


def test_pairs_of_a_batch_do_not_mix():
    affines = torch.tensor([[[1.0, 0.3], [0.0, 1.0]], [[0.8, 0.0], [0.0, 0.8]]])
    points1 = torch.cat([PLACES @ affine.T for affine in affines])
    batch = torch.arange(2).repeat_interleave(len(CELLS))
    found, _ = local_affine(points1, batch, CELLS.repeat(2), GRID, 2)
    for k in range(2):
        assert (found[batch == k] - affines[k])[INSIDE].abs().max() < 0.02


def test_patches_are_parts_of_their_image():
    images = torch.rand(3, 1, 40, 56)
    points = torch.tensor([[20.0, 15.0], [9.0, 30.0]])
    patches = sample_patches(images, torch.tensor([2, 0]), points, None, 7)
    assert torch.allclose(patches[0], images[2, 0, 12:19, 17:24], atol=1e-4)
    assert torch.allclose(patches[1], images[0, 0, 27:34, 6:13], atol=1e-4)


def test_patches_between_pixels_and_turned():
    rows, columns = torch.meshgrid(torch.arange(40.0), torch.arange(56.0), indexing="ij")
    ramp = (3 * columns + 5 * rows)[None, None]
    quarter = torch.tensor([[[0.0, -1.0], [1.0, 0.0]]])  # (x, y) to (-y, x)
    patch = sample_patches(ramp, torch.tensor([0]), torch.tensor([[20.25, 15.5]]), quarter, 3)[0]
    steps = torch.tensor([-1.0, 0.0, 1.0])
    expected = 3 * (20.25 - steps[:, None]) + 5 * (15.5 + steps[None, :])
    assert torch.allclose(patch, expected.float(), atol=1e-2)


def test_outside_the_edge_goes_on():
    images = torch.rand(2, 1, 40, 56)
    patch = sample_patches(images, torch.tensor([1]), torch.tensor([[0.0, 0.0]]), None, 5)[0]
    assert torch.allclose(patch[:3, :3], images[1, 0, 0, 0].expand(3, 3), atol=1e-5)


def test_normalized_patches_forget_brightness_but_not_contrast():
    patches = torch.rand(4, 15, 15)
    same, contrast = normalized(patches)
    brighter, lower = normalized(0.5 * patches + 3)
    assert torch.allclose(same, brighter, atol=0.25) and same.std(dim=(1, 2)).min() > 0.8
    assert (lower < contrast - 0.5).all()


def test_untrained_it_moves_nothing():
    refinement = Refinement(CONFIGS["tiny"])
    points1 = PLACES + 0.3
    image = as_input(texture(80, 112))
    refined, deviation = refinement(image, image, points1, torch.zeros_like(CELLS), CELLS, GRID, UNKNOWN)
    assert torch.equal(refined, points1)
    assert deviation[INSIDE].detach().numpy() == pytest.approx(1.0, abs=0.05)


def test_gradients_reach_every_parameter():
    torch.manual_seed(0)
    refinement = Refinement(CONFIGS["tiny"])
    torch.nn.init.normal_(refinement.output.weight, std=0.1)
    images = moved_images(np.array([[1, 0, 0.5], [0, 1, -0.25]]))
    points1, deviation = refinement(*images, PLACES, torch.zeros_like(CELLS), CELLS, GRID, UNKNOWN)
    (points1.square().sum() + deviation.sum()).backward()
    for name, parameter in refinement.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_no_matches_are_no_trouble():
    none = torch.zeros(0, dtype=torch.long)
    image = as_input(texture(80, 112))
    points1, deviation = Refinement(CONFIGS["tiny"])(image, image, torch.zeros(0, 2), none, none, GRID, UNKNOWN[:0])
    assert points1.shape == (0, 2) and deviation.shape == (0,)


def test_the_published_sizes_have_none():
    for name in ("outdoor", "indoor"):
        assert CONFIGS[name].refine_side == 0
    network = LoFTR(CONFIGS["outdoor"])
    assert network.refinement is None
    assert not any(key.startswith("refinement") for key in network.state_dict())


@pytest.mark.parametrize(
    ("turn_deg", "scale", "most_median", "most_90"),
    [(0, 1.0, 0.12, 0.4), (25, 1.0, 0.15, 0.5), (0, 1.25, 0.15, 0.5)],
)
@pytest.mark.parametrize("short", [False, True])
def test_the_bundled_one_brings_guesses_home(turn_deg, scale, most_median, most_90, short):
    affine = cv2.getRotationMatrix2D((56, 40), turn_deg, scale) + [[0, 0, 0.37], [0, 0, -0.81]]
    images = moved_images(affine)
    truth1 = PLACES @ torch.from_numpy(affine[:, :2].T).float() + torch.from_numpy(affine[:, 2]).float()
    guess = truth1 + 0.7 * torch.randn(truth1.shape, generator=torch.Generator().manual_seed(0))
    refinement = load_network("tiny").refinement
    refinement.short = short
    with torch.no_grad():
        refined, deviation = refinement(*images, guess, torch.zeros_like(CELLS), CELLS, GRID, TYPICAL)
    inside = INSIDE & ((truth1 > 10) & (truth1 < LAST - 3)).all(dim=1)
    error = (refined - truth1)[inside].norm(dim=1)
    assert (guess - truth1)[inside].norm(dim=1).median() > 0.6
    assert error.median() < most_median and error.quantile(0.9) < most_90
    assert 0.3 < (error.square().mean() / 2).sqrt() / deviation[inside].mean() < 2.0


def test_bfloat16_moves_refined_points_by_little():
    images = moved_images(np.array([[1.0, 0.0, 0.4], [0.0, 1.0, -0.7]]))
    refinement, found = load_network("tiny").refinement, []
    for short in (False, True):
        refinement.short = short
        with torch.inference_mode():
            found.append(refinement(*images, PLACES, torch.zeros_like(CELLS), CELLS, GRID, TYPICAL))
    (exact, deviation), (near, other) = found
    assert near.dtype == other.dtype == torch.float32
    off = (near - exact)[INSIDE].norm(dim=1)
    assert 0 < off.median() < 0.02 and off.max() < 0.1
    assert (other / deviation)[INSIDE].log().abs().max() < 0.1


def test_the_bundled_one_knows_where_there_is_nothing_to_see():
    image = texture(80, 112)
    image[:, 56:] = 128
    rng = np.random.default_rng(0)
    images = [as_input(np.clip(image + rng.normal(0, 2, image.shape), 0, 255)) for _ in range(2)]
    with torch.no_grad():
        _, deviation = load_network("tiny").refinement(*images, PLACES, torch.zeros_like(CELLS), CELLS, GRID, TYPICAL)
    seen, blank = PLACES[:, 0] < 40, PLACES[:, 0] > 72
    assert deviation[blank].median() > 3 * deviation[seen].median()
