# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""LoFTR as a Matcher: numpy images in, matches in original pixels out."""

from __future__ import annotations

import copy
import hashlib
import logging
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from loftr_ros.allocator import keep_freed_memory
from loftr_ros.errors import ConfigError, ExhaustedError
from loftr_ros.loftr import CoarseStage, ImageFeatures, LoFTR, LoFTROutput, load_network
from loftr_ros.loftr.compiled import compile_parts, undo_compilation
from loftr_ros.loftr.fine_matching import COARSE_STRIDE
from loftr_ros.loftr.folding import fold_batch_norms
from loftr_ros.loftr.fused import suit_gpu
from loftr_ros.loftr.graphs import graph_parts
from loftr_ros.loftr.memory import release_spare_pages
from loftr_ros.matching.base import check_image
from loftr_ros.matching.descriptor import pooled
from loftr_ros.matching.resolution import fastest_of, side_for_rate, working_size
from loftr_ros.matching.selection import most_certain
from loftr_ros.matching.zoom import canvas
from loftr_ros.threads import leave_cores_to_others
from loftr_ros.types import Array, Image, Matches

_LOG = logging.getLogger(__name__)
_LEAST_SIDE = 64  # pixels; smaller images are not tried
# Below this the fine heat map says less about its error than the training data's own precision does.
_LEAST_SIGMA_PX = 0.1
_LEAST_MATCHES = 500  # however uncertain they are
_CPU_INFO = Path("/proc/cpuinfo")
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # of x86, and of ARM


@dataclass(frozen=True)
class FrameFeatures:
    """Network features of one image, and how its resized pixels map to the original ones.

    scale: [2] original pixels per resized pixel, (x, y).
    corner: [2] where the resized image's upper left corner lies, counted from the original image's corner.
    """

    network: ImageFeatures
    scale: Array
    corner: Array

    def original(self, points: Array) -> Array:
        """Resized pixels [N, 2] in the original image; resizing keeps the image's edges, not its pixel centres."""
        return (points + 0.5) * self.scale - 0.5 + self.corner


class LoFTRMatcher:
    """Detector-free matches on the grid of image 0's coarse cells.

    Args:
        name: a size of loftr_ros.loftr.CONFIGS.
        weights: file of weights; None: the bundled or downloaded one.
        device: "auto" (cuda if there is one), "cpu" or "cuda".
        max_side: images are shrunk until their longer side is this; 0: never.
        threshold: least confidence.
        mask: [H, W] uint8, 0 where the image is ignored; or None.
        precision: "float32", "bfloat16", "float16" (on a GPU only), or "auto": for sizes that bear it float16 on a GPU
            and bfloat16 on a CPU that has units for it, else float32. On a CPU it is the precision of what is computed
            of one image alone, and for sizes that bear it of the dual softmax's factors and of the network that
            compares patches; all else is in float32.
        target_rate: frames a second to reach by lowering max_side, measured on the first image; 0: off.
        compile_network: run the network through torch.compile where that works.
        max_matches: only so many matches, confident ones all over the image, are refined and returned; 0: as many as
            the size needs (LoFTRConfig.most_matches, most_new, most_tracked).
        max_deviation: pixels of the resized image; matches less certain than this are dropped, as long as some hundred
            remain; 0: none. Only for sizes with a second refinement: a heat map says too little about its error.
        out_of_memory: "adapt" (smaller images, matching piece by piece, then the CPU) or "stop" (ExhaustedError).

    Raises:
        WeightsError: the weights cannot be used.
        ConfigError: device "cuda" without a GPU, or float16 without one.
    """

    def __init__(
        self,
        name: str,
        weights: str | Path | None = None,
        device: str = "auto",
        max_side: int = 640,
        threshold: float = 0.2,
        mask: Image | None = None,
        *,
        precision: str = "auto",
        target_rate: float = 0.0,
        compile_network: bool = False,
        max_matches: int = 0,
        max_deviation: float = 0.0,
        out_of_memory: str = "adapt",
    ) -> None:
        self.name = name
        self.max_deviation = max_deviation
        self.max_side = self._wanted_side = max_side
        self._out_of_memory = out_of_memory
        self.mask = mask
        self._target_rate = target_rate
        self.device = choose_device(device)
        self.network = load_network(name, weights, threshold)
        self.network.max_matches = max_matches or self.network.config.most_matches
        self._most_new = max_matches or self.network.config.most_new
        self._most_tracked = 0 if max_matches else self.network.config.most_tracked
        self._last: tuple[ImageFeatures, ImageFeatures, CoarseStage] | None = None
        self._wanted_precision = precision
        self.precision = self._suitable(precision)
        fold_batch_norms(self.network.backbone)
        self._exact: LoFTR | None = None  # on the CPU, where the network in use is another
        if self.device.type == "cuda":
            self._suit_gpu(compile_network)
        else:
            keep_freed_memory()
            leave_cores_to_others()
            self._suit_cpu()
        self.network.to(self.device, memory_format=torch.channels_last)
        if compile_network:
            compile_parts(self.network, self.device)

    def _suit_gpu(self, compile_network: bool) -> None:
        """The same network in the precision that was chosen, and recorded where it is not compiled."""
        self._exact = copy.deepcopy(self.network)
        suit_gpu(self.network, self.precision)
        if not compile_network:
            graph_parts(self.network)

    def _suit_cpu(self) -> None:
        """Shorter numbers also where `_autocast` does not reach, a CPU gains by them and they were measured."""
        short = self.precision != torch.float32 and self.network.config.bears_half
        self.network.factors = self.precision if short else torch.float32
        if self.network.refinement is not None:
            self.network.refinement.short = short

    @property
    def threshold(self) -> float:
        return self.network.threshold

    @threshold.setter
    def threshold(self, value: float) -> None:
        self.network.threshold = value

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        network = self.network if self._exact is None else self._exact  # the same on all devices
        for name, tensor in network.state_dict().items():
            digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
        if self.mask is not None:
            digest.update(self.mask.tobytes())
        return f"{self.name} {self.max_side} {digest.hexdigest()}"

    @torch.inference_mode()
    def extract(self, image: Image, zoom: float = 1.0) -> FrameFeatures:
        """Features of a grey image. Where the memory does not suffice, this and all later images are halved.

        zoom: by which the image is magnified about its centre first; matches are in its own pixels all the same.

        Raises ExhaustedError where that is not allowed or does not help; so does match_features.
        """
        check_image(image)
        if self._target_rate:
            self._choose_side(image)
        while True:
            try:
                return self._extract(image, zoom)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            # Not before the error is forgotten: it holds the memory that there was.
            self._free_memory()
            side = max(working_size(image.shape[1], image.shape[0], self.max_side)) // 2
            if self._out_of_memory == "adapt" and side >= _LEAST_SIDE:
                _LOG.warning("LoFTR ran out of memory: images are shrunk to a longer side of %d from now on.", side)
                self.max_side = side
            else:
                self._leave_gpu()

    def _free_memory(self) -> None:
        """Let go of what only saves time. What is compiled or recorded holds memory for each size of images."""
        self._last = None
        release_spare_pages()
        undo_compilation(self.network)

    def _leave_gpu(self) -> None:
        """Go on on the CPU, with images of the size that was asked for. Raises ExhaustedError where that is no way."""
        if self._out_of_memory == "stop":
            raise ExhaustedError("LoFTR ran out of memory, and the setting out_of_memory tells it to stop then.")
        if self.device.type == "cpu":
            raise ExhaustedError("LoFTR ran out of memory on the CPU, with the smallest images too.")
        _LOG.warning("LoFTR ran out of memory: it runs on the CPU from now on.")
        self.max_side = self._wanted_side
        self._go_to_cpu()

    def _go_to_cpu(self) -> None:
        self.device = torch.device("cpu")
        self.precision = self._suitable("auto" if self._wanted_precision == "auto" else "float32")
        self._last = None
        if self._exact is not None:
            self._exact.threshold, self._exact.max_matches = self.network.threshold, self.network.max_matches
            self.network = self._exact
        self._suit_cpu()

    def on_cpu(self) -> LoFTRMatcher:
        """One with the network as it was trained, on the CPU, to look inside: this one where it is there already."""
        if self.device.type == "cpu":
            return self
        other = copy.copy(self)
        other._go_to_cpu()
        return other

    def _suitable(self, precision: str) -> torch.dtype:
        return choose_precision(precision, self.device, self.network.config.bears_half)

    def _extract(self, image: Image, zoom: float) -> FrameFeatures:
        height, width = image.shape
        place = canvas(width, height, working_size(width, height, self.max_side), zoom)
        tensor = self._uploaded(self._padded(place.paint(image))).float() / 255.0
        with self._autocast():
            features = self.network.extract(tensor[None, None], self._mask(place.size, zoom, tuple(tensor.shape)))
        if self.device.type == "cpu":  # what follows is not faster there in less precision
            features = features.kept()
        return FrameFeatures(features, place.scale, place.corner)

    def _autocast(self) -> torch.autocast:
        """For the CPU; what `suit_gpu` made needs none."""
        short = self.device.type == "cpu" and self.precision != torch.float32
        return torch.autocast("cpu", torch.bfloat16, enabled=short)

    def _uploaded(self, image: Tensor) -> Tensor:
        """On the device: as bytes, and without waiting for the copy."""
        if self.device.type != "cuda":
            return image
        return image.pin_memory().to(self.device, non_blocking=True)

    def _choose_side(self, image: Image) -> None:
        """Lower max_side until the target rate is reached with this image."""
        rate, self._target_rate = self._target_rate, 0.0
        # About half of the cells match, as between neighbouring frames or a little more.
        other = image.copy()
        other[image.shape[0] // 2 :] = other[image.shape[0] // 2 :][::-1]

        def seconds_at(side: int) -> float:
            self.max_side = side
            keyframe = self.extract(other)
            return fastest_of(lambda: self.match_features(keyframe, self.extract(image)))

        longer = max(working_size(image.shape[1], image.shape[0], self.max_side))
        self.max_side, reached = side_for_rate(longer, rate, seconds_at)
        _LOG.warning("Images are shrunk to a longer side of %d for %.1f frames a second.", self.max_side, reached)

    @staticmethod
    def _padded(image: Image) -> Tensor:
        """Pad right and below to a multiple of the coarse cells, repeating the edge so that no false edge appears."""
        bottom, right = (-image.shape[0]) % COARSE_STRIDE, (-image.shape[1]) % COARSE_STRIDE
        if bottom or right:
            image = cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
        return torch.from_numpy(np.ascontiguousarray(image))

    def _mask(self, size: tuple[int, int], zoom: float, padded: tuple[int, ...]) -> Tensor | None:
        """[1, H, W] True on the pixels of a canvas that are not ignored; None where none is.

        The padding needs none: the pixel that a coarse cell looks at always lies on the canvas.
        """
        if self.mask is None and zoom >= 1:
            return None
        used = np.full((1, 1), 255, np.uint8) if self.mask is None else self.mask
        mask = np.zeros(padded, bool)
        mask[: size[1], : size[0]] = canvas(used.shape[1], used.shape[0], size, zoom).paint_mask(used) > 0
        return torch.from_numpy(mask)[None].to(self.device)

    @torch.inference_mode()
    def match_features(
        self, features0: FrameFeatures, features1: FrameFeatures, wanted: NDArray[np.int64] | None = None
    ) -> Matches:
        """Matches; piece by piece, from then on, where the memory does not suffice."""
        return self._match_somehow(features0, features1, wanted, back=False)

    @torch.inference_mode()
    def match_back(self, features0: FrameFeatures, features1: FrameFeatures) -> Matches:
        """Matches of image 1 (their points0) with image 0, whose coarse stage is that of the last `match_features`."""
        return self._match_somehow(features0, features1, None, back=True)

    def _match_somehow(
        self, features0: FrameFeatures, features1: FrameFeatures, wanted: NDArray[np.int64] | None, back: bool
    ) -> Matches:
        while True:
            features0, features1 = self._brought_here(features0), self._brought_here(features1)
            try:
                output = self._match(features0, features1, wanted, back)
                first, second = (features1, features0) if back else (features0, features1)
                return self._matches(output, first, second)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            self._free_memory()
            if self._out_of_memory == "adapt" and not self.network.in_pieces:
                _LOG.warning("LoFTR ran out of memory: images are matched piece by piece from now on.")
                self.network.in_pieces = True
            else:
                self._leave_gpu()

    def _brought_here(self, features: FrameFeatures) -> FrameFeatures:
        """Features of before the GPU was left, on the device of now."""
        if features.network.tokens.device.type == self.device.type:
            return features
        return replace(features, network=features.network.to(self.device))

    def _match(
        self, features0: FrameFeatures, features1: FrameFeatures, wanted: NDArray[np.int64] | None, back: bool
    ) -> LoFTROutput:
        first, second = features0.network, features1.network
        if back and self._last is not None and self._last[0] is first and self._last[1] is second:
            stage = self._last[2]
        else:
            stage = self._coarse(first, second)
        if back:
            first, second, stage = second, first, stage.swapped()
        cells = None if wanted is None else self._cells(wanted, first)
        most = self._most_new if back else self._most(wanted)
        return self.network.match(first, second, stage.best(most, first.grid, cells))

    def _coarse(self, features0: ImageFeatures, features1: ImageFeatures) -> CoarseStage:
        """The coarse stage, kept for the way back."""
        self._last = None  # its memory first
        stage = self.network.coarse(features0, features1)
        if self.device.type == "cpu":
            stage = stage.kept()
        self._last = (features0, features1, stage)
        return stage

    def _most(self, wanted: NDArray[np.int64] | None) -> int:
        """How many matches are refined: fewer where half as many points are known, unless their number was chosen."""
        known = 0 if wanted is None else len(wanted)
        return self._most_tracked if 2 * known >= self._most_tracked > 0 else self.network.max_matches

    def _cells(self, index: NDArray[np.int64], features: ImageFeatures) -> Tensor:
        """[L] bool, True for cells of these indices."""
        cells = np.zeros(features.tokens.shape[1], bool)
        cells[index[index < len(cells)]] = True
        return torch.from_numpy(cells).to(self.device)

    def _matches(self, output: LoFTROutput, features0: FrameFeatures, features1: FrameFeatures) -> Matches:
        # One transfer for all columns.
        table = torch.cat(
            [
                output.points0,
                output.points1,
                output.confidence[:, None],
                output.deviation[:, None],
                output.cell0[:, None].float(),
            ],
            dim=1,
        )
        columns = table.cpu().numpy().astype(np.float64)
        center = self.network.config.pixel_center
        scale1 = features1.scale.mean()
        sigma = np.maximum(columns[:, 5], _LEAST_SIGMA_PX) * scale1
        matches = Matches(
            points0=features0.original(columns[:, 0:2] - center),
            points1=features1.original(columns[:, 2:4] - center),
            confidence=columns[:, 4],
            index0=columns[:, 6].astype(np.int64),
            sigma=sigma,
            share=output.share,
        )
        if self.max_deviation == 0 or self.network.refinement is None:
            return matches
        return most_certain(matches, self.max_deviation * scale1, _LEAST_MATCHES)

    def match(self, image0: Image, image1: Image) -> Matches:
        return self.match_features(self.extract(image0), self.extract(image1))

    def keypoints(self, features: FrameFeatures) -> None:
        """Everywhere."""

    def describe(self, features: FrameFeatures) -> NDArray[np.float32]:
        tokens, mask = features.network.tokens[0], features.network.mask
        used = tokens if mask is None else tokens[mask[0]]
        return pooled(used.float().cpu().numpy())


def choose_device(name: str) -> torch.device:
    """Raises ConfigError when "cuda" is asked for and there is none."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is cuda, but torch finds no GPU; use auto or cpu.")
    return torch.device(name)


def choose_precision(name: str, device: torch.device, bears_half: bool = False) -> torch.dtype:
    """Raises ConfigError for float16 on a CPU, which has no units for it."""
    if name == "float16" and device.type == "cpu":
        raise ConfigError("precision is float16, which needs a GPU; use float32 or bfloat16 on a CPU.")
    if name == "auto" and device.type == "cpu":
        name = "bfloat16" if bears_half and multiplies_bfloat16() else "float32"
    elif name == "auto":
        name = "float16" if bears_half and multiplies_float16(device) else "float32"
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def multiplies_bfloat16() -> bool:
    """Whether the CPU has instructions for products of bfloat16; others convert each number, which is slower."""
    try:
        words = _CPU_INFO.read_text(errors="replace").split()
    except OSError:
        return False
    return not _BFLOAT16_FLAGS.isdisjoint(words)


def multiplies_float16(device: torch.device) -> bool:
    """Whether the GPU has units for products of float16, as NVIDIA's have since Volta."""
    return torch.cuda.get_device_capability(device) >= (7, 0)


def is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
