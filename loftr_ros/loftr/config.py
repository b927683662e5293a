# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""The sizes of the LoFTR network: configurations of one class."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class LoFTRConfig:
    """Sizes and constants of a LoFTR network.

    Attributes:
        initial_dim: channels of the first convolution, at 1/2 of the image.
        block_dims: channels of the ResNet stages at 1/2, 1/4 and 1/8; the last is the width of the coarse transformer.
        pyramid_dims: channels of the feature pyramid on its way back, at 1/4 and 1/2; None: those of the published
            network, which are the last two of block_dims the other way round.
        pyramid_convs: 3x3 convolutions after each of its steps back: 2 as published, or 1.
        fine_dim: channels of the fine features at 1/2, and width of the fine transformer.
        coarse_heads, fine_heads: attention heads.
        coarse_layers, fine_layers: the sequence of attention layers, see `Transformer`; a "center" layer may end the
            fine ones, of which nothing but the centre of window 0 is looked at.
        match_dim: channels in which the coarse features are compared, after a projection; 0: all that they have.
        temp_bug_fix: False reproduces the position encoding that the first official checkpoints were trained with
            (https://github.com/zju3dv/LoFTR/issues/41); True is the intended one.
        temperature: of the dual softmax.
        border: cells at the image border that never match.
        window: side of the fine windows, in fine cells.
        pixel_center: coordinate that the training data gave to the centre of the first pixel: 0.5 for the official
            checkpoints, 0 for ours. `forward` answers in that convention; the matcher moves it to 0.
        normalize_input: bring each image to mean 0 and deviation 1 first.
        refine_side: side of the patches of the second refinement, in pixels, odd; 0: there is none.
        refine_steps: how often it is applied.
        refine_dims, refine_hidden: channels of its convolutions and of its last layer.
        most_matches: so many matches give the poses of all of them on real sequences, in less time; 0: not measured.
        most_new: so many suffice for a new keyframe's depths, by its matches with the one before; 0: not measured.
        most_tracked: so many do where points are followed whose depth is known; 0: not measured.
        bears_half: half precision (bfloat16, float16) is as good as float32 for features, for factors of the dual
            softmax and to compare patches; False: not measured.
    """

    initial_dim: int = 128
    block_dims: tuple[int, int, int] = (128, 196, 256)
    pyramid_dims: tuple[int, int] | None = None
    pyramid_convs: int = 2
    fine_dim: int = 128
    coarse_heads: int = 8
    coarse_layers: tuple[str, ...] = ("self", "cross") * 4
    match_dim: int = 0
    fine_heads: int = 8
    fine_layers: tuple[str, ...] = ("self", "cross")
    temp_bug_fix: bool = False
    temperature: float = 0.1
    border: int = 2
    window: int = 5
    pixel_center: float = 0.5
    normalize_input: bool = False
    refine_side: int = 0
    refine_steps: int = 2
    refine_dims: tuple[int, int, int] = (16, 32, 48)
    refine_hidden: int = 64
    most_matches: int = 0
    most_new: int = 0
    most_tracked: int = 0
    bears_half: bool = False

    @property
    def coarse_dim(self) -> int:
        return self.block_dims[-1]


_TINY_WIDE = LoFTRConfig(
    initial_dim=16,
    block_dims=(16, 32, 64),
    fine_dim=32,
    coarse_heads=4,
    coarse_layers=("self", "cross") * 2,
    fine_heads=4,
    temp_bug_fix=True,
    border=1,
    pixel_center=0.0,
    normalize_input=True,
    refine_side=15,
)

CONFIGS: dict[str, LoFTRConfig] = {
    "outdoor": LoFTRConfig(),
    "indoor": LoFTRConfig(temp_bug_fix=True),
    # The second refinement decides how precise matches are: what leads to it can be narrow and short. The coarse stage
    # need not find out by itself what its teacher knows: it can be short, too.
    "tiny": replace(
        _TINY_WIDE,
        coarse_layers=("cross",),
        match_dim=48,
        pyramid_dims=(32, 16),
        pyramid_convs=1,
        fine_dim=16,
        fine_heads=2,
        fine_layers=("center",),
        most_matches=1000,
        most_new=500,
        most_tracked=350,
        bears_half=True,
    ),
    # What `tiny` is made from, and its coarse stage's teacher.
    "tiny_wide": _TINY_WIDE,
}
