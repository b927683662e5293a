# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""A contender in a process of its own, so that none changes the speed or the memory of another."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

import numpy as np
import torch

from loftr_ros import cli
from loftr_ros.errors import InputError
from loftr_ros.evaluation.contenders import Setup, make

_MODULE = "loftr_ros.evaluation.contender_process"


class ContenderProcess:
    """Runs one contender whenever it is asked to; used as a context manager.

    Args:
        name, work: of the contender, see contenders.make.
        setup: what it works on.

    Raises:
        InputError: the contender failed.
    """

    def __init__(self, name: str, work: str, setup: Setup) -> None:
        self.name, self.work = name, work
        self._setup = setup

    def __enter__(self) -> ContenderProcess:
        self._stack = ExitStack()
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        np.savez(folder / "images.npz", image0=self._setup.image0, image1=self._setup.image1)
        (folder / "setup.json").write_text(json.dumps([self._setup.weights, self._setup.device, self._setup.precision]))
        self._errors = self._stack.enter_context((folder / "errors.txt").open("w+"))
        self._process = subprocess.Popen(
            [sys.executable, "-m", _MODULE, self.name, self.work, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=cli.environment(),
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()  # the end of its orders is its end
        self._process.stdout.close()
        self._process.wait()
        self._stack.close()

    def run(self) -> tuple[float, int]:
        """Seconds of one run, and how many matches it found."""
        seconds, matches = self._ask("run")
        return float(seconds), int(matches)

    def peak_mib(self) -> float | None:
        """High-water mark of its resident memory in MiB, or of the GPU's where it uses one; None: nobody tells."""
        (peak,) = self._ask("peak")
        return None if peak is None else round(float(peak), 1)

    def _ask(self, order: str) -> list[float | None]:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(order + "\n")
            self._process.stdin.flush()
            answer: list[float | None] = json.loads(self._process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            self._process.wait()
            self._errors.seek(0)
            lines = self._errors.read().strip().splitlines()
            raise InputError(f"{self.name} failed: {lines[-1].rstrip('.') if lines else 'without a word'}.") from None
        return answer


@contextmanager
def processes(named: Sequence[tuple[str, str]], setup: Setup) -> Iterator[list[ContenderProcess]]:
    """A process for each (name, work)."""
    with ExitStack() as stack:
        yield [stack.enter_context(ContenderProcess(name, work, setup)) for name, work in named]


def serve(name: str, work: str, folder: Path, orders: TextIO, answers: TextIO) -> None:
    """The other side: obey orders until they end."""
    with np.load(folder / "images.npz", allow_pickle=False) as images:
        setup = Setup(images["image0"], images["image1"], *json.loads((folder / "setup.json").read_text()))
    contender = next(each for each in make(name, setup) if each.work == work)
    for order in orders:
        started = time.perf_counter()
        values = [_high_water_mark()] if order.strip() == "peak" else [contender.run()]
        if order.strip() == "run":
            values = [time.perf_counter() - started, *values]
        print(json.dumps(values), file=answers, flush=True)


def _high_water_mark() -> float | None:
    """Not getrusage: its number is never below that of the process which started this one."""
    if torch.cuda.is_available() and torch.cuda.max_memory_reserved():
        return torch.cuda.max_memory_reserved() / 2**20
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), None)


if __name__ == "__main__":
    channel, sys.stdout = sys.stdout, sys.stderr  # what others print is no answer
    serve(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.stdin, channel)
