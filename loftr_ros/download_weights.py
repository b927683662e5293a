# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""`download_weights`: fetch the official LoFTR checkpoints."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tqdm import tqdm

from loftr_ros import cli
from loftr_ros.errors import WeightsError
from loftr_ros.loftr.weights import DOWNLOADS, download, weights_folder


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="download_weights", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {' '.join(DOWNLOADS)} (default: all)")
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in DOWNLOADS:
            raise WeightsError(f"There is no download called '{name}'; there are {', '.join(DOWNLOADS)}.")
    for name in options.names or list(DOWNLOADS):
        with tqdm(desc=name, unit="B", unit_scale=True) as bar:
            path = download(name, progress=lambda done, total: _show(bar, done, total))
        print(f"{name}: {path}")
    print(f"weights are kept in {weights_folder()}")
    return 0


def _show(bar: tqdm, done: int, total: int) -> None:
    bar.total = total or None
    bar.update(done - bar.n)


def entry_point() -> int:
    return cli.run(main)


if __name__ == "__main__":
    sys.exit(entry_point())
