# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""`attention`: what a cell of image A looks at in A and in B, layer by layer, and what the transformer adds."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from loftr_ros import cli
from loftr_ros.errors import InputError
from loftr_ros.evaluation.sequences import read_colour
from loftr_ros.files import write_image
from loftr_ros.pictures import Picture, caption
from loftr_ros.types import Image
from loftr_ros.uses.attention_weights import ImageCells, Passage, follow, principal_colours
from loftr_ros.uses.inputs import add_matcher_arguments, matcher_of

_MARK = (255, 255, 255)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="attention", description=__doc__)
    parser.add_argument("image0", type=Path, metavar="A", help="an image")
    parser.add_argument("image1", type=Path, metavar="B", help="another one")
    parser.add_argument("--at", type=float, nargs=2, metavar=("X", "Y"), help="pixel of A (the surest match)")
    parser.add_argument("--layer", type=int, metavar="N", help="only this layer, from 1 on (all)")
    parser.add_argument("--output", type=Path, default=Path("attention.png"), metavar="FILE", help="(attention.png)")
    parser.add_argument("--width", type=int, default=1600, metavar="PX", help="of the picture (1600)")
    add_matcher_arguments(parser)
    return parser


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    if not 200 <= options.width <= 16384:
        raise InputError(f"--width must be from 200 to 16384, not {options.width}.")
    matcher = matcher_of(options)
    grey0, grey1 = (cv2.cvtColor(read_colour(p), cv2.COLOR_BGR2GRAY) for p in (options.image0, options.image1))
    passage = follow(matcher, grey0, grey1)
    layers = _chosen_layers(options.layer, len(passage.layers))
    cell = surest_cell(passage) if options.at is None else passage.cells0.cell_at(*options.at)
    write_image(options.output, attention_picture(grey0, grey1, passage, cell, layers, options.width))
    x, y = passage.cells0.pixel_of(cell)
    best = int(passage.matching([cell])[0].argmax())
    print(f"cell at pixel {x:.0f} {y:.0f} of A; the matching's peak is at {_at(passage.cells1, best)} of B")
    for k in layers:
        print(_layer_text(passage, k, cell))
    print(f"picture in {options.output}")
    return 0


def _chosen_layers(layer: int | None, count: int) -> list[int]:
    if layer is None:
        return list(range(count))
    if not 1 <= layer <= count:
        raise InputError(f"--layer must be {'1' if count == 1 else f'from 1 to {count}'}, not {layer}.")
    return [layer - 1]


def surest_cell(passage: Passage) -> int:
    """The cell of image 0 whose matching is the most certain."""
    count = passage.cells0.after.shape[1]
    rows = passage.matching(list(range(count))).max(axis=1)
    if passage.cells0.mask is not None:
        rows = np.where(passage.cells0.mask[0].cpu().numpy(), rows, 0.0)
    return int(rows.argmax())


def _at(cells: ImageCells, cell: int) -> str:
    return "{:.0f} {:.0f}".format(*cells.pixel_of(cell))


def _layer_text(passage: Passage, layer: int, cell: int) -> str:
    """Where each head of a layer looks most, and over how many cells it spreads (the exponential of the entropy)."""
    weights = passage.weights(layer, [cell])[:, 0].astype(np.float64)
    name = passage.layers[layer].name
    cells = passage.cells0 if name == "self" else passage.cells1
    entropy = -np.sum(weights * np.log(np.maximum(weights, 1e-300)), axis=1)
    heads = ", ".join(f"{_at(cells, int(w.argmax()))} (~{np.exp(e):.0f})" for w, e in zip(weights, entropy))
    return f"layer {layer + 1} ({name}), peak of each head (spread over ~N of {weights.shape[1]} cells): {heads}"


def attention_picture(
    image0: Image, image1: Image, passage: Passage, cell: int, layers: list[int], width: int
) -> Picture:
    """The chosen cell and its match; features before and after the transformer; then a row for each layer.

    The titles of the layers tell the largest weight as a multiple of an even spread over all cells.
    """
    cells0, cells1 = passage.cells0, passage.cells1
    here = cells0.pixel_of(cell)
    before, after = passage.matching([cell], before=True)[0], passage.matching([cell])[0]
    there = cells1.pixel_of(int(after.argmax()))
    rows = [
        _row(
            [
                (_marked(_colour(image0), here), "A: the cell"),
                (_marked(overlay(image1, cells1, before), there), "B: matching before the transformer"),
                (_marked(overlay(image1, cells1, after), there), "B: matching after it (circle: its peak)"),
            ],
            width,
        ),
        _row(_feature_panels(passage), width),
    ]
    for k in layers:
        name = passage.layers[k].name
        image, cells, mark = (image0, cells0, here) if name == "self" else (image1, cells1, there)
        weights = passage.weights(k, [cell])[:, 0]
        panels = [(weights.mean(axis=0), "all heads"), *((w, f"head {h}") for h, w in enumerate(weights, 1))]
        letter = "A" if name == "self" else "B"
        titles = [f"{k + 1} {name}, over {letter}, {text}: {w.max() * len(w):.1f}x" for w, text in panels]
        rows.append(_row([(_marked(overlay(image, cells, w), mark), t) for (w, _), t in zip(panels, titles)], width))
    return np.concatenate(rows)


def _feature_panels(passage: Passage) -> list[tuple[Picture, str]]:
    panels = []
    for kind in ("before", "after"):
        features = [getattr(c, kind)[0].float().cpu().numpy() for c in (passage.cells0, passage.cells1)]
        for cells, colours, letter in zip((passage.cells0, passage.cells1), principal_colours(features), "AB"):
            panels.append((cells.spread(colours), f"{letter}: features {kind} the transformer"))
    return panels


def overlay(image: Image, cells: ImageCells, weights: NDArray[np.float32]) -> Picture:
    """Weights of the cells, [L], as a heat map over an image: dark violet for the least, yellow for the most."""
    low, high = float(weights.min()), float(np.percentile(weights, 99.9))
    levels = np.clip(255 * (weights - low) / max(high - low, 1e-30), 0, 255).astype(np.uint8)
    heat = cv2.applyColorMap(cells.spread(levels), cv2.COLORMAP_INFERNO)
    return cv2.addWeighted(_colour(image), 0.35, heat, 0.65, 0)


def _colour(image: Image) -> Picture:
    return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)


def _marked(picture: Picture, at: tuple[float, float]) -> Picture:
    picture = picture.copy()
    centre = (round(at[0]), round(at[1]))
    radius = max(6, max(picture.shape[:2]) // 50)
    for colour, thickness in (((0, 0, 0), 4), (_MARK, 2)):
        cv2.circle(picture, centre, radius, colour, thickness, cv2.LINE_AA)
    return picture


def _row(panels: list[tuple[Picture, str]], width: int) -> Picture:
    """Panels side by side, each under its title; the row is `width` wide and as high as its highest panel."""
    edges = np.linspace(0, width, len(panels) + 1).astype(int)
    cells = []
    for (picture, title), left, right in zip(panels, edges, edges[1:]):
        size = (int(right - left), max(1, round(picture.shape[0] * (right - left) / picture.shape[1])))
        small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        cells.append(np.concatenate([caption(title, size[0]), small]))
    height = max(len(cell) for cell in cells)
    return np.concatenate([_extended(cell, height) for cell in cells], axis=1)


def _extended(picture: Picture, height: int) -> Picture:
    return cv2.copyMakeBorder(picture, 0, height - len(picture), 0, 0, cv2.BORDER_CONSTANT)


def entry_point() -> int:
    return cli.run(main)


if __name__ == "__main__":
    sys.exit(entry_point())
