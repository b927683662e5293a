# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Bags of all kinds give the pixels and stamps that were written, and damaged ones one sentence."""

from __future__ import annotations

import numpy as np
import pytest
from recordings import BAG_KINDS, START_NS, Bag, stamps, write_bag
from support import camera_info_yaml, is_one_sentence, pinhole, texture

from loftr_ros.errors import InputError
from loftr_ros.evaluation.sequences import Options, open_recording

IMAGES = [texture(240, 320, seed) for seed in range(4)]


@pytest.mark.parametrize("compressed", [False, True], ids=["raw", "compressed"])
@pytest.mark.parametrize("kind", BAG_KINDS)
def test_pixels_and_stamps_come_back(tmp_path, kind, compressed):
    recording = open_recording(write_bag(tmp_path / "bag", kind, IMAGES, compressed))
    frames = list(recording.frames())
    assert [f.stamp_ns for f in frames] == stamps(4) and len(recording) == 4
    for frame, image in zip(frames, IMAGES):
        np.testing.assert_array_equal(frame.image, image)
        assert frame.depth is None and frame.distance is None
    np.testing.assert_array_equal(recording.camera.matrix, pinhole().matrix)
    assert recording.groundtruth is None


@pytest.mark.parametrize("kind", ["sqlite3", "mcap"])
def test_the_file_inside_a_bag_folder_serves_too(tmp_path, kind):
    folder = write_bag(tmp_path / "bag", kind, IMAGES)
    file = next(p for p in folder.iterdir() if p.suffix in (".mcap", ".db3"))
    assert [f.stamp_ns for f in open_recording(file).frames()] == stamps(4)


def test_colour_images_become_grey(tmp_path):
    with Bag(tmp_path / "bag", "mcap") as bag:
        bag.camera_info("/camera/camera_info", START_NS)
        bag.image("/camera/image_raw", START_NS, np.repeat(IMAGES[0][:, :, None], 3, axis=2), "rgb8")
    frames = list(open_recording(tmp_path / "bag").frames())
    np.testing.assert_array_equal(frames[0].image, IMAGES[0])


@pytest.fixture
def two_cameras(tmp_path):
    """left has most images, right is compressed, and each has its own calibration."""
    with Bag(tmp_path / "bag", "mcap") as bag:
        for i, stamp in enumerate(stamps(4)):
            bag.camera_info("/left/camera_info", stamp, focal=300.0)
            bag.camera_info("/right/camera_info", stamp, focal=310.0)
            bag.image("/left/image_raw", stamp, IMAGES[i])
            bag.compressed("/right/image_raw/compressed", stamp + 5, IMAGES[-1 - i])
    return tmp_path / "bag"


def test_of_several_cameras_the_raw_one_is_taken(two_cameras):
    recording = open_recording(two_cameras)
    assert recording.camera.focal == 300.0 and [f.stamp_ns for f in recording.frames()] == stamps(4)


def test_a_camera_can_be_named(two_cameras):
    recording = open_recording(two_cameras, Options(image_topic="/right/image_raw/compressed"))
    assert recording.camera.focal == 310.0
    np.testing.assert_array_equal(next(iter(recording.frames())).image, IMAGES[-1])


def test_a_topic_that_is_not_there_is_named_with_those_that_are(two_cameras):
    with pytest.raises(InputError, match="no image topic /up/image; it has /left/image_raw"):
        open_recording(two_cameras, Options(image_topic="/up/image"))
    with pytest.raises(InputError, match="no image topic /left/camera_info"):
        open_recording(two_cameras, Options(image_topic="/left/camera_info"))


def test_a_calibration_file_goes_before_the_bag(two_cameras, tmp_path):
    (tmp_path / "c.yaml").write_text(camera_info_yaml(focal=333.0))
    assert open_recording(two_cameras, Options(camera_info=tmp_path / "c.yaml")).camera.focal == 333.0


@pytest.mark.parametrize("depth_first", [True, False], ids=["depth before image", "depth after image"])
def test_depth_images_go_with_their_image(tmp_path, depth_first):
    with Bag(tmp_path / "bag", "mcap") as bag:
        for i, stamp in enumerate(stamps(4)):
            bag.camera_info("/camera/camera_info", stamp)
            writes = [
                lambda i=i, s=stamp: bag.image(
                    "/camera/depth/image", s, np.full((240, 320), 1000 + i, np.uint16), "16UC1"
                ),
                lambda i=i, s=stamp: bag.image("/camera/image_raw", s, IMAGES[i]),
            ]
            for write in writes if depth_first else writes[::-1]:
                write()
    frames = list(open_recording(tmp_path / "bag", Options(need_depth=True)).frames())
    assert [f.stamp_ns for f in frames] == stamps(4)
    for i, frame in enumerate(frames):
        assert frame.depth is not None
        np.testing.assert_allclose(frame.depth, 1.0 + i / 1000, rtol=1e-6)


def test_depth_that_is_too_far_in_time_is_not_used(tmp_path):
    with Bag(tmp_path / "bag", "mcap") as bag:
        bag.camera_info("/camera/camera_info", START_NS)
        bag.image("/camera/depth/image", START_NS, np.full((240, 320), 1000, np.uint16), "16UC1")
        bag.image("/camera/image_raw", START_NS + 50_000_000, IMAGES[0])
    assert [f.depth for f in open_recording(tmp_path / "bag", Options(need_depth=True)).frames()] == [None]


def test_a_bag_without_depth_says_so(two_cameras):
    with pytest.raises(InputError, match="no depth images"):
        open_recording(two_cameras, Options(need_depth=True))


def test_wheels_give_the_way_between_images(tmp_path):
    with Bag(tmp_path / "bag", "sqlite3") as bag:
        for i, stamp in enumerate(stamps(4)):
            bag.camera_info("/camera/camera_info", stamp)
            bag.odometry("/wheels", stamp - 50_000_000, x=0.5 * i)
            bag.odometry("/wheels", stamp - 1, x=0.5 * i + 0.2)
            bag.image("/camera/image_raw", stamp, IMAGES[i])
    frames = list(open_recording(tmp_path / "bag", Options(odometry="/wheels")).frames())
    np.testing.assert_allclose([f.distance for f in frames], [0.2, 0.5, 0.5, 0.5])
    with pytest.raises(InputError, match="no topic /nothing"):
        open_recording(tmp_path / "bag", Options(odometry="/nothing"))


def test_images_whose_stamps_do_not_increase_are_left_out(tmp_path):
    with Bag(tmp_path / "bag", "mcap") as bag:
        bag.camera_info("/camera/camera_info", START_NS)
        for i, offset in enumerate((0, 10, 10, 20)):
            bag.image("/camera/image_raw", START_NS + offset, IMAGES[i])
    assert [f.stamp_ns - START_NS for f in open_recording(tmp_path / "bag").frames()] == [0, 10, 20]


def refusal(path, options: Options = Options()) -> str:  # noqa: B008
    with pytest.raises(InputError) as caught:
        list(open_recording(path, options).frames())
    assert is_one_sentence(str(caught.value))
    return str(caught.value)


def test_a_bag_without_images_is_refused(tmp_path):
    with Bag(tmp_path / "bag", "mcap") as bag:
        bag.camera_info("/camera/camera_info", START_NS)
    assert "has no images" in refusal(tmp_path / "bag")


def test_a_bag_without_calibration_is_refused(tmp_path):
    with Bag(tmp_path / "bag", "mcap") as bag:
        bag.image("/camera/image_raw", START_NS, IMAGES[0])
    assert "has no camera_info for /camera/image_raw; name a file with --camera-info" in refusal(
        tmp_path / "bag"
    )


def test_an_uncalibrated_camera_is_refused(tmp_path):
    with Bag(tmp_path / "bag", "mcap") as bag:
        bag.camera_info("/camera/camera_info", START_NS, focal=0.0)
        bag.image("/camera/image_raw", START_NS, IMAGES[0])
    assert "not calibrated" in refusal(tmp_path / "bag")


def test_a_calibration_for_another_shape_is_refused(tmp_path):
    with Bag(tmp_path / "bag", "mcap") as bag:
        bag.camera_info("/camera/camera_info", START_NS, width=400)
        bag.image("/camera/image_raw", START_NS, IMAGES[0])
    assert "images are 320x240, but the camera is calibrated for 400x240" in refusal(tmp_path / "bag")


@pytest.mark.parametrize("lie", [{"step": 10}, {"height": 100000}, {"encoding": "mono32"}, {"width": 0}])
def test_an_image_that_lies_is_refused(tmp_path, lie):
    with Bag(tmp_path / "bag", "mcap") as bag:
        bag.camera_info("/camera/camera_info", START_NS)
        bag.image("/camera/image_raw", START_NS, IMAGES[0], **lie)
    refusal(tmp_path / "bag")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.99])
@pytest.mark.parametrize("kind", BAG_KINDS)
def test_truncated_bags_give_one_sentence(tmp_path, kind, share):
    path = write_bag(tmp_path / "bag", kind, IMAGES)
    file = path if kind == "ros1" else next(p for p in path.iterdir() if p.suffix in (".mcap", ".db3"))
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    refusal(path)


@pytest.mark.parametrize("name", ["a.bag", "a.mcap", "a.db3"])
@pytest.mark.parametrize("content", [b"", b"no bag at all", b"\x89MCAP0\r\n"])
def test_files_that_are_no_bags_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert name in refusal(tmp_path / name)


@pytest.mark.parametrize("content", ["", "nonsense", "rosbag2_bagfile_information: {version: 99}", "a: ["])
def test_nonsense_metadata_is_refused(tmp_path, content):
    path = write_bag(tmp_path / "bag", "mcap", IMAGES)
    (path / "metadata.yaml").write_text(content)
    refusal(path)
