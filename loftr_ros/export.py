# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""`export`: a LoFTR network as ONNX files, for TensorRT and other runtimes, checked against torch.

Two files, so that a keyframe's features are computed once:

extract.onnx: image [1, 1, H, W] float32 in [0, 1], H and W multiples of 8
    -> tokens [1, L, C], fine [1, H / 2, W / 2, D], and standardized [1, 1, H, W] where there is a second refinement.
match.onnx: tokens0, fine0, (standardized0,) tokens1, fine1 (, standardized1), of images of the same size
    -> points0 [M, 2], points1 [M, 2] (x, y), confidence [M], deviation [M] in pixels, cell0 [M].

Points are in the network's own pixel convention: 0 (tiny) or 0.5 (outdoor, indoor) is the centre of the first pixel.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from loftr_ros import cli
from loftr_ros.errors import ExportError, LoftrRosError
from loftr_ros.files import make_folder, write_bytes_atomically
from loftr_ros.loftr import CONFIGS, ImageFeatures, LoFTR, load_network
from loftr_ros.loftr.fine_matching import COARSE_STRIDE, FINE_STRIDE
from loftr_ros.loftr.folding import fold_batch_norms
from loftr_ros.synthetic.textures import clutter

_NEEDED = ("onnx", "onnxscript", "onnxruntime")
_DEFAULT_SIZE = (640, 480)
_MOST_CELLS = 512  # along each side, with a size that is not fixed
_FEATURE_NAMES = ["tokens", "fine", "standardized"]  # the last only where there is a second refinement
_MATCH_NAMES = ["points0", "points1", "confidence", "deviation", "cell0"]
# Largest differences between the runtime and torch: of features, relative to their norm; of matches.
_MOST_FEATURE_ERROR = 1e-4
_MOST_POINT_ERROR_PX = 0.05
_LEAST_COMMON = 0.98

Arrays = list[NDArray[Any]]


class Extract(nn.Module):
    """`LoFTR.extract` from tensor to tensors."""

    def __init__(self, network: LoFTR) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        features = self.network.extract(image)
        found = (features.tokens, features.fine)
        return found if features.image is None else (*found, features.image)


class Match(nn.Module):
    """`LoFTR.match` from tensors to tensors: first those of image 0, then those of image 1."""

    def __init__(self, network: LoFTR) -> None:
        super().__init__()
        self.network = network

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        half = len(tensors) // 2
        found = self.network.match(_features(*tensors[:half]), _features(*tensors[half:]))
        return found.points0, found.points1, found.confidence, found.deviation, found.cell0


def _features(tokens: Tensor, fine: Tensor, image: Tensor | None = None) -> ImageFeatures:
    ratio = COARSE_STRIDE // FINE_STRIDE
    return ImageFeatures(tokens, fine, (fine.shape[1] // ratio, fine.shape[2] // ratio), image=image)


@torch.no_grad()
def export(network: LoFTR, folder: Path, size: tuple[int, int] | None) -> None:
    """Write extract.onnx and match.onnx for images of a size (width, height), or of any size.

    Raises:
        ExportError: torch cannot export the network, or the files cannot be written.
    """
    fold_batch_norms(network.backbone)
    images = check_images(size or _DEFAULT_SIZE)
    features = [Extract(network)(torch.from_numpy(image)) for image in images]
    names = _FEATURE_NAMES[: len(features[0])]
    match_names = ([f"{name}{k}" for k in (0, 1) for name in names], _MATCH_NAMES)
    shapes = _dynamic_shapes(len(names)) if size is None else (None, None)
    try:
        make_folder(folder)
        _write(Extract(network), (torch.from_numpy(images[0]),), folder / "extract.onnx", (["image"], names), shapes[0])
        _write(Match(network), (*features[0], *features[1]), folder / "match.onnx", match_names, shapes[1])
    except LoftrRosError:
        raise
    except Exception as error:  # exporters fail in many ways
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ExportError(f"torch {torch.__version__} cannot export this network: {reason}.") from None


def _dynamic_shapes(features: int) -> tuple[Any, Any]:
    """Any number of rows and columns of cells, the same for both images of so many tensors each."""
    rows, columns = (torch.export.Dim(name, min=4, max=_MOST_CELLS) for name in ("rows", "columns"))
    ratio = COARSE_STRIDE // FINE_STRIDE
    tokens, fine = {1: torch.export.Dim.AUTO}, {1: ratio * rows, 2: ratio * columns}
    image = {2: COARSE_STRIDE * rows, 3: COARSE_STRIDE * columns}
    return (image,), ((tokens, fine, image)[:features] * 2,)  # one tuple: `Match.forward` takes any number of tensors


def _write(
    module: nn.Module, arguments: tuple[Tensor, ...], path: Path, names: tuple[list[str], list[str]], shapes: Any
) -> None:
    with _silence():
        program = torch.onnx.export(
            module.eval(), arguments, dynamo=True, input_names=names[0], output_names=names[1], dynamic_shapes=shapes
        )
        assert program is not None
        write_bytes_atomically(path, program.model_proto.SerializeToString())


@contextmanager
def _silence() -> Iterator[None]:
    """The exporter explains itself at length, also where all is well."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def check_images(size: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Two images [1, 1, H, W] in [0, 1] of a size (width, height): a pattern, and the same moved by (16, 8) pixels."""
    width, height = size
    pattern = clutter(np.random.default_rng(0), (height + 8, width + 16)).astype(np.float32)
    pattern = (pattern - pattern.min()) / np.ptp(pattern)
    return pattern[None, None, :height, :width].copy(), pattern[None, None, 8:, 16:].copy()


@torch.no_grad()
def check(network: LoFTR, folder: Path, size: tuple[int, int]) -> str:
    """Compare the files with torch on images of a size, and say what came out. Raises ExportError where they differ."""
    images = check_images(size)
    ours = [[t.numpy() for t in Extract(network)(torch.from_numpy(image))] for image in images]
    theirs = [_run(folder / "extract.onnx", [image]) for image in images]
    error = max(_relative_error(a, b) for mine, other in zip(ours, theirs) for a, b in zip(mine, other))
    wanted = [t.numpy() for t in Match(network)(*(torch.from_numpy(a) for features in ours for a in features))]
    found = _run(folder / "match.onnx", [a for features in theirs for a in features])
    common, of_wanted, of_found = np.intersect1d(wanted[4], found[4], return_indices=True)
    moved = np.abs(wanted[1][of_wanted] - found[1][of_found]).max(initial=0.0)
    most = max(len(wanted[4]), len(found[4]))
    text = (
        f"{size[0]}x{size[1]}: features differ by {error:.1e} of their norm, "
        f"{len(common)} of {most} matches are the same, and those by {moved:.1e} pixels at most"
    )
    if error > _MOST_FEATURE_ERROR or moved > _MOST_POINT_ERROR_PX or len(common) < _LEAST_COMMON * most:
        raise ExportError(f"The files do not do what torch does at {text}.")
    return text + "."


def _run(path: Path, inputs: Sequence[NDArray[Any]]) -> Arrays:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {slot.name: value for slot, value in zip(session.get_inputs(), inputs)})


def _relative_error(a: NDArray[Any], b: NDArray[Any]) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(a))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="export", description="Write a LoFTR network as ONNX files.")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="for extract.onnx and match.onnx")
    parser.add_argument("--matcher", default="tiny", choices=tuple(CONFIGS), help="size of the network (tiny)")
    parser.add_argument("--weights", default="", metavar="FILE", help="its weights (the bundled or downloaded ones)")
    parser.add_argument("--threshold", type=float, default=0.2, help="least confidence of a match (0.2)")
    parser.add_argument("--size", type=_size, default=_DEFAULT_SIZE, metavar="WxH", help="of the images (640x480)")
    parser.add_argument("--dynamic", action="store_true", help="any size whose sides are multiples of 8 instead")
    return parser


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise argparse.ArgumentTypeError(f"'{text}' is not a size such as 640x480")
    if int(width) % COARSE_STRIDE or int(height) % COARSE_STRIDE or min(int(width), int(height)) < 4 * COARSE_STRIDE:
        raise argparse.ArgumentTypeError(f"the sides of {text} must be multiples of 8, and at least 32")
    return int(width), int(height)


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(f"Exporting needs {', '.join(missing)}: pip install {' '.join(missing)}.")
    network = load_network(options.matcher, options.weights or None, options.threshold)
    export(network, options.folder, None if options.dynamic else options.size)
    sizes = [options.size] if not options.dynamic else [options.size, (320, 240)]
    for size in sizes:
        print(check(network, options.folder, size))
    return 0


def entry_point() -> int:
    return cli.run(main)


if __name__ == "__main__":
    sys.exit(entry_point())
