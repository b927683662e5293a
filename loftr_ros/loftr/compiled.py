# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""torch.compile, where it works."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from loftr_ros.loftr.model import LoFTR

_LOG = logging.getLogger(__name__)


class Compiled:
    """A function compiled on its first call; as it was, with one line in the log, where that fails.

    On a GPU calls are replayed as CUDA graphs, whose results live only until the next call: they are copied.
    """

    def __init__(self, function: Callable[..., Any], device: torch.device) -> None:
        self._plain = function
        self._graphs = device.type == "cuda"
        mode = "reduce-overhead" if self._graphs else "default"
        self._compiled: Callable[..., Any] | None = torch.compile(function, mode=mode)

    def __call__(self, *arguments: Any) -> Any:
        if self._compiled is not None:
            try:
                results = self._compiled(*arguments)
                return tuple(_copy(each) for each in results) if self._graphs else results
            except torch.cuda.OutOfMemoryError:
                raise
            except Exception as error:  # compilers fail in many ways
                first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
                _LOG.warning("torch.compile failed, the network runs without it: %s", first_line)
                self._compiled = None
        return self._plain(*arguments)


def parts(network: LoFTR) -> list[tuple[nn.Module, str, tuple[int, ...]]]:
    """What of a network depends on no answer in between: (module, method, its arguments with a row for each match)."""
    found: list[tuple[nn.Module, str, tuple[int, ...]]] = [
        (network, "features", ()),
        (network.loftr_coarse, "together", ()),
        (network, "nearest", ()),
        (network, "refine", (4,)),
    ]
    if network.loftr_coarse.leading_self_layers:
        found.append((network.loftr_coarse, "alone", ()))
    return found if network.refinement is None else [*found, (network.refinement, "forward", (2, 3, 4, 6))]


def compile_parts(network: LoFTR, device: torch.device) -> None:
    """Compile, in place, what has the same shapes for all images of a size: backbone and coarse transformer."""
    network.features = Compiled(network.features, device)  # type: ignore[assignment, method-assign]
    coarse = network.loftr_coarse
    coarse.together = Compiled(coarse.together, device)  # type: ignore[assignment, method-assign]


def undo_compilation(network: LoFTR) -> None:
    """Let the network run as it is again, without graphs too: on another device, say."""
    for module, name, _ in parts(network):
        module.__dict__.pop(name, None)


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value
