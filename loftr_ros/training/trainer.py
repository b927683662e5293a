# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""One training process: step, moving average, checkpoints."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save
from torch import Tensor, nn

from loftr_ros.errors import InputError, brief
from loftr_ros.files import write_bytes_atomically
from loftr_ros.loftr import CONFIGS, LoFTR
from loftr_ros.loftr.weights import load_strictly
from loftr_ros.training.config import TRAINED_AS, TrainingConfig
from loftr_ros.training.data import Batch
from loftr_ros.training.losses import Losses, losses

# Of the coarse stage what its teacher has another of.
COARSE_PARTS = ("loftr_coarse", "match_proj")
# What follows the coarse stage, the second refinement last.
FINE_PARTS = (
    "backbone.layer3_narrow",
    "backbone.layer2_outconv",
    "backbone.layer2_outconv2",
    "backbone.layer1_outconv",
    "backbone.layer1_outconv2",
    "fine_preprocess",
    "loftr_fine",
    "refinement",
)
_CHECKPOINT = ("network", "average", "optimizer", "step", "progress", "seconds")


class Trainer:
    """A network in training; all processes hold the same one.

    Attributes:
        step: steps done.
        progress: share of the schedule that is done; 1 ends it.
        teacher: of the stage `coarse`, once it has started from its weights.
    """

    def __init__(self, config: TrainingConfig, device: torch.device) -> None:
        torch.manual_seed(config.seed)
        self.config, self.device = config, device
        self.network = LoFTR(CONFIGS[config.config]).to(device, memory_format=torch.channels_last)
        if config.compile:
            for layer in (*self.network.loftr_coarse.layers, *self.network.loftr_fine.layers):
                layer.compile(dynamic=True)
        self.average = _copies(self.network)
        self.teacher: LoFTR | None = None
        self._parts = trained_parts(self.network, config.stage)
        self.network.requires_grad_(False)
        for part in self._parts:
            part.requires_grad_(True)
        self.trained = [parameter for part in self._parts for parameter in part.parameters()]
        self.optimizer = torch.optim.AdamW(
            self.trained, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self.step, self.progress = 0, 0.0
        self._seconds_before, self._started = 0.0, time.monotonic()

    @property
    def seconds(self) -> float:
        """Training time so far, that of resumed runs included."""
        return self._seconds_before + time.monotonic() - self._started

    def train_step(self, batch: Batch) -> Losses:
        """One step of the optimiser on one batch of this process."""
        self.network.eval()  # frozen parts keep their batch statistics
        for part in self._parts:
            part.train()
        self._set_learning_rate()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bfloat16_helps(self.device)):
            result = losses(self.network, batch.to(self.device), self.config, self.teacher)
        self.optimizer.zero_grad(set_to_none=False)
        result.total.backward()
        self.step += 1
        self._share()
        norm = torch.nn.utils.clip_grad_norm_(self.trained, self.config.gradient_clip)
        if torch.isfinite(norm):  # the same in all processes, since the gradients are
            self.optimizer.step()
        self._update_average()
        return result

    def _set_learning_rate(self) -> None:
        warmup = min(1.0, (self.step + 1) / self.config.warmup)
        cosine = 0.5 + 0.5 * math.cos(math.pi * min(self.progress, 1.0))
        rate = self.config.learning_rate * (self.config.final_rate + (1 - self.config.final_rate) * cosine)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * warmup

    def _share(self) -> None:
        """Average gradients, batch statistics and progress over the processes, so that they stay the same."""
        self.progress = self._own_progress()
        if not dist.is_initialized():
            return
        shared = [p.grad for p in self.trained]
        shared += [b for b in self.network.buffers() if b.is_floating_point()]
        progress = torch.tensor([self.progress], device=self.device)
        flat = torch.cat([progress] + [tensor.flatten() for tensor in shared])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        self.progress = flat[0].item()
        parts = flat[1:].split([tensor.numel() for tensor in shared])
        for tensor, part in zip(shared, parts):
            tensor.copy_(part.view_as(tensor))

    def _own_progress(self) -> float:
        if self.config.minutes > 0:
            return self.seconds / (60 * self.config.minutes)
        return self.step / self.config.steps

    def _update_average(self) -> None:
        # The first steps move fast: average over few of them.
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        state = self.network.state_dict()  # without gradients, as state dicts are
        moving = [name for name, value in state.items() if value.is_floating_point()]
        # One kernel for many tensors, where there is a GPU.
        torch._foreach_lerp_([self.average[name] for name in moving], [state[name] for name in moving], 1 - decay)
        for name in state.keys() - set(moving):
            self.average[name].copy_(state[name])

    def averaged_network(self) -> LoFTR:
        """A network with the averaged weights."""
        network = LoFTR(self.network.config).to(self.device)
        network.load_state_dict(self.average)
        network.eval()
        return network

    def calibrate(self, ratio: float) -> None:
        """Multiply the deviations that the averaged refinement predicts by ratio (as Guo et al., ICML 2017)."""
        self.average["refinement.output.bias"][2] += math.log(ratio)

    def start_from(self, state: Mapping[str, Tensor]) -> None:
        """Take over the weights of another training; a refinement that they lack stays new.

        So does, where a stage trains what follows the coarse one, all of that which they lack or which has another
        shape. What they have and the network lacks is refused, but by the stage `coarse`, which takes them for its
        teacher's, has layers of it to begin with, and leaves the rest to later stages.
        """
        prefixes: tuple[str, ...] = FINE_PARTS if self.config.stage in ("coarse", "fine") else FINE_PARTS[-1:]
        if self.config.stage == "coarse":
            self._learn_from(state)
            prefixes += COARSE_PARTS
            layers = CONFIGS[TRAINED_AS[self.config.config]].coarse_layers
            state = _renumbered(state, layers, self.network.config.coarse_layers)
            state = {name: value for name, value in state.items() if name in self.network.state_dict()}
        own = {name: v for name, v in self.network.state_dict().items() if name.startswith(prefixes)}
        new = {name: v for name, v in own.items() if name not in state or state[name].shape != v.shape}
        load_strictly(self.network, dict(state) | new, "to start from")
        self.average = _copies(self.network)

    def _learn_from(self, state: Mapping[str, Tensor]) -> None:
        size = TRAINED_AS[self.config.config]
        self.teacher = LoFTR(CONFIGS[size]).to(self.device, memory_format=torch.channels_last)
        load_strictly(self.teacher, state, f"to start from are to be those of {size}, the teacher: they")
        self.teacher.eval().requires_grad_(False)

    def save_weights(self, path: Path) -> None:
        """The averaged weights, with what they are as metadata."""
        metadata = {"config": self.config.config, "steps": str(self.step)}
        tensors = {name: value.cpu().contiguous() for name, value in self.average.items()}
        write_bytes_atomically(path, save(tensors, metadata))

    def save_checkpoint(self, path: Path) -> None:
        """All that `load_checkpoint` needs to go on as if nothing had happened."""
        content = {
            "network": self.network.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "progress": self.progress,
            "seconds": self.seconds,
            "teacher": None if self.teacher is None else self.teacher.state_dict(),
        }
        buffer = io.BytesIO()
        torch.save(content, buffer)
        write_bytes_atomically(path, buffer.getvalue())

    def load_checkpoint(self, path: Path) -> None:
        """Raises InputError where the file is no checkpoint, or one of another training."""
        content = read_checkpoint(path, self.device)
        try:
            self.network.load_state_dict(content["network"])
            self.optimizer.load_state_dict(content["optimizer"])
            self.average = {name: content["average"][name] for name in self.average}
            if self.config.stage == "coarse":
                self._learn_from(content["teacher"])
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"The checkpoint {path} is of another training: {brief(error)}.") from None
        self.step, self.progress = int(content["step"]), float(content["progress"])
        self._seconds_before, self._started = float(content["seconds"]), time.monotonic()


def trained_parts(network: LoFTR, stage: str) -> list[nn.Module]:
    """The parts of a network that a stage of STAGES trains."""
    if stage == "all":
        return [network]
    names = {"coarse": COARSE_PARTS, "fine": FINE_PARTS}.get(stage, FINE_PARTS[-1:])
    return [module for name, module in network.named_modules() if name in names]


def _renumbered(state: Mapping[str, Tensor], layers: Sequence[str], fewer: Sequence[str]) -> dict[str, Tensor]:
    """Weights whose coarse layers are called `layers` for a network that has only `fewer` of them, in that order."""
    names = iter(enumerate(layers))
    places = [next(k for k, name in names if name == wanted) for wanted in fewer]
    prefix = "loftr_coarse.layers."
    taken = {name: value for name, value in state.items() if not name.startswith(prefix)}
    for k, place in enumerate(places):
        old = f"{prefix}{place}."
        taken |= {f"{prefix}{k}.{n.removeprefix(old)}": state[n] for n in state if n.startswith(old)}
    return taken


def read_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """What `Trainer.save_checkpoint` wrote; never runs code from the file. Raises InputError."""
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged files
        raise InputError(f"The checkpoint {path} cannot be read: {brief(error)}.") from None
    missing = set(_CHECKPOINT) - set(content if isinstance(content, dict) else ())
    numbers = [] if missing else [content[key] for key in ("step", "progress", "seconds")]
    if missing or not all(isinstance(number, (int, float)) for number in numbers):
        raise InputError(f"The file {path} is no checkpoint of a training.")
    return content


def bfloat16_helps(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 faster than float32."""
    return device.type == "cuda" or bool(torch.cpu._is_avx512_bf16_supported())


def _copies(network: LoFTR) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}
