# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Points in 3-D against the rendered room's truth, and the files that are made of them."""

from __future__ import annotations

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
from evo.core.geometry import umeyama_alignment
from support import is_one_sentence, pinhole

from loftr_ros import cli
from loftr_ros.errors import InputError
from loftr_ros.evaluation.render_room import write_sequence
from loftr_ros.evaluation.sequences import open_recording
from loftr_ros.geometry.camera import Camera
from loftr_ros.geometry.se3 import inverse, make_pose, rotation_from_vector, transform
from loftr_ros.matching import load_matcher
from loftr_ros.odometry import VisualOdometry
from loftr_ros.synthetic.room import SIZE, make_room, room_camera, round_trip
from loftr_ros.synthetic.scene import inverse_depth_at
from loftr_ros.uses import reconstruct
from loftr_ros.uses.formats import write_colmap, write_ply
from loftr_ros.uses.keyframes import KeyframePoints, Track, View
from loftr_ros.uses.point_picture import point_picture
from loftr_ros.uses.reconstruction import Filter, triangulate_views

CAMERA = room_camera(320, 240)
POSES = round_trip(14, share=0.12)


@pytest.fixture(scope="module")
def sequence(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reconstruct") / "room"
    write_sequence(folder, make_room(CAMERA, 0), POSES, 10.0)
    return folder


@pytest.fixture(scope="module")
def views(sequence):
    odometry = VisualOdometry(load_matcher("tiny"), CAMERA)
    return reconstruct.gather(open_recording(sequence), odometry, quiet=True)[0]


@pytest.fixture(scope="module")
def made(sequence, tmp_path_factory):
    """What the command writes, and what it prints: with SIFT, which is quick."""
    output = tmp_path_factory.mktemp("made")
    done = subprocess.run(
        [sys.executable, "-m", "loftr_ros.uses.reconstruct", str(sequence), "--output", str(output), "--quiet"]
        + ["--matcher", "sift"],
        capture_output=True,
        text=True,
        check=True,
    )
    return output, done.stdout


def true_points(view):
    """[K, 3] where the keypoints of a keyframe lie in the room."""
    pose = POSES[round(view.stamp_ns / 1e8)]
    depth = make_room(CAMERA, 0).view(pose)[1]
    rays = np.column_stack([CAMERA.normalize(view.keypoints), np.ones(len(view.keypoints))])
    return transform(pose, rays / inverse_depth_at(np.nan_to_num(view.keypoints), depth)[:, None])


def test_points_lie_where_the_room_is(views):
    cloud = triangulate_views(views, CAMERA)
    assert len(views) >= 4 and len(cloud.points) > 1000
    # Sim(3) from the cameras alone.
    estimate = np.array([view.known.pose_world_camera[:3, 3] for view in views])
    truth = np.array([POSES[round(view.stamp_ns / 1e8)][:3, 3] for view in views])
    rotation, shift, scale = umeyama_alignment(estimate.T, truth.T, True)
    errors = []
    for number, view in enumerate(views):
        owner = np.zeros(len(cloud.points), bool)
        first = np.unique(cloud.point, return_index=True)[1]
        owner[cloud.view[first] == number] = True
        own = np.flatnonzero(owner)
        pixels = cloud.pixels[first[own]]
        nearest = np.linalg.norm(view.keypoints[None] - pixels[:, None], axis=2)
        keypoint = np.nanargmin(np.where(np.isnan(nearest), np.inf, nearest), axis=1)
        errors.append(
            np.linalg.norm(scale * cloud.points[own] @ rotation.T + shift - true_points(view)[keypoint], axis=1)
        )
    error = np.concatenate(errors)
    assert np.nanmedian(error) < 0.02 * max(SIZE)
    assert np.sqrt(np.mean(cloud.error_px**2)) < 1.0


def exact_views(noise=0.0, wrong=0):
    """Three cameras, and 40 keypoints of the first that the others see: the first `wrong` of them falsely."""
    rng = np.random.default_rng(1)
    camera = pinhole(320, 240, 300.0)
    points = rng.uniform([-1.0, -0.8, 3.0], [1.0, 0.8, 6.0], (40, 3))
    poses = [
        np.eye(4),
        make_pose(np.eye(3), [0.3, 0, 0]),
        make_pose(rotation_from_vector(np.array([0, 0.05, 0])), [0.5, 0.1, 0]),
    ]
    image = np.zeros((240, 320, 3), np.uint8)
    image[..., 2] = 200
    none = np.zeros(0, np.int64), np.zeros((0, 3)), np.zeros(0)
    views = [View(k, image, KeyframePoints(pose, *none), np.zeros((0, 2)), []) for k, pose in enumerate(poses)]
    views[0].keypoints = camera.project(points)
    for k in (1, 2):
        pixels = camera.project(transform(inverse(poses[k]), points)) + noise * rng.standard_normal((40, 2))
        pixels[:wrong] += [15.0, 15.0]
        views[0].tracks.append(Track(k, np.arange(40), pixels, np.full(40, max(noise, 0.1))))
    return camera, points, views


def test_exact_tracks_give_exact_points():
    camera, points, views = exact_views()
    cloud = triangulate_views(views, camera)
    assert cloud.points == pytest.approx(points, abs=1e-6)
    assert cloud.error_px.max() < 1e-6 and len(cloud.point) == 3 * 40
    assert (cloud.colours == [200, 0, 0]).all()  # r, g, b of a red bgr image


def test_wrong_and_scarce_observations_are_filtered():
    camera, points, views = exact_views(noise=0.2, wrong=7)
    cloud = triangulate_views(views, camera)
    assert len(cloud.points) == 33 and np.linalg.norm(cloud.points - points[7:], axis=1).max() < 0.15
    assert len(triangulate_views(views, camera, Filter(views=4)).points) == 0
    assert len(triangulate_views(views, camera, Filter(parallax_deg=20)).points) == 0
    assert len(triangulate_views([], camera).points) == 0


def test_what_the_odometry_knows_decides_where_views_say_little():
    camera, points, views = exact_views()
    sure = KeyframePoints(np.eye(4), np.arange(40), 1.01 * points, np.full(40, 1e-6))
    views[0].known = sure
    assert triangulate_views(views, camera).points == pytest.approx(1.01 * points, rel=1e-3)


def test_ply_holds_points_and_colours(tmp_path):
    points, colours = np.array([[1.0, -2.0, 3.5], [0.0, 0.0, 1.0]]), np.array([[1, 2, 3], [250, 0, 9]], np.uint8)
    write_ply(tmp_path / "x.ply", points, colours)
    header, body = (tmp_path / "x.ply").read_bytes().split(b"end_header\n")
    assert b"element vertex 2" in header and b"binary_little_endian" in header
    assert np.frombuffer(body[:12], "<f4").tolist() == [1.0, -2.0, 3.5] and list(body[12:15]) == [1, 2, 3]
    assert len(body) == 2 * 15


# pycolmap and OpenCV bring a zlib each that do not bear each other in one process.
READ_MODEL = """
import json, sys
import numpy, pycolmap
model = pycolmap.Reconstruction(sys.argv[1])
model.update_point_3d_errors()
names = sorted((image.name, image.cam_from_world().inverse().translation.tolist()) for image in model.images.values())
print(json.dumps({
    "error": model.compute_mean_reprojection_error(),
    "points": model.num_points3D(),
    "images": names,
    "observations": model.compute_num_observations(),
    "camera": [model.cameras[1].model.name, model.cameras[1].params.tolist()],
}))
"""


def read_model(folder):
    if subprocess.run([sys.executable, "-c", "import pycolmap"], capture_output=True).returncode:
        pytest.skip("pycolmap is not installed; it reads the COLMAP model")
    done = subprocess.run([sys.executable, "-c", READ_MODEL, str(folder)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_colmap_reads_the_model_and_agrees(tmp_path):
    camera, points, views = exact_views(noise=0.3)
    cloud = triangulate_views(views, camera)
    write_colmap(tmp_path, camera, views, cloud)
    model = read_model(tmp_path)
    assert model["points"] == len(cloud.points) and model["observations"] == len(cloud.point)
    # COLMAP takes the mean over the observations; the keypoint itself has no error.
    others = cloud.view > 0
    projected = [
        camera.project(transform(inverse(views[v].known.pose_world_camera), cloud.points[p][None]))[0]
        for p, v in zip(cloud.point[others], cloud.view[others])
    ]
    expected = np.linalg.norm(projected - cloud.pixels[others], axis=1).sum() / len(cloud.point)
    assert model["error"] == pytest.approx(expected, abs=2e-3)
    assert model["camera"] == ["PINHOLE", [300.0, 300.0, 160.0, 120.0]]  # the first pixel's centre is 0.5 there
    for (name, position), view in zip(model["images"], views):
        assert name == f"{view.stamp_ns:019d}.png"
        assert position == pytest.approx(view.known.pose_world_camera[:3, 3].tolist(), abs=1e-9)


@pytest.mark.parametrize(
    ("model", "distortion"),
    [
        ("plumb_bob", (-0.2, 0.05, 1e-3, -2e-3, 0.0)),
        ("plumb_bob", (-0.2, 0.05, 1e-3, -2e-3, 0.01)),
        ("rational_polynomial", (0.1, 0.02, 1e-3, -2e-3, 0.01, 0.2, 0.03, 0.001)),
        ("equidistant", (-0.02, 0.003, 0.0, 0.0)),
        ("equidistant", ()),
    ],
)
def test_distorted_cameras_project_the_same_in_colmap(tmp_path, model, distortion):
    _, points, views = exact_views()
    camera = Camera(320, 240, pinhole(320, 240, 300.0).matrix, model, distortion)
    views[0].keypoints = camera.project(points)
    for track in views[0].tracks:
        pose = inverse(views[track.target].known.pose_world_camera)
        track.pixels[:] = camera.project(transform(pose, points))
    cloud = triangulate_views(views, camera)
    assert len(cloud.points) == 40
    write_colmap(tmp_path, camera, views, cloud)
    assert read_model(tmp_path)["error"] < 2e-3


def test_camera_that_colmap_does_not_have(tmp_path):
    camera = Camera(320, 240, pinhole().matrix, "rational_polynomial", (0.1,) * 12)
    with pytest.raises(InputError, match="rectify"):
        write_colmap(tmp_path, camera, [], triangulate_views([], camera))


def test_picture_shows_points_and_path():
    points = np.random.default_rng(0).uniform([-2, 0.5, 2], [2, 1.0, 6], (3000, 3))
    poses = [make_pose(np.eye(3), [0.0, 0.0, z]) for z in (0.0, 0.5, 1.0)]
    picture = point_picture(points, np.tile(np.array([[10, 200, 30]], np.uint8), (3000, 1)), poses, (400, 300))
    green = (picture == [30, 200, 10]).all(axis=2)
    assert picture.shape == (300, 400, 3) and 0.02 < green.mean() < 0.9
    rows, columns = np.nonzero(green)
    assert rows.min() > 2 and rows.max() < 297 and columns.min() > 2 and columns.max() < 397  # nothing is cut off
    assert (picture == [60, 160, 255]).all(axis=2).sum() > 50


def test_command_writes_everything(made):
    output, printed = made
    assert "reprojection error 0." in printed and "arbitrary" in printed
    model = read_model(output / "sparse")
    assert model["points"] > 200 and model["error"] < 1.5
    pictures = sorted(path.name for path in (output / "images").iterdir())
    assert pictures == [name for name, _ in model["images"]]
    assert len((output / "keyframes_tum.txt").read_text().splitlines()) == len(pictures)
    assert (output / "points.ply").read_bytes().startswith(b"ply\n")
    assert cv2.imread(str(output / "points.png")).shape == (800, 1280, 3)


def test_colours_of_a_folder_are_those_of_its_images(tmp_path, sequence):
    recording = open_recording(sequence)
    cv2.imwrite(str(tmp_path / "red.png"), np.full((240, 320, 3), (0, 0, 255), np.uint8))
    recording.images[2] = tmp_path / "red.png"
    assert reconstruct.colour_reader(recording)(recording.stamps_ns[2])[5, 5].tolist() == [0, 0, 255]


def test_colours_of_a_video_are_those_of_its_frames(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "x.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10.0, (64, 48))
    for k in range(6):
        writer.write(np.full((48, 64, 3), (0, 40 * k, 0), np.uint8))
    writer.release()
    read = reconstruct._VideoColours(tmp_path / "x.avi")
    assert [int(read(stamp)[20, 20, 1]) for stamp in (100_000_000, 400_000_000)] == pytest.approx([40, 160], abs=6)
    assert read(900_000_000) is None


@pytest.mark.parametrize(
    ("extra", "told"), [(["--views", "1"], "--views"), (["--camera-info", "missing.yaml"], "missing.yaml")]
)
def test_bad_input_gets_one_sentence(tmp_path, capsys, sequence, extra, told):
    assert cli.run(reconstruct.main, [str(sequence), "--output", str(tmp_path), "--matcher", "sift", *extra]) == 2
    message = capsys.readouterr().err.strip()
    assert told in message and is_one_sentence(message)


def test_camera_that_stands_still_gives_no_points(tmp_path, capsys):
    write_sequence(tmp_path / "still", make_room(CAMERA, 0), POSES[:1] * 4, 10.0)
    arguments = [str(tmp_path / "still"), "--output", str(tmp_path / "out"), "--matcher", "orb", "--quiet"]
    assert cli.run(reconstruct.main, arguments) == 2
    assert "does the camera move" in capsys.readouterr().err
