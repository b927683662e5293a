# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Batches of training pairs, each a function of (seed, step, process) alone: so a run resumes exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from loftr_ros.loftr.fine_matching import COARSE_STRIDE
from loftr_ros.synthetic.textures import Textures
from loftr_ros.training.config import BatchSize, TrainingConfig
from loftr_ros.training.views import Sample, random_sample

_VALIDATION = 2**31  # a seed word that no training step has


@dataclass(frozen=True)
class Batch:
    """Pairs of one size.

    Attributes:
        images0, images1: [B, 1, H, W] uint8, later float in [0, 1].
        points01: [B, L, 2] pixels (x, y) in image 1 of the coarse cells of image 0; points10: the reverse.
        visible01, hidden01, visible10, hidden10: [B, L] see views.Targets.
        seed: for what the step itself draws.
    """

    images0: Tensor
    images1: Tensor
    points01: Tensor
    points10: Tensor
    visible01: Tensor
    visible10: Tensor
    hidden01: Tensor
    hidden10: Tensor
    seed: int

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the coarse cells."""
        height, width = self.images0.shape[2:]
        return -(-height // COARSE_STRIDE), -(-width // COARSE_STRIDE)

    def pin_memory(self) -> Batch:
        """In memory from which a GPU copies while the CPU goes on; called by torch's DataLoader."""
        return self._with(lambda tensor: tensor.pin_memory())

    def to(self, device: torch.device) -> Batch:
        """On the device, with float images."""
        moved = self._with(lambda tensor: tensor.to(device, non_blocking=True))
        return replace(moved, images0=moved.images0.float() / 255, images1=moved.images1.float() / 255)

    def _with(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The same with each tensor changed."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **{name: change(tensor) for name, tensor in tensors.items()})


def collate(samples: list[Sample], seed: int) -> Batch:
    images = torch.from_numpy(np.stack([sample.images for sample in samples]))

    def stacked(side: str, name: str) -> Tensor:
        return torch.from_numpy(np.stack([getattr(getattr(sample, side), name) for sample in samples]))

    return Batch(
        images0=images[:, :1],
        images1=images[:, 1:],
        points01=stacked("targets0", "points"),
        points10=stacked("targets1", "points"),
        visible01=stacked("targets0", "visible"),
        visible10=stacked("targets1", "visible"),
        hidden01=stacked("targets0", "hidden"),
        hidden10=stacked("targets1", "hidden"),
        seed=seed,
    )


class TrainingBatches(Dataset[Batch]):
    """Element k is the batch of step k for one process."""

    def __init__(self, config: TrainingConfig, photos: Path | None, rank: int) -> None:
        self._config, self._rank = config, rank
        self._textures = Textures(photos)

    def __getitem__(self, step: int) -> Batch:
        cv2.setNumThreads(1)  # the cores are for the training
        config = self._config
        size = size_of_step(config, step)  # the same in all processes: they wait for each other
        samples = [
            random_sample(
                np.random.default_rng([config.seed, step, self._rank, k]), self._textures, size_tuple(size)
            )
            for k in range(size.pairs * config.pairs_factor)
        ]
        return collate(samples, seed=hash((config.seed, step, self._rank)) % 2**31)


def size_of_step(config: TrainingConfig, step: int) -> BatchSize:
    sizes = [size for size in config.sizes if size.first_step <= step]
    return sizes[int(np.random.default_rng([config.seed, step]).integers(len(sizes)))]


def size_tuple(size: BatchSize) -> tuple[int, int]:
    return size.width, size.height


def validation_batches(config: TrainingConfig, photos: Path | None, pairs_per_batch: int = 8) -> list[Batch]:
    """The held-out pairs: always the same, of scenes that no training step shows."""
    textures = Textures(photos)
    samples = [
        random_sample(np.random.default_rng([config.seed, _VALIDATION, k]), textures, (256, 192))
        for k in range(config.validation_pairs)
    ]
    starts = range(0, len(samples), pairs_per_batch)
    return [collate(samples[start : start + pairs_per_batch], seed=start) for start in starts]
