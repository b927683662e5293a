# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Train a LoFTR, all its stages: python -m loftr_ros.training.train --photos DIR --config tiny --output DIR."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import os
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from loftr_ros import cli
from loftr_ros.errors import InputError
from loftr_ros.files import make_folder, write_atomically, write_bytes_atomically
from loftr_ros.loftr import CONFIGS
from loftr_ros.loftr.weights import read_state_dict
from loftr_ros.synthetic.textures import Textures
from loftr_ros.training import log
from loftr_ros.training.config import STAGES, TRAINED_AS, TrainingConfig
from loftr_ros.training.data import Batch, TrainingBatches, TrainingPlans, rendered_ahead, validation_batches
from loftr_ros.training.losses import Losses
from loftr_ros.training.raycast import Atlas, Plans
from loftr_ros.training.trainer import Trainer, read_checkpoint
from loftr_ros.training.validation import Scores, validate

_UNTIL_TIME_IS_UP = 10**7  # steps

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Run:
    """What to train, from what, and where to."""

    config: TrainingConfig
    output: Path
    photos: Path | None
    init: Path | None
    resume: bool

    @property
    def checkpoint(self) -> Path:
        return self.output / "checkpoint.pt"

    @property
    def weights(self) -> Path:
        return self.output / f"{self.config.config}.safetensors"


def main(arguments: Sequence[str]) -> int:
    run, whole = parse(arguments)
    Textures(run.photos)  # says what is wrong with them before anything begins
    if whole:
        train_all(run)
    else:
        prepare_output(run)
        start(run)
    return 0


def parse(arguments: Sequence[str]) -> tuple[Run, bool]:
    """The run, and whether it is all stages rather than one."""
    defaults = TrainingConfig()
    parser = argparse.ArgumentParser(prog="python -m loftr_ros.training.train", description=__doc__)
    parser.add_argument(
        "--photos", type=Path, help="folder of pictures for textures; without: procedural ones only"
    )
    parser.add_argument(
        "--output", type=Path, required=True, help="folder for weights, checkpoint, log and curves"
    )
    parser.add_argument("--init", type=Path, help="start from these weights")
    parser.add_argument(
        "--resume", action="store_true", help="go on from the checkpoint in the output folder"
    )
    parser.add_argument(
        "--config", choices=list(CONFIGS), default=defaults.config, help="size of the network"
    )
    parser.add_argument(
        "--stage", choices=list(STAGES), help="train only: " + "; ".join(f"{k}: {v}" for k, v in STAGES.items())
    )
    parser.add_argument("--steps", type=int, default=defaults.steps, help="length (%(default)s)")
    parser.add_argument(
        "--minutes", type=float, default=defaults.minutes, help="length as a time, instead of steps"
    )
    parser.add_argument(
        "--processes", type=int, default=defaults.processes, help="training processes (%(default)s)"
    )
    parser.add_argument(
        "--workers", type=int, default=defaults.workers, help="data processes for each (%(default)s)"
    )
    parser.add_argument(
        "--pairs-factor", type=int, default=defaults.pairs_factor, help="times as many pairs a step; for a GPU 4 or so"
    )
    parser.add_argument(
        "--learning-rate", type=float, default=defaults.learning_rate, help="highest (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=defaults.seed, help="(%(default)s)")
    parser.add_argument(
        "--compile", action="store_true", help="fuse the attention layers (needs a C++ compiler)"
    )
    options = vars(parser.parse_args(arguments))
    paths = {name: options.pop(name) for name in ("output", "photos", "init", "resume")}
    stage = options.pop("stage")
    return Run(TrainingConfig(**options, stage=stage or defaults.stage), **paths), stage is None


def train_all(run: Run) -> None:
    """Run the stages one after the other, each in a folder of its own; their last weights are the training's.

    Raises:
        InputError: as `prepare_output`.
    """
    if run.weights.exists() and not run.resume:
        raise InputError(f"{run.output} holds a training; add --resume, or name another folder.")
    for part in stage_runs(run):
        if run.resume and not is_done(part) and not part.checkpoint.exists():
            part = dataclasses.replace(part, resume=False)  # not begun yet
        if not is_done(part):
            prepare_output(part)
            start(part)
    write_bytes_atomically(run.weights, part.weights.read_bytes())


def stage_runs(run: Run) -> list[Run]:
    """The run of each stage, which starts from the weights of the one before it."""
    config, runs, init = run.config, [], run.init
    wanted = {"all"} | ({"coarse", "fine"} if config.config in TRAINED_AS else set())
    if CONFIGS[config.config].refine_side:
        wanted |= {"jitter", "found"}
    stages = [stage for stage in config.sequence if stage.name in wanted]
    whole = sum(stage.share for stage in stages)
    for k, stage in enumerate(stages, 1):
        part = dataclasses.replace(
            config,
            config=TRAINED_AS.get(config.config, config.config) if stage.name == "all" else config.config,
            stage=stage.name,
            steps=max(1, round(stage.share / whole * config.steps)),
            minutes=stage.share / whole * config.minutes,
            learning_rate=stage.rate * config.learning_rate,
        )
        runs.append(dataclasses.replace(run, config=part, output=run.output / f"{k}_{stage.name}", init=init))
        init = runs[-1].weights
    return runs


def is_done(run: Run) -> bool:
    """Whether its checkpoint is the last of its schedule."""
    if not run.checkpoint.exists():
        return False
    return float(read_checkpoint(run.checkpoint, torch.device("cpu"))["progress"]) >= 1


def prepare_output(run: Run) -> None:
    """Write the recipe. Raises InputError rather than overwrite another training."""
    if run.config.stage == "coarse" and not run.init and not run.resume:
        teacher = TRAINED_AS[run.config.config]
        raise InputError(f"The stage coarse learns from {teacher}: name the weights of that by --init.")
    if run.resume and not run.checkpoint.exists():
        raise InputError(f"There is no checkpoint {run.checkpoint} to resume from.")
    if not run.resume and run.checkpoint.exists():
        raise InputError(f"{run.output} holds a training; add --resume, or name another folder.")
    make_folder(run.output)
    write_atomically(run.output / "config.json", [json.dumps(dataclasses.asdict(run.config), indent=2)])


def start(run: Run) -> None:
    """Run the training processes to their end."""
    if run.config.processes == 1:
        train(0, run)
        return
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29555")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    mp.spawn(train, args=(run,), nprocs=run.config.processes)


def train(rank: int, run: Run) -> None:
    """One training process; the first also validates, logs and saves."""
    config = run.config
    device = torch.device("cuda", rank) if torch.cuda.is_available() else torch.device("cpu")
    if config.processes > 1:
        if device.type == "cpu":
            torch.set_num_threads(
                1
            )  # threads that wait for each other lose more than processes that rarely do
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo", rank=rank, world_size=config.processes
        )
    trainer = Trainer(config, device)
    if run.resume:
        trainer.load_checkpoint(run.checkpoint)
    elif run.init:
        trainer.start_from(read_state_dict(run.init))
    with contextlib.closing(batches(run, rank, trainer.step, device)) as data:
        observer = Observer(run, trainer) if rank == 0 else None
        for batch in data:
            result = trainer.train_step(batch)
            if observer:
                observer.after_step(result)
            if trainer.progress >= 1:
                break
    if dist.is_initialized():
        dist.destroy_process_group()


def batches(run: Run, rank: int, first_step: int, device: torch.device) -> Generator[Batch, None, None]:
    """The batches from a step on: planned by other processes, and rendered by them too where there is no GPU.

    They are made beside what follows the call. To be closed.
    """
    textures = Textures(run.photos)
    if device.type != "cuda":
        made: Iterator[Batch] = loaded(TrainingBatches(run.config, textures, rank), run.config, first_step)
        return (batch for batch in made)
    planned: Iterator[Plans] = loaded(TrainingPlans(run.config, textures, rank), run.config, first_step)
    # Of textures of its own, since these keep all pictures that were looked at, and the plans' live on.
    return rendered_ahead(planned, Atlas(Textures(run.photos), device), device)


def loaded(items: Dataset[T], config: TrainingConfig, first_step: int) -> Iterator[T]:
    """What the data processes make."""
    loader = DataLoader(
        items,
        batch_size=None,
        sampler=range(first_step, _UNTIL_TIME_IS_UP if config.minutes > 0 else config.steps),
        num_workers=config.workers,
        prefetch_factor=3 if config.workers else None,
        # A forked OpenCV or torch may wait forever for threads that the fork did not copy.
        multiprocessing_context="spawn" if config.workers else None,
        pin_memory=torch.cuda.is_available(),
    )
    return iter(loader)


class Observer:
    """Validates, logs, saves and shows progress beside the training."""

    def __init__(self, run: Run, trainer: Trainer) -> None:
        self._run, self._trainer = run, trainer
        self._csv = run.output / "log.csv"
        log.drop_rows_after(self._csv, trainer.step if run.resume else -1)
        self._held_out = validation_batches(run.config, run.photos)
        self._bar = tqdm(initial=trainer.step, unit="step", mininterval=10)
        self._sums: dict[str, Tensor] = {}
        self._count, self._saved = 0, time.monotonic()

    def after_step(self, result: Losses) -> None:
        self._add(result)
        done = self._trainer.progress >= 1
        if done or self._trainer.step % self._run.config.validate_every == 0:
            scores = self._validate()
            if done and self._run.config.stage == "found" and math.isfinite(scores.calibration):
                self._trainer.calibrate(scores.calibration)
        if done or time.monotonic() - self._saved > 60 * self._run.config.checkpoint_minutes:
            self._save()

    def _add(self, result: Losses) -> None:
        for name, value in vars(result).items():  # where they are: to fetch each would wait for the GPU
            self._sums[name] = self._sums.get(name, 0.0) + value.detach()
        self._count += 1
        if self._bar.update():
            self._bar.set_postfix({name: f"{value:.3f}" for name, value in self._means().items()})

    def _means(self) -> dict[str, float]:
        """Of the losses since the last validation."""
        return {name: float(value) / self._count for name, value in self._sums.items()}

    def _validate(self) -> Scores:
        scores = validate(self._trainer.averaged_network(), self._held_out, self._trainer.device)
        row = {"step": self._trainer.step, "minutes": self._trainer.seconds / 60} | self._means() | vars(scores)
        self._sums, self._count = {}, 0
        log.append_row(self._csv, row)
        log.plot(self._csv, self._run.output / "curve.png")
        self._bar.write("  ".join(f"{name} {value:.4g}" for name, value in row.items()))
        return scores

    def _save(self) -> None:
        self._trainer.save_checkpoint(self._run.checkpoint)
        self._trainer.save_weights(self._run.weights)
        self._saved = time.monotonic()


if __name__ == "__main__":
    sys.exit(cli.run(main))
