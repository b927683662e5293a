# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Our network against kornia's LoFTR: the same random state dict gives the same matches."""

from __future__ import annotations

import copy
import dataclasses
import functools
import os

import numpy as np
import pytest
import torch
from support import lively as random_network
from support import texture

from loftr_ros.loftr import CONFIGS, LoFTR

kornia_loftr = pytest.importorskip(
    "kornia.feature.loftr.loftr", reason="kornia is the peer that parity is proven against"
)

# The larger size takes seconds per network; LOFTR_ROS_PARITY_SEEDS=3 tries all seeds there too.
LARGE_SEEDS = range(int(os.environ.get("LOFTR_ROS_PARITY_SEEDS", "1")))


@functools.cache
def lively(seed: int, size: str = "outdoor") -> LoFTR:
    return random_network(size, seed)


def image(height: int, width: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(texture(height, width, seed)).float()[None, None] / 255.0


def pair(size0: tuple[int, int], size1: tuple[int, int], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two images of the sizes [height, width], the second one 8 pixels down and 16 to the right in the same texture."""
    whole = image(max(size0[0], size1[0]) + 8, max(size0[1], size1[1]) + 16, seed)
    image0 = whole[..., : size0[0], : size0[1]].contiguous()
    return image0, whole[..., 8 : 8 + size1[0], 16 : 16 + size1[1]].contiguous()


@functools.cache
def peer(network: LoFTR) -> torch.nn.Module:
    config = copy.deepcopy(kornia_loftr.default_cfg)
    config["coarse"]["temp_bug_fix"] = network.config.temp_bug_fix
    other = kornia_loftr.LoFTR(pretrained=None, config=config)
    other.load_state_dict(dict(network.state_dict()), strict=True)
    return other.eval()


def table(points0, points1, confidence, batch) -> dict[tuple, tuple]:
    """Position in image 1 and confidence by the pair of cells: (batch, cell of image 0, cell of image 1)."""
    rows = zip(points0.tolist(), points1.tolist(), confidence.tolist(), batch.tolist())
    # The fine offset is at most 2 fine cells of 2 pixels, so it may leave the cell: cell 0 names the match.
    return {(b, *p0): (p1, c) for p0, p1, c, b in rows}


@torch.inference_mode()
def compare(network: LoFTR, image0, image1, mask0=None, mask1=None, least: int = 50, border_of=None) -> None:
    ours = network(image0, image1, mask0, mask1)
    data = {"image0": image0, "image1": image1}
    data.update({name: mask for name, mask in (("mask0", mask0), ("mask1", mask1)) if mask is not None})
    found = peer(network)(data)
    a = table(ours.points0, ours.points1, ours.confidence, ours.batch)
    b = table(found["keypoints0"], found["keypoints1"], found["confidence"], found["batch_indexes"])
    assert len(a) == len(ours.points0) and len(b) == len(found["keypoints0"])
    if border_of is not None:
        a = {key: value for key, value in a.items() if border_of(key, value)}
        b = {key: value for key, value in b.items() if border_of(key, value)}
    assert len(b) >= least, "a test without matches proves nothing"
    assert set(a) == set(b)
    positions = np.array([[a[key][0], b[key][0]] for key in b])
    confidences = np.array([[a[key][1], b[key][1]] for key in b])
    # Matched cells that differ would lie 8 pixels or more apart, so this compares the second cells too.
    assert np.abs(positions[:, 0] - positions[:, 1]).max() < 0.01
    assert np.abs(confidences[:, 0] - confidences[:, 1]).max() < 1e-4


@pytest.mark.parametrize("seed", range(3))
def test_same_matches_at_240x320(seed):
    compare(lively(seed), *pair((240, 320), (240, 320), seed))


@pytest.mark.parametrize("seed", LARGE_SEEDS)
def test_same_matches_at_480x640(seed):
    compare(lively(seed), *pair((480, 640), (480, 640), seed))


@pytest.mark.parametrize(
    ("size0", "size1"),
    [((112, 144), (96, 160)), ((117, 155), (109, 138))],
    ids=["divisible by 8", "not divisible by 8"],
)
def test_same_matches_for_other_sizes(size0, size1):
    compare(lively(1), *pair(size0, size1, 1), least=20)


def test_same_matches_with_the_corrected_position_encoding():
    compare(lively(2, "indoor"), *pair((112, 144), (112, 144), 2))


def test_the_position_encodings_of_the_two_sizes_differ():
    features = torch.zeros(1, 256, 6, 8)
    official, corrected = (LoFTR(CONFIGS[name]).pos_encoding(features) for name in ("outdoor", "indoor"))
    # Channel 4 is the first sine of x after frequency 1: 10000^(-2 / 128) where it is right.
    assert corrected[0, 4, 0, 2] == pytest.approx(np.sin(3 * 10000 ** (-2 / 128)), abs=1e-5)
    assert abs(official[0, 4, 0, 2] - corrected[0, 4, 0, 2]) > 0.1


def test_same_matches_with_masks():
    """kornia takes masks for padding, and moves its border to their edge: compared is what lies within both borders."""
    size, valid = (128, 160), (112, 136)
    mask = torch.zeros(1, *size, dtype=torch.bool)
    mask[:, : valid[0], : valid[1]] = True

    def inside(key, value):
        return all(
            16 <= x < w - 24 and 16 <= y < h - 24
            for x, y, w, h in [(*key[1:], valid[1], valid[0]), (*value[0], valid[1], valid[0])]
        )

    compare(lively(0), *pair(size, size, 0), mask0=mask, mask1=mask, border_of=inside, least=20)


@pytest.fixture(scope="module")
def small() -> tuple[LoFTR, torch.Tensor, torch.Tensor]:
    return random_network("tiny", 0, gain=0.6), *pair((96, 128), (96, 128), 0)


def test_masked_cells_never_match(small):
    network, image0, image1 = small
    mask0 = torch.ones(1, 96, 128, dtype=torch.bool)
    mask0[:, :, :64] = False
    with torch.inference_mode():
        found = network(image0, image1, mask0, None)
        other = network(image0, image1, None, mask0)
    assert len(found.points0) > 10 and (found.points0[:, 0] >= 64).all()
    assert len(other.points0) > 10 and (other.points1[:, 0] >= 64 - 4).all()


@torch.inference_mode()
def test_extract_and_match_equal_forward(small):
    network, image0, image1 = small
    whole, parts = network(image0, image1), network.match(network.extract(image0), network.extract(image1))
    assert len(whole.points0) > 30
    for name in ("points0", "batch", "cell0"):
        assert torch.equal(getattr(whole, name), getattr(parts, name))
    for name in ("points1", "confidence", "deviation"):
        torch.testing.assert_close(getattr(whole, name), getattr(parts, name), atol=1e-3, rtol=1e-3)


@torch.inference_mode()
def test_a_batch_equals_its_pairs(small):
    network = small[0]
    pairs = [pair((96, 128), (96, 128), seed) for seed in (3, 4)]
    batch = network(*(torch.cat(images) for images in zip(*pairs)))
    for i, images in enumerate(pairs):
        alone, of_batch = network(*images), batch.batch == i
        assert len(alone.points0) > 15 and torch.equal(alone.points0, batch.points0[of_batch])
        torch.testing.assert_close(alone.points1, batch.points1[of_batch], atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(alone.confidence, batch.confidence[of_batch], atol=1e-4, rtol=1e-3)


@torch.inference_mode()
def test_the_output_is_what_it_says(small):
    network, image0, image1 = small
    found = network(image0, image1)
    columns = 128 // 8
    wanted = torch.stack([found.cell0 % columns, found.cell0 // columns], dim=1) * 8.0
    assert torch.equal(found.points0, wanted)
    border = network.config.border * 8
    assert (found.points0 >= border).all() and (
        found.points0 < torch.tensor([128 - border, 96 - border])
    ).all()
    assert (found.confidence > network.threshold).all() and (found.confidence <= 1).all()
    assert (found.deviation > 0).all() and (found.deviation < 4).all()
    # The second image is the first one, moved: most matches say so.
    near = (found.points1 - found.points0 + torch.tensor([16.0, 8.0])).norm(dim=1) < 8
    assert near.float().mean() > 0.5


@torch.inference_mode()
def test_the_threshold_thins_the_matches(small):
    network, image0, image1 = small
    features = network.extract(image0), network.extract(image1)
    some = network.match(*features)
    strict = copy.copy(network)
    strict.threshold = float(some.confidence.median())
    fewer = strict.match(*features)
    assert 0 < len(fewer.points0) < len(some.points0) and (fewer.confidence > strict.threshold).all()


@torch.inference_mode()
def test_images_without_structure_do_not_crash(small):
    for value in (0.0, 1.0):
        flat = torch.full((1, 1, 64, 72), value)
        found = small[0](flat, flat)
        assert torch.isfinite(found.points1).all() and len(found.points0) == len(found.confidence)


def test_numbers_of_parameters():
    counts = {name: sum(p.numel() for p in LoFTR(config).parameters()) for name, config in CONFIGS.items()}
    assert counts["outdoor"] == counts["indoor"] == 11_561_456
    assert counts["tiny"] < 600_000


def test_sizes_are_frozen_configurations():
    with pytest.raises(dataclasses.FrozenInstanceError):
        CONFIGS["tiny"].border = 0  # type: ignore[misc]
