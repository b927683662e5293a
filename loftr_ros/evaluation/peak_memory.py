"""Largest memory of a process that does nothing but one contender's work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import loftr_ros
from loftr_ros.evaluation.contenders import Setup, make

_RUNS = 3


def peak_mib(name: str, work: str, setup: Setup) -> float | None:
    """High-water mark of the resident memory, MiB, of a fresh process; None where the system does not tell."""
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "images.npz", image0=setup.image0, image1=setup.image1)
        (Path(folder) / "setup.json").write_text(json.dumps([setup.weights, setup.device, setup.precision]))
        # Where this package was imported from, the fresh process finds it too.
        root = str(Path(loftr_ros.__file__).parent.parent)
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
        result = subprocess.run(
            [sys.executable, "-m", __spec__.name if __spec__ else __name__, name, work, folder],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
    try:
        return round(float(result.stdout.split()[-1]), 1)
    except (IndexError, ValueError):
        return None


def main(name: str, work: str, folder: Path) -> int:
    """The fresh process."""
    with np.load(folder / "images.npz") as images:
        setup = Setup(images["image0"], images["image1"], *json.loads((folder / "setup.json").read_text()))
    contender = next(each for each in make(name, setup) if each.work == work)
    for _ in range(_RUNS):
        contender.run()
    print(_high_water_mark())
    return 0


def _high_water_mark() -> float | None:
    """Not getrusage: its number is never below that of the process which started this one."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
