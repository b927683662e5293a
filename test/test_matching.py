# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Matchers: right where the truth is known, empty where there is nothing, exact in their pixel mapping."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support import lively, texture

from loftr_ros.errors import ConfigError, InputError, WeightsError
from loftr_ros.loftr import CONFIGS
from loftr_ros.matching import classical, load_matcher
from loftr_ros.matching.loftr import LoFTRMatcher
from loftr_ros.matching.resolution import working_size
from loftr_ros.types import Matches

HOMOGRAPHY = np.array([[0.96, -0.12, 30.0], [0.10, 0.98, -12.0], [1e-4, -5e-5, 1.0]])
CLASSICAL = ["sift", "orb"]


def warped(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return cv2.warpPerspective(image, HOMOGRAPHY, size, flags=cv2.INTER_CUBIC)


def transfer(points: np.ndarray) -> np.ndarray:
    return cv2.perspectiveTransform(points[:, None], HOMOGRAPHY)[:, 0]


def is_well_formed(matches: Matches) -> bool:
    count = len(matches)
    return (
        matches.points0.shape == matches.points1.shape == (count, 2)
        and matches.confidence.shape == matches.sigma.shape == matches.index0.shape == (count,)
        and len(np.unique(matches.index0)) == count
        and bool(((matches.confidence >= 0) & (matches.confidence <= 1)).all() and (matches.sigma > 0).all())
    )


@pytest.mark.parametrize("name", CLASSICAL)
@pytest.mark.parametrize("size", [(400, 300), (360, 280)], ids=["same size", "other size"])
def test_known_homography(name, size):
    image0 = texture(300, 400, 3)
    matches = load_matcher(name).match(image0, warped(image0, size))
    errors = np.linalg.norm(transfer(matches.points0) - matches.points1, axis=1)
    assert is_well_formed(matches) and len(matches) > 150
    assert np.median(errors) < {"sift": 0.3, "orb": 1.0}[name] and (errors < 3).mean() > 0.85


@pytest.mark.parametrize("name", CLASSICAL)
def test_an_image_matches_itself_exactly(name):
    image = texture(240, 320, 4)
    matches = load_matcher(name).match(image, image)
    assert len(matches) > 100
    np.testing.assert_array_equal(matches.points0, matches.points1)


@pytest.mark.parametrize("name", CLASSICAL)
def test_whole_pixel_shift(name):
    """Pixel centres are at integers in both images: no half pixel is lost."""
    whole = texture(300, 400, 5)
    matches = load_matcher(name).match(whole[:280, :380], whole[16:, 8:])
    shift = np.median(matches.points1 - matches.points0, axis=0)
    np.testing.assert_allclose(shift, [-8, -16], atol=0.05)


@pytest.mark.parametrize("name", CLASSICAL)
def test_featureless_images_give_no_matches(name):
    matcher, flat, good = load_matcher(name), np.full((200, 300), 90, np.uint8), texture(200, 300)
    for pair in ((flat, flat), (flat, good), (good, flat)):
        matches = matcher.match(*pair)
        assert len(matches) == 0 and is_well_formed(matches)
    assert len(matcher.match(good, np.zeros((1, 1), np.uint8))) == 0


@pytest.mark.parametrize("name", CLASSICAL)
def test_unrelated_images_give_few_matches(name):
    related = load_matcher(name).match(texture(240, 320, 6), texture(240, 320, 6))
    unrelated = load_matcher(name).match(texture(240, 320, 6), texture(240, 320, 7))
    assert len(unrelated) < 0.1 * len(related)


@pytest.mark.parametrize("name", CLASSICAL)
def test_index0_names_the_same_pixel_in_every_match(name):
    matcher, image = load_matcher(name), texture(240, 320, 8)
    keyframe = matcher.extract(image)
    one = matcher.match_features(keyframe, matcher.extract(np.roll(image, 5, axis=1)))
    two = matcher.match_features(keyframe, matcher.extract(np.roll(image, 9, axis=0)))
    common, at_one, at_two = np.intersect1d(one.index0, two.index0, return_indices=True)
    assert len(common) > 50
    np.testing.assert_array_equal(one.points0[at_one], two.points0[at_two])


@pytest.fixture
def mask_file(tmp_path):
    """The left half of the image is ignored; the mask is of half the image's size."""
    mask = np.full((120, 160), 255, np.uint8)
    mask[:, :80] = 0
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    return str(tmp_path / "mask.png")


@pytest.mark.parametrize("name", CLASSICAL)
def test_masked_pixels_do_not_match(name, mask_file):
    image = texture(240, 320, 9)
    matches = load_matcher(name, mask_file=mask_file).match(image, image)
    assert len(matches) > 50 and matches.points0[:, 0].min() >= 159 and matches.points1[:, 0].min() >= 159


@pytest.mark.parametrize("name", CLASSICAL)
def test_fewer_keypoints_are_fewer_matches_and_a_ratio_of_one_keeps_more(name):
    image0 = texture(300, 400, 3)
    image1 = warped(image0, (400, 300))
    normal = len(load_matcher(name).match(image0, image1))
    assert 0 < len(load_matcher(name, max_keypoints=100).match(image0, image1)) <= 110 < normal
    assert len(load_matcher(name, ratio=1.0).match(image0, image1)) > normal


@pytest.mark.parametrize(
    "image", [np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.float32), np.zeros((0, 8), np.uint8)]
)
def test_images_of_another_kind_are_refused(image, tiny_file):
    for matcher in (load_matcher("orb"), LoFTRMatcher("tiny", tiny_file, "cpu")):
        with pytest.raises(ValueError, match="grey uint8"):
            matcher.match(image, image)


def test_bad_options_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="did you mean 'ratio'"):
        load_matcher("sift", rato=0.7)
    with pytest.raises(ConfigError, match="ratio must be at most 1"):
        load_matcher("sift", ratio=7.0)
    with pytest.raises(ConfigError, match="matcher must be one of"):
        load_matcher("surf")
    (tmp_path / "mask.png").write_text("no image")
    with pytest.raises(InputError, match="mask.png is not a readable image"):
        load_matcher("sift", mask_file=str(tmp_path / "mask.png"))
    with pytest.raises(WeightsError, match="nowhere does not exist"):
        load_matcher("tiny", weights="nowhere")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="finds no GPU"):
        load_matcher("tiny", device="cuda")


# -- LoFTR -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory) -> str:
    """Random weights of the tiny size whose batch norms fit images, so that matches occur at a low threshold."""
    network = lively("tiny", 0, gain=0.6)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, str(path))
    return str(path)


def tiny(tiny_file: str, **options) -> LoFTRMatcher:
    return load_matcher("tiny", weights=tiny_file, device="cpu", threshold=0.01, **options)


def test_loftr_is_well_formed_and_deterministic(tiny_file):
    image0, image1 = texture(120, 160, 11), texture(130, 150, 11)
    first, second = (tiny(tiny_file).match(image0, image1) for _ in range(2))
    assert len(first) > 10 and is_well_formed(first)
    np.testing.assert_array_equal(first.points1, second.points1)
    np.testing.assert_array_equal(first.confidence, second.confidence)


@pytest.mark.parametrize(
    ("height", "width", "max_side"),
    [(120, 160, 0), (123, 157, 0), (240, 320, 160), (241, 333, 160), (90, 120, 640)],
)
def test_loftr_keypoints_lie_on_the_mapped_grid(tiny_file, height, width, max_side):
    """Cell (column, row) of the shrunk image, whose edges are those of the original: pixel (8 c + 0.5) s - 0.5."""
    image = texture(height, width, 12)
    matches = tiny(tiny_file, max_side=max_side).match(image, image)
    assert len(matches) > 10
    shrunk = working_size(width, height, max_side)
    columns = -(-shrunk[0] // 8)
    cells = np.stack([matches.index0 % columns, matches.index0 // columns], axis=1)
    scale = np.array([width / shrunk[0], height / shrunk[1]])
    np.testing.assert_allclose(matches.points0, (8.0 * cells + 0.5) * scale - 0.5, atol=1e-9)
    assert (matches.points0 < [width, height]).all()


def test_loftr_of_an_image_with_itself_is_near_the_identity(tiny_file):
    image = texture(120, 160, 13)
    matches = tiny(tiny_file).match(image, image)
    same_cell = np.linalg.norm(matches.points1 - matches.points0, axis=1) < 6
    assert same_cell.mean() > 0.8


def test_official_sizes_move_their_pixel_centres(tiny_file, monkeypatch):
    """Published weights put the centre of the first pixel at 0.5: the matcher moves it to 0, in both images."""
    import dataclasses

    image = texture(120, 160, 14)
    ours = tiny(tiny_file).match(image, image)
    monkeypatch.setitem(CONFIGS, "tiny", dataclasses.replace(CONFIGS["tiny"], pixel_center=0.5))
    official = tiny(tiny_file).match(image, image)
    np.testing.assert_allclose(official.points0, ours.points0 - 0.5, atol=1e-6)
    np.testing.assert_allclose(official.points1, ours.points1 - 0.5, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "max_side", "wanted"),
    [
        ((640, 480), 640, (640, 480)),
        ((1241, 376), 640, (640, 194)),
        ((480, 1000), 500, (240, 500)),
        ((5000, 1), 500, (500, 1)),
        ((4000, 3000), 0, (4000, 3000)),
    ],
)
def test_working_size(size, max_side, wanted):
    assert working_size(*size, max_side) == wanted


def test_loftr_masked_pixels_do_not_match(tiny_file, mask_file):
    image = texture(240, 320, 15)
    matcher = tiny(tiny_file, mask_file=mask_file)
    torch.nn.init.zeros_(matcher.network.refinement.output.weight)  # with random weights it moves matches anywhere
    matches = matcher.match(image, image)
    assert len(matches) > 10 and matches.points0[:, 0].min() >= 160 and matches.points1[:, 0].min() >= 160 - 4


def test_loftr_padding_does_not_match(tiny_file):
    image = texture(97, 131, 16)  # padded to 104 x 136
    matches = tiny(tiny_file).match(image, image)
    assert len(matches) > 10
    assert (matches.points0 < [131, 97]).all() and (matches.points1 < [131 + 4, 97 + 4]).all()


def test_loftr_index0_names_the_same_pixel_in_every_match(tiny_file):
    matcher, image = tiny(tiny_file), texture(120, 160, 17)
    keyframe = matcher.extract(image)
    one = matcher.match_features(keyframe, matcher.extract(np.roll(image, 8, axis=1)))
    two = matcher.match_features(keyframe, matcher.extract(texture(90, 200, 17)))
    common, at_one, at_two = np.intersect1d(one.index0, two.index0, return_indices=True)
    assert len(common) > 5
    np.testing.assert_array_equal(one.points0[at_one], two.points0[at_two])


@pytest.mark.parametrize("shape", [(1, 1), (5, 300), (17, 9)])
def test_loftr_takes_images_too_small_to_match(tiny_file, shape):
    small = texture(40, 300, 18)[: shape[0], : shape[1]].copy()
    assert len(tiny(tiny_file).match(small, texture(64, 64, 18))) <= 40


def test_the_threshold_can_change_while_it_runs(tiny_file):
    matcher, image = tiny(tiny_file), texture(120, 160, 19)
    many = matcher.match(image, image)
    matcher.threshold = float(np.median(many.confidence))
    fewer = matcher.match(image, image)
    assert len(fewer) < len(many) and fewer.confidence.min() > matcher.threshold


def test_matches_can_be_selected():
    matches = load_matcher("orb").match(texture(120, 160, 20), texture(120, 160, 20))
    best = matches[matches.confidence > 0.5]
    assert 0 < len(best) <= len(matches) and (best.confidence > 0.5).all()
    assert len(Matches.empty()) == 0


def test_nearest_descriptors_are_those_of_all_distances():
    """Bits and floats against the definition; with descriptors that are there twice, which the ratio test refuses."""
    rng = np.random.default_rng(4)
    bits0 = rng.integers(0, 256, (90, 32), dtype=np.uint8)
    noise = (rng.random((70, 256)) < 0.1).astype(np.uint8)
    bits1 = np.concatenate([bits0[20:] ^ np.packbits(noise, axis=1), bits0[:5], bits0[:5], bits0[30:40]])
    floats0, floats1 = (np.unpackbits(bits, axis=1).astype(np.float32) for bits in (bits0, bits1))
    hamming = np.array([[np.unpackbits(a ^ b).sum() for b in bits1] for a in bits0], dtype=np.float64)
    for nearest, pair, distances in (
        (classical._nearest_bits, (bits0, bits1), hamming),
        (classical._nearest_floats, (floats0, floats1), np.sqrt(hamming)),
    ):
        best, distance, second, index0 = nearest(*pair, 0.8)
        ordered = np.sort(distances, axis=1)
        np.testing.assert_allclose(distance, ordered[:, 0], atol=1e-3)
        np.testing.assert_allclose(second, ordered[:, 1], atol=1e-3)
        expected = [
            i for i, row in enumerate(distances)
            if ordered[i, 0] < 0.8 * ordered[i, 1] and distances[:, row.argmin()].argmin() == i
        ]  # fmt: skip
        assert index0.tolist() == expected and 60 <= len(expected) < 90
        assert (best[index0] == distances.argmin(axis=1)[index0]).all()


def shifted(image: np.ndarray, by: tuple[float, float], size: tuple[int, int]) -> np.ndarray:
    return cv2.warpAffine(image, np.array([[1, 0, by[0]], [0, 1, by[1]]], np.float64), size, flags=cv2.INTER_CUBIC)


def test_polished_matches_of_orb_are_right_to_a_fraction_of_a_pixel():
    """Corners lie on the pixels of their level: shifts by fractions of a pixel show it."""
    by = (7.3, -4.6)
    image0 = cv2.GaussianBlur(texture(240, 320, 21), (0, 0), 1.0)
    matcher = load_matcher("orb")
    features0, features1 = (matcher.extract(image) for image in (image0, shifted(image0, by, (320, 240))))
    matches = matcher.match_features(features0, features1)
    raw = matcher.match_features(replace(features0, image=None), features1)
    np.testing.assert_array_equal(matches.index0, raw.index0)
    right = np.linalg.norm(raw.points1 - raw.points0 - by, axis=1) < 3
    before, after = (np.median(np.abs((m.points1 - m.points0 - by)[right])) for m in (raw, matches))
    assert before > 0.15 and after < 0.05
    moved = (matches.points1 != raw.points1).any(axis=1)
    assert moved.mean() > 0.7
    np.testing.assert_allclose(matches.sigma, np.where(moved, 0.5, 1.0) * raw.sigma)


def test_matches_whose_surroundings_differ_stay_where_they_are():
    matcher = load_matcher("orb")
    image0 = texture(240, 320, 22)
    turned = cv2.warpAffine(image0, cv2.getRotationMatrix2D((160, 120), 60, 1.0), (320, 240), flags=cv2.INTER_CUBIC)
    features0, features1 = matcher.extract(image0), matcher.extract(turned)
    matches = matcher.match_features(features0, features1)
    raw = matcher.match_features(replace(features0, image=None), features1)
    assert len(raw) > 50
    assert (matches.points1 == raw.points1).all(axis=1).mean() > 0.95
