# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""report.html: a run on one page that needs nothing else, neither files nor a network."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from loftr_ros.evaluation.metrics import Aligned, Errors
from loftr_ros.evaluation.trajectory import Trajectory
from loftr_ros.files import write_bytes_atomically
from loftr_ros.types import Array, Estimate, MotionState

STATE_COLOURS = {
    MotionState.INITIALIZING: "#9aa5b1",
    MotionState.OK: "#3f9b57",
    MotionState.STATIC: "#4c78a8",
    MotionState.PURE_ROTATION: "#72b7b2",
    MotionState.LOW_PARALLAX: "#eeca3b",
    MotionState.FEW_MATCHES: "#f58518",
    MotionState.LOST: "#d62f2f",
}
_ESTIMATE, _TRUTH, _ERROR = "#2f6db5", "#8a8a8a", "#c8442d"


@dataclass(frozen=True)
class Story:
    """What a report tells.

    Attributes:
        metrics: as in metrics.json; its values become the table of results, "config" that of the settings.
        estimates: of all frames.
        milliseconds: of all frames.
        inliers: number of inliers of each frame; empty where it is not known.
        trajectory: the poses [4, 4] of the camera in the first camera's frame.
        errors, aligned: against ground truth; or None.
        pictures: [(stamp_ns, JPEG)] of matches.
        command: what was typed.
    """

    metrics: dict[str, Any]
    estimates: Sequence[Estimate]
    milliseconds: Sequence[float]
    trajectory: Trajectory
    errors: Errors | None = None
    aligned: Aligned | None = None
    inliers: Sequence[int] = ()
    pictures: Sequence[tuple[int, bytes]] = field(default_factory=list)
    command: str = ""


def write_report(path: Path, story: Story) -> None:
    """Write the page whole or not at all. Raises InputError where that is impossible."""
    write_bytes_atomically(path, page(story).encode())


def page(story: Story) -> str:
    """The page's HTML."""
    from plotly.offline import get_plotlyjs  # slow to load

    charts = [(title, _chart(name, figure)) for name, title, figure in _figures(story)]
    sections = "".join(f"<section><h2>{title}</h2>{chart}</section>" for title, chart in charts)
    return _PAGE.format(
        title=html.escape(Path(str(story.metrics.get("input", "run"))).name or "run"),
        input=html.escape(str(story.metrics.get("input", ""))),
        headline=_headline(story),
        script=get_plotlyjs(),
        charts=sections,
        pictures=_pictures(story),
        results=_table({k: v for k, v in story.metrics.items() if k not in ("config", "command")}),
        command=html.escape(story.command) or "not known",
        settings=_table(story.metrics.get("config", {})) or "<p>The node did not tell them.</p>",
    )


def _headline(story: Story) -> str:
    """The few numbers that matter."""
    shown = {"frames": str(len(story.estimates)), "with a pose": str(len(story.trajectory.poses))}
    if story.milliseconds:
        shown["median per frame"] = f"{np.median(story.milliseconds):.0f} ms"
    if story.errors is not None:
        shown["ATE, Sim(3)"] = f"{story.errors.ate_sim3_rmse_m:.3f} m"
        shown["ATE, SE(3)"] = f"{story.errors.ate_se3_rmse_m:.3f} m"
        shown["RPE per frame"] = f"{story.errors.rpe_rotation_rmse_deg:.3f}°"
        shown["travelled"] = f"{story.errors.path_length_m:.1f} m"
    return "".join(f"<div><b>{value}</b><span>{name}</span></div>" for name, value in shown.items())


def _figures(story: Story) -> list[tuple[str, str, Any]]:
    """(id, title, plotly figure) of each chart that the story has data for."""
    figures = [("top", "From above", _top_view(story)), ("space", "In space", _in_space(story))]
    if story.aligned is not None:
        figures.append(("error", "Position error over time", _error(story.aligned)))
    if story.estimates:
        figures.append(("states", "States over time", _states(story.estimates)))
        if len(story.inliers) == len(story.estimates):
            figures.append(("inliers", "Inliers over time", _inliers(story.estimates, story.inliers)))
    if story.milliseconds:
        figures.append(("timing", "Time per frame", _timing(story.milliseconds)))
    return figures


def _chart(name: str, figure: Any) -> str:
    figure.update_layout(
        template="plotly_white",
        margin={"l": 60, "r": 20, "t": 40, "b": 45},
        legend={"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom"},
        height=380,
    )
    config = {"displayModeBar": False, "responsive": True}
    chart: str = figure.to_html(full_html=False, include_plotlyjs=False, div_id=name, config=config)
    return chart


def _lines(story: Story) -> list[tuple[str, Array, dict[str, Any]]]:
    """(name, positions [N, 3], line) of the trajectories."""
    if story.aligned is not None:
        return [
            ("ground truth", story.aligned.truth, {"color": _TRUTH, "dash": "dash"}),
            ("estimate, aligned", story.aligned.estimate, {"color": _ESTIMATE}),
        ]
    positions = np.array([pose[:3, 3] for pose in story.trajectory.poses]).reshape(-1, 3)
    return [("estimate", positions, {"color": _ESTIMATE})]


def _plane(story: Story) -> tuple[int, int]:
    """The axes of the view from above: without ground truth the first camera's x and z."""
    return (0, 2) if story.aligned is None else story.aligned.ground_axes


def _top_view(story: Story) -> Any:
    from plotly import graph_objects

    figure = graph_objects.Figure()
    first, second = _plane(story)
    for name, positions, line in _lines(story):
        x, y = positions[:, first].tolist(), positions[:, second].tolist()
        figure.add_scatter(x=x, y=y, mode="lines", name=name, line=line)
    name, positions, _ = _lines(story)[0]
    if len(positions):
        figure.add_scatter(
            x=positions[:1, first].tolist(), y=positions[:1, second].tolist(), mode="markers", name="start",
            marker={"color": "#222", "size": 9},
        )  # fmt: skip
    unit = "m" if story.aligned is not None or story.metrics.get("metric") else "units of the map"
    figure.update_xaxes(title=f"{'xyz'[first]} [{unit}]")
    figure.update_yaxes(title=f"{'xyz'[second]} [{unit}]", scaleanchor="x", scaleratio=1)
    return figure


def _in_space(story: Story) -> Any:
    from plotly import graph_objects

    figure = graph_objects.Figure()
    for name, positions, line in _lines(story):
        x, y, z = positions.T.tolist()
        figure.add_scatter3d(x=x, y=y, z=z, mode="lines", name=name, line={**line, "width": 4})
    figure.update_layout(scene=_proportions(np.concatenate([positions for _, positions, _ in _lines(story)])))
    if story.aligned is None:  # the camera's y axis points down
        figure.update_layout(scene_camera={"up": {"x": 0, "y": -1, "z": 0}, "eye": {"x": 0.8, "y": -1.4, "z": -1.2}})
    return figure


def _proportions(positions: Array) -> dict[str, Any]:
    """Axes of one scale that hold all positions [N, 3] in view; a flat trajectory gets some height all the same."""
    if len(positions) == 0:
        return {}
    low, high = positions.min(axis=0), positions.max(axis=0)
    widest = max(float((high - low).max()), 1e-6)
    sides = np.maximum(1.05 * (high - low), 0.15 * widest)
    axes = {
        f"{name}axis": {"range": [float(middle - side / 2), float(middle + side / 2)]}
        for name, middle, side in zip("xyz", (low + high) / 2, sides)
    }
    ratio = {name: float(1.2 * side / sides.max()) for name, side in zip("xyz", sides)}
    return {**axes, "aspectmode": "manual", "aspectratio": ratio}


def _error(aligned: Aligned) -> Any:
    from plotly import graph_objects

    distance = np.linalg.norm(aligned.truth - aligned.estimate, axis=1)
    figure = graph_objects.Figure()
    times = aligned.times.tolist()
    figure.add_scatter(x=times, y=distance.tolist(), mode="lines", line={"color": _ERROR}, name="error")
    figure.update_xaxes(title="time [s]")
    figure.update_yaxes(title="error [m]", rangemode="tozero")
    return figure


def state_spans(estimates: Sequence[Estimate]) -> list[tuple[MotionState, float, float]]:
    """(state, start, duration) in seconds since the first frame, of frames in a row with one state."""
    times = (np.array([e.stamp_ns for e in estimates]) - estimates[0].stamp_ns) * 1e-9
    period = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
    ends = [*times[1:].tolist(), float(times[-1]) + period]
    spans: list[tuple[MotionState, float, float]] = []
    for estimate, start, end in zip(estimates, times.tolist(), ends):
        if spans and spans[-1][0] is estimate.state:
            state, since, _ = spans[-1]
            spans[-1] = (state, since, end - since)
        else:
            spans.append((estimate.state, start, end - start))
    return spans


def _states(estimates: Sequence[Estimate]) -> Any:
    from plotly import graph_objects

    figure = graph_objects.Figure()
    spans = state_spans(estimates)
    for state in dict.fromkeys(span[0] for span in spans):
        own = [span for span in spans if span[0] is state]
        figure.add_bar(
            x=[duration for _, _, duration in own], base=[start for _, start, _ in own], y=[state.value] * len(own),
            orientation="h", name=state.value, marker={"color": STATE_COLOURS[state]}, showlegend=False,
            hovertemplate="%{base:.2f} s, for %{x:.2f} s",
        )  # fmt: skip
    figure.update_layout(barmode="overlay")
    figure.update_xaxes(title="time [s]")
    return figure


def _inliers(estimates: Sequence[Estimate], inliers: Sequence[int]) -> Any:
    from plotly import graph_objects

    times = (np.array([e.stamp_ns for e in estimates]) - estimates[0].stamp_ns) * 1e-9
    keyframes = [i for i, e in enumerate(estimates) if e.is_keyframe]
    figure = graph_objects.Figure()
    figure.add_scatter(x=times.tolist(), y=list(inliers), mode="lines", line={"color": _ESTIMATE}, name="inliers")
    figure.add_scatter(
        x=times[keyframes].tolist(), y=[inliers[i] for i in keyframes], mode="markers", name="new keyframe",
        marker={"color": "#222", "size": 6, "symbol": "triangle-up"},
    )  # fmt: skip
    figure.update_xaxes(title="time [s]")
    figure.update_yaxes(title="inliers", rangemode="tozero")
    return figure


def _timing(milliseconds: Sequence[float]) -> Any:
    from plotly import graph_objects

    figure = graph_objects.Figure()
    figure.add_histogram(x=list(milliseconds), nbinsx=50, marker={"color": _ESTIMATE}, name="frames")
    figure.add_vline(x=float(np.median(milliseconds)), line={"color": "#222", "dash": "dot"}, annotation_text="median")
    figure.update_xaxes(title="milliseconds a frame", rangemode="tozero")
    figure.update_yaxes(title="frames")
    return figure


def _pictures(story: Story) -> str:
    if not story.pictures:
        return ""
    start = story.estimates[0].stamp_ns if story.estimates else story.pictures[0][0]
    figures = "".join(
        f'<figure><img alt="matches" src="data:image/jpeg;base64,{base64.b64encode(data).decode()}">'
        f"<figcaption>{(stamp - start) * 1e-9:.2f} s</figcaption></figure>"
        for stamp, data in story.pictures
    )
    return f'<section><h2>Matches with the keyframe</h2><div class="pictures">{figures}</div></section>'


def _table(values: dict[str, Any]) -> str:
    pairs = ((html.escape(str(key)), html.escape(_shown(value))) for key, value in values.items())
    rows = "".join(f"<tr><th>{key}</th><td>{value}</td></tr>" for key, value in pairs)
    return f"<table>{rows}</table>" if rows else ""


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    if isinstance(value, (bool, tuple, list)):
        return json.dumps(value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}: visual odometry</title>
<link rel="icon" href="data:,">
<style>
html {{ overflow-y: scroll; }}
body {{ font: 15px/1.5 system-ui, sans-serif; color: #1c2733; background: #f4f6f8; margin: 0; }}
main {{ max-width: 1240px; margin: 0 auto; padding: 20px; }}
h1 {{ font-size: 24px; margin: 0; overflow-wrap: anywhere; }}
h2 {{ font-size: 16px; margin: 0 0 8px; }}
.headline {{ display: flex; flex-wrap: wrap; gap: 12px; margin: 16px 0; }}
.headline div {{ background: #fff; border-radius: 8px; padding: 10px 18px; }}
.headline b {{ display: block; font-size: 20px; }}
.headline span {{ color: #5b6a79; }}
.grid {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(520px, 100%), 1fr)); gap: 16px; }}
section {{ background: #fff; border-radius: 8px; padding: 14px; margin: 0; min-width: 0; }}
main > section {{ margin-top: 16px; }}
.pictures {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(360px, 100%), 1fr)); gap: 12px; }}
figure {{ margin: 0; }}
img {{ width: 100%; display: block; }}
figcaption {{ color: #5b6a79; }}
table {{ border-collapse: collapse; font-size: 14px; }}
th {{ text-align: left; font-weight: 500; color: #5b6a79; padding: 2px 18px 2px 0; vertical-align: top; }}
td {{ font-family: ui-monospace, monospace; overflow-wrap: anywhere; }}
pre {{ background: #f4f6f8; padding: 10px; border-radius: 6px; white-space: pre-wrap; overflow-wrap: anywhere; }}
</style>
<script>{script}</script>
</head>
<body>
<main>
<h1>{input}</h1>
<div class="headline">{headline}</div>
<div class="grid">{charts}</div>
{pictures}
<section><h2>Command</h2><pre>{command}</pre></section>
<section><h2>Results</h2>{results}</section>
<section><h2>Settings</h2>{settings}</section>
</main>
</body>
</html>
"""
