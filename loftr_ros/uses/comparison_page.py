# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""A comparison as one HTML page that needs nothing else: its pictures are in it."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence

import cv2
import numpy as np

from loftr_ros.pictures import Picture
from loftr_ros.uses.comparison import Outcome, Pair

_JPEG_QUALITY = 82
_STYLE = """
:root { color-scheme: light dark; --line: #8886; --faint: #8882; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 1500px; padding: 1.2rem; }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .6rem; }
table { border-collapse: collapse; } th, td { padding: .25rem .8rem; border-bottom: 1px solid var(--line); }
th { text-align: left; } td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 560px), 1fr)); gap: 1rem; }
figure { margin: 0; border: 1px solid var(--line); border-radius: 6px; overflow: hidden; }
figure img { display: block; width: 100%; height: auto; }
figcaption { padding: .5rem .8rem; background: var(--faint); } figcaption b { margin-right: .8rem; }
.note { opacity: .75; } .best { font-weight: 700; }
"""


def page(pairs: Sequence[Pair], outcomes: Sequence[Sequence[Outcome]], missing: dict[str, str]) -> str:
    """The HTML.

    Args:
        outcomes: of each pair, one of each matcher in the same order.
        missing: matchers that could not be had, and why.
    """
    count = "1 pair" if len(pairs) == 1 else f"{len(pairs)} pairs"
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
        f"<title>Matchers compared</title><style>{_STYLE}</style></head><body>",
        f"<h1>Matchers compared on {count}</h1>",
        '<p class="note">All see the same images, and the same estimator (MAGSAC, essential matrix) judges them. '
        "Lines: inliers from dark (unsure) to yellow (sure), outliers red. Times: features of both images and their "
        "matching, the fastest of three runs.</p>",
        _summary(outcomes),
        _missing(missing),
    ]
    for pair, row in zip(pairs, outcomes):
        parts.append(f'<section><h2>{html.escape(pair.name)}</h2><div class="cards">')
        parts += [_card(outcome, pair) for outcome in row]
        parts.append("</div></section>")
    return "\n".join([*parts, "</body></html>"])


def _summary(outcomes: Sequence[Sequence[Outcome]]) -> str:
    """A table of medians; the least error and time and the most inliers are bold."""
    columns = list(zip(*outcomes))
    values = [
        (
            _median([o.matches for o in column]),
            _median([o.inliers for o in column]),
            _median([100 * o.inliers / max(o.matches, 1) for o in column]),
            _median([o.rotation_deg for o in column]),
            _median([o.direction_deg for o in column]),
            _median([o.milliseconds for o in column]),
        )
        for column in columns
    ]
    # (heading, digits, whether less is better; None: neither)
    kinds = [
        ("matches", 0, None),
        ("inliers", 0, False),
        ("inliers, %", 0, False),
        ("rotation error, &deg;", 2, True),
        ("direction error, &deg;", 2, True),
        ("ms", 0, True),
    ]
    best = [_best([row[k] for row in values], less) for k, (_, _, less) in enumerate(kinds)]
    head = "".join(f'<th class="number">{heading}</th>' for heading, _, _ in kinds)
    lines = []
    for column, row in zip(columns, values):
        cells = "".join(
            f'<td class="number{" best" if value is not None and value == best[k] else ""}">'
            f"{_number(value, kinds[k][1])}</td>"
            for k, value in enumerate(row)
        )
        lines.append(f"<tr><td>{html.escape(column[0].matcher)}</td>{cells}</tr>")
    title = "medians" if len(outcomes) > 1 else "matcher"
    return f'<div class="scroll"><table><tr><th>{title}</th>{head}</tr>{"".join(lines)}</table></div>'


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def _best(values: Sequence[float | None], less: bool | None) -> float | None:
    known = [value for value in values if value is not None]
    if less is None or len(known) < 2:
        return None
    return min(known) if less else max(known)


def _number(value: float | None, digits: int) -> str:
    return "&ndash;" if value is None else f"{value:.{digits}f}"


def _missing(missing: dict[str, str]) -> str:
    lines = [f"<li><b>{html.escape(name)}</b>: {html.escape(reason)}</li>" for name, reason in missing.items()]
    return f'<p class="note">Not compared:</p><ul class="note">{"".join(lines)}</ul>' if lines else ""


def _card(outcome: Outcome, pair: Pair) -> str:
    words = [f"{outcome.matches} matches", f"{outcome.inliers} inliers"]
    if outcome.found_pose is False:
        words.append("no pose")
    elif outcome.rotation_deg is not None and outcome.direction_deg is not None:
        words.append(f"rotation off by {outcome.rotation_deg:.2f}&deg;, direction by {outcome.direction_deg:.2f}&deg;")
    words.append(f"{outcome.milliseconds:.0f} ms")
    name = html.escape(outcome.matcher)
    return (
        f'<figure><img alt="matches of {name} on {html.escape(pair.name)}" src="{_embedded(outcome.picture)}">'
        f"<figcaption><b>{name}</b>{' &middot; '.join(words)}</figcaption></figure>"
    )


def _embedded(picture: Picture) -> str:
    content = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1]
    return "data:image/jpeg;base64," + base64.b64encode(content.tobytes()).decode()
