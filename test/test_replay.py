# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""The replay command: its files, its numbers, its exit codes, and that it loses nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from recordings import sliding_images, stamps, write_bag, write_sequence
from support import camera_info_yaml, is_one_sentence

import loftr_ros
from loftr_ros import cli
from loftr_ros.evaluation import replay
from loftr_ros.evaluation.metrics import evaluate
from loftr_ros.evaluation.trajectory import Trajectory, nanoseconds, write_tum
from loftr_ros.geometry.se3 import make_pose, rotation_from_vector

COUNT = 12
IMAGES = sliding_images(COUNT)
FILES = ["metrics.json", "report.html", "trajectory.png", "trajectory_kitti.txt", "trajectory_tum.txt"]


def truth_text() -> str:
    return "".join(
        f"{s // 10**9}.{s % 10**9:09d} {0.1 * i} {0.01 * i * i} 0 0 0 0 1\n"
        for i, s in enumerate(stamps(COUNT))
    )


def run(*arguments) -> int:
    return cli.run(replay.main, [str(a) for a in arguments] + ["--matcher", "orb", "--quiet"])


def error(capsys) -> str:
    """The one sentence on stderr."""
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("error: ") and is_one_sentence(message)
    return message


@pytest.fixture
def sequence(tmp_path) -> Path:
    return write_sequence(tmp_path / "sequence", IMAGES)


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("replay")
    sequence = write_sequence(folder / "sequence", IMAGES)
    (sequence / "groundtruth_tum.txt").write_text(truth_text())
    assert run(sequence, "--output", folder / "out") == 0
    return folder


def table(output: Path) -> list[list[str]]:
    return [line.split() for line in (output / "trajectory_tum.txt").read_text().splitlines()]


def test_it_writes_its_files(result):
    assert sorted(p.name for p in (result / "out").iterdir()) == FILES
    assert cv2.imread(str(result / "out" / "trajectory.png")) is not None


def test_trajectory_has_the_stamps_of_the_images_to_the_nanosecond(result):
    rows = table(result / "out")
    assert [nanoseconds(row[0]) for row in rows] == stamps(COUNT)
    np.testing.assert_array_equal(np.array(rows[0][1:], dtype=float), [0, 0, 0, 0, 0, 0, 1])
    kitti = np.loadtxt(result / "out" / "trajectory_kitti.txt").reshape(-1, 3, 4)
    np.testing.assert_allclose(kitti[:, :, 3], np.array([row[1:4] for row in rows], dtype=float), atol=1e-8)


def test_the_camera_went_to_the_right(result):
    end = np.array(table(result / "out")[-1][1:4], dtype=float)
    assert end[0] > 0.2 and np.abs(end[1:]).max() < 0.4 * end[0]


def test_metrics_hold_what_the_contract_names(result):
    metrics = json.loads((result / "out" / "metrics.json").read_text())
    wanted = [
        "frames",
        "poses",
        "states",
        "metric",
        "ms_per_frame_median",
        "ate_sim3_rmse_m",
        "ate_se3_rmse_m",
        "scale",
        "rpe_rotation_rmse_deg",
        "rpe_translation_rmse_m",
        "path_length_m",
    ]
    assert set(wanted) <= set(metrics)
    assert metrics["frames"] == metrics["poses"] == COUNT and sum(metrics["states"].values()) == COUNT
    assert (
        metrics["states"]["OK"] >= COUNT - 4
        and metrics["metric"] is False
        and metrics["ms_per_frame_median"] > 0
    )
    learned = metrics["learned_calibration"]
    assert set(learned) == {"off_px", "k1", "p1", "p2", "focal_percent", "centre_x_px", "centre_y_px"}
    assert 0 <= learned["off_px"] < 5
    assert metrics["config"]["matcher"] == "orb" and metrics["version"] == loftr_ros.__version__
    truth = np.array([line.split()[1:4] for line in truth_text().splitlines()], dtype=float)
    assert metrics["path_length_m"] == pytest.approx(np.linalg.norm(np.diff(truth, axis=0), axis=1).sum())
    assert 0 < metrics["ate_sim3_rmse_m"] <= metrics["ate_se3_rmse_m"] + 1e-9


def test_the_same_input_gives_the_same_bits(result, tmp_path):
    assert run(result / "sequence", "--output", tmp_path / "again") == 0
    for name in ("trajectory_tum.txt", "trajectory_kitti.txt"):
        assert (tmp_path / "again" / name).read_bytes() == (result / "out" / name).read_bytes()


def test_a_bag_gives_the_same_trajectory_as_the_folder(result, tmp_path):
    bag = write_bag(tmp_path / "bag", "mcap", IMAGES)
    assert run(bag, "--output", tmp_path / "out") == 0
    assert table(tmp_path / "out") == table(result / "out")
    assert "ate_sim3_rmse_m" not in json.loads((tmp_path / "out" / "metrics.json").read_text())


def test_a_video_with_a_named_calibration(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 20.0, (320, 240))
    for image in IMAGES:
        writer.write(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR))
    writer.release()
    (tmp_path / "calibration.yaml").write_text(camera_info_yaml())
    assert (
        run(tmp_path / "v.avi", "--camera-info", tmp_path / "calibration.yaml", "--output", tmp_path / "out")
        == 0
    )
    assert [nanoseconds(row[0]) for row in table(tmp_path / "out")] == [i * 50_000_000 for i in range(COUNT)]


def test_it_runs_as_a_module(sequence, tmp_path):
    command = [
        sys.executable,
        "-m",
        "loftr_ros.evaluation.replay",
        str(sequence),
        "--output",
        str(tmp_path / "out"),
    ]
    root = Path(loftr_ros.__file__).parent.parent
    done = subprocess.run(
        [*command, "--matcher", "sift"], capture_output=True, text=True, cwd=root, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert (
        f"{COUNT} frames, {COUNT} poses" in done.stdout
        and sorted(p.name for p in (tmp_path / "out").iterdir()) == FILES
    )


def test_the_command_line_goes_over_the_file(sequence, tmp_path):
    (tmp_path / "c.yaml").write_text("matcher: sift\nmax_keypoints: 500\n")
    assert run(sequence, "--config", tmp_path / "c.yaml", "--output", tmp_path / "out") == 0
    config = json.loads((tmp_path / "out" / "metrics.json").read_text())["config"]
    assert (config["matcher"], config["max_keypoints"]) == ("orb", 500)


def test_depth_scale_is_metric(sequence, tmp_path):
    (sequence / "depth").mkdir()
    depth = np.concatenate([np.full((120, 320), 5000), np.full((120, 320), 2500)]).astype(np.uint16)
    for i in range(COUNT):
        cv2.imwrite(str(sequence / "depth" / f"{i:06d}.png"), depth)
    assert run(sequence, "--scale", "depth", "--output", tmp_path / "out") == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    # 12 pixels a frame at a focal length of 300 and 5 m: 0.2 m a frame.
    assert metrics["metric"] is True
    assert float(table(tmp_path / "out")[-1][1]) == pytest.approx(0.2 * (COUNT - 1), rel=0.1)


# -- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["--rate", "0"],
        ["--rate", "nan"],
        ["--camera-info", "nowhere.yaml"],
        ["--groundtruth", "nowhere.txt"],
        ["--config", "nowhere.yaml"],
        ["--scale", "camera_height"],
        ["--scale", "camera_height", "--camera-height", "-1"],
        ["--scale", "odometry"],
        ["--scale", "odometry", "--odometry", "nowhere.txt"],
        ["--scale", "depth"],
    ],
    ids=" ".join,
)
def test_bad_arguments_exit_with_2_and_one_sentence(sequence, tmp_path, capsys, arguments):
    assert run(sequence, "--output", tmp_path / "out", *arguments) == 2
    error(capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments", [["--matcher", "surf"], ["--scale", "guess"], ["--camera-height", "tall"], ["--nonsense"]]
)
def test_arguments_that_do_not_exist_exit_with_2(sequence, tmp_path, arguments):
    with pytest.raises(SystemExit) as caught:
        cli.run(replay.main, [str(sequence), "--output", str(tmp_path / "out"), *arguments])
    assert caught.value.code == 2


def test_bad_inputs_exit_with_2_and_one_sentence(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bag.mcap").write_bytes(b"")
    (tmp_path / "v.mp4").write_bytes(b"no video")
    for name in ("empty", "bag.mcap", "v.mp4", "nowhere"):
        assert run(tmp_path / name, "--output", tmp_path / "out") == 2
        assert name in error(capsys)


def test_what_came_before_an_unreadable_image_is_kept(sequence, result, tmp_path, capsys):
    (sequence / "images" / "000009.png").write_bytes(b"damaged")
    assert run(sequence, "--output", tmp_path / "out") == 2
    assert "000009.png cannot be read" in error(capsys)
    assert table(tmp_path / "out") == table(result / "out")[:9]
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["frames"] == 9


def test_what_came_before_an_image_of_another_size_is_kept(sequence, tmp_path, capsys):
    cv2.imwrite(str(sequence / "images" / "000007.png"), IMAGES[7][:200])
    assert run(sequence, "--output", tmp_path / "out") == 2
    assert "is 320x200, not 320x240" in error(capsys)
    assert len(table(tmp_path / "out")) == 7


@pytest.mark.parametrize(
    "content", ["", "nonsense", "1 2 3\n", "5 0 0 0 0 0 0 1\n6 0 0 0 0 0 0 1\n7 0 0 0 0 0 0 1\n"]
)
def test_unusable_ground_truth_exits_with_2_but_keeps_the_trajectory(sequence, tmp_path, capsys, content):
    (tmp_path / "truth.txt").write_text(content)
    assert run(sequence, "--output", tmp_path / "out", "--groundtruth", tmp_path / "truth.txt") == 2
    assert "truth.txt" in error(capsys)
    assert (
        sorted(p.name for p in (tmp_path / "out").iterdir()) == FILES
        and len(table(tmp_path / "out")) == COUNT
    )


def test_an_output_that_cannot_be_written_exits_with_2(sequence, tmp_path, capsys):
    (tmp_path / "out").write_text("a file in the way")
    assert run(sequence, "--output", tmp_path / "out") == 2
    assert "cannot be made" in error(capsys) and (tmp_path / "out").read_text() == "a file in the way"


def test_a_picture_that_cannot_be_written_exits_with_2_after_the_numbers(sequence, tmp_path, capsys):
    (tmp_path / "out" / "trajectory.png").mkdir(parents=True)
    assert run(sequence, "--output", tmp_path / "out") == 2
    assert "trajectory.png cannot be written" in error(capsys)
    assert len(table(tmp_path / "out")) == COUNT and (tmp_path / "out" / "metrics.json").is_file()


# -- metrics ---------------------------------------------------------------------------------------------------------


def test_errors_of_a_trajectory_that_is_scaled_and_moved_are_zero(tmp_path):
    rng = np.random.default_rng(0)
    truth = [
        make_pose(rotation_from_vector(0.3 * rng.standard_normal(3)), rng.uniform(-5, 5, 3))
        for _ in range(20)
    ]
    write_tum(tmp_path / "truth.txt", Trajectory(stamps(20), truth))
    world = make_pose(rotation_from_vector(np.array([0.3, 1.0, -0.5])), np.array([1.0, 2.0, 3.0]))
    moved = [make_pose((world @ p)[:3, :3], 0.25 * (world @ p)[:3, 3]) for p in truth]
    errors, aligned = evaluate(Trajectory(stamps(20), moved), tmp_path / "truth.txt")
    assert (
        errors.ate_sim3_rmse_m < 1e-6
        and errors.rpe_translation_rmse_m < 1e-6
        and errors.rpe_rotation_rmse_deg < 1e-4
    )
    assert (
        errors.scale == pytest.approx(0.25, rel=1e-6)
        and errors.ate_se3_rmse_m > 1.0
        and errors.matched_poses == 20
    )
    np.testing.assert_allclose(aligned.estimate, aligned.truth, atol=1e-6)


def test_a_known_error_has_its_size(tmp_path):
    rng = np.random.default_rng(1)
    truth = [make_pose(np.eye(3), rng.uniform(-5, 5, 3)) for _ in range(400)]
    noisy = [make_pose(np.eye(3), p[:3, 3] + 0.05 * rng.standard_normal(3)) for p in truth]
    write_tum(tmp_path / "truth.txt", Trajectory(stamps(400), truth))
    errors, _ = evaluate(Trajectory(stamps(400), noisy), tmp_path / "truth.txt")
    assert errors.ate_se3_rmse_m == pytest.approx(0.05 * 3**0.5, rel=0.1)
    assert errors.rpe_translation_rmse_m == pytest.approx(0.05 * 6**0.5, rel=0.1)


@pytest.mark.parametrize(
    ("name", "world_camera", "wanted"),
    [
        ("the camera's own axes", np.eye(3), (0, 2)),
        ("z up, the camera looks along x", np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]]), (0, 1)),
        ("z up, the camera looks down", np.array([[0, -1, 0], [-1, 0, 0], [0, 0, -1]]), (0, 1)),
    ],
)
def test_the_view_from_above_leaves_out_the_vertical(tmp_path, name, world_camera, wanted):
    """Also on a straight drive over hills, which goes up and down more than sideways; a drone turns as it likes."""
    count, drone = 40, name.endswith("down")
    ahead = np.array([0.0, 1.0, 0.0] if drone else [0.0, 0.0, 1.0])  # in the camera's axes
    side = np.array([1.0, 0.0, 0.0])
    below = np.cross(ahead, side)
    wave = np.sin(np.arange(count) / 6)
    truth = []
    for i in range(count):
        yaw = rotation_from_vector(below * (i * 2 * np.pi / count if drone else 0.01 * wave[i]))
        way = 1.5 * i * ahead + (5.0 if drone else 0.5) * wave[i] * side + 0.9 * np.cos(i / 9) * below
        truth.append(make_pose(world_camera @ yaw, world_camera @ way))
    write_tum(tmp_path / "truth.txt", Trajectory(stamps(count), truth))
    first = np.linalg.inv(truth[0])
    estimate = [make_pose((first @ pose)[:3, :3], 0.1 * (first @ pose)[:3, 3]) for pose in truth]
    _, aligned = evaluate(Trajectory(stamps(count), estimate), tmp_path / "truth.txt")
    assert aligned.ground_axes == wanted
