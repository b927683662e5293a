# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""CUDA graphs: on a GPU, parts of the network are recorded once for each size and replayed as one launch each.

A LoFTR is hundreds of small kernels, and a GPU is done with most of them before the CPU has launched the next.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from loftr_ros.errors import brief
from loftr_ros.loftr.compiled import parts
from loftr_ros.loftr.model import LoFTR

_LOG = logging.getLogger(__name__)
_MOST_GRAPHS = 8  # of a part; each keeps its memory
_WARM_UPS = 3  # before a recording: libraries choose their kernels, and make what they need
_LEAST_ROWS = 256


class Graphed:
    """A function of tensors that is recorded on its first call with arguments of a shape, and replayed from then on.

    As it was, with one line in the log, where recording fails. Arguments are tensors, dataclasses and tuples of them,
    and constants; results are tensors or tuples of them.

    Args:
        function: on one GPU, without decisions that depend on what the tensors hold.
        rows: places of the arguments whose tensors have a row for each match. Of those there is another number each
            time: the last row is repeated until there is a power of two of them, and the results are cut again.
        search: let cuDNN try which of its kernels are the fastest.
    """

    def __init__(self, function: Callable[..., Any], rows: tuple[int, ...] = (), search: bool = False) -> None:
        self._plain = function
        self._rows, self._search = rows, search
        self._recordings: OrderedDict[Any, _Recording] | None = OrderedDict()

    def __call__(self, *arguments: Any) -> Any:
        count = len(next(tensors_of(arguments[self._rows[0]]))) if self._rows else 1
        if self._recordings is None or count == 0:
            return self._plain(*arguments)
        padded = self._padded(arguments, count)
        try:
            recording = self._recording(padded)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # drivers and libraries fail in many ways
            _LOG.warning("CUDA graphs failed, the network runs without them: %s", brief(error))
            self._recordings = None
            return self._plain(*arguments)
        results = recording.replay(padded)
        # Copied, since the next replay writes to the same place.
        return mapped(results, lambda result: (result[:count] if self._rows else result).clone())

    def _padded(self, arguments: tuple[Any, ...], count: int) -> tuple[Any, ...]:
        extra = rows_for(count) - count

        def longer(tensor: Tensor) -> Tensor:
            return torch.cat([tensor, tensor[-1:].expand(extra, *tensor.shape[1:])])

        if not self._rows or extra == 0:
            return arguments
        return tuple(mapped(each, longer) if k in self._rows else each for k, each in enumerate(arguments))

    def _recording(self, arguments: tuple[Any, ...]) -> _Recording:
        assert self._recordings is not None
        key = shape_of(arguments)
        if key not in self._recordings:
            with _search_for_kernels(self._search):
                self._recordings[key] = _Recording(self._plain, arguments)
            if len(self._recordings) > _MOST_GRAPHS:
                self._recordings.popitem(last=False)
        self._recordings.move_to_end(key)
        return self._recordings[key]


class _Recording:
    """One CUDA graph, with the places of its inputs and results."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        places = mapped(arguments, torch.clone)
        self._inputs = list(tensors_of(places))
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                function(*places)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        # Other threads may use the GPU meanwhile.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._results = function(*places)

    def replay(self, arguments: tuple[Any, ...]) -> Any:
        """Results that live until the next replay."""
        for place, tensor in zip(self._inputs, tensors_of(arguments)):
            place.copy_(tensor, non_blocking=True)
        self._graph.replay()
        return self._results


@contextmanager
def _search_for_kernels(wanted: bool) -> Iterator[None]:
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = before or wanted
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def graph_parts(network: LoFTR) -> None:
    """Record, in place, what needs no answer from the GPU in between. Undone by `undo_compilation`."""
    search = network.dtype != torch.float32  # in float32 some of cuDNN's kernels take tens of GB: none is tried there
    for module, name, rows in parts(network):
        setattr(module, name, Graphed(getattr(module, name), rows, search))


def rows_for(count: int) -> int:
    """The power of two that is not below a number of matches."""
    return max(_LEAST_ROWS, 1 << (count - 1).bit_length())


def tensors_of(value: Any) -> Iterator[Tensor]:
    """All tensors in dataclasses and tuples, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple):
        for each in value:
            yield from tensors_of(each)
    elif is_dataclass(value):
        for field in fields(value):
            yield from tensors_of(getattr(value, field.name))


def mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same with each tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple):
        return tuple(mapped(each, change) for each in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: mapped(getattr(value, field.name), change) for field in fields(value)})
    return value


def shape_of(value: Any) -> Any:
    """What a recording holds for: the shapes and types of the tensors, and everything else."""
    if isinstance(value, Tensor):
        return (value.shape, value.stride(), value.dtype, value.device)
    if isinstance(value, tuple):
        return tuple(shape_of(each) for each in value)
    if is_dataclass(value):
        return (type(value), tuple(shape_of(getattr(value, field.name)) for field in fields(value)))
    return value
