# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Saves results again and again through the package's own functions until it is killed: see test_killed_while_saving.

Round k writes only values that name k, so that a file of two rounds is told from a whole one. For each line on its
input it forks a process that does so, which is quicker than a new start, and prints its number.
"""

from __future__ import annotations

import os
import sys
import tempfile
from itertools import count
from pathlib import Path

import numpy as np
import torch

from loftr_ros.evaluation.replay import Run, save
from loftr_ros.files import write_image
from loftr_ros.geometry.se3 import make_pose
from loftr_ros.ros.pose_log import PoseFile
from loftr_ros.training import log
from loftr_ros.training.config import TrainingConfig
from loftr_ros.training.trainer import Trainer
from loftr_ros.types import Estimate, MotionState
from loftr_ros.uses import retrieval

POSES = 400


def run_of(number: int) -> Run:
    """A run whose poses all lie at x = number."""
    pose = make_pose(np.eye(3), np.array([float(number), 0.0, 0.0]))
    estimates = [Estimate(i * 100_000_000, MotionState.OK, pose) for i in range(POSES)]
    return Run(estimates, [float(number)] * POSES, [number] * POSES)


def save_all(folder: Path, trainer: Trainer, poses: PoseFile, number: int) -> None:
    run = run_of(number)
    save(run, folder, None, {"command": "", "config": {}, "round": number})
    for i, estimate in enumerate(run.estimates):
        poses.add(number * 10**12 + i, estimate.pose_world_camera)
    trainer.step = number
    trainer.average = {name: torch.full_like(value, number % 100) for name, value in trainer.average.items()}
    trainer.save_weights(folder / "tiny.safetensors")
    trainer.save_checkpoint(folder / "checkpoint.pt")
    log.append_row(folder / "log.csv", {"step": number, "value": number})
    log.drop_rows_after(folder / "log.csv", number)
    write_image(folder / "picture.png", np.full((200, 300), number % 256, np.uint8))
    descriptors = np.full((50, 100), number, np.float32)
    index = retrieval.FolderIndex([str(number)] * 50, np.full((50, 2), number), descriptors, str(number))
    retrieval.save(index, folder / "index.npz")
    (folder / "rounds").write_text(str(number))


def main(folder: Path) -> None:
    torch.set_num_threads(1)  # a fork does not copy threads
    trainer = Trainer(TrainingConfig(), torch.device("cpu"))
    with tempfile.TemporaryDirectory() as elsewhere:  # the first round takes longest
        save_all(Path(elsewhere), trainer, PoseFile(Path(elsewhere) / "poses.txt"), 1)
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            poses = PoseFile(folder / "poses.txt")
            for number in count(1):
                save_all(folder, trainer, poses, number)
        print(child, flush=True)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
