# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Matchers side by side: what is measured of them, and the page, opened in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import cv2
import numpy as np
import pytest
from support import is_one_sentence, lively, texture

from loftr_ros import cli
from loftr_ros.errors import InputError
from loftr_ros.evaluation.peers import load_peer
from loftr_ros.evaluation.render_room import write_sequence
from loftr_ros.geometry.se3 import inverse
from loftr_ros.matching import load_matcher
from loftr_ros.synthetic.room import make_room, room_camera, round_trip
from loftr_ros.types import Matches
from loftr_ros.uses import compare as command
from loftr_ros.uses.comparison import Pair, available, compare, load_pairs, true_pose
from loftr_ros.uses.comparison_page import page

CAMERA = room_camera(320, 240)
POSES = round_trip(7, share=0.09)
# No network: a name that does not resolve for all hosts.
CHROMIUM_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=5000",
)  # fmt: skip


@pytest.fixture(scope="module")
def sequence(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare") / "room"
    write_sequence(folder, make_room(CAMERA, 0), POSES, 10.0)
    return folder


def chromium_says(folder, content):
    """The document that a browser without a network makes of a page."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no browser: install chromium")
    (folder / "shown.html").write_text(content)
    arguments = [*CHROMIUM_FLAGS, f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
    done = subprocess.run(
        [browser, *arguments, (folder / "shown.html").as_uri()], capture_output=True, text=True, timeout=120
    )
    return done.stdout


def test_pairs_of_a_sequence_know_their_truth(sequence):
    pairs = load_pairs([sequence], gap=3, count=2, camera_info=None, max_side=0)
    assert [pair.name for pair in pairs] == ["000000.png and 000003.png", "000003.png and 000006.png"]
    assert pairs[1].pose_0_1 == pytest.approx(inverse(POSES[3]) @ POSES[6], abs=1e-6)
    assert pairs[0].camera.matrix == pytest.approx(CAMERA.matrix)
    assert true_pose(sequence / "images" / "000000.png", sequence / "depth" / "000000.png") is None


def test_pairs_are_shrunk_with_their_camera(sequence):
    (pair,) = load_pairs([sequence], gap=1, count=1, camera_info=None, max_side=160)
    assert pair.image0.shape == (120, 160, 3) and pair.camera.focal == pytest.approx(CAMERA.focal / 2)


def test_folder_of_pairs(tmp_path):
    for name, seed in (("one", 0), ("two", 5)):
        (tmp_path / name).mkdir()
        for k in (0, 1):
            cv2.imwrite(str(tmp_path / name / f"{k}.png"), texture(40, 60, seed + k))
    pairs = load_pairs([tmp_path], gap=3, count=9, camera_info=None, max_side=0)
    assert [pair.name for pair in pairs] == ["one", "two"]
    assert pairs[1].image1[:, :, 0].tolist() == texture(40, 60, 6).tolist()
    assert pairs[0].camera is None and pairs[0].pose_0_1 is None


def test_outcome_tells_matches_errors_and_time(sequence):
    (pair,) = load_pairs([sequence], gap=4, count=1, camera_info=None, max_side=0)
    outcome = compare(load_matcher("tiny"), pair, picture_width=500)
    assert outcome.found_pose and outcome.matches >= outcome.inliers > 200
    assert outcome.rotation_deg < 1.0 and outcome.direction_deg < 5.0
    assert 1 < outcome.milliseconds < 60_000 and outcome.picture.shape == (188, 500, 3)


class Blind:
    """A matcher that finds nothing."""

    name = "blind <b>"

    def match(self, image0, image1):
        return Matches.empty()


def test_outcome_without_matches_or_calibration(sequence):
    (pair,) = load_pairs([sequence], gap=4, count=1, camera_info=None, max_side=0)
    blind = compare(Blind(), pair)
    assert (blind.matches, blind.inliers, blind.found_pose, blind.rotation_deg) == (0, 0, False, None)
    unknown = compare(load_matcher("sift"), Pair("x", pair.image0, pair.image1))
    assert unknown.inliers > 30 and unknown.found_pose is None and unknown.rotation_deg is None


def test_page_needs_nothing_else_and_escapes(sequence):
    (pair,) = load_pairs([sequence], gap=4, count=1, camera_info=None, max_side=0)
    pair = Pair("<i>name</i>", pair.image0, pair.image1, pair.camera, pair.pose_0_1)
    content = page([pair], [[compare(Blind(), pair)]], {"absent": "It is not <there>."})
    assert "&lt;i&gt;name" in content and "blind &lt;b&gt;" in content and "not &lt;there&gt;" in content
    assert not re.findall(r'(?:src|href)="(?!data:)', content) and "no pose" in content


def test_command_makes_a_page_that_a_browser_shows(tmp_path, capsys, sequence):
    arguments = [str(sequence), "--pairs", "2", "--matchers", "orb,sift", "--output", str(tmp_path / "page.html")]
    assert command.main([*arguments, "--json", "--quiet"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert [(n["pair"][:6], n["matcher"]) for n in numbers] == [
        (pair, name) for pair in ("000000", "000003") for name in ("orb", "sift")
    ]
    assert all(n["rotation_deg"] < 10 and n["inliers"] > 15 for n in numbers)
    script = "<script>onload = () => { document.title = [...document.images].map(i => i.naturalWidth).join() }</script>"
    document = chromium_says(tmp_path, (tmp_path / "page.html").read_text() + script)
    assert "<title>1000,1000,1000,1000</title>" in document  # all four pictures are there and can be shown
    for number in numbers:
        assert f"{number['matches']} matches" in document and f"{number['rotation_deg']:.2f}" in document


@pytest.mark.parametrize("name", ["xfeat", "xfeat-lighterglue", "disk-lightglue"])
def test_installed_peers_match_a_rendered_pair(sequence, name):
    try:
        peer = load_peer(name)
    except InputError as error:
        assert is_one_sentence(str(error)) and "pip install" in str(error)
        pytest.skip(str(error))
    (pair,) = load_pairs([sequence], gap=4, count=1, camera_info=None, max_side=0)
    outcome = compare(peer, pair)
    assert outcome.inliers > 60 and outcome.rotation_deg < 2.0


def test_kornia_with_the_same_weights_finds_what_our_network_finds(tmp_path, monkeypatch):
    pytest.importorskip("kornia", reason="kornia is the peer")
    import torch

    torch.save({"state_dict": lively("outdoor", 0).state_dict()}, tmp_path / "loftr_outdoor.ckpt")
    monkeypatch.setenv("LOFTR_ROS_WEIGHTS", str(tmp_path))
    images = texture(96, 128, 0), np.roll(texture(96, 128, 0), 8, axis=1)
    ours = load_matcher("outdoor", max_side=0).match(*images)
    theirs = load_peer("kornia-loftr").match(*images)
    assert len(theirs) == len(ours) > 20
    assert theirs.points0 == pytest.approx(ours.points0) and theirs.points1 == pytest.approx(ours.points1, abs=0.05)


def test_what_cannot_be_had_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("LOFTR_ROS_WEIGHTS", str(tmp_path))
    found, missing = available(("sift", "outdoor", "kornia-loftr"))
    assert [matcher.name for matcher in found] == ["sift"] and set(missing) == {"outdoor", "kornia-loftr"}
    assert all(is_one_sentence(reason) for reason in missing.values())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["a.png", "b.png", "c.png"], "3 things"),
        (["missing"], "not a folder"),
        (["a.png", "b.png"], "does not exist"),
        (["{sequence}", "--gap", "99"], "99 apart"),
        (["{sequence}", "--matchers", "eyes"], "no matcher 'eyes'"),
        (["{sequence}", "--pairs", "0"], "--pairs"),
    ],
)
def test_bad_input_gets_one_sentence(capsys, sequence, arguments, told):
    filled = [argument.format(sequence=sequence) for argument in arguments]
    assert cli.run(command.main, filled) == 2
    message = capsys.readouterr().err.strip()
    assert told in message and is_one_sentence(message)
