# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""kill -9 while results are saved: every file that is left is whole, the old one or the new one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("rclpy", reason="rclpy is not installed: the pose log belongs to the node")

from saver import POSES  # noqa: E402

from loftr_ros.loftr import CONFIGS, LoFTR  # noqa: E402
from loftr_ros.training import log  # noqa: E402
from loftr_ros.training.trainer import read_checkpoint  # noqa: E402
from loftr_ros.uses import retrieval  # noqa: E402

KILLS = 20
SHAPES = {name: value.shape for name, value in LoFTR(CONFIGS["tiny"]).state_dict().items()}
NAMES = {
    "trajectory_tum.txt", "trajectory_kitti.txt", "metrics.json", "trajectory.png", "report.html", "poses.txt",
    "tiny.safetensors", "checkpoint.pt", "log.csv", "picture.png", "index.npz",
}  # fmt: skip


RENEWED = ("trajectory_tum.txt", "metrics.json", "report.html", "tiny.safetensors", "checkpoint.pt", "picture.png")


def wait_until_renewed(path: Path) -> None:
    """Another file has taken the place of this one."""
    before, end = path.stat().st_ino, time.monotonic() + 60.0
    while path.stat().st_ino == before:
        assert time.monotonic() < end
        time.sleep(0.0005)


def numbers_of_one_round(values: np.ndarray) -> int:
    """The round that all values name."""
    assert len(np.unique(values)) == 1
    return int(values.ravel()[0])


def check_whole(folder: Path) -> dict[str, int]:
    """Every file can be read and comes from one round; the rounds."""
    rounds = {}
    table = np.loadtxt(folder / "trajectory_tum.txt")
    assert table.shape == (POSES, 8)
    rounds["tum"] = numbers_of_one_round(table[:, 1])
    kitti = np.loadtxt(folder / "trajectory_kitti.txt")
    assert kitti.shape == (POSES, 12)
    rounds["kitti"] = numbers_of_one_round(kitti[:, 3])
    rounds["metrics"] = json.loads((folder / "metrics.json").read_text())["round"]
    assert (folder / "report.html").read_text().rstrip().endswith("</html>")
    assert cv2.imread(str(folder / "trajectory.png")).size > 1000
    state = load_file(str(folder / "tiny.safetensors"))
    assert {k: v.shape for k, v in state.items()} == SHAPES
    rounds["weights"] = numbers_of_one_round(np.concatenate([v.numpy().ravel() for v in state.values()]))
    checkpoint = read_checkpoint(folder / "checkpoint.pt", torch.device("cpu"))
    average = np.concatenate([v.numpy().ravel() for v in checkpoint["average"].values()])
    rounds["checkpoint"] = numbers_of_one_round(average)
    assert checkpoint["step"] == rounds["checkpoint"]
    rows = log.read_rows(folder / "log.csv")
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    rounds["log"] = len(rows)
    rounds["picture"] = numbers_of_one_round(cv2.imread(str(folder / "picture.png"), cv2.IMREAD_GRAYSCALE))
    index = retrieval.load(folder / "index.npz")
    assert index is not None
    rounds["index"] = numbers_of_one_round(index.descriptors)
    poses = np.loadtxt(folder / "poses.txt")  # only whole lines
    assert poses.shape[1] == 8 and (folder / "poses.txt").read_bytes().endswith(b"\n")
    rounds["poses"] = int(poses[-1, 1])
    assert len(poses) > POSES * (rounds["poses"] - 1)
    return rounds


def test_every_file_is_whole_after_a_kill(tmp_path):
    random = np.random.default_rng(2026)
    here = Path(__file__).parent
    command = [sys.executable, str(here / "saver.py"), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": f"{here.parent}:{here}"}
    behind = []  # how many files were still of the round before
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=environment
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        for kill in range(KILLS):
            for name in ("poses.txt", "log.csv", "rounds"):  # the first two grow, and are checked from their begin
                (tmp_path / name).unlink(missing_ok=True)
            process.stdin.write("\n")
            child = int(process.stdout.readline())
            started = time.monotonic()
            while not (tmp_path / "rounds").exists():
                assert process.poll() is None and time.monotonic() - started < 60.0
                time.sleep(0.005)
            # Somewhere in the second round. Most of its time goes into one picture, so every other time a file is drawn
            # instead, whose renewal is waited for.
            if kill % 2:
                time.sleep(random.uniform(0.0, 1.0) * (time.monotonic() - started))
            else:
                wait_until_renewed(tmp_path / random.choice(RENEWED))
                time.sleep(random.uniform(0.0, 0.005))
            os.kill(child, signal.SIGKILL)
            rounds = check_whole(tmp_path)
            newest = max(rounds.values())
            assert newest - min(rounds.values()) <= 1, rounds
            behind.append(sum(number < newest for number in rounds.values()))
            names = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}
            left = [path for path in tmp_path.iterdir() if path.name.startswith(".")]
            assert names == NAMES | {"rounds"} and len(left) <= len(NAMES)
        process.stdin.close()
    assert len(set(behind)) >= 4  # they were killed at different places
