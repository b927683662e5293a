"""LoFTR as a Matcher: numpy images in, matches in original pixels out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from loftr_ros.loftr import ImageFeatures, LoFTROutput, load_network
from loftr_ros.loftr.fine_matching import COARSE_STRIDE
from loftr_ros.matching.base import check_image
from loftr_ros.matching.descriptor import pooled
from loftr_ros.types import Array, Image, Matches

# Below this the fine heat map says less about its error than the training data's own precision does.
_LEAST_SIGMA_PX = 0.1


@dataclass(frozen=True)
class FrameFeatures:
    """Network features of one image, and how its resized pixels map to the original ones.

    scale: [2] original pixels per resized pixel, (x, y).
    """

    network: ImageFeatures
    scale: Array

    def original(self, points: Array) -> Array:
        """Resized pixels [N, 2] in the original image; resizing keeps the image's edges, not its pixel centres."""
        return (points + 0.5) * self.scale - 0.5


class LoFTRMatcher:
    """Detector-free matches on the grid of image 0's coarse cells.

    Args:
        name: a size of loftr_ros.loftr.CONFIGS.
        weights: file of weights; None: the bundled or downloaded one.
        device: "auto" (cuda if there is one), "cpu" or "cuda".
        max_side: images are shrunk until their longer side is this; 0: never.
        threshold: least confidence.
        mask: [H, W] uint8, 0 where the image is ignored; or None.

    Raises:
        WeightsError: the weights cannot be used.
        RuntimeError: device "cuda" without a GPU.
    """

    def __init__(
        self,
        name: str,
        weights: str | Path | None = None,
        device: str = "auto",
        max_side: int = 640,
        threshold: float = 0.2,
        mask: Image | None = None,
    ) -> None:
        self.name = name
        self.max_side = max_side
        self.mask = mask
        self.device = choose_device(device)
        self.network = load_network(name, weights, threshold).to(self.device, memory_format=torch.channels_last)

    @property
    def threshold(self) -> float:
        return self.network.threshold

    @threshold.setter
    def threshold(self, value: float) -> None:
        self.network.threshold = value

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for name, tensor in self.network.state_dict().items():
            digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
        if self.mask is not None:
            digest.update(self.mask.tobytes())
        return f"{self.name} {self.max_side} {digest.hexdigest()}"

    @torch.inference_mode()
    def extract(self, image: Image) -> FrameFeatures:
        check_image(image)
        height, width = image.shape
        size = working_size(width, height, self.max_side)
        resized = image if size == (width, height) else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        tensor = self._padded(resized).to(self.device, non_blocking=True).float() / 255.0
        features = self.network.extract(tensor[None, None], self._mask(size, tuple(tensor.shape)))
        return FrameFeatures(features, np.array([width / size[0], height / size[1]]))

    @staticmethod
    def _padded(image: Image) -> Tensor:
        """Pad right and below to a multiple of the coarse cells, repeating the edge so that no false edge appears."""
        bottom, right = (-image.shape[0]) % COARSE_STRIDE, (-image.shape[1]) % COARSE_STRIDE
        if bottom or right:
            image = cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
        return torch.from_numpy(np.ascontiguousarray(image))

    def _mask(self, size: tuple[int, int], padded: tuple[int, ...]) -> Tensor | None:
        """[1, H, W] True on the pixels of the image that are not ignored; None when that is all of them."""
        if self.mask is None and padded == (size[1], size[0]):
            return None
        mask = np.zeros(padded, bool)
        mask[: size[1], : size[0]] = True
        if self.mask is not None:
            mask[: size[1], : size[0]] = cv2.resize(self.mask, size, interpolation=cv2.INTER_NEAREST) > 0
        return torch.from_numpy(mask)[None].to(self.device)

    @torch.inference_mode()
    def match_features(self, features0: FrameFeatures, features1: FrameFeatures) -> Matches:
        output = self.network.match(features0.network, features1.network)
        return self._matches(output, features0, features1)

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
        sigma = np.maximum(columns[:, 5], _LEAST_SIGMA_PX) * features1.scale.mean()
        return Matches(
            points0=features0.original(columns[:, 0:2] - center),
            points1=features1.original(columns[:, 2:4] - center),
            confidence=columns[:, 4],
            index0=columns[:, 6].astype(np.int64),
            sigma=sigma,
        )

    def match(self, image0: Image, image1: Image) -> Matches:
        return self.match_features(self.extract(image0), self.extract(image1))

    def keypoints(self, features: FrameFeatures) -> None:
        """Everywhere."""

    def describe(self, features: FrameFeatures) -> NDArray[np.float32]:
        tokens, mask = features.network.tokens[0], features.network.mask
        used = tokens if mask is None else tokens[mask[0]]
        return pooled(used.float().cpu().numpy())


def choose_device(name: str) -> torch.device:
    """Raises RuntimeError when "cuda" is asked for and there is none."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("device is cuda, but torch finds no GPU; use auto or cpu")
    return torch.device(name)


def working_size(width: int, height: int, max_side: int) -> tuple[int, int]:
    """(width, height) to which an image is shrunk so that its longer side is at most max_side (0: no limit)."""
    longer = max(width, height)
    if max_side == 0 or longer <= max_side:
        return width, height
    ratio = max_side / longer
    return max(1, round(width * ratio)), max(1, round(height * ratio))
