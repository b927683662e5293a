# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Places: image descriptors, the index and what makes it new, the search, and the command `retrieve`."""

from __future__ import annotations

import json
import os

import cv2
import numpy as np
import pytest
from support import is_one_sentence, texture

from loftr_ros import cli
from loftr_ros.errors import InputError
from loftr_ros.matching import load_matcher
from loftr_ros.matching.descriptor import pooled
from loftr_ros.places import PlaceIndex
from loftr_ros.synthetic.room import look, make_room, room_camera
from loftr_ros.uses import retrieve
from loftr_ros.uses.retrieval import load, save, search, update


@pytest.fixture(scope="module")
def tiny():
    return load_matcher("tiny", max_side=320)


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    """Eight directions in each of two rooms, 30 degrees apart in the first and 45 in the second."""
    folder = tmp_path_factory.mktemp("collection")
    for seed, step in ((0, 30), (1, 45)):
        room = make_room(room_camera(320, 240), seed)
        for i in range(8):
            image, _ = room.view(look(np.array([0.1, 0.0, 1.4]), np.radians(step * i)), i)
            cv2.imwrite(str(folder / f"room{seed}_{step * i:03d}.png"), image)
    return folder


def files_of(folder):
    return sorted(folder.glob("*.png"))


def query_between(direction):
    """The first room, seen from another place."""
    return make_room(room_camera(320, 240), 0).view(look(np.array([-0.2, 0.2, 1.3]), np.radians(direction)), 99)[0]


def test_descriptors_are_unit_vectors_that_forget_where():
    features = np.random.default_rng(0).standard_normal((300, 20)).astype(np.float32)
    one = pooled(features)
    assert one.shape == (210,) and np.linalg.norm(one) == pytest.approx(1.0)
    assert pooled(features[::-1]) @ one == pytest.approx(1.0, abs=1e-6)
    assert pooled(features + 5.0) @ one == pytest.approx(1.0, abs=1e-4)  # the mean does not count
    other = pooled(features @ np.diag(np.linspace(0.1, 3, 20)).astype(np.float32))
    assert other @ one < 0.99


def test_wide_features_are_projected_and_missing_ones_are_zero():
    features = np.random.default_rng(0).standard_normal((50, 256)).astype(np.float32)
    assert pooled(features).shape == (2080,)
    assert np.array_equal(pooled(features), pooled(features))
    assert pooled(np.zeros((0, 256), np.float32)).shape == (2080,) and not pooled(np.zeros((9, 20))).any()


@pytest.mark.parametrize("name", ["tiny", "sift", "orb"])
def test_every_matcher_describes_images_in_one_length(name):
    matcher = load_matcher(name)
    one, same, none = (
        matcher.describe(matcher.extract(image))
        for image in (texture(96, 130), texture(96, 130), np.zeros((90, 91), np.uint8))
    )
    assert one.shape == none.shape and np.linalg.norm(one) == pytest.approx(1.0, abs=1e-5)
    assert one @ same == pytest.approx(1.0, abs=1e-5)


def test_padding_and_mask_do_not_count_for_the_descriptor(tmp_path):
    image = texture(96, 128)
    mask = np.full((96, 128), 255, np.uint8)
    mask[:, 64:] = 0
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    masked = load_matcher("tiny", mask_file=str(tmp_path / "mask.png"))
    tokens = masked.extract(image).network.tokens[0].numpy().reshape(12, 16, -1)
    expected = pooled(tokens[:, :8].reshape(96, -1))
    assert masked.describe(masked.extract(image)) == pytest.approx(expected, abs=1e-6)


def test_fingerprint_changes_with_what_the_descriptor_depends_on():
    prints = {
        load_matcher("tiny").fingerprint,
        load_matcher("tiny", max_side=320).fingerprint,
        load_matcher("sift").fingerprint,
        load_matcher("sift", max_keypoints=99).fingerprint,
    }
    assert len(prints) == 4
    changed = load_matcher("tiny")
    next(changed.network.parameters()).data[0] += 1e-3
    assert changed.fingerprint not in prints and load_matcher("tiny").fingerprint in prints


def test_index_of_places_ranks_by_likeness():
    index = PlaceIndex()
    assert index.query(np.ones(3, np.float32), 2) == []
    vectors = np.eye(40, dtype=np.float32)
    for i, vector in enumerate(vectors):
        index.add(vector, f"place {i}")
    looked_for = (vectors[7] + 0.5 * vectors[30]).astype(np.float32)
    assert index.query(looked_for, 3) == [("place 7", 1.0), ("place 30", 0.5), ("place 0", 0.0)]
    assert len(index) == 40 and len(index.query(looked_for, 99)) == 40
    with pytest.raises(ValueError, match="shape"):
        index.add(np.ones(3, np.float32), "another")


def test_index_is_reused_and_follows_the_folder(tmp_path, tiny):
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"{i}.png"), texture(64, 80, i))
    first, described = update(files_of(tmp_path), tiny, None)
    assert described == 3 and first.names == ["0.png", "1.png", "2.png"]
    save(first, tmp_path / "places.npz")
    again, described = update(files_of(tmp_path), tiny, load(tmp_path / "places.npz"))
    assert described == 0 and np.array_equal(again.descriptors, first.descriptors)
    # One image changes, one goes, one comes.
    cv2.imwrite(str(tmp_path / "1.png"), texture(64, 80, 7))
    (tmp_path / "2.png").unlink()
    cv2.imwrite(str(tmp_path / "3.png"), texture(64, 80, 3))
    now, described = update(files_of(tmp_path), tiny, load(tmp_path / "places.npz"))
    assert described == 2 and now.names == ["0.png", "1.png", "3.png"]
    assert np.array_equal(now.descriptors[0], first.descriptors[0])
    assert not np.allclose(now.descriptors[1], first.descriptors[1])
    # Another matcher shares nothing.
    assert update(files_of(tmp_path), load_matcher("sift"), first)[1] == 3


def test_touched_image_is_described_again(tmp_path, tiny):
    cv2.imwrite(str(tmp_path / "0.png"), texture(64, 80))
    index, _ = update(files_of(tmp_path), tiny, None)
    os.utime(tmp_path / "0.png", ns=(1, 1))
    assert update(files_of(tmp_path), tiny, index)[1] == 1


def test_unreadable_image_is_left_out_and_told(tmp_path, tiny):
    cv2.imwrite(str(tmp_path / "0.png"), texture(64, 80))
    (tmp_path / "1.png").write_text("no picture")
    told = []
    index, _ = update(files_of(tmp_path), tiny, None, tell=told.append)
    assert index.names == ["0.png"] and len(told) == 1 and "1.png" in told[0]


def test_file_that_is_no_index_is_not_overwritten(tmp_path):
    (tmp_path / "x.npz").write_text("something dear")
    with pytest.raises(InputError, match="not an index"):
        load(tmp_path / "x.npz")
    np.savez(tmp_path / "y.npz", other=np.array([{"code": 1}], dtype=object))
    with pytest.raises(InputError, match="not an index"):
        load(tmp_path / "y.npz")


def test_search_finds_the_view_of_the_same_place(tiny, collection):
    index, _ = update(files_of(collection), tiny, None)
    for direction in (35, 95, 155):
        best, *_ = search(index, collection, tiny, query_between(direction), count=3, shortlist=5)
        assert best.name == f"room0_{direction - 5:03d}.png" and best.score > 0.3 and best.inliers > 50


def test_search_puts_verified_places_before_others(tiny, collection):
    index, _ = update(files_of(collection), tiny, None)
    places = search(index, collection, tiny, query_between(35), count=6, shortlist=2)
    assert [place.score is None for place in places] == [False, False, True, True, True, True]
    assert places[0].score >= places[1].score and places[2].alike >= places[3].alike


def test_neighbours_on_a_real_drive(tiny, data_folder):
    """Every 5th frame is known, those between are looked for: one within 3 frames must come first."""
    files = sorted((data_folder / "kitti00" / "images").glob("*.png"))[:60]
    index, _ = update(files[::5], tiny, None)
    right = 0
    queries = [i for i in range(1, 56, 6) if i % 5]
    for i in queries:
        image = cv2.imread(str(files[i]), cv2.IMREAD_GRAYSCALE)
        best = search(index, files[0].parent, tiny, image, count=1, shortlist=3)[0]
        right += abs(int(best.name[:6]) - i) <= 3
    assert right == len(queries)


def test_command_ranks_reuses_and_draws(tmp_path, capsys, collection):
    cv2.imwrite(str(tmp_path / "query.png"), query_between(65))
    arguments = [str(tmp_path / "query.png"), str(collection), "--index", str(tmp_path / "places.npz"), "--quiet"]
    arguments += ["--top", "4", "--shortlist", "4", "--output", str(tmp_path / "sheet.png")]
    assert retrieve.main(arguments) == 0
    text = capsys.readouterr().out
    assert "16 images" in text and "(16 described now)" in text and "1 room0_060.png" in text
    assert retrieve.main([*arguments, "--json"]) == 0
    places = json.loads(capsys.readouterr().out)
    assert [place["name"] for place in places][0] == "room0_060.png" and len(places) == 4
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet.shape == (2 * (300 + 28), 3 * 400, 3)
    # The second cell is the first place, enlarged.
    shown = cv2.resize(sheet[28:328, 400:800], (320, 240), interpolation=cv2.INTER_AREA)
    assert np.abs(shown.astype(int) - cv2.imread(str(collection / "room0_060.png"))).mean() < 8
    assert "(0 described now)" in (retrieve.main(arguments), capsys.readouterr().out)[1]


def test_search_goes_on_where_the_index_cannot_be_kept(tmp_path, capsys, monkeypatch):
    (tmp_path / "cache").write_text("a file, where a folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "images").mkdir()
    for i in range(2):
        cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), texture(64, 80, i))
    arguments = [str(tmp_path / "images" / "1.png"), str(tmp_path), "--output", str(tmp_path / "x.png"), "--quiet"]
    assert cli.run(retrieve.main, [*arguments, "--matcher", "sift"]) == 0
    printed = capsys.readouterr()
    assert "not kept" in printed.err and "1 1.png" in printed.out
    assert cli.run(retrieve.main, [*arguments, "--matcher", "sift", "--index", str(tmp_path / "cache" / "x.npz")]) == 2


@pytest.mark.parametrize(
    ("changed", "told"),
    [({"folder": "empty"}, "no images"), ({"folder": "missing"}, "not a folder"), ({"query": "missing.png"}, "exist")],
)
def test_bad_input_gets_one_sentence(tmp_path, capsys, changed, told):
    cv2.imwrite(str(tmp_path / "query.png"), texture(64, 80))
    (tmp_path / "empty").mkdir()
    paths = {"query": "query.png", "folder": "empty", **changed}
    assert cli.run(retrieve.main, [str(tmp_path / paths["query"]), str(tmp_path / paths["folder"])]) == 2
    message = capsys.readouterr().err.strip()
    assert told in message and is_one_sentence(message)
