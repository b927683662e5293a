# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""A LoFTR without training, to compare and time where there are no weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from loftr_ros.loftr import CONFIGS, LoFTR
from loftr_ros.types import Image


@torch.no_grad()
def random_network(size: str, image: Image, seed: int = 0, gain: float = 0.4) -> LoFTR:
    """A LoFTR with random weights whose matches occur; torch's random numbers start anew at `seed`.

    Plain random weights make all coarse features nearly equal, so that no probability passes the threshold. So the
    statistics of the batch norms are those of an image [H, W], and the last coarse convolution is blind to what all
    cells have in common, and scaled by `gain`.
    """
    torch.manual_seed(seed)
    network = LoFTR(CONFIGS[size])
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0.0, 0.1)
    activations: list[Tensor] = []
    hook = network.backbone.layer3.register_forward_hook(lambda module, inputs, output: activations.append(output))
    network.train().features(network.prepared(torch.from_numpy(image).float()[None, None] / 255.0))
    hook.remove()
    common = torch.linalg.svd(activations[0][0].flatten(1).T, full_matrices=False)[2][:4]
    weight = network.backbone.layer3_outconv.weight
    weight -= (weight[:, :, 0, 0] @ common.T @ common)[..., None, None]
    weight *= gain
    if network.refinement is not None:  # a new one moves nothing
        network.refinement.output.weight.normal_(0.0, 0.05)
    return network.eval()
