# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""The log of a training: a CSV file, and a picture of its curves."""

from __future__ import annotations

import csv
from pathlib import Path

_PANELS = (
    ("coarse", "negative", "fine", "refinement"),
    ("precision", "recall", "within_1px"),
    ("median_error", "calibration"),
)


def append_row(path: Path, row: dict[str, float]) -> None:
    """Add a line, under a header when the file is new."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(row))
        if new:
            writer.writeheader()
        writer.writerow({key: f"{value:.6g}" for key, value in row.items()})


def read_rows(path: Path) -> list[dict[str, float]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def drop_rows_after(path: Path, step: int) -> None:
    """Forget what came after the checkpoint that a run resumes from."""
    rows = [row for row in read_rows(path) if row["step"] <= step]
    path.unlink(missing_ok=True)
    for row in rows:
        append_row(path, row)


def plot(csv_path: Path, picture: Path) -> None:
    """Draw losses and validation scores against the step."""
    from matplotlib.figure import Figure

    rows = read_rows(csv_path)
    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots(1, 3)
    for axis, names in zip(axes, _PANELS):
        for name in names:
            axis.plot([row["step"] for row in rows], [row[name] for row in rows], label=name)
        axis.set_xlabel("step")
        axis.grid(True, alpha=0.3)
        axis.legend()
    temporary = picture.with_name(picture.name + ".part.png")
    figure.savefig(temporary)
    temporary.replace(picture)
