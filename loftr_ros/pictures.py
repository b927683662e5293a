"""Pictures of matches. Needs OpenCV only."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from loftr_ros.types import Estimate, Image

Picture = NDArray[np.uint8]  # [H, W, 3] bgr

_STATE_COLOURS = {"OK": (80, 200, 80), "LOST": (60, 60, 230), "FEW_MATCHES": (60, 60, 230)}
_OTHER_COLOUR = (60, 190, 240)
_OUTLIER = (90, 90, 220)
_MOST_LINES = 1500


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
    colours = cv2.applyColorMap(
        (np.clip(matches.confidence, 0, 1) * 255).astype(np.uint8)[:, None], cv2.COLORMAP_VIRIDIS
    )[:, 0].tolist()
    # OpenCV draws at 1/16 pixel with shift=4.
    at0 = np.rint(((matches.points0 + 0.5) * scale - 0.5) * 16).astype(int)
    at1 = np.rint(((matches.points1 + 0.5) * scale - 0.5) * 16).astype(int)
    every = max(1, len(matches) // _MOST_LINES)
    for i in range(0, len(matches), every):
        colour = colours[i] if inliers[i] else _OUTLIER
        start, end = tuple(at0[i].tolist()), tuple(at1[i].tolist())
        cv2.circle(panels[0], start, 32, colour, cv2.FILLED, cv2.LINE_AA, 4)
        cv2.line(panels[1], start, end, colour, 1, cv2.LINE_AA, 4)
        cv2.circle(panels[1], end, 24, colour, cv2.FILLED, cv2.LINE_AA, 4)


def _caption(estimate: Estimate, width: int) -> Picture:
    strip = np.full((28, width, 3), 32, np.uint8)
    colour = _STATE_COLOURS.get(estimate.state.value, _OTHER_COLOUR)
    text = (
        f"{estimate.state.value}   {int(estimate.inliers.sum())} inliers of {len(estimate.matches)} matches"
        f"   parallax {estimate.parallax_deg:.1f} deg   {'metric' if estimate.metric else 'no metric scale'}"
    )
    cv2.putText(strip, text, (8, 19), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, 1, cv2.LINE_AA)
    return strip
