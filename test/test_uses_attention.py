# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Attention written out: rows that sum to 1, the network's own messages, and where the matching peaks."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support import is_one_sentence, lively, texture

from loftr_ros import cli
from loftr_ros.errors import InputError
from loftr_ros.loftr.transformer import linear_attention
from loftr_ros.matching import load_matcher
from loftr_ros.synthetic.room import look, make_room, room_camera
from loftr_ros.synthetic.scene import transfer_pixels
from loftr_ros.uses import attention
from loftr_ros.uses.attention_weights import follow, principal_colours

CAMERA = room_camera(320, 240)


def matcher_of(size, folder):
    """The bundled network, or one of another size with random weights."""
    if size == "tiny":
        return load_matcher("tiny")
    file = folder / f"{size}.safetensors"
    save_file(lively(size, 0).state_dict(), str(file))
    return load_matcher(size, weights=str(file))


@pytest.fixture(scope="module")
def rendered():
    """Two views of a room, and for the cells of the first where each lies in the second (in cells), and if it does."""
    room = make_room(CAMERA, 2)
    poses = [look(np.array([0.2, -0.3, 1.4]), 2.5), look(np.array([0.4, -0.2, 1.4]), 2.6)]
    (image0, depth0), (image1, depth1) = (room.view(pose, i) for i, pose in enumerate(poses))
    cells = np.arange(30 * 40)
    pixels = np.column_stack([cells % 40, cells // 40]) * 8.0
    there, visible = transfer_pixels(pixels, depth0, CAMERA.matrix, poses[0], depth1, CAMERA.matrix, poses[1])
    return image0, image1, there / 8, visible


@pytest.mark.parametrize("size", ["tiny", "outdoor"])
def test_rows_sum_to_one_for_every_layer_head_and_odd_image(size, tmp_path):
    matcher = matcher_of(size, tmp_path)
    passage = follow(matcher, texture(61, 83, 0), texture(75, 50, 1))
    names = matcher.network.config.coarse_layers
    assert [layer.name for layer in passage.layers] == list(names)
    assert passage.cells0.grid == (8, 11) and passage.cells1.grid == (10, 7)
    for k, name in enumerate(names):
        weights = passage.weights(k, [0, 40, 87])
        assert weights.shape == (matcher.network.config.coarse_heads, 3, 88 if name == "self" else 70)
        assert weights.min() >= 0 and weights.sum(axis=2) == pytest.approx(1.0, abs=1e-5)
    for before in (False, True):
        assert passage.matching([0, 40, 87], before).sum(axis=1) == pytest.approx(1.0, abs=1e-5)


def test_the_passage_is_the_networks_own():
    matcher = load_matcher("tiny")
    image0, image1 = texture(61, 83, 0), texture(75, 50, 1)
    passage = follow(matcher, image0, image1)
    features0, features1 = (matcher.extract(image).network for image in (image0, image1))
    with torch.inference_mode():
        tokens = matcher.network.loftr_coarse.together(
            features0.tokens, features1.tokens, features0.mask, features1.mask
        )
        compared = [matcher.network.compared(each) for each in tokens]
    for cells, expected in zip((passage.cells0, passage.cells1), compared):
        assert torch.allclose(cells.after, expected, atol=1e-4)
        assert cells.after.shape[2] == 48


def test_weights_times_values_are_the_messages_of_linear_attention():
    passage = follow(load_matcher("tiny"), texture(64, 80, 0), texture(64, 80, 1))
    seen = passage.layers[0]
    with torch.inference_mode():
        query, key, value = (
            projection(tokens).unflatten(-1, (seen.layer.heads, -1))
            for projection, tokens in (
                (seen.layer.q_proj, seen.tokens),
                (seen.layer.k_proj, seen.source),
                (seen.layer.v_proj, seen.source),
            )
        )
        message = linear_attention(query, key, value)[0].numpy()
        weights = passage.weights(0, list(range(80)))
        assert np.einsum("hls,shv->lhv", weights, value[0].numpy()) == pytest.approx(message, abs=1e-4)


def test_masked_cells_get_no_attention(tmp_path):
    mask = np.full((64, 80), 255, np.uint8)
    mask[:, 40:] = 0
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    passage = follow(load_matcher("tiny", mask_file=str(tmp_path / "mask.png")), texture(64, 80, 0), texture(64, 80, 1))
    weights = passage.weights(0, [12])[:, 0].reshape(4, 8, 10)
    assert not weights[:, :, 5:].any() and weights[:, :, :5].min() > 0
    assert weights.sum(axis=(1, 2)) == pytest.approx(1.0, abs=1e-5)
    assert passage.matching([12])[0].reshape(8, 10)[:, 5:].max() < 1e-6


def test_matching_peaks_at_the_match_and_the_transformer_brings_it_there(rendered):
    image0, image1, there, visible = rendered
    passage = follow(load_matcher("tiny"), image0, image1)
    cells = np.flatnonzero(visible).tolist()

    def share_within_two_cells(rows):
        peak = rows.argmax(axis=1)
        away = np.abs(np.column_stack([peak % 40, peak // 40]) - there[cells]).max(axis=1)
        return (away <= 2).mean()

    before, after = (share_within_two_cells(passage.matching(cells, kind)) for kind in (True, False))
    assert after > 0.9 and after > before


def test_cells_and_pixels_of_a_resized_image():
    passage = follow(load_matcher("tiny", max_side=64), texture(96, 128, 0), texture(96, 128, 1))
    cells = passage.cells0
    assert cells.grid == (6, 8)
    # Twice as large: cell (row 2, column 3) looks at pixel (24, 16) of the small image, (48.5, 32.5) of this one.
    assert cells.pixel_of(2 * 8 + 3) == pytest.approx((48.5, 32.5))
    assert cells.cell_at(48.5, 32.5) == 19 and cells.cell_at(0, 0) == 0 and cells.cell_at(127, 95) == 47
    assert cells.spread(np.arange(48.0))[32, 48] == 19
    with pytest.raises(InputError, match="not in the image"):
        cells.cell_at(128, 5)


def test_principal_colours_follow_the_features():
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((2, 16)).astype(np.float32)
    one = np.concatenate([np.tile(left, (40, 1)), np.tile(right, (60, 1))])
    one += 0.01 * rng.standard_normal(one.shape).astype(np.float32)
    colours, others = principal_colours([one, np.tile(left, (30, 1))])
    assert np.abs(colours[:40, 0].astype(int).mean() - others[:, 0].mean()) < 10
    assert np.abs(colours[:40, 0].astype(int).mean() - colours[40:, 0].mean()) > 200


def write_pair(folder):
    for name, seed in (("a", 0), ("b", 1)):
        cv2.imwrite(str(folder / f"{name}.png"), texture(95, 121, seed))
    return [str(folder / "a.png"), str(folder / "b.png"), "--output", str(folder / "out.png"), "--width", "600"]


def test_command_draws_the_chosen_layer(tmp_path, capsys):
    save_file(lively("outdoor", 0).state_dict(), str(tmp_path / "outdoor.safetensors"))
    network = ["--matcher", "outdoor", "--weights", str(tmp_path / "outdoor.safetensors")]  # of more than one layer
    arguments = [*write_pair(tmp_path), *network]
    assert attention.main([*arguments, "--at", "33", "40", "--layer", "2"]) == 0
    text = capsys.readouterr().out
    assert "cell at pixel 32 40 of A" in text and "layer 2 (cross)" in text and "layer 3" not in text
    one = cv2.imread(str(tmp_path / "out.png"))
    assert attention.main(arguments) == 0
    every = cv2.imread(str(tmp_path / "out.png"))
    assert one.shape[1] == every.shape[1] == 600 and every.shape[0] > one.shape[0] + 2 * 90


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        (["--at", "500", "3"], "not in the image"),
        (["--layer", "5"], "must be 1, not 5"),
        (["--matcher", "sift"], "no attention"),
        (["--width", "3"], "--width"),
    ],
)
def test_bad_input_gets_one_sentence(tmp_path, capsys, extra, told):
    assert cli.run(attention.main, [*write_pair(tmp_path), *extra]) == 2
    message = capsys.readouterr().err.strip()
    assert told in message and is_one_sentence(message)
