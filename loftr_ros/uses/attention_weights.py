# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""What each cell of an image looks at inside the coarse transformer: the attention weights, written out.

The network never forms them (linear attention; Katharopoulos et al., ICML 2020), but they exist: equation 7 there is a
weighted mean of the values with the weights phi(q_i) . phi(k_j) / sum over j of phi(q_i) . phi(k_j), phi = elu + 1.
They are spread widely: linear attention collects what a whole image looks like. Where a cell's counterpart lies shows
only in the matching itself, the softmax over the products of the features, `Passage.matching`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from loftr_ros.errors import InputError
from loftr_ros.loftr import LoFTR
from loftr_ros.loftr.coarse_matching import similarity
from loftr_ros.loftr.fine_matching import COARSE_STRIDE
from loftr_ros.loftr.transformer import EncoderLayer
from loftr_ros.matching import Matcher
from loftr_ros.matching.loftr import LoFTRMatcher
from loftr_ros.types import Array, Image


@dataclass(frozen=True)
class ImageCells:
    """The L coarse cells of one image on their way through the network.

    Attributes:
        shape: (height, width) of the image in pixels.
        scale: [2] pixels of the image per pixel of the network's input, (x, y).
        grid: (rows, columns) of the cells.
        mask: [1, L] False for ignored cells; or None.
        before: [1, L, C] features of the backbone, without position.
        after: [1, L, D] features after the transformer, those that are compared.
    """

    shape: tuple[int, int]
    scale: Array
    grid: tuple[int, int]
    mask: Tensor | None
    before: Tensor
    after: Tensor

    def cell_at(self, x: float, y: float) -> int:
        """The cell nearest to a pixel, counted row by row. Raises InputError outside the image."""
        if not (0 <= x <= self.shape[1] - 1 and 0 <= y <= self.shape[0] - 1):
            raise InputError(f"The pixel {x:g} {y:g} is not in the image of {self.shape[1]}x{self.shape[0]} pixels.")
        column, row = self._nearest(np.array([x]), 0)[0], self._nearest(np.array([y]), 1)[0]
        return int(row * self.grid[1] + column)

    def pixel_of(self, cell: int) -> tuple[float, float]:
        """The pixel (x, y) that a cell looks at."""
        at = np.array([cell % self.grid[1], cell // self.grid[1]]) * float(COARSE_STRIDE)
        x, y = (at + 0.5) * self.scale - 0.5
        return float(x), float(y)

    def spread(self, values: NDArray[Any]) -> NDArray[Any]:
        """Values of the cells, [L] or [L, K], for every pixel of the image: [H, W] or [H, W, K]."""
        rows = self._nearest(np.arange(self.shape[0]), 1)
        columns = self._nearest(np.arange(self.shape[1]), 0)
        return values.reshape(*self.grid, *values.shape[1:])[rows[:, None], columns[None, :]]

    def _nearest(self, pixels: NDArray[Any], axis: int) -> NDArray[np.int64]:
        """Column (axis 0) or row (axis 1) of the cells nearest to x or y."""
        at = ((pixels + 0.5) / self.scale[axis] - 0.5) / COARSE_STRIDE
        return np.clip(np.rint(at), 0, self.grid[1 - axis] - 1).astype(np.int64)


@dataclass(frozen=True)
class LayerInput:
    """One layer of the coarse transformer as image 0 went through it: [1, L, C] tokens, [1, S, C] what they look at."""

    name: str
    layer: EncoderLayer
    tokens: Tensor
    source: Tensor
    source_mask: Tensor | None


@dataclass(frozen=True)
class Passage:
    """A pair of images on its way through the network, seen from image 0."""

    cells0: ImageCells
    cells1: ImageCells
    layers: list[LayerInput]
    temperature: float

    @torch.inference_mode()
    def weights(self, layer: int, cells: list[int]) -> NDArray[np.float32]:
        """[heads, N, S] attention weights of cells of image 0 in a layer (from 0 on); every row sums to 1.

        S counts the cells of image 0 in "self" layers, of image 1 in "cross" layers.
        """
        seen = self.layers[layer]
        heads = seen.layer.heads
        query = F.elu(seen.layer.q_proj(seen.tokens[0, cells]).unflatten(-1, (heads, -1)).double()) + 1
        key = F.elu(seen.layer.k_proj(seen.source[0]).unflatten(-1, (heads, -1)).double()) + 1
        if seen.source_mask is not None:
            key = key * seen.source_mask[0, :, None, None]
        products = torch.einsum("nhd,shd->hns", query, key)
        return (products / products.sum(dim=2, keepdim=True)).float().cpu().numpy()

    @torch.inference_mode()
    def matching(self, cells: list[int], before: bool = False) -> NDArray[np.float32]:
        """[N, S] softmax over image 1 of the coarse matching scores of cells of image 0; every row sums to 1.

        Args:
            before: with the features of the backbone instead of those after the transformer.
        """
        tokens0, tokens1 = (c.before if before else c.after for c in (self.cells0, self.cells1))
        scores = similarity(tokens0[:, cells].float(), tokens1.float(), self.temperature, None, self.cells1.mask)
        return torch.softmax(scores[0], dim=1).cpu().numpy()


@torch.inference_mode()
def follow(matcher: Matcher, image0: Image, image1: Image) -> Passage:
    """Send two grey images [H, W] through a LoFTR matcher and keep what its coarse transformer works on.

    Raises:
        InputError: the matcher is no LoFTR.
    """
    if not isinstance(matcher, LoFTRMatcher):
        raise InputError(f"The matcher '{matcher.name}' has no attention; take a LoFTR.")
    matcher = matcher.on_cpu()  # a GPU's network has its layers fused
    network = matcher.network
    calls = _Calls()
    with calls.watching(network):
        features0 = matcher.extract(image0)
        features1 = matcher.extract(image1)
        matcher.match_features(features0, features1)
    transformer = network.loftr_coarse
    # Every part works on image 0 first, then on image 1.
    cells0, cells1 = (
        ImageCells(
            (image.shape[0], image.shape[1]),
            features.scale,
            features.network.grid,
            features.network.mask,
            calls.outputs[network.backbone][i][0].flatten(2).transpose(1, 2),
            network.compared(calls.outputs[transformer.layers[-1]][i]),
        )
        for i, (image, features) in enumerate(((image0, features0), (image1, features1)))
    )
    layers = []
    for layer, name in zip(transformer.layers, transformer.names):
        tokens, source, _, source_mask = calls.inputs[layer][0]
        layers.append(LayerInput(name, layer, tokens.float(), source.float(), source_mask))  # may be of less precision
    return Passage(cells0, cells1, layers, network.config.temperature)


class _Calls:
    """Inputs and outputs of the parts of a network, in the order of their calls."""

    def __init__(self) -> None:
        self.inputs: dict[nn.Module, list[Any]] = defaultdict(list)
        self.outputs: dict[nn.Module, list[Any]] = defaultdict(list)

    @contextmanager
    def watching(self, network: LoFTR) -> Iterator[None]:
        parts = [network.backbone, *network.loftr_coarse.layers]
        hooks = [part.register_forward_hook(self._keep) for part in parts]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _keep(self, part: nn.Module, inputs: Any, output: Any) -> None:
        self.inputs[part].append(inputs)
        self.outputs[part].append(output)


def principal_colours(features: list[NDArray[np.float32]]) -> list[NDArray[np.uint8]]:
    """The three strongest components of features, [N, C] each, as colours [N, 3]: alike features, alike colours."""
    everything = np.concatenate(features).astype(np.float64)
    mean = everything.mean(axis=0)
    _, _, axes = np.linalg.svd(np.cov((everything - mean).T))
    parts = [(f - mean) @ axes[:3].T for f in features]
    low, high = np.percentile(np.concatenate(parts), [2, 98], axis=0)
    return [np.clip(255 * (p - low) / np.maximum(high - low, 1e-12), 0, 255).astype(np.uint8) for p in parts]
