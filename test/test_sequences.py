# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Folders and videos as recordings, and the files of trajectories."""

from __future__ import annotations

import os
import stat

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recordings import START_NS, stamps, write_sequence
from support import camera_info_yaml, is_one_sentence, pinhole, texture

from loftr_ros.errors import InputError
from loftr_ros.evaluation.sequences import Options, open_recording
from loftr_ros.evaluation.trajectory import (
    Trajectory,
    nanoseconds,
    read_times,
    seconds,
    tum_line,
    write_kitti,
    write_tum,
)
from loftr_ros.files import write_atomically
from loftr_ros.geometry.se3 import make_pose, pose_from_xyz_quat, rotation_from_vector

IMAGES = [texture(240, 320, seed) for seed in range(4)]


@pytest.fixture
def sequence(tmp_path):
    return write_sequence(tmp_path / "sequence", IMAGES)


def refusal(path, options: Options = Options()) -> str:  # noqa: B008
    with pytest.raises(InputError) as caught:
        list(open_recording(path, options).frames())
    assert is_one_sentence(str(caught.value))
    return str(caught.value)


def test_a_sequence_folder(sequence):
    recording = open_recording(sequence)
    frames = list(recording.frames())
    assert [f.stamp_ns for f in frames] == stamps(4) and len(recording) == 4 and recording.groundtruth is None
    for frame, image in zip(frames, IMAGES):
        np.testing.assert_array_equal(frame.image, image)
        assert frame.depth is None
    np.testing.assert_array_equal(recording.camera.matrix, pinhole().matrix)


def test_a_folder_of_images_without_times(tmp_path):
    folder = write_sequence(tmp_path / "s", IMAGES, times=False)
    for image in (folder / "images").iterdir():
        image.rename(folder / image.name)
    (folder / "images").rmdir()
    frames = list(open_recording(folder, Options(rate_hz=30.0)).frames())
    assert [f.stamp_ns for f in frames] == [0, 33333333, 66666667, 100000000]


def test_groundtruth_and_depth_are_found(sequence):
    (sequence / "groundtruth_tum.txt").write_text("0 0 0 0 0 0 0 1\n")
    (sequence / "depth").mkdir()
    for i in range(4):
        cv2.imwrite(str(sequence / "depth" / f"{i:06d}.png"), np.full((240, 320), 1500 + i, np.uint16))
    recording = open_recording(sequence, Options(need_depth=True))
    assert recording.groundtruth == sequence / "groundtruth_tum.txt"
    depths = [f.depth for f in recording.frames()]
    np.testing.assert_allclose([d[5, 7] for d in depths], [1.5, 1.501, 1.502, 1.503], rtol=1e-6)
    (sequence / "depth" / "000003.png").unlink()
    assert "3 depth images" in refusal(sequence, Options(need_depth=True))


def test_wheel_odometry_file_gives_the_way_between_frames(sequence, tmp_path):
    start = START_NS * 1e-9
    lines = [f"{start - 1 + 0.1 * i:.9f} {0.05 * i} 0 0 0 0 0 1" for i in range(30)]
    (tmp_path / "wheels.txt").write_text("\n".join(lines))
    frames = list(open_recording(sequence, Options(odometry=str(tmp_path / "wheels.txt"))).frames())
    np.testing.assert_allclose([f.distance for f in frames], [0, 0.05, 0.05, 0.05], atol=1e-6)
    (tmp_path / "wheels.txt").write_text("a b c")
    assert "odometry file" in refusal(sequence, Options(odometry=str(tmp_path / "wheels.txt")))
    assert "cannot be read" in refusal(sequence, Options(odometry=str(tmp_path / "nowhere.txt")))


def test_a_calibration_of_the_same_camera_at_another_size_is_scaled(sequence):
    (sequence / "camera_info.yaml").write_text(camera_info_yaml(640, 480, 600.0))
    assert open_recording(sequence).camera.focal == pytest.approx(300.0)


@pytest.mark.parametrize(
    "what", ["nowhere", "empty folder", "text file", "no calibration", "nonsense calibration"]
)
def test_what_is_no_recording_is_refused(tmp_path, sequence, what):
    path = {"nowhere": tmp_path / "x", "empty folder": tmp_path / "e", "text file": tmp_path / "t.txt"}.get(
        what, sequence
    )
    (tmp_path / "e").mkdir()
    (tmp_path / "t.txt").write_text("text")
    if what == "no calibration":
        (sequence / "camera_info.yaml").unlink()
    elif what == "nonsense calibration":
        (sequence / "camera_info.yaml").write_text("{{{")
    words = {
        "nowhere": "does not exist",
        "empty folder": "no images",
        "text file": "neither a folder",
        "no calibration": "--camera-info",
        "nonsense calibration": "not valid YAML",
    }
    assert words[what] in refusal(path)


@pytest.mark.parametrize(
    ("times", "words"),
    [
        ("1\n2\n3\n", "has 3 times for 4 images"),
        ("", "has 0 times for 4 images"),
        ("1\n2\n2\n3\n", "do not increase"),
        ("4\n3\n2\n1\n", "do not increase"),
        ("1\n2\nx\n4\n", "cannot be read"),
        ("1\n2\nnan\n4\n", "cannot be read"),
        ("1\n2\ninf\n4\n", "cannot be read"),
    ],
)
def test_times_that_cannot_be_are_refused(sequence, times, words):
    (sequence / "times.txt").write_text(times)
    assert words in refusal(sequence)


@pytest.mark.parametrize("index", [0, 2])
def test_an_unreadable_image_is_refused_when_its_turn_comes(sequence, index):
    (sequence / "images" / f"{index:06d}.png").write_bytes(b"no image")
    assert f"{index:06d}.png cannot be read" in refusal(sequence)


# -- videos ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "video.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 20.0, (320, 240))
    assert writer.isOpened()
    for image in IMAGES:
        writer.write(cv2.cvtColor(cv2.GaussianBlur(image, (0, 0), 2), cv2.COLOR_GRAY2BGR))
    writer.release()
    (tmp_path / "camera_info.yaml").write_text(camera_info_yaml())
    return path


def test_a_video(video):
    recording = open_recording(video)
    frames = list(recording.frames())
    assert [f.stamp_ns for f in frames] == [0, 50_000_000, 100_000_000, 150_000_000] and len(recording) == 4
    for frame, image in zip(frames, IMAGES):
        smooth = cv2.GaussianBlur(image, (0, 0), 2)
        assert np.abs(frame.image.astype(int) - smooth).mean() < 3
    assert recording.camera.width == 320


@pytest.mark.parametrize("content", [b"", b"no video", b"RIFF\x00\x00\x00\x00AVI LIST"])
def test_unreadable_videos_are_refused(video, content):
    video.write_bytes(content)
    assert "video" in refusal(video)


def test_a_video_without_calibration_is_refused(video):
    (video.parent / "camera_info.yaml").unlink()
    assert "name one with --camera-info" in refusal(video)


# -- files of trajectories -------------------------------------------------------------------------------------------


@given(st.integers(-(10**10), 2**31 * 10**9))
def test_stamps_are_exact_to_the_nanosecond(stamp):
    if stamp >= 0:
        assert nanoseconds(seconds(stamp)) == stamp
    assert float(seconds(stamp)) == pytest.approx(stamp * 1e-9)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1.5", 1_500_000_000),
        (".25", 250_000_000),
        ("7", 7_000_000_000),
        ("1.036224e-01", 103_622_400),
        ("1403636579.763555584", 1_403_636_579_763_555_584),
        ("-0.5", -500_000_000),
        ("0.1234567891", 123_456_789),
    ],
)
def test_decimal_seconds(text, wanted):
    assert nanoseconds(text) == wanted


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999", "x", "", "1.2.3", "0x10"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ValueError, match="."):
        nanoseconds(text)


def test_times_with_more_columns_and_empty_lines(tmp_path):
    (tmp_path / "t.txt").write_text("1.5 a\n\n2.5 b\n")
    assert read_times(tmp_path / "t.txt") == [1_500_000_000, 2_500_000_000]


POSES = [
    make_pose(rotation_from_vector(np.array([0.1 * i, -0.2, 0.05])), np.array([i, 0.5, -i])) for i in range(3)
]


def test_tum_file_is_exact(tmp_path):
    write_tum(tmp_path / "new" / "t.txt", Trajectory(stamps(3), POSES))
    lines = (tmp_path / "new" / "t.txt").read_text().splitlines()
    assert [nanoseconds(line.split()[0]) for line in lines] == stamps(3)
    for line, pose in zip(lines, POSES):
        values = np.array([float(v) for v in line.split()[1:]])
        np.testing.assert_allclose(pose_from_xyz_quat(values), pose, atol=1e-8)
    assert tum_line(5, np.eye(4)).startswith("0.000000005 0.000000000 ")


def test_kitti_file(tmp_path):
    write_kitti(tmp_path / "k.txt", Trajectory(stamps(3), POSES))
    np.testing.assert_allclose(
        np.loadtxt(tmp_path / "k.txt").reshape(3, 3, 4), [p[:3] for p in POSES], atol=1e-9
    )


def test_an_empty_trajectory_is_an_empty_file(tmp_path):
    write_tum(tmp_path / "t.txt", Trajectory([], []))
    assert (tmp_path / "t.txt").read_text() == ""


def test_writing_replaces_the_file_whole(tmp_path):
    write_atomically(tmp_path / "a.txt", ["old"])
    write_atomically(tmp_path / "a.txt", ["new", "lines"])
    assert (tmp_path / "a.txt").read_text() == "new\nlines\n" and [p.name for p in tmp_path.iterdir()] == [
        "a.txt"
    ]
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o644


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_failure_while_writing_keeps_the_old_file(tmp_path, monkeypatch, broken):
    write_atomically(tmp_path / "a.txt", ["old"])

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, broken, fail)
    with pytest.raises(InputError, match="a.txt cannot be written: No space left on device"):
        write_atomically(tmp_path / "a.txt", ["new"])
    monkeypatch.undo()
    assert (tmp_path / "a.txt").read_text() == "old\n" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be written"):
        write_atomically(tmp_path / "file" / "a.txt", ["new"])
    if os.geteuid() != 0:  # root may write anywhere
        (tmp_path / "closed").mkdir(mode=0o500)
        with pytest.raises(InputError, match="Permission denied"):
            write_atomically(tmp_path / "closed" / "a.txt", ["new"])
