# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""The LoFTR network: two grey images in, matches with sub-pixel positions out.

Sun et al., "LoFTR: Detector-Free Local Feature Matching with Transformers", CVPR 2021.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from loftr_ros.loftr import coarse_matching, fine_matching
from loftr_ros.loftr.backbone import Backbone
from loftr_ros.loftr.coarse_matching import CoarseMatches, Nearest
from loftr_ros.loftr.config import LoFTRConfig
from loftr_ros.loftr.fine_matching import COARSE_STRIDE, FINE_STRIDE, FinePreprocess
from loftr_ros.loftr.linear import apply
from loftr_ros.loftr.memory import apart
from loftr_ros.loftr.position_encoding import PositionEncoding
from loftr_ros.loftr.refinement import Refinement, hints
from loftr_ros.loftr.selection import most_useful
from loftr_ros.loftr.transformer import Transformer


@dataclass(frozen=True)
class ImageFeatures:
    """All that depends on one batch of images alone: computed once, matched with many.

    Attributes:
        tokens: [B, L, C] coarse features with position, after the leading self-attention.
        fine: [B, H/2, W/2, D] fine features, channels last.
        grid: (rows, columns) of the L coarse cells.
        mask: [B, L] False for ignored cells; or None.
        image: [B, 1, H, W] with mean 0 and deviation 1, for the second refinement; None where there is none.
    """

    tokens: Tensor
    fine: Tensor
    grid: tuple[int, int]
    mask: Tensor | None = None
    image: Tensor | None = None

    def kept(self) -> ImageFeatures:
        """The same on the CPU, to be kept for long: tokens as float32, the others as they are."""
        mask, image = (None if each is None else apart(each) for each in (self.mask, self.image))
        return ImageFeatures(apart(self.tokens, torch.float32), apart(self.fine), self.grid, mask, image)

    def to(self, device: torch.device) -> ImageFeatures:
        """The same on another device, as float32, which every device computes with."""
        mask = None if self.mask is None else self.mask.to(device)
        image = None if self.image is None else self.image.to(device).float()
        return ImageFeatures(self.tokens.to(device).float(), self.fine.to(device).float(), self.grid, mask, image)


@dataclass(frozen=True)
class LoFTROutput:
    """Matches of a batch of image pairs.

    Attributes:
        points0: [M, 2] (x, y) in image 0: 8 times the (column, row) of its cell.
        points1: [M, 2] (x, y) in image 1.
        confidence: [M] coarse matching probability.
        batch: [M] which pair of the batch.
        cell0: [M] cell of image 0, counted row by row.
        deviation: [M] standard deviation of points1 in pixels along each axis, as the second refinement predicts it;
            without one the mean over x and y of the fine heat map's.
        share: of the coarse matches of the batch, those that were refined and are here.
    """

    points0: Tensor
    points1: Tensor
    confidence: Tensor
    batch: Tensor
    cell0: Tensor
    deviation: Tensor
    share: float = 1.0


@dataclass(frozen=True)
class CoarseStage:
    """What the coarse stage found in a batch of image pairs.

    Attributes:
        tokens0: [B, L, C], tokens1: [B, S, C] after the coarse transformer.
        matches: coarse matches; share: of all that there are.
    """

    tokens0: Tensor
    tokens1: Tensor
    matches: CoarseMatches
    share: float = 1.0

    def best(self, count: int, grid0: tuple[int, int], wanted: Tensor | None = None) -> CoarseStage:
        """With at most so many of its matches, those of `most_useful`; 0: all."""
        if count == 0 or len(self.matches.cell0) <= count:
            return self
        some = most_useful(self.matches, count, len(self.tokens0), grid0, wanted)
        return replace(self, matches=some, share=self.share * count / len(self.matches.cell0))

    def swapped(self) -> CoarseStage:
        """With image 1 as image 0: but for rounding, the dual softmax and mutual nearest neighbours are the same."""
        found = self.matches
        order = torch.argsort(found.batch * self.tokens1.shape[1] + found.cell1)
        matches = CoarseMatches(found.batch[order], found.cell1[order], found.cell0[order], found.confidence[order])
        return CoarseStage(self.tokens1, self.tokens0, matches, self.share)

    def kept(self) -> CoarseStage:
        """The same on the CPU, to be kept until the next frame."""
        found = self.matches
        columns = (apart(each) for each in (found.batch, found.cell0, found.cell1, found.confidence))
        return replace(self, tokens0=apart(self.tokens0), tokens1=apart(self.tokens1), matches=CoarseMatches(*columns))


class LoFTR(nn.Module):
    """One class for every size; see loftr_ros.loftr.CONFIGS. New networks have random weights.

    Args:
        config: the sizes.
        threshold: least confidence of a match.

    Attributes:
        max_matches: only so many coarse matches are refined and kept, per batch, those of `most_useful`; 0: all.
        in_pieces: match with little memory also on a GPU, with the same answers; a CPU always does.
        factors: of the dual softmax in pieces, see `match_cells`.
        windows_at_once: number of matches in a piece.
    """

    def __init__(self, config: LoFTRConfig, threshold: float = 0.2) -> None:
        super().__init__()
        self.config = config
        self.threshold = threshold
        self.max_matches = 0
        self.in_pieces = False
        self.factors = torch.float32
        self.windows_at_once = 512
        self.backbone = Backbone(config)
        self.pos_encoding = PositionEncoding(config.coarse_dim, config.temp_bug_fix)
        self.loftr_coarse = Transformer(config.coarse_dim, config.coarse_heads, config.coarse_layers)
        self.match_proj = nn.Linear(config.coarse_dim, config.match_dim, bias=False) if config.match_dim else None
        if self.match_proj is not None:
            nn.init.orthogonal_(self.match_proj.weight)
        self.fine_preprocess = FinePreprocess(config)
        self.loftr_fine = Transformer(config.fine_dim, config.fine_heads, config.fine_layers)
        self.refinement = Refinement(config) if config.refine_side else None

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights of backbone and transformers."""
        return self.backbone.layer3_outconv.weight.dtype

    def forward(
        self, image0: Tensor, image1: Tensor, mask0: Tensor | None = None, mask1: Tensor | None = None
    ) -> LoFTROutput:
        """Match image0 [B, 1, H0, W0] with image1 [B, 1, H1, W1], floats in [0, 1].

        mask0 [B, H0, W0] and mask1 [B, H1, W1] are True (or 1) where an image may be used.
        """
        if image0.shape == image1.shape and mask0 is None and mask1 is None:
            both = self.extract(torch.cat([image0, image1]))  # one pass through the backbone
            return self.match(*halves(both))
        return self.match(self.extract(image0, mask0), self.extract(image1, mask1))

    def extract(self, image: Tensor, mask: Tensor | None = None) -> ImageFeatures:
        """Features of images [B, 1, H, W] in [0, 1]; mask [B, H, W] as in `forward`."""
        prepared = self.prepared(image)
        coarse, fine = self.features(prepared)
        tokens = self.pos_encoding(coarse).flatten(2).transpose(1, 2)
        cells = None if mask is None else mask[:, ::COARSE_STRIDE, ::COARSE_STRIDE].flatten(1).bool()
        grid = (coarse.shape[2], coarse.shape[3])
        tokens = self.loftr_coarse.alone(tokens, cells)
        to_refine = None
        if self.refinement is not None:
            to_refine = prepared if self.config.normalize_input else standardized(image)
        return ImageFeatures(tokens, fine.permute(0, 2, 3, 1), grid, cells, to_refine)

    def prepared(self, image: Tensor) -> Tensor:
        """Images [B, 1, H, W] in [0, 1] as the backbone takes them."""
        return standardized(image) if self.config.normalize_input else image

    def features(self, prepared: Tensor) -> tuple[Tensor, Tensor]:
        """Coarse [B, C, H/8, W/8] and fine [B, D, H/2, W/2] features, without position."""
        return self.backbone(prepared.to(self.dtype))

    def encode(self, prepared: Tensor) -> Tensor:
        """The coarse ones of `features` alone."""
        return self.backbone.encode(prepared.to(self.dtype))[2]

    def match(
        self, features0: ImageFeatures, features1: ImageFeatures, stage: CoarseStage | None = None
    ) -> LoFTROutput:
        """Match features that `extract` made; stage: what `coarse` made of them, or a part of it, if it is known."""
        found = self.find(features0, features1, stage)
        if self.refinement is None:
            return found
        # 4. Second refinement
        known = hints(found.confidence, found.deviation)
        points1, deviation = self.refinement(
            features0.image, features1.image, found.points1, found.batch, found.cell0, features0.grid, known
        )
        return replace(found, points1=points1, deviation=deviation)

    def find(
        self, features0: ImageFeatures, features1: ImageFeatures, stage: CoarseStage | None = None
    ) -> LoFTROutput:
        """As `match`, without the second refinement: what the published LoFTR is."""
        if stage is None:
            stage = self.coarse(features0, features1).best(self.max_matches, features0.grid)
        # 3. Fine matching
        coarse = stage.matches
        offset, deviation = self.refine(features0, features1, stage.tokens0, stage.tokens1, coarse)
        return LoFTROutput(
            points0=fine_matching.cell_pixels(coarse.cell0, features0.grid),
            points1=fine_matching.refined_pixels(coarse, features1.grid, offset),
            confidence=coarse.confidence.float(),
            batch=coarse.batch,
            cell0=coarse.cell0,
            deviation=deviation.mean(dim=1) * FINE_STRIDE,
            share=stage.share,
        )

    def coarse(self, features0: ImageFeatures, features1: ImageFeatures) -> CoarseStage:
        """All coarse matches of features that `extract` made."""
        # 1. Coarse transformer
        tokens0, tokens1 = self.loftr_coarse.together(
            features0.tokens, features1.tokens, features0.mask, features1.mask
        )
        # 2. Coarse matching
        return CoarseStage(tokens0, tokens1, self.match_cells(features0, features1, tokens0, tokens1))

    def match_cells(
        self, features0: ImageFeatures, features1: ImageFeatures, tokens0: Tensor, tokens1: Tensor
    ) -> CoarseMatches:
        """Coarse matches from the tokens after the transformer."""
        return coarse_matching.match_cells(
            self.compared(tokens0),
            self.compared(tokens1),
            self.config.temperature,
            features0.grid,
            features1.grid,
            self.threshold,
            self.config.border,
            features0.mask,
            features1.mask,
            in_pieces=self.in_pieces,
            find=self.nearest,
            factors=self.factors,
        )

    def compared(self, tokens: Tensor) -> Tensor:
        """What of tokens [B, L, C] after the transformer the dual softmax compares: [B, L, D], in single precision."""
        with torch.autocast(tokens.device.type, enabled=False):
            tokens = tokens.float()
            return tokens if self.match_proj is None else apply(self.match_proj, tokens)

    def nearest(self, tokens0: Tensor, tokens1: Tensor, *about: Any) -> Nearest:
        """`coarse_matching.nearest`: where the matrix of all pairs of cells is kept, on a GPU."""
        before = torch.backends.cuda.matmul.allow_tf32
        # Its factors are rounded to 11 bits: those of half precision have no more anyway.
        torch.backends.cuda.matmul.allow_tf32 = before or self.dtype != torch.float32
        try:
            return coarse_matching.nearest(tokens0, tokens1, *about)
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before

    def refine(
        self,
        features0: ImageFeatures,
        features1: ImageFeatures,
        tokens0: Tensor,
        tokens1: Tensor,
        coarse: CoarseMatches,
    ) -> tuple[Tensor, Tensor]:
        """Fine offset [M, 2] and its deviation [M, 2] of coarse matches, in fine cells."""

        def refine_some(batch: Tensor, cell0: Tensor, cell1: Tensor) -> tuple[Tensor, Tensor]:
            windows0 = self.fine_preprocess(features0.fine, tokens0, features0.grid, batch, cell0)
            windows1 = self.fine_preprocess(features1.fine, tokens1, features1.grid, batch, cell1)
            return fine_matching.expectation(*self.loftr_fine(windows0, windows1))

        cells = (coarse.batch, coarse.cell0, coarse.cell1)
        whole = tokens0.device.type != "cpu" and not self.in_pieces
        if whole or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return refine_some(*cells)
        pieces = [refine_some(*piece) for piece in zip(*(each.split(self.windows_at_once) for each in cells))]
        return torch.cat([offset for offset, _ in pieces]), torch.cat([deviation for _, deviation in pieces])


def halves(both: ImageFeatures) -> tuple[ImageFeatures, ImageFeatures]:
    """The features of the first and of the second half of a batch without masks."""
    images = (None, None) if both.image is None else both.image.chunk(2)
    parts = zip(both.tokens.chunk(2), both.fine.chunk(2), images)
    first, second = (ImageFeatures(tokens, fine, both.grid, image=image) for tokens, fine, image in parts)
    return first, second


def standardized(image: Tensor) -> Tensor:
    """Images [B, 1, H, W] with mean 0 and deviation 1 each; a constant image becomes 0."""
    centered = image - _mean(image)
    count = image.shape[2] * image.shape[3]
    deviation = (_mean(centered**2) * (count / max(count - 1, 1))).sqrt()
    return centered / deviation.clamp(min=1e-3)


def _mean(image: Tensor) -> Tensor:
    """[B, 1, 1, 1] means; by rows first, since runtimes other than torch lose digits in sums of so many numbers."""
    return image.mean(dim=3, keepdim=True).mean(dim=2, keepdim=True)
