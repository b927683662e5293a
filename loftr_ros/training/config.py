# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""The training recipe: the one place where its defaults are written."""

from __future__ import annotations

import math
from dataclasses import dataclass

from loftr_ros.errors import ConfigError
from loftr_ros.loftr import CONFIGS


@dataclass(frozen=True)
class BatchSize:
    """Pictures of width x height pixels come `pairs` to a process and step, from `first_step` on."""

    width: int
    height: int
    pairs: int
    first_step: int = 0


STAGES = {
    "all": "the whole network",
    "coarse": "the coarse transformer and what its features are compared by, from a longer one as its teacher",
    "fine": "what follows the coarse stage: feature pyramid, fine transformer and second refinement",
    "jitter": "the second refinement alone, at true matches that are moved at random",
    "found": "the second refinement alone, at what the network finds: its deviations learn from wrong matches too",
}


# Sizes whose stage `all` trains another one: they have its backbone, and what follows is trained by `coarse`, which
# has it as a teacher, and `fine`.
TRAINED_AS = {"tiny": "tiny_wide"}


@dataclass(frozen=True)
class Stage:
    """A part of a training.

    Attributes:
        name: a key of STAGES.
        share: of the whole schedule, where all stages take part; else what it has beside the others.
        rate: its highest learning rate, as a multiple of the training's.
    """

    name: str
    share: float
    rate: float


@dataclass(frozen=True)
class TrainingConfig:
    """How a network is trained.

    Attributes:
        config: a key of loftr_ros.loftr.CONFIGS.
        stage: a key of STAGES: what this run trains.
        sequence: the stages of a whole training, one after the other: `coarse` and `fine` only for sizes of
            TRAINED_AS, and those of the second refinement alone only where there is one.
        seed: of the first weights and of all data.
        steps: length of the schedule, when `minutes` is 0.
        minutes: length of the schedule in minutes of training time; 0: use `steps`.
        processes: that average their gradients; one thread each on a CPU, one per GPU.
        workers: data processes per training process.
        sizes: of the pictures, drawn anew for every step.
        pairs_factor: times as many pairs as `sizes` says: a GPU is not busy with so few.
        learning_rate: the highest, after `warmup` steps; falls along a cosine to `final_rate` times it.
        weight_decay: of AdamW.
        gradient_clip: largest norm of the gradient.
        ema_decay: of the moving average of the weights, which is what is saved.
        fine_matches: most ground-truth matches per pair that train the fine stage.
        cell_jitter: pixels by which a true match may be displaced before its cell is chosen, so that the fine
            stage learns to correct the neighbouring cell too.
        position_offset: coarse cells by which both position encodings are moved, at most, so that larger
            images than those of training look familiar.
        coarse_weight, negative_weight, teacher_weight, fine_weight, likelihood_weight, refinement_weight: of the
            losses.
        refinement_likelihood_weight: of the deviation within the refinement's loss.
        validation_pairs: held-out pairs, 256 x 192.
        validate_every: steps between validations.
        checkpoint_minutes: between checkpoints.
        compile: fuse the attention layers (torch.compile, which needs a C++ compiler): faster on a CPU.
    """

    config: str = "tiny"
    stage: str = "all"
    sequence: tuple[Stage, ...] = (
        Stage("all", 0.4, 1.0),
        Stage("coarse", 0.15, 1.0),
        Stage("fine", 0.2, 1.0),
        Stage("jitter", 0.1, 1.3),
        Stage("found", 0.15, 0.67),
    )
    seed: int = 0
    steps: int = 20000
    minutes: float = 0.0
    processes: int = 1
    workers: int = 1
    sizes: tuple[BatchSize, ...] = (
        BatchSize(192, 144, 7),
        BatchSize(256, 192, 4),
        BatchSize(256, 192, 4),
        BatchSize(320, 128, 4),
        BatchSize(320, 240, 3, 500),
        BatchSize(320, 240, 3, 500),
        BatchSize(416, 320, 2, 1000),
    )
    pairs_factor: int = 1
    learning_rate: float = 1.5e-3
    final_rate: float = 0.01
    warmup: int = 200
    weight_decay: float = 1e-4
    gradient_clip: float = 1.0
    ema_decay: float = 0.998
    fine_matches: int = 256
    cell_jitter: float = 1.0
    position_offset: float = 110.0
    coarse_weight: float = 1.0
    negative_weight: float = 0.3
    teacher_weight: float = 1.0
    fine_weight: float = 1.0
    likelihood_weight: float = 0.05
    refinement_weight: float = 1.0
    refinement_likelihood_weight: float = 0.1
    validation_pairs: int = 64
    validate_every: int = 500
    checkpoint_minutes: float = 3.0
    compile: bool = False

    def __post_init__(self) -> None:
        """Raises ConfigError for what the command line may give, where no training can be made of it."""
        checks = {
            "steps must be at least 1": self.steps >= 1,
            "minutes must be 0 or more, and finite": 0 <= self.minutes < math.inf,
            "processes must be at least 1": self.processes >= 1,
            "workers must be at least 0": self.workers >= 0,
            "pairs factor must be at least 1": self.pairs_factor >= 1,
            "learning rate must be greater than 0, and finite": 0 < self.learning_rate < math.inf,
            "seed must be 0 or more": self.seed >= 0,
            f"stage {self.stage} trains a second refinement, which {self.config} does not have": (
                self.stage in ("all", "coarse", "fine") or CONFIGS[self.config].refine_side > 0
            ),
            f"stage coarse needs a teacher, and {self.config} has none": (
                self.stage != "coarse" or self.config in TRAINED_AS
            ),
        }
        for text, holds in checks.items():
            if not holds:
                raise ConfigError(f"The {text}.")
