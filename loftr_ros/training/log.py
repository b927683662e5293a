# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""The log of a training: a CSV file, and a picture of its curves."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from loftr_ros.errors import InputError
from loftr_ros.files import write_bytes_atomically

_PANELS = (
    ("coarse", "negative", "teacher", "fine", "refinement"),
    ("precision", "recall", "within_1px"),
    ("median_error", "calibration"),
)


def append_row(path: Path, row: dict[str, float]) -> None:
    """Add a line, under a header when the file is new."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        file.write(_lines([row], header=new))  # at once, so that a kill leaves whole lines


def read_rows(path: Path) -> list[dict[str, float]]:
    """The lines of a log; one that a crash has cut off is left out. Raises InputError."""
    if not path.exists():
        return []
    try:
        text = path.read_text()
        whole = text[: text.rfind("\n") + 1]
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(io.StringIO(whole))]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise InputError(f"The log {path} cannot be read: {error}.") from None


def drop_rows_after(path: Path, step: int) -> None:
    """Forget what came after the checkpoint that a run resumes from."""
    rows = [row for row in read_rows(path) if row["step"] <= step]
    if rows:
        write_bytes_atomically(path, _lines(rows, header=True).encode())
    else:
        path.unlink(missing_ok=True)


def _lines(rows: Sequence[dict[str, float]], header: bool) -> str:
    """As CSV."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    if header:
        writer.writeheader()
    writer.writerows({key: f"{value:.6g}" for key, value in row.items()} for row in rows)
    return text.getvalue()


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
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    write_bytes_atomically(picture, drawn.getvalue())
