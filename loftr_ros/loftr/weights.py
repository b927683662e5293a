# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Files of network weights: where they are, what they must hold, and where to get them."""

from __future__ import annotations

import hashlib
import http.client
import os
import pickle
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from loftr_ros.errors import WeightsError, brief
from loftr_ros.loftr.config import CONFIGS
from loftr_ros.loftr.model import LoFTR

BUNDLED = Path(__file__).parent.parent / "weights"
_PREFIXES = ("module.", "model.", "matcher.")


@dataclass(frozen=True)
class Download:
    url: str
    sha256: str

    @property
    def file_name(self) -> str:
        return self.url.rsplit("/", 1)[-1]


# The official checkpoints (Apache-2.0, zju3dv/LoFTR), as mirrored by kornia. indoor is the one with the corrected
# position encoding (`indoor_ds_new`).
DOWNLOADS: dict[str, Download] = {
    "outdoor": Download(
        "https://cmp.felk.cvut.cz/~mishkdmy/models/loftr_outdoor.ckpt",
        "21f5bec5968178e8bc8b7633441836fe5de4f47d861dd2cd7dc38e271b0479ec",
    ),
    "indoor": Download(
        "https://cmp.felk.cvut.cz/~mishkdmy/models/loftr_indoor_ds_new.ckpt",
        "be9ff88b323ec27889114719f668ae41aff7034b56a4c4acbd46b8b180b87ed3",
    ),
}


def weights_folder() -> Path:
    """Where downloads are kept: $LOFTR_ROS_WEIGHTS, else the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("LOFTR_ROS_WEIGHTS") or Path(cache) / "loftr_ros")


def find_weights(name: str) -> Path:
    """The bundled or downloaded file of a size. Raises WeightsError when there is none."""
    bundled = BUNDLED / f"{name}.safetensors"
    if bundled.exists():
        return bundled
    if name in DOWNLOADS:
        path = weights_folder() / DOWNLOADS[name].file_name
        if path.exists():
            return path
        raise WeightsError(
            f"The weights of '{name}' are not at {path}; get them with 'ros2 run loftr_ros download_weights {name}', "
            "or name a file of them."
        )
    raise WeightsError(f"There are no weights for '{name}'; name a file of them.")


def load_network(name: str, weights: str | Path | None = None, threshold: float = 0.2) -> LoFTR:
    """A network of the size `name` with its weights, in evaluation mode on the CPU.

    Args:
        name: a key of CONFIGS.
        weights: file to read; None: the bundled or downloaded one.
        threshold: least confidence of a match.

    Raises:
        WeightsError: the file is missing, damaged, or not for this network.
    """
    if name not in CONFIGS:
        raise WeightsError(f"There is no LoFTR size '{name}'; there are {', '.join(CONFIGS)}.")
    path = Path(weights) if weights else find_weights(name)
    network = LoFTR(CONFIGS[name], threshold)
    load_strictly(network, read_state_dict(path), f"{path} for LoFTR '{name}'")
    return network.eval()


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read .safetensors, .ckpt or .pth; never runs code from the file. Raises WeightsError."""
    if not path.is_file():
        raise WeightsError(f"The weights file {path} does not exist.")
    try:
        content = _read(path)
    except pickle.UnpicklingError:
        raise WeightsError(
            f"The weights file {path} holds more than tensors, or is damaged; it was not loaded."
        ) from None
    except Exception as error:  # the readers raise many kinds for damaged files
        raise WeightsError(f"The weights file {path} cannot be read: {brief(error)}.") from None
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(f"The weights file {path} does not hold a state dict of tensors.")
    odd = [key for key, value in content.items() if not _is_plain(value)]
    if odd:
        raise WeightsError(f"The weights file {path} holds a tensor that is no plain table of numbers, '{odd[0]}'.")
    return {_without_prefixes(str(key)): value for key, value in content.items()}


def _is_plain(tensor: Tensor) -> bool:
    """Whether it is neither sparse, nor complex, nor quantized, nor without numbers."""
    odd = tensor.is_complex() or tensor.is_quantized or tensor.is_meta
    return tensor.layout is torch.strided and not odd


def _read(path: Path) -> object:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(str(path))
    return torch.load(path, map_location="cpu", weights_only=True)


def _without_prefixes(key: str) -> str:
    for prefix in _PREFIXES:
        key = key.removeprefix(prefix)
    return key


def load_strictly(network: LoFTR, state: Mapping[str, Tensor], source: str) -> None:
    """Copy a state dict into the network. Raises WeightsError, naming a key, unless every key and shape fits."""
    wanted = network.state_dict()
    # Newer layouts lack nothing but the batch norms' step counters, which evaluation does not read.
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    extra = [key for key in state if key not in wanted]
    wrong = [key for key in wanted if key in state and state[key].shape != wanted[key].shape]
    if missing:
        raise WeightsError(f"The weights {source} lack {len(missing)} of its tensors, '{missing[0]}' first.")
    if extra:
        raise WeightsError(f"The weights {source} hold {len(extra)} tensors that it does not have, '{extra[0]}' first.")
    if wrong:
        key = wrong[0]
        raise WeightsError(
            f"The weights {source} do not fit: '{key}' is {tuple(state[key].shape)}, not {tuple(wanted[key].shape)}."
        )
    broken = [key for key, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise WeightsError(f"The weights {source} hold numbers that are not finite, in '{broken[0]}'.")
    network.load_state_dict({**wanted, **state})


def download(name: str, folder: Path | None = None, progress: Callable[[int, int], None] | None = None) -> Path:
    """Fetch the official checkpoint of a size; resumes a broken download. Returns its path.

    Args:
        progress: called with the bytes so far and in total (0: unknown).

    Raises:
        WeightsError: no such download, no network, or the file's SHA-256 is wrong.
    """
    if name not in DOWNLOADS:
        raise WeightsError(f"There is no download called '{name}'; there are {', '.join(DOWNLOADS)}.")
    source = DOWNLOADS[name]
    target = (folder or weights_folder()) / source.file_name
    if target.exists() and sha256(target) == source.sha256:
        return target
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _fetch(source.url, part, progress)
    except urllib.error.URLError as error:
        reason = getattr(error, "reason", error)
        raise WeightsError(
            f"No download from {source.url}: {reason}; is there a network? Run it again to resume."
        ) from None
    except (OSError, http.client.HTTPException) as error:
        raise WeightsError(f"The download to {part} broke off: {error}. Run it again to resume.") from None
    if sha256(part) != source.sha256:
        part.unlink()
        raise WeightsError(f"The file from {source.url} has another SHA-256 than expected; it was deleted.")
    part.replace(target)
    return target


def _fetch(url: str, part: Path, progress: Callable[[int, int], None] | None) -> None:
    done = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        response = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        if error.code == 416 and done:  # nothing is left to fetch
            return
        raise
    with response, part.open("ab" if response.status == 206 else "wb") as file:
        if response.status != 206:
            done = 0
        rest = int(response.headers.get("Content-Length") or 0)
        total = done + rest if rest else 0
        while chunk := response.read(1 << 16):
            file.write(chunk)
            done += len(chunk)
            if progress:
                progress(done, total)
    if done < total:  # urllib does not tell an early end from a regular one
        raise ConnectionError(f"{done} of {total} bytes came")


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
