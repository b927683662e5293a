# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Judges a long run of the node: does its memory grow, does it become slower, does it leave the state OK?"""

from __future__ import annotations

import dataclasses
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from loftr_ros.errors import InputError
from loftr_ros.files import write_bytes_atomically
from loftr_ros.types import Array, MotionState

_SHOWN = 5
_ON_THE_WAY = 2  # calls that the end of the run may leave unanswered
_PAGE = 1024.0
MEMORY = ("rss_mb", "pss_mb", "uss_mb")


@dataclass(frozen=True)
class Usage:
    """What a process holds at a moment.

    Attributes:
        seconds: since the run began.
        rss_mb, pss_mb, uss_mb: memory in MiB: resident, shared pages by their share, and unshared pages only.
        threads, files: how many it has open.
        cpu_s: computing time so far, of all its threads.
    """

    seconds: float
    rss_mb: float
    pss_mb: float
    uss_mb: float
    threads: int
    files: int
    cpu_s: float


@dataclass(frozen=True)
class Answer:
    """What came back for a frame.

    Attributes:
        seconds: since the run began.
        latency_ms: from the image's arrival in the node to the end of its processing.
        client_ms: from sending the image to hearing its status.
        received, dropped: images so far, as the node counts them; dropped for newer ones, or because they came late.
        age_ms: from the image's stamp to when its turn came; None where the clocks cannot be compared.
        overhead_ms: that the node took for it beside the odometry: conversion, publishing.
    """

    seconds: float
    state: MotionState
    reason: str
    keyframe: bool
    latency_ms: float
    client_ms: float
    received: int
    dropped: int
    age_ms: float | None = None
    overhead_ms: float = 0.0


@dataclass(frozen=True)
class Limits:
    """What a run may show at most.

    Attributes:
        growth_mb: growth of memory.
        rise: growth of the 99th percentile of the latency, as a share of it.
        age_ms: largest age of a frame when it is processed.
        overhead_ms: median of the node's time for a frame beside the odometry.
        reply_ms: longest time until a service or a question for a parameter is answered.
    """

    growth_mb: float = 5.0
    rise: float = 0.2
    age_ms: float = 200.0
    overhead_ms: float = 4.0
    reply_ms: float = 50.0


@dataclass
class Record:
    """A run of `seconds`.

    Attributes:
        is_live: the stamps are the times at which the frames were sent.
        usage: of the node, about once a second.
        answers: of the node.
        asked: number of calls of services and questions for parameters; replies_ms: until they were answered.
        sent: number of frames.
    """

    seconds: float
    is_live: bool = True
    usage: list[Usage] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    asked: int = 0
    replies_ms: list[float] = field(default_factory=list)
    sent: int = 0

    @property
    def window_s(self) -> float:
        """What is compared: a minute; a fifth of short runs."""
        return min(60.0, self.seconds / 5)


@dataclass(frozen=True)
class Finding:
    """One line of the verdict."""

    name: str
    text: str
    ok: bool


def usage_of(pid: int, seconds: float) -> Usage:
    """Of a running process, from /proc. Raises InputError where that does not tell."""
    process = Path(f"/proc/{pid}")
    try:
        lines = (line.split() for line in (process / "smaps_rollup").read_text().splitlines())
        mib = {words[0].rstrip(":"): int(words[1]) / _PAGE for words in lines if words[-1] == "kB"}
        # Behind the name, which may hold spaces: field 3 on.
        stat = (process / "stat").read_text().rpartition(")")[2].split()
        files = len(list((process / "fd").iterdir()))
    except (OSError, ValueError) as error:
        raise InputError(f"The memory of process {pid} cannot be read: {error}.") from None
    return Usage(
        seconds=seconds,
        rss_mb=mib.get("Rss", 0.0),
        pss_mb=mib.get("Pss", 0.0),
        uss_mb=mib.get("Private_Clean", 0.0) + mib.get("Private_Dirty", 0.0),
        threads=int(stat[17]),
        files=files,
        cpu_s=(int(stat[11]) + int(stat[12])) / 100,
    )


def judge(record: Record, limits: Limits) -> list[Finding]:
    """Raises InputError for a run too short, or too poor in answers, to be judged."""
    found = [_memory(record, limits), *_latencies(record, limits), *_ages(record, limits), _overhead(record, limits)]
    return [*found, *_replies(record, limits), _states(record), _frames(record)]


def _memory(record: Record, limits: Limits) -> Finding:
    """The level right after two windows against the one at the end, each the median over half a window."""
    half = record.window_s / 2
    begin, end = (_near(record.usage, start, start + half) for start in (2 * record.window_s, record.seconds - half))
    if not begin or not end:
        raise InputError("The run was too short to judge the memory.")
    levels = {name: [_median([getattr(u, name) for u in part]) for part in (begin, end)] for name in MEMORY}
    growth = {name: after - before for name, (before, after) in levels.items()}
    text = ", ".join(f"{n[:3].upper()} {levels[n][0]:.1f} -> {levels[n][1]:.1f} ({growth[n]:+.2f}) MB" for n in MEMORY)
    return Finding(
        "memory",
        f"after {2 * record.window_s:.0f} s: {text}; at most +{limits.growth_mb:g} MB",
        max(growth.values()) < limits.growth_mb,
    )


def _latencies(record: Record, limits: Limits) -> list[Finding]:
    """The last window against the second one."""
    window = record.window_s
    begin = _between(record.answers, window, 2 * window)
    end = _between(record.answers, record.seconds - window, record.seconds)
    if not begin or not end:
        raise InputError("The node answered too rarely to judge its latency.")
    found = []
    for name, key in (("latency", "latency_ms"), ("latency seen by the client", "client_ms")):
        before, after = (_p99([getattr(a, key) for a in part]) for part in (begin, end))
        found.append(
            Finding(
                name,
                f"99th percentile {before:.1f} ms in the second {window:.0f} s, {after:.1f} ms in the last "
                f"({after / before - 1:+.0%}); at most {limits.rise:+.0%}",
                after <= (1 + limits.rise) * before,
            )
        )
    return found


def _ages(record: Record, limits: Limits) -> list[Finding]:
    if not record.is_live:
        return []
    ages = [a.age_ms for a in record.answers if a.age_ms is not None]
    if not ages:
        return [Finding("age of the processed frames", "not known", False)]
    text = f"{_spread(ages)}; at most {limits.age_ms:g} ms"
    return [Finding("age of the processed frames", text, max(ages) <= limits.age_ms)]


def _overhead(record: Record, limits: Limits) -> Finding:
    spent = [a.overhead_ms for a in record.answers]
    text = f"{_spread(spent)}; at most {limits.overhead_ms:g} ms in the median"
    return Finding("conversion and publishing", text, _median(spent) <= limits.overhead_ms)


def _replies(record: Record, limits: Limits) -> list[Finding]:
    if not record.asked:
        return []
    missing = record.asked - len(record.replies_ms)
    text = f"{record.asked} calls, {missing} without an answer"
    if record.replies_ms:
        text += f", {_spread(record.replies_ms)}; at most {limits.reply_ms:g} ms"
    ok = missing <= _ON_THE_WAY and max(record.replies_ms, default=np.inf) <= limits.reply_ms
    return [Finding("services and parameters", text, bool(ok))]


def _spread(values: Sequence[float]) -> str:
    return f"median {_median(values):.1f}, 99th percentile {_p99(values):.1f}, largest {max(values):.1f} ms"


def _states(record: Record) -> Finding:
    other = not_ok(record.answers)
    counts = Counter(a.state.value for a in other)
    text = ", ".join(f"{count} {state}" for state, count in counts.most_common()) or "none"
    for a in other[:_SHOWN]:
        text += f"\n    {a.seconds:.1f} s: {a.state.value}: {a.reason}"
    started = any(a.state is MotionState.OK for a in record.answers)
    return Finding("states other than OK", text if started else "never OK", started and not other)


def not_ok(answers: Sequence[Answer]) -> list[Answer]:
    """Those in another state than OK, after the first OK."""
    first = next((i for i, a in enumerate(answers) if a.state is MotionState.OK), len(answers))
    return [a for a in answers[first:] if a.state is not MotionState.OK]


def _frames(record: Record) -> Finding:
    """How many were lost is told, not judged: it follows from the rate and the machine."""
    last = record.answers[-1]
    return Finding(
        "frames",
        f"{record.sent} sent, {last.received} received, {last.dropped} dropped for newer ones, "
        f"{len(record.answers)} answers, {sum(a.keyframe for a in record.answers)} keyframes",
        True,
    )


def _between(items: Sequence[Any], start: float, end: float) -> list[Any]:
    return [item for item in items if start <= item.seconds <= end]


def _near(items: Sequence[Usage], start: float, end: float) -> list[Usage]:
    """Those between two times, or the nearest one: a node that answers slowly holds up the measuring as well."""
    inside, middle = _between(items, start, end), (start + end) / 2
    if inside or not items:
        return inside
    nearest = min(items, key=lambda item: abs(item.seconds - middle))
    return [nearest] if abs(nearest.seconds - middle) < 2 * (end - start) else []


def _median(values: Sequence[float]) -> float:
    return float(np.median(values))


def _p99(values: Sequence[float]) -> float:
    return float(np.percentile(values, 99))


def table(record: Record) -> list[dict[str, float]]:
    """By window: medians of memory, percentiles of latency, and counts."""
    rows = []
    window = record.window_s
    for i in range(round(record.seconds / window)):
        answers = _between(record.answers, i * window, (i + 1) * window)
        usage = _between(record.usage, i * window, (i + 1) * window)
        if not answers or not usage:
            continue
        rows.append(
            {
                "from_s": round(i * window, 1),
                "answers": len(answers),
                "keyframes": sum(a.keyframe for a in answers),
                **{f"p{p}_ms": round(float(np.percentile([a.latency_ms for a in answers], p)), 1) for p in (50, 99)},
                "max_ms": round(max(a.latency_ms for a in answers), 1),
                "client_p99_ms": round(_p99([a.client_ms for a in answers]), 1),
                **{name: round(_median([getattr(u, name) for u in usage]), 2) for name in MEMORY},
            }
        )
    return rows


def contents(record: Record, findings: Sequence[Finding], about: dict[str, Any]) -> dict[str, Any]:
    """All of it, as JSON takes it: lists by name rather than objects."""
    return {
        **about,
        "passed": all(f.ok for f in findings),
        "findings": [dataclasses.asdict(f) for f in findings],
        "table": table(record),
        "sent": record.sent,
        "asked": record.asked,
        "replies_ms": record.replies_ms,
        "usage": _columns(record.usage),
        "answers": _columns(record.answers),
    }


def _columns(items: Sequence[Any]) -> dict[str, list[Any]]:
    if not items:
        return {}
    return {f.name: [getattr(item, f.name) for item in items] for f in dataclasses.fields(items[0])}


def plot(path: Path, record: Record) -> None:
    """Write a PNG of memory, latency and states over time. Raises InputError where it cannot be written."""
    from matplotlib.figure import Figure  # no display and no global state needed

    figure = Figure(figsize=(11, 8), dpi=110, layout="constrained")
    memory, latency, states = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1))
    _plot_memory(memory, record)
    _plot_latency(latency, record)
    names = [state.value for state in MotionState]
    times = np.array([a.seconds for a in record.answers])
    states.plot(times, [names.index(a.state.value) for a in record.answers], ".", markersize=3, color="tab:green")
    states.set(yticks=range(len(names)), yticklabels=names, xlabel="time [s]")
    states.tick_params(axis="y", labelsize=6)
    for axes in (memory, latency, states):
        axes.grid(alpha=0.3)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write_bytes_atomically(path, picture.getvalue())


def _plot_memory(axes: Any, record: Record) -> None:
    times = [u.seconds for u in record.usage]
    for name in MEMORY:
        axes.plot(times, [getattr(u, name) for u in record.usage], label=name[:3].upper())
    axes.axvline(2 * record.window_s, linestyle="--", color="0.6")
    axes.set(ylabel="memory [MB]")
    axes.legend()


def _plot_latency(axes: Any, record: Record) -> None:
    times: Array = np.array([a.seconds for a in record.answers])
    values: Array = np.array([a.latency_ms for a in record.answers])
    keyframes = np.array([a.keyframe for a in record.answers], bool)
    axes.plot(times[~keyframes], values[~keyframes], ".", markersize=2, color="tab:blue", label="frames")
    axes.plot(times[keyframes], values[keyframes], ".", markersize=3, color="tab:orange", label="keyframes")
    rows = table(record)
    middle = [row["from_s"] + record.window_s / 2 for row in rows]
    axes.plot(middle, [row["p99_ms"] for row in rows], "o-", color="tab:red", label="99th percentile")
    axes.set(ylabel="latency [ms]", yscale="log")
    axes.legend()
