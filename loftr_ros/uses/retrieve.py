# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""`retrieve`: which images of a folder show the place of a query image?"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from loftr_ros import cli
from loftr_ros.errors import InputError
from loftr_ros.evaluation.sequences import read_colour, read_image
from loftr_ros.files import write_image
from loftr_ros.pictures import Picture, caption
from loftr_ros.uses.inputs import add_matcher_arguments, images_in, matcher_of
from loftr_ros.uses.retrieval import FolderIndex, Place, default_file, load, save, search, update

_THUMBNAIL = (400, 300)  # most width and height


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="retrieve", description=__doc__)
    parser.add_argument("query", type=Path, metavar="QUERY", help="an image")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder of images")
    parser.add_argument("--top", type=int, default=5, metavar="K", help="how many to show (5)")
    parser.add_argument("--shortlist", type=int, default=10, metavar="N", help="how many to verify by matching (10)")
    parser.add_argument("--index", type=Path, metavar="FILE", help=".npz to keep the descriptors in (user's cache)")
    parser.add_argument("--output", type=Path, default=Path("retrieve.png"), metavar="FILE", help="contact sheet")
    parser.add_argument("--json", action="store_true", help="print the results as JSON instead of a table")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    add_matcher_arguments(parser, max_side=320)
    return parser


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    if options.top < 1 or options.shortlist < 0:
        raise InputError("--top must be at least 1, and --shortlist at least 0.")
    colour = read_colour(options.query)
    folder = options.folder / "images" if (options.folder / "images").is_dir() else options.folder
    files, matcher = images_in(folder), matcher_of(options)
    # 1. The index: only new and changed images are described
    file = options.index or default_file(folder)
    index, described = update(
        files,
        matcher,
        load(file),
        tell=lambda text: print(f"left out: {text}", file=sys.stderr),
        each=lambda missing: cli.progress(missing, len(missing), "index", options.quiet or not missing),
    )
    if not index.names:
        raise InputError(f"None of the images in {folder} can be read.")
    if described:
        _keep(index, file, wanted=options.index is not None)
    # 2. The search
    started = time.perf_counter()
    places = search(index, folder, matcher, read_image(options.query), options.top, options.shortlist)
    seconds = time.perf_counter() - started
    # 3. Results
    if options.json:
        print(json.dumps([dataclasses.asdict(place) for place in places], indent=2))
    else:
        print(f"index of {len(index.names)} images in {file} ({described} described now)")
        print(f"{_table(places)}\n{seconds:.2f} s for the search")
    write_image(options.output, contact_sheet(colour, options.query.name, folder, places))
    if not options.json:
        print(f"contact sheet in {options.output}")
    return 0


def _keep(index: FolderIndex, file: Path, wanted: bool) -> None:
    """Save the index. Where that fails, the search goes on, unless the user has named the file. Raises InputError."""
    try:
        save(index, file)
    except InputError as error:
        if wanted:
            raise
        print(f"the index is not kept: {error}", file=sys.stderr)


def _table(places: list[Place]) -> str:
    width = max(len(place.name) for place in places)
    lines = [f"{'':>3} {'image':<{width}} score inliers alike"]
    for rank, place in enumerate(places, 1):
        number = "    -" if place.score is None else f"{place.score:5.3f}"
        lines.append(f"{rank:>3} {place.name:<{width}} {number} {place.inliers:>7} {place.alike:5.3f}")
    return "\n".join(lines)


def contact_sheet(query: NDArray[np.uint8], name: str, folder: Path, places: list[Place], columns: int = 3) -> Picture:
    """The query and what was found, with names and scores."""
    images = [_thumbnail(query), *(_thumbnail(read_colour(folder / place.name)) for place in places)]
    texts = [f"query {name}"]
    for rank, place in enumerate(places, 1):
        told = "not verified" if place.score is None else f"{place.score:.2f}"
        texts.append(f"{rank}: {place.name}  {told}")
    height = max(len(image) for image in images)
    cells = [_cell(image, text, height) for image, text in zip(images, texts)]
    columns = min(columns, len(cells))
    cells += [np.zeros_like(cells[0])] * (-len(cells) % columns)
    rows = [np.concatenate(cells[i : i + columns], axis=1) for i in range(0, len(cells), columns)]
    return np.concatenate(rows)


def _thumbnail(image: NDArray[np.uint8]) -> Picture:
    scale = min(_THUMBNAIL[0] / image.shape[1], _THUMBNAIL[1] / image.shape[0])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _cell(image: Picture, text: str, height: int) -> Picture:
    """A thumbnail in the middle of a cell, under its caption."""
    cell = np.zeros((height, _THUMBNAIL[0], 3), np.uint8)
    top, left = (height - image.shape[0]) // 2, (_THUMBNAIL[0] - image.shape[1]) // 2
    cell[top : top + image.shape[0], left : left + image.shape[1]] = image
    return np.concatenate([caption(text, _THUMBNAIL[0]), cell])


def entry_point() -> int:
    return cli.run(main)


if __name__ == "__main__":
    sys.exit(entry_point())
