# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Batches of training pairs, functions of (seed, step, process) on one kind of device: so a run resumes exactly."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Generator, Iterable
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
from loftr_ros.training.raycast import Atlas, Plans, cell_targets, render_pairs
from loftr_ros.training.views import Plan, Sample, random_plan, random_sample, rendered

_AHEAD = 2  # batches
_PATIENCE_S = 0.1
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

    def to(self, device: torch.device) -> Batch:
        """On the device, with float images."""
        moved = self._with(lambda tensor: tensor.to(device, non_blocking=True))
        return replace(moved, images0=moved.images0.float() / 255, images1=moved.images1.float() / 255)

    def wait_for(self, ready: torch.cuda.Event) -> None:
        """Let this thread's stream wait until another one has made the batch.

        The allocator must not give its memory away before this stream is done with it, either.
        """
        stream = torch.cuda.current_stream(self.images0.device)
        stream.wait_event(ready)
        for tensor in vars(self).values():
            if isinstance(tensor, Tensor):
                tensor.record_stream(stream)

    def _with(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The same with each tensor changed."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **{name: change(tensor) for name, tensor in tensors.items()})


def collate(samples: list[Sample], seed: int) -> Batch:
    """The samples, all of one size, as a batch."""
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


def rendered_batch(plans: Plans, atlas: Atlas) -> Batch:
    """The batch of planned pairs, rendered where they and the atlas are."""
    images, inverse_depth = render_pairs(plans, atlas)
    points01, visible01, hidden01 = cell_targets(plans, inverse_depth, 0)
    points10, visible10, hidden10 = cell_targets(plans, inverse_depth, 1)
    return Batch(
        images0=images[0][:, None],
        images1=images[1][:, None],
        points01=points01,
        points10=points10,
        visible01=visible01,
        visible10=visible10,
        hidden01=hidden01,
        hidden10=hidden10,
        seed=plans.seed,
    )


def rendered_ahead(planned: Iterable[Plans], atlas: Atlas, device: torch.device) -> Generator[Batch, None, None]:
    """The batches of plans, rendered by a thread and a stream of their own, beside what is done with them.

    To be closed, unless it is used up: the thread ends with it.
    """
    waiting: queue.Queue[tuple[Batch, torch.cuda.Event | None] | BaseException | None] = queue.Queue(_AHEAD)
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    stopped = threading.Event()

    def give(item: tuple[Batch, torch.cuda.Event | None] | BaseException | None) -> None:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                waiting.put(item, timeout=_PATIENCE_S)
                return

    def work() -> None:
        try:
            with torch.cuda.stream(stream):  # nothing without one
                for plans in planned:
                    if stopped.is_set():
                        return
                    batch = rendered_batch(plans.to(device), atlas)
                    give((batch, stream.record_event() if stream else None))
            give(None)
        except BaseException as error:  # whoever waits for a batch must hear of it
            give(error)

    thread = threading.Thread(target=work, name="rendering", daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            batch, ready = item
            if ready is not None:
                batch.wait_for(ready)
            yield batch
    finally:
        stopped.set()
        thread.join()


class TrainingPlans(Dataset[Plans]):
    """Element k is the batch of step k for one process, not rendered yet."""

    def __init__(self, config: TrainingConfig, textures: Textures, rank: int) -> None:
        self._config, self._textures, self._rank = config, textures, rank

    def __getitem__(self, step: int) -> Plans:
        return Plans.of(self.plans(step), self.size(step), self.seed(step))

    def plans(self, step: int) -> list[Plan]:
        """The pairs of a step."""
        cv2.setNumThreads(1)  # the cores are for the training
        count = size_of_step(self._config, step).pairs * self._config.pairs_factor
        seeds = ([self._config.seed, step, self._rank, k] for k in range(count))
        return [random_plan(np.random.default_rng(seed), self._textures, self.size(step)) for seed in seeds]

    def size(self, step: int) -> tuple[int, int]:
        """The same in all processes: they wait for each other."""
        return size_tuple(size_of_step(self._config, step))

    def seed(self, step: int) -> int:
        """Of what is drawn at a step beside the plans."""
        return hash((self._config.seed, step, self._rank)) % 2**31


class TrainingBatches(Dataset[Batch]):
    """Element k is the batch of step k for one process, rendered on the CPU."""

    def __init__(self, config: TrainingConfig, textures: Textures, rank: int) -> None:
        self._plans, self._textures = TrainingPlans(config, textures, rank), textures

    def __getitem__(self, step: int) -> Batch:
        size = self._plans.size(step)
        samples = [rendered(plan, self._textures, size) for plan in self._plans.plans(step)]
        return collate(samples, self._plans.seed(step))


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
