# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Files and arguments that no command can use: one sentence, exit code 2, within seconds, and old results stay.

Every case names the words that the sentence must have. Commands run in this process, through their entry points.
"""

from __future__ import annotations

import os
import pickle
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from recordings import BAG_KINDS, START_NS, Bag, sliding_images, stamps, write_bag, write_sequence
from safetensors.torch import save_file
from support import camera_info_yaml, is_one_sentence

from loftr_ros import cli, download_weights, export
from loftr_ros.evaluation import pairs, render_room, replay
from loftr_ros.training import train
from loftr_ros.uses import attention, compare, match, reconstruct, retrieve

IMAGES = sliding_images(4, 120, 160)
MOST_SECONDS = 5.0  # of this process: other work of the machine does not count
OLD = "an old result\n"


def attempt(capsys, command, *arguments: object) -> str:
    """Run a command that must refuse; return its sentence."""
    capsys.readouterr()
    started, began = time.process_time(), time.monotonic()
    try:
        code = cli.run(command.main, [str(a) for a in arguments])
    except SystemExit as error:  # argparse
        code = error.code
    seconds, waited = time.process_time() - started, time.monotonic() - began
    captured = capsys.readouterr()
    assert code == 2, captured.err
    assert "Traceback" not in captured.out + captured.err
    sentence = captured.err.strip().splitlines()[-1]
    assert "error: " in sentence and len(sentence) < 1000
    assert is_one_sentence(sentence) or "usage: " in captured.err
    assert seconds < MOST_SECONDS and waited < 10 * MOST_SECONDS
    return sentence


@pytest.fixture
def sequence(tmp_path) -> Path:
    return write_sequence(tmp_path / "sequence", IMAGES)


@pytest.fixture
def output(tmp_path) -> Path:
    """A folder with the results of an earlier run."""
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "trajectory_tum.txt").write_text(OLD)
    return folder


def replayed(capsys, recording: Path, output: Path, *arguments: object) -> str:
    return attempt(capsys, replay, recording, "--output", output, "--matcher", "orb", "--quiet", *arguments)


def old_results_stay(output: Path) -> None:
    assert [p.name for p in output.iterdir()] == ["trajectory_tum.txt"]
    assert (output / "trajectory_tum.txt").read_text() == OLD


# -- recordings ------------------------------------------------------------------------------------------------------


def empty_folder(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def folder_of_texts(folder: Path) -> Path:
    (folder / "texts").mkdir()
    (folder / "texts" / "a.txt").write_text("no image")
    return folder / "texts"


def file(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        (folder / "camera_info.yaml").write_text(camera_info_yaml(160, 120))
        return folder / name

    return make


def truncated_video(folder: Path) -> Path:
    path = folder / "video.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10.0, (160, 120))
    for image in IMAGES * 4:
        writer.write(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR))
    writer.release()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (folder / "camera_info.yaml").write_text(camera_info_yaml(160, 120))
    return path


def truncated_bag(kind: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = write_bag(folder / "bag", kind, IMAGES)
        inner = path if kind == "ros1" else next(p for p in path.iterdir() if p.suffix in (".mcap", ".db3"))
        inner.write_bytes(inner.read_bytes()[: inner.stat().st_size // 3])
        return path

    return make


def bag_of_calibrations(folder: Path) -> Path:
    with Bag(folder / "bag", "mcap") as bag:
        bag.camera_info("/camera/camera_info", START_NS)
    return folder / "bag"


def bag_with_metadata(content: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = write_bag(folder / "bag", "mcap", IMAGES)
        (path / "metadata.yaml").write_text(content)
        return path

    return make


def bag_image(**lies: object) -> Callable[[Path], Path]:
    """A bag whose image says what is not so."""

    def make(folder: Path) -> Path:
        with Bag(folder / "bag", "mcap") as bag:
            bag.camera_info("/camera/camera_info", START_NS, 160, 120)
            bag.image("/camera/image_raw", START_NS, IMAGES[0], **lies)
        return folder / "bag"

    return make


def bag_focal(focal: float) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        with Bag(folder / "bag", "mcap") as bag:
            bag.camera_info("/camera/camera_info", START_NS, 160, 120, focal)
            bag.image("/camera/image_raw", START_NS, IMAGES[0])
        return folder / "bag"

    return make


def bag_without_calibration(folder: Path) -> Path:
    with Bag(folder / "bag", "mcap") as bag:
        bag.image("/camera/image_raw", START_NS, IMAGES[0])
    return folder / "bag"


DEEP = "[" * 20000
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(10)
)

RECORDINGS = {
    "no such path": (lambda folder: folder / "nowhere", "does not exist"),
    "empty folder": (empty_folder, "no images"),
    "folder of texts": (folder_of_texts, "no images"),
    "text file": (file("notes.txt", b"hello"), "neither a folder of images"),
    "empty video": (file("v.mp4", b""), "cannot be read"),
    "video of noise": (file("v.avi", os.urandom(5000)), "cannot be read"),
    "truncated video": (truncated_video, "video"),
    "empty mcap": (file("b.mcap", b""), "cannot be read"),
    "mcap of noise": (file("b.mcap", b"\x89MCAP0\r\n" + os.urandom(5000)), "cannot be read"),
    "empty sqlite3": (file("b.db3", b""), "cannot be read"),
    "sqlite3 of noise": (file("b.db3", b"SQLite format 3\0" + os.urandom(5000)), "cannot be read"),
    "empty ros1 bag": (file("b.bag", b""), "cannot be read"),
    "ros1 bag of noise": (file("b.bag", b"#ROSBAG V2.0\n" + os.urandom(5000)), "cannot be read"),
    **{f"truncated {kind} bag": (truncated_bag(kind), "The bag") for kind in BAG_KINDS},
    "bag without images": (bag_of_calibrations, "has no images"),
    "bag without calibration": (bag_without_calibration, "name a file with --camera-info"),
    "empty metadata": (bag_with_metadata(""), "cannot be read"),
    "metadata is text": (bag_with_metadata("hello"), "cannot be read"),
    "metadata is no YAML": (bag_with_metadata("a: ["), "metadata.yaml is not valid YAML"),
    "metadata of tomorrow": (bag_with_metadata("rosbag2_bagfile_information: {version: 99}"), "cannot be read"),
    "metadata nested without end": (
        bag_with_metadata(DEEP),
        "metadata.yaml is not valid YAML: it is nested too deeply",
    ),
    "unknown encoding": (bag_image(encoding="mono32"), "encoding 'mono32' is not supported"),
    "encoding of more bytes": (bag_image(encoding="rgb8"), "says 160x120 pixels of 'rgb8'"),
    "step too short": (bag_image(step=10), "10 bytes a row"),
    "step too long": (bag_image(step=1000), "1000 bytes a row"),
    "no width": (bag_image(width=0), "0x120 pixels"),
    "no height": (bag_image(height=0), "160x0 pixels"),
    "huge image": (bag_image(width=2**31, height=2**31, step=2**31), "2147483648x2147483648 pixels"),
    "no data": (bag_image(data=np.zeros(0, np.uint8)), "has 0 bytes"),
    "uncalibrated": (bag_focal(0.0), "not calibrated"),
    "negative focal length": (bag_focal(-300.0), "must be positive"),
    "focal length NaN": (bag_focal(float("nan")), "not finite"),
    "focal length infinite": (bag_focal(float("inf")), "not finite"),
    "focal length of no camera": (bag_focal(1e300), "no camera has"),
}


@pytest.mark.parametrize("name", RECORDINGS)
def test_recordings_that_cannot_be_opened(tmp_path, output, capsys, name):
    make, words = RECORDINGS[name]
    (tmp_path / "input").mkdir()
    assert words in replayed(capsys, make(tmp_path / "input"), output)
    old_results_stay(output)


def test_a_bag_whose_metadata_would_fill_the_memory_is_refused(tmp_path, output, capsys):
    path = bag_with_metadata(BOMB)(tmp_path)
    assert "cannot be read" in replayed(capsys, path, output)


def test_an_image_in_the_middle_of_a_bag_that_lies_costs_only_what_comes_after(tmp_path, output, capsys):
    with Bag(tmp_path / "bag", "mcap") as bag:
        for i, stamp in enumerate(stamps(4)):
            bag.camera_info("/camera/camera_info", stamp, 160, 120)
            bag.image("/camera/image_raw", stamp, IMAGES[i], **({"step": 1} if i == 2 else {}))
    assert "1 bytes a row" in replayed(capsys, tmp_path / "bag", output)
    assert 1 <= len((output / "trajectory_kitti.txt").read_text().splitlines()) <= 2
    assert '"frames": 2' in (output / "metrics.json").read_text()


# -- images of a folder ----------------------------------------------------------------------------------------------


def png_that_claims(width: int, height: int) -> bytes:
    data = bytearray(cv2.imencode(".png", IMAGES[0])[1].tobytes())
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return bytes(data)


def png_with_a_long_chunk() -> bytes:
    data = cv2.imencode(".png", IMAGES[0])[1].tobytes()
    return data[:33] + (2**31 - 1).to_bytes(4, "big") + b"tEXt" + data[33:]


def jpeg_that_claims(width: int, height: int) -> bytes:
    data = bytearray(cv2.imencode(".jpg", IMAGES[0])[1].tobytes())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(data)


PICTURES = {
    "empty": (b"", "0 bytes of a compressed image"),
    "text": (b"no image", "cannot be decoded"),
    "PNG cut off in its header": (cv2.imencode(".png", IMAGES[0])[1].tobytes()[:20], "cannot be"),
    "JPEG cut off in its header": (cv2.imencode(".jpg", IMAGES[0])[1].tobytes()[:100], "cannot be"),
    "PNG cut off in its pixels": (cv2.imencode(".png", IMAGES[0])[1].tobytes()[:-500], "are cut off"),
    "PNG with a chunk of 2 GB": (png_with_a_long_chunk(), "are cut off"),
    "PNG bomb": (png_that_claims(60000, 60000), "60000x60000 pixels"),
    "JPEG bomb": (jpeg_that_claims(65000, 65000), "65000x65000 pixels"),
    "PNG without pixels": (png_that_claims(0, 120), "0x120 pixels"),
    "of another size": (cv2.imencode(".png", IMAGES[0][:100])[1].tobytes(), "is 160x100, not 160x120"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_bad_image_in_the_middle_costs_only_what_comes_after(sequence, output, capsys, name):
    content, words = PICTURES[name]
    (sequence / "images" / "000002.png").write_bytes(content)
    assert words in replayed(capsys, sequence, output)
    assert '"frames": 2' in (output / "metrics.json").read_text()


@pytest.mark.parametrize("name", [name for name in PICTURES if name != "of another size"])
def test_a_bad_first_image_is_refused_before_anything_is_written(sequence, output, capsys, name):
    content, words = PICTURES[name]
    (sequence / "images" / "000000.png").write_bytes(content)
    assert words in replayed(capsys, sequence, output)
    old_results_stay(output)


# -- what lies beside the images --------------------------------------------------------------------------------------

HUGE = "1" + 30 * "0"
BESIDE = {
    "times.txt": {
        "too few": ("1\n2\n", "has 2 times for 4 images"),
        "none": ("", "has 0 times for 4 images"),
        "NaN": ("1\n2\nnan\n4\n", "'nan' is not a time"),
        "backwards": ("4\n3\n2\n1\n", "do not increase"),
        "repeated": ("1\n2\n2\n3\n", "do not increase"),
        "beyond all clocks": (f"1\n2\n3\n{HUGE}\n", "is not a time"),
        "words": ("one\ntwo\nthree\nfour\n", "cannot be read"),
        "bytes": (b"\xff\xfe\x00\x01", "cannot be read"),
    },
    "camera_info.yaml": {
        "empty": ("", "lacks or garbles a field"),
        "text": ("hello", "lacks or garbles a field"),
        "a list": ("[1, 2]", "lacks or garbles a field"),
        "no YAML": ("a: [", "not valid YAML"),
        "nested without end": (DEEP, "nested too deeply"),
        "a date that cannot be": ("a: 2020-13-45", "not valid YAML"),
        "itself": ("&a {image_width: *a, image_height: *a}", "lacks or garbles a field"),
        "bytes": (b"\xff\xfe\x00\x01", "cannot be read"),
        "NaN": (camera_info_yaml(160, 120, float("nan")).replace("nan", ".nan"), "not finite"),
        "infinity": (camera_info_yaml(160, 120, 300.0).replace("300.0", ".inf"), "not finite"),
        "negative focal length": (camera_info_yaml(160, 120, -300.0), "must be positive"),
        "uncalibrated": (camera_info_yaml(160, 120, 0.0), "not calibrated"),
        "focal length of no camera": (camera_info_yaml(160, 120, 1e-200), "no camera has"),
        "eight numbers": (camera_info_yaml(160, 120).replace(", 0, 0, 1]}", ", 0, 1]}"), "must have 9 numbers"),
        "skewed": (camera_info_yaml(160, 120).replace("[300.0, 0,", "[300.0, 7,"), "must be [fx 0 cx; 0 fy cy; 0 0 1]"),
        "no size": (camera_info_yaml(0, 0), "0x0 pixels"),
        "another shape": (camera_info_yaml(160, 160), "calibrated for 160x160"),
        "unknown model": (camera_info_yaml(160, 120).replace("plumb_bob", "ball"), "'ball' is not supported"),
        "three coefficients": (
            camera_info_yaml(160, 120).replace("[0, 0, 0, 0, 0]", "[1, 1, 1]"),
            "does not take 3 coefficients",
        ),
        "coefficients of no lens": (
            camera_info_yaml(160, 120).replace("[0, 0, 0, 0, 0]", "[1.0e+300, 0, 0, 0, 0]"),
            "no camera has",
        ),
        "words for numbers": (camera_info_yaml(160, 120).replace("300.0", "wide"), "lacks or garbles a field"),
    },
}


@pytest.mark.parametrize(("name", "case"), [(name, case) for name, cases in BESIDE.items() for case in cases])
def test_a_bad_file_beside_the_images(sequence, output, capsys, name, case):
    content, words = BESIDE[name][case]
    (sequence / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    sentence = replayed(capsys, sequence, output)
    assert words in sentence and (name in sentence or "calibrated for" in sentence)
    old_results_stay(output)


TRUTHS = {
    "empty": b"",
    "text": b"hello",
    "three columns": b"1 2 3\n",
    "NaN": b"1 nan 0 0 0 0 0 1\n2 0 0 0 0 0 0 1\n3 0 0 0 0 0 0 1\n",
    "no rotation": b"1 0 0 0 0 0 0 0\n2 0 0 0 0 0 0 0\n3 0 0 0 0 0 0 0\n",
    "of another time": b"1 0 0 0 0 0 0 1\n2 0 0 0 0 0 0 1\n3 0 0 0 0 0 0 1\n",
    "bytes": b"\xff\xfe\x00\x01",
}


@pytest.mark.parametrize("name", TRUTHS)
def test_bad_ground_truth_costs_the_comparison_only(sequence, output, capsys, name):
    (sequence / "groundtruth_tum.txt").write_bytes(TRUTHS[name])
    assert "groundtruth_tum.txt" in replayed(capsys, sequence, output)
    assert '"frames": 4' in (output / "metrics.json").read_text()


@pytest.mark.parametrize("name", TRUTHS)
def test_pairs_need_a_ground_truth_that_can_be_read(sequence, capsys, name):
    (sequence / "groundtruth_tum.txt").write_bytes(TRUTHS[name])
    sentence = attempt(capsys, pairs, sequence, "--matchers", "orb", "--quiet")
    assert "groundtruth_tum.txt" in sentence


DEPTHS = {
    "too few": (None, "3 depth images"),
    "eight bits": (np.zeros((120, 160), np.uint8), "16-bit grey PNG"),
    "colours": (np.zeros((120, 160, 3), np.uint16), "16-bit grey PNG"),
    "another size": (np.ones((60, 80), np.uint16), "is 80x60, not 160x120"),
    "damaged": (b"no image", "cannot be decoded"),
}


@pytest.mark.parametrize("name", DEPTHS)
def test_bad_depth_images(sequence, output, capsys, name):
    content, words = DEPTHS[name]
    (sequence / "depth").mkdir()
    for i in range(4):
        cv2.imwrite(str(sequence / "depth" / f"{i}.png"), np.full((120, 160), 2000, np.uint16))
    bad = sequence / "depth" / "3.png"
    if content is None:
        bad.unlink()
    elif isinstance(content, bytes):
        bad.write_bytes(content)
    else:
        cv2.imwrite(str(bad), content)
    assert words in replayed(capsys, sequence, output, "--scale", "depth")
    if content is None:
        old_results_stay(output)
    else:
        assert '"frames": 3' in (output / "metrics.json").read_text()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "lines of 4 numbers"),
        (b"1 2\n", "lines of 4 numbers"),
        (b"hello\n", "cannot be read"),
        (b"1 nan 0 0\n2 0 0 0\n", "not finite"),
        (b"2 0 0 0\n1 0 0 0\n", "do not increase"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_bad_wheel_odometry(sequence, output, capsys, content, words):
    (sequence / "wheels.txt").write_bytes(content)
    arguments = ["--scale", "odometry", "--odometry", sequence / "wheels.txt"]
    sentence = replayed(capsys, sequence, output, *arguments)
    assert words in sentence and "wheels.txt" in sentence
    old_results_stay(output)


# -- settings --------------------------------------------------------------------------------------------------------

SETTINGS = {
    "unknown key": ("min_match: 30", "There is no setting 'min_match'; did you mean 'min_matches'?"),
    "unknown key in a ROS file": ("vo_node: {ros__parameters: {matchr: orb}}", "did you mean 'matcher'?"),
    "key of another kind": ("7: 8", "There is no setting '7'"),
    "a key of many letters": ("? " + "x" * 5000 + "\n: 8", "There is no setting 'xxx"),
    "wrong type": ("min_matches: many", "min_matches must be of type int, not 'many'."),
    "below its range": ("min_matches: 1", "min_matches must be at least 8, not 1."),
    "above its range": ("ratio: 7", "ratio must be at most 1, not 7.0."),
    "NaN": ("ratio: .nan", "ratio must be finite"),
    "infinity": ("max_depth: .inf", "max_depth must be finite"),
    "of no choice": ("scale: guess", "scale must be one of none, depth, odometry, camera_height"),
    "a number of 5000 digits": ("path_length: " + "9" * 5000, "not valid YAML"),
    "a list": ("[1, 2]", "must hold settings"),
    "text": ("hello", "must hold settings"),
    "no YAML": ("a: [", "not valid YAML"),
    "bytes": (b"\xff\xfe\x00\x01", "cannot be read"),
    "a date that cannot be": ("matcher: 2020-13-45", "not valid YAML"),
    "nested without end": (DEEP, "nested too deeply"),
    "itself": ("&a {a: *a}", "There is no setting 'a'"),
    "what would fill the memory": (BOMB.replace("a10:", "matcher:"), "There is no setting 'a0'"),
    "a value that would fill the memory": (
        "matcher: &a0 [x, x, x, x, x, x, x, x, x]\n"
        + "".join(
            f"{key}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n"
            for i, key in enumerate(("weights", "device", "precision", "mask_file", "scale", "viewer", "odom_frame"))
        ),
        "matcher must be of type str",
    ),
    "a trajectory outside its folder": ("trajectory_file: ../x", "trajectory_file must be a file inside"),
    "a trajectory of no name": ('trajectory_file: "a\\0b"', "trajectory_file must be a file inside"),
    "a pose log outside its folder": ("{trajectory_folder: /tmp, pose_log_file: /x}", "pose_log_file must be a file"),
    "a pose log without a folder": ("pose_log_file: x", "pose_log_file needs trajectory_folder"),
    "no height": ("scale: camera_height", "camera_height must be greater than 0"),
    "six extrinsics": ("extrinsics: [0, 0, 0, 0, 0, 1]", "extrinsics must have 0 or 7 numbers, not 6."),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_bad_settings(sequence, output, capsys, name):
    content, words = SETTINGS[name]
    (sequence / "c.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    sentence = attempt(capsys, replay, sequence, "--output", output, "--quiet", "--config", sequence / "c.yaml")
    assert words in sentence
    old_results_stay(output)


# -- weights ---------------------------------------------------------------------------------------------------------


class Code:
    """Its pickle makes a file when it is loaded."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self):
        return Path.touch, (self.proof,)


def good_weights() -> dict[str, torch.Tensor]:
    from loftr_ros.loftr.weights import find_weights, read_state_dict

    return read_state_dict(find_weights("tiny"))


def weights_file(folder: Path, name: str) -> tuple[Path, str]:
    """A bad file, and words of the sentence about it."""
    bundled = Path(__file__).parent.parent / "loftr_ros" / "weights" / "tiny.safetensors"
    whole = bundled.read_bytes()
    raw: dict[str, tuple[str, bytes]] = {
        "empty": ("w.safetensors", b""),
        "noise": ("w.safetensors", os.urandom(5000)),
        "truncated": ("w.safetensors", whole[: len(whole) // 2]),
        "header that lies": ("w.safetensors", (2**62).to_bytes(8, "little") + whole[8:]),
        "text": ("w.pth", b"hello"),
        "empty pickle": ("w.ckpt", b""),
        "a list": ("w.pth", pickle.dumps([1, 2, 3])),
    }
    if name in raw:
        (folder / raw[name][0]).write_bytes(raw[name][1])
        return folder / raw[name][0], "The weights file"
    if name == "nowhere":
        return folder / "nowhere.pth", "does not exist"
    if name == "a folder":
        return folder, "does not exist"
    path = folder / "w.pth"
    if name == "code":
        path.write_bytes(pickle.dumps({"state_dict": Code(folder / "proof")}))
        return path, "holds more than tensors, or is damaged; it was not loaded"
    if name == "code in a torch file":
        torch.save({"state_dict": Code(folder / "proof")}, path)
        return path, "holds more than tensors, or is damaged; it was not loaded"
    state = good_weights()
    key = next(key for key, value in state.items() if value.ndim > 1)
    if name == "another architecture":
        from loftr_ros.evaluation.random_network import random_network

        save_file(random_network("outdoor", IMAGES[0], 0).state_dict(), str(folder / "w.safetensors"))
        return folder / "w.safetensors", "LoFTR 'tiny'"
    if name == "truncated torch file":
        torch.save(state, path)
        path.write_bytes(path.read_bytes()[:10000])
        return path, "cannot be read"
    if name == "a tensor too few":
        del state[key]
    elif name == "another shape":
        state[key] = torch.zeros(3)
    elif name == "not finite":
        state[key] = torch.full_like(state[key], torch.nan)
    elif name == "sparse":
        state[key] = state[key].to_sparse()
    elif name == "without numbers":
        state[key] = state[key].to("meta")
    elif name == "complex":
        state[key] = state[key].to(torch.complex64)
    torch.save(state, path)
    return path, "weights"


WEIGHTS = (
    "empty", "noise", "truncated", "header that lies", "text", "empty pickle", "a list", "nowhere", "a folder", "code",
    "code in a torch file", "another architecture", "truncated torch file", "a tensor too few", "another shape",
    "not finite", "sparse", "without numbers", "complex",
)  # fmt: skip


@pytest.mark.parametrize("name", WEIGHTS)
def test_bad_weights(sequence, tmp_path, output, capsys, name):
    path, words = weights_file(tmp_path, name)
    arguments = [sequence, "--output", output, "--quiet", "--matcher", "tiny", "--weights", path]
    assert words in attempt(capsys, replay, *arguments)
    assert not (tmp_path / "proof").exists()  # no code was run
    old_results_stay(output)


# -- where results go ------------------------------------------------------------------------------------------------


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Files can grow to so many bytes only: writing more fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [0, 20, 5000])
def test_a_full_disk_leaves_every_old_result_whole(sequence, output, capsys, size):
    names = ("trajectory_tum.txt", "trajectory_kitti.txt", "metrics.json", "trajectory.png", "report.html")
    for name in names:
        (output / name).write_text(OLD)
    with full_disk(size):
        assert "cannot be written: File too large" in replayed(capsys, sequence, output)
    assert sorted(p.name for p in output.iterdir()) == sorted(names)  # nothing half written lies about
    for name in names:
        content = (output / name).read_bytes()
        assert content == OLD.encode() or len(content) <= size
    assert (output / "report.html").read_text() == OLD


@pytest.mark.parametrize("target", ["/proc/loftr", "/dev/null/out", "{tmp}/file/out"])
def test_an_output_folder_that_cannot_be_made(sequence, tmp_path, capsys, target):
    (tmp_path / "file").write_text(OLD)
    assert "cannot be made" in replayed(capsys, sequence, Path(target.format(tmp=tmp_path)))
    assert (tmp_path / "file").read_text() == OLD


# -- the other commands ----------------------------------------------------------------------------------------------


@pytest.fixture
def two(tmp_path) -> tuple[Path, Path]:
    """Two good images."""
    paths = tmp_path / "a.png", tmp_path / "b.png"
    for path, image in zip(paths, IMAGES):
        cv2.imwrite(str(path), image)
    return paths


ORB = ("--matcher", "orb")
# Arguments: {a}, {b} good images, {bad} no image, {none} no file, {dir} empty folder, {seq} a good sequence, {out}.
COMMANDS = {
    "match: no such image": (match, "{a} {none} --output {out}", "does not exist"),
    "match: no image": (match, "{a} {bad} --output {out}", "cannot be decoded"),
    "match: a folder": (match, "{a} {dir} --output {out}", "Is a directory"),
    "match: no calibration": (match, "{a} {b} --baseline 1 --output {out}", "name one with --camera-info"),
    "match: bad calibration": (match, "{a} {b} --camera-info {bad} --output {out}", "lacks or garbles a field"),
    "match: baseline NaN": (match, "{a} {b} --baseline nan --output {out}", "--baseline must be greater than 0"),
    "match: baseline infinite": (match, "{a} {b} --baseline inf --output {out}", "--baseline must be greater than 0"),
    "match: negative size": (match, "{a} {b} --max-side -5 --output {out}", "max_side must be at least 0"),
    "match: threshold NaN": (match, "{a} {b} --threshold nan --output {out}", "threshold must be finite"),
    "match: no format": (match, "{a} {b} --matcher orb --output {out}.xyz", "cannot be written as '.xyz'"),
    "match: nowhere to write": (match, "{a} {b} --matcher orb --output /proc/x.png", "cannot be written"),
    "match: depth of another size": (
        match, "{seq}/images/000000.png {seq}/images/000001.png --depth {a} --matcher orb --output {out}",
        "16-bit grey PNG",
    ),
    "match: unknown option": (match, "{a} {b} --nonsense", "unrecognized arguments"),
    "retrieve: no folder": (retrieve, "{a} {none} --matcher orb --output {out}", "is not a folder"),
    "retrieve: no images": (retrieve, "{a} {dir} --matcher orb --output {out}", "no images"),
    "retrieve: top 0": (retrieve, "{a} {dir} --top 0 --output {out}", "--top must be at least 1"),
    "retrieve: no query": (retrieve, "{bad} {seq} --matcher orb --output {out}", "cannot be decoded"),
    "retrieve: bad index": (retrieve, "{a} {seq} --matcher orb --index {bad} --output {out}", "index"),
    "attention: layer 99": (attention, "{a} {b} --layer 99 --output {out}", "--layer must be 1, not 99"),
    "attention: outside": (attention, "{a} {b} --at 9999 9999 --output {out}", "9999"),
    "attention: at NaN": (attention, "{a} {b} --at nan nan --output {out}", "nan"),
    "attention: no LoFTR": (attention, "{a} {b} --matcher orb --output {out}", "orb"),
    "attention: width 0": (attention, "{a} {b} --width 0 --output {out}", "--width must be from 200"),
    "reconstruct: no images": (reconstruct, "{dir} --output {out}", "no images"),
    "reconstruct: no parallax": (reconstruct, "{seq} --matcher orb --views 50 --quiet --output {out}", "triangulated"),
    "reconstruct: rate infinite": (reconstruct, "{seq} --rate inf --output {out}", "rate"),
    "reconstruct: views 1": (reconstruct, "{seq} --views 1 --output {out}", "--views must be at least 2"),
    "compare: one image": (compare, "{a} --matchers orb --output {out}", "is not a folder"),
    "compare: three images": (compare, "{a} {b} {a} --output {out}", "not 3 things"),
    "compare: unknown matcher": (compare, "{a} {b} --matchers surf --output {out}", "surf"),
    "compare: no image": (compare, "{a} {bad} --matchers orb --quiet --output {out}", "cannot be decoded"),
    "pairs: no truth": (pairs, "{seq} --matchers orb", "no groundtruth_tum.txt"),
    "pairs: unknown matcher": (pairs, "{seq} --matchers surf", "There is no matcher 'surf'"),
    "pairs: no gaps": (pairs, "{seq} --gaps 0", "below 1"),
    "pairs: negative size": (pairs, "{seq} --matchers orb --max-side -1", "--max-side"),
    "pairs: roll NaN": (pairs, "{seq} --roll nan", "--roll must be between"),
    "export: odd size": (export, "{out} --size 33x33", "multiples of 8"),
    "export: bad weights": (export, "{out} --weights {bad}", "weights"),
    "render_room: no size": (render_room, "{out} --width 1", "sides of 64"),
    "render_room: nowhere to write": (render_room, "/proc/x --frames 2 --width 64 --height 64", "cannot be made"),
    "download_weights: unknown": (download_weights, "indoors", "There is no download called 'indoors'"),
    "replay: rate NaN": (replay, "{seq} --rate nan --output {out}", "--rate"),
    "replay: rate infinite": (replay, "{seq} --rate inf --output {out}", "--rate"),
    "replay: rate of nothing": (replay, "{seq} --rate 1e-320 --output {out} --config {none}", "cannot be read"),
    "replay: bad mask": (replay, "{seq} --output {out} --config {mask}", "is not a readable image"),
    "replay: bad viewer": (replay, "{seq} --output {out} --matcher orb --viewer nonsense", "viewer"),
    "train: no photos": (train, "--photos {dir} --output {out}", "no pictures"),
    "train: photos nowhere": (train, "--photos {none} --output {out}", "is not a folder of pictures"),
    "train: nothing to resume": (train, "--stage all --resume --output {out}", "no checkpoint"),
    "train: no steps": (train, "--steps 0 --output {out}", "steps must be at least 1"),
    "train: minutes NaN": (train, "--minutes nan --output {out}", "minutes must be 0 or more"),
    "train: no processes": (train, "--processes 0 --output {out}", "processes must be at least 1"),
    "train: workers below 0": (train, "--workers -1 --output {out}", "workers must be at least 0"),
    "train: learning rate infinite": (train, "--learning-rate inf --output {out}", "learning rate must be"),
    "train: bad weights to start from": (train, "--init {bad} --stage all --workers 0 --output {out}", "weights file"),
    "train: nowhere to write": (train, "--stage all --output /proc/x", "cannot be made"),
}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_bad_arguments(two, sequence, tmp_path, capsys, name):
    command, arguments, words = COMMANDS[name]
    places = {"a": two[0], "b": two[1], "bad": tmp_path / "bad.png", "none": tmp_path / "none.png"}
    places |= {"dir": tmp_path / "dir", "seq": sequence, "out": tmp_path / "out.png", "mask": tmp_path / "mask.yaml"}
    places["bad"].write_text("no image")
    places["mask"].write_text(f"mask_file: {places['bad']}\n")
    places["dir"].mkdir()
    places["out"].write_text(OLD)
    if command in (replay, reconstruct, export, render_room, train):
        places["out"].unlink()
    assert words in attempt(capsys, command, *arguments.format(**places).split())
    if places["out"].is_file():
        assert places["out"].read_text() == OLD


@pytest.mark.parametrize("content", [b"", b"no checkpoint", pickle.dumps({"step": 1}), "another training", "code"])
def test_a_bad_checkpoint_is_not_resumed_and_stays(tmp_path, capsys, content):
    path = tmp_path / "out" / "checkpoint.pt"
    path.parent.mkdir()
    if content == "code":
        torch.save(Code(tmp_path / "proof"), path)
    elif content == "another training":
        content = {"network": {}, "average": {}, "optimizer": {}, "step": 1, "progress": 0.5, "seconds": 1.0}
        torch.save(content, path)
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    sentence = attempt(
        capsys, train, "--stage", "all", "--resume", "--workers", "0", "--output", tmp_path / "out", "--steps", "2"
    )
    assert "checkpoint.pt" in sentence
    assert path.read_bytes() == before and not (tmp_path / "proof").exists()


def test_results_that_cannot_be_written_are_at_least_said(two, capsys):
    """The picture is lost with the disk; the numbers are not."""
    code = cli.run(match.main, [*map(str, two), *ORB, "--output", "/proc/x.png"])
    captured = capsys.readouterr()
    assert code == 2 and "/proc/x.png cannot be written" in captured.err
    assert "matches, " in captured.out and "similarity " in captured.out


def test_an_interrupted_replay_keeps_what_it_has(sequence, output, capsys, monkeypatch):
    read, count = replay.VisualOdometry.process, []

    def process(self, frame):
        count.append(frame)
        if len(count) == 3:
            raise KeyboardInterrupt
        return read(self, frame)

    monkeypatch.setattr(replay.VisualOdometry, "process", process)
    assert cli.run(replay.main, [str(sequence), "--output", str(output), *ORB, "--quiet"]) == 130
    assert '"frames": 2' in (output / "metrics.json").read_text()


def test_a_fault_of_the_program_is_one_sentence_and_exit_code_1(capsys):
    def main(arguments):
        raise ZeroDivisionError("division\nby zero")

    assert cli.run(main, []) == 1
    message = capsys.readouterr().err
    assert message == (
        "error: This should not happen: ZeroDivisionError: division by zero. LOFTR_ROS_TRACEBACK=1 shows where.\n"
    )


def test_enough_kinds_are_tried():
    cases = (RECORDINGS, PICTURES, *BESIDE.values(), TRUTHS, DEPTHS, SETTINGS, WEIGHTS, COMMANDS)
    assert sum(len(each) for each in cases) >= 150
