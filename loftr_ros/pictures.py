# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Pictures of matches. Needs OpenCV only."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from loftr_ros.types import Array, Estimate, Image, Matches

Picture = NDArray[np.uint8]  # [H, W, 3] bgr

_STATE_COLOURS = {"OK": (80, 200, 80), "LOST": (60, 60, 230), "FEW_MATCHES": (60, 60, 230)}
_OTHER_COLOUR = (60, 190, 240)
_OUTLIER = (90, 90, 220)
_MOST_LINES = 1500
_TEXT_SCALE = 0.5


def match_picture(keyframe: Image, frame: Image, estimate: Estimate, width: int) -> Picture:
    """Keyframe above frame (or left of it, for tall images) with its matches as flow lines, and the state in words.

    Inliers are coloured by confidence, outliers are red.

    Args:
        keyframe, frame: [H, W] grey.
        estimate: whose matches are drawn.
        width: of the picture in pixels.
    """
    beside = frame.shape[1] < 1.6 * frame.shape[0]
    panel_width = width // 2 if beside else width
    scale = panel_width / frame.shape[1]
    size = (panel_width, max(1, round(frame.shape[0] * scale)))
    panels = [
        cv2.cvtColor(cv2.resize(i, size, interpolation=cv2.INTER_AREA), cv2.COLOR_GRAY2BGR) for i in (keyframe, frame)
    ]
    _draw_matches(panels, estimate, scale)
    picture = np.concatenate(panels, axis=1 if beside else 0)
    return np.concatenate([_caption(estimate, picture.shape[1]), picture], axis=0)


def _draw_matches(panels: list[Picture], estimate: Estimate, scale: float) -> None:
    """Dots where the keypoints are, and in the frame a line from where each was in the keyframe."""
    matches, inliers = estimate.matches, estimate.inliers
    if len(matches) == 0:
        return
    colours = confidence_colours(matches)
    at0, at1 = _sixteenths(matches.points0, scale), _sixteenths(matches.points1, scale)
    every = max(1, len(matches) // _MOST_LINES)
    for i in range(0, len(matches), every):
        colour = colours[i] if inliers[i] else _OUTLIER
        start, end = tuple(at0[i].tolist()), tuple(at1[i].tolist())
        cv2.circle(panels[0], start, 32, colour, cv2.FILLED, cv2.LINE_AA, 4)
        cv2.line(panels[1], start, end, colour, 1, cv2.LINE_AA, 4)
        cv2.circle(panels[1], end, 24, colour, cv2.FILLED, cv2.LINE_AA, 4)


def confidence_colours(matches: Matches) -> list[list[int]]:
    """N colours (b, g, r), from dark blue for no confidence to yellow for full confidence."""
    levels = (np.clip(matches.confidence, 0, 1) * 255).astype(np.uint8)[:, None]
    return cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS)[:, 0].tolist() if len(matches) else []


def _sixteenths(points: Array, scale: float) -> NDArray[np.int64]:
    """Pixels of an image shrunk by `scale` as OpenCV draws them with shift=4."""
    return np.rint(((points + 0.5) * scale - 0.5) * 16).astype(np.int64)


def pair_picture(
    image0: NDArray[np.uint8],
    image1: NDArray[np.uint8],
    matches: Matches,
    inliers: NDArray[np.bool_] | None = None,
    width: int = 1600,
    most_lines: int = 300,
) -> Picture:
    """Two images side by side with lines between their matches: inliers coloured by confidence, outliers red.

    Args:
        image0, image1: [H, W] grey or [H, W, 3] bgr, of any sizes.
        inliers: [N] bool; None: all.
        width: of the picture in pixels; its height follows from the images.
        most_lines: an evenly spread choice of that many matches is drawn.
    """
    scale = width / (image0.shape[1] + image1.shape[1])
    panels = [_panel(image, scale) for image in (image0, image1)]
    picture = np.zeros((max(p.shape[0] for p in panels), panels[0].shape[1] + panels[1].shape[1], 3), np.uint8)
    picture[: panels[0].shape[0], : panels[0].shape[1]] = panels[0]
    picture[: panels[1].shape[0], panels[0].shape[1] :] = panels[1]
    inliers = np.ones(len(matches), bool) if inliers is None else inliers
    colours = confidence_colours(matches)
    at0, at1 = _sixteenths(matches.points0, scale), _sixteenths(matches.points1, scale)
    at1[:, 0] += 16 * panels[0].shape[1]
    chosen = np.unique(np.linspace(0, len(matches) - 1, min(len(matches), most_lines)).astype(int))
    for i in sorted(chosen, key=lambda i: bool(inliers[i])):  # outliers below
        colour, (start, end) = colours[i] if inliers[i] else _OUTLIER, (at0[i].tolist(), at1[i].tolist())
        cv2.line(picture, start, end, colour, 1, cv2.LINE_AA, 4)
        for point in (start, end):
            cv2.circle(picture, point, 32, colour, cv2.FILLED, cv2.LINE_AA, 4)
    return picture


def _panel(image: NDArray[np.uint8], scale: float) -> Picture:
    """The image in colours, resized."""
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return cv2.cvtColor(resized, cv2.COLOR_GRAY2BGR) if resized.ndim == 2 else resized


def caption(text: str, width: int, colour: tuple[int, int, int] = (230, 230, 230)) -> Picture:
    """A dark strip with a line of text, smaller where it would be too long."""
    strip = np.full((28, width, 3), 32, np.uint8)
    (length, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, _TEXT_SCALE, 1)
    scale = _TEXT_SCALE * min(1.0, max(width - 16, 1) / max(length, 1))
    cv2.putText(strip, text, (8, 19), cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1, cv2.LINE_AA)
    return strip


def _caption(estimate: Estimate, width: int) -> Picture:
    colour = _STATE_COLOURS.get(estimate.state.value, _OTHER_COLOUR)
    text = (
        f"{estimate.state.value}   {int(estimate.inliers.sum())} inliers of {len(estimate.matches)} matches"
        f"   parallax {estimate.parallax_deg:.1f} deg   {'metric' if estimate.metric else 'no metric scale'}"
    )
    return caption(text, width, colour)
