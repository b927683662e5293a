# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""The judge of long runs, and a short real one."""

from __future__ import annotations

import dataclasses
import json
import mmap
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest

from loftr_ros import cli
from loftr_ros.errors import InputError
from loftr_ros.evaluation.endurance import (
    Answer,
    Limits,
    Record,
    Usage,
    contents,
    judge,
    not_ok,
    plot,
    table,
    usage_of,
)
from loftr_ros.types import MotionState


def record(seconds=600.0, growth=0.0, rise=0.0, states=()) -> Record:
    """Ten answers a second of 20 ms, every 100th of 50 ms; memory and latency grow steadily over the run.

    states: by number of the answer, other ones than OK.
    """
    made = Record(seconds, sent=round(10 * seconds), asked=2, replies_ms=[3.0, 12.0])
    for second in range(round(seconds)):
        extra = growth * second / seconds
        made.usage.append(Usage(second, 200 + extra, 150 + extra, 120 + extra, 20, 18, 0.5 * second))
    for i in range(round(10 * seconds)):
        state = dict(states).get(i, MotionState.OK)
        latency = (50.0 if i % 50 == 0 else 20.0) * (1 + rise * i / (10 * seconds))
        made.answers.append(Answer(i / 10, state, "a reason", i % 50 == 0, latency, latency + 1, i + 1, 0, 15.0, 2.0))
    return made


def verdict(of: Record, limits: Limits | None = None) -> dict[str, bool]:
    return {finding.name: finding.ok for finding in judge(of, limits or Limits())}


PASSED = {
    "memory": True,
    "latency": True,
    "latency seen by the client": True,
    "age of the processed frames": True,
    "conversion and publishing": True,
    "services and parameters": True,
    "states other than OK": True,
    "frames": True,
}


def test_a_steady_run_passes():
    assert verdict(record()) == PASSED


@pytest.mark.parametrize("growth, ok", [(0.0, True), (6.6, True), (6.9, False), (60.0, False), (-60.0, True)])
def test_memory_may_grow_by_5_mb_after_minute_2(growth, ok):
    """Medians of half minutes after 135 s and at 585 s: 75 % of the growth over the whole run."""
    assert verdict(record(growth=growth)) == {**PASSED, "memory": ok}


@pytest.mark.parametrize("rise, ok", [(0.2, True), (0.3, False), (-0.5, True)])
def test_latency_may_rise_by_a_fifth_from_minute_2_to_minute_10(rise, ok):
    """Of a rise over the run, 80 % lie between these minutes."""
    assert verdict(record(rise=rise)) == {**PASSED, "latency": ok, "latency seen by the client": ok}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("age of the processed frames", {"age_ms": 201.0}),
        ("conversion and publishing", {"overhead_ms": 4.1}),
    ],
)
def test_one_old_frame_or_a_slow_node_is_told(name, change):
    made = record()
    slow = range(len(made.answers)) if "overhead_ms" in change else [70]
    for i in slow:
        made.answers[i] = dataclasses.replace(made.answers[i], **change)
    assert verdict(made) == {**PASSED, name: False}


def test_ages_that_are_not_known_are_told():
    made = record()
    made.answers = [dataclasses.replace(a, age_ms=None) for a in made.answers]
    assert verdict(made) == {**PASSED, "age of the processed frames": False}


def test_slow_replies_are_told():
    made = record()
    made.replies_ms.append(50.1)
    assert verdict(made) == {**PASSED, "services and parameters": False}


@pytest.mark.parametrize(("asked", "ok"), [(4, True), (5, False)])
def test_calls_that_are_never_answered_are_told(asked, ok):
    made = record()
    made.asked = asked
    assert verdict(made) == {**PASSED, "services and parameters": ok}


def test_ages_mean_nothing_where_stamps_are_not_times():
    made = record()
    made.is_live = False
    assert "age of the processed frames" not in verdict(made)


def test_limits_are_those_that_are_given():
    assert verdict(record(growth=60, rise=0.5), Limits(growth_mb=50, rise=0.5)) == PASSED
    assert not verdict(record(growth=4), Limits(growth_mb=2))["memory"]


def test_other_states_count_after_the_first_ok_only():
    start = dict.fromkeys(range(20), MotionState.INITIALIZING)
    assert verdict(record(states=start)) == PASSED
    broken = record(states={**start, 3000: MotionState.FEW_MATCHES, 3001: MotionState.FEW_MATCHES})
    assert verdict(broken) == {**PASSED, "states other than OK": False}
    assert [a.seconds for a in not_ok(broken.answers)] == [300.0, 300.1]
    (finding,) = (f for f in judge(broken, Limits()) if f.name == "states other than OK")
    assert finding.text.splitlines()[:2] == ["2 FEW_MATCHES", "    300.0 s: FEW_MATCHES: a reason"]


def test_a_run_that_was_never_ok_fails():
    never = record(seconds=20, states=dict.fromkeys(range(200), MotionState.INITIALIZING))
    assert verdict(never) == {**PASSED, "states other than OK": False}


@pytest.mark.parametrize("lost", ["usage", "answers"])
def test_too_little_to_judge_is_said(lost):
    poor = record(seconds=20)
    setattr(poor, lost, getattr(poor, lost)[:2])
    with pytest.raises(InputError, match=r"^(The run was too short|The node answered too rarely) .*\.$"):
        judge(poor, Limits())


def test_table_has_a_row_for_each_minute():
    rows = table(record(growth=10))
    assert [row["from_s"] for row in rows] == [60.0 * i for i in range(10)]
    first = rows[0]
    assert (first["p50_ms"], first["p99_ms"], first["max_ms"], first["client_p99_ms"]) == (20, 50, 50, 51)
    assert first["keyframes"] == 13 and first["answers"] == 601  # both ends
    np.testing.assert_allclose([row["rss_mb"] for row in rows], 200.5 + np.arange(10), atol=0.02)


def test_all_of_it_is_written(tmp_path):
    made = record(seconds=50)
    text = json.dumps(contents(made, judge(made, Limits()), {"command": "soak"}))
    read = json.loads(text)
    assert read["passed"] is True and read["command"] == "soak" and read["sent"] == 500
    assert read["usage"]["rss_mb"] == [200.0] * 50
    assert read["answers"]["latency_ms"][50] == 50.0 and read["answers"]["state"][3] == "OK"
    plot(tmp_path / "soak.png", made)
    height, width, _ = cv2.imread(str(tmp_path / "soak.png")).shape
    assert (height, width) == (880, 1210)


def test_usage_is_that_of_the_process():
    before = usage_of(os.getpid(), 1.5)
    block = mmap.mmap(-1, 60 << 20)  # the heap may have room enough
    for _ in range(60):
        block.write(b"\1" * (1 << 20))
    after = usage_of(os.getpid(), 2.5)
    assert before.seconds == 1.5
    for name in ("rss_mb", "pss_mb", "uss_mb"):
        assert 55 < getattr(after, name) - getattr(before, name) < 65
    assert after.rss_mb >= after.pss_mb >= after.uss_mb > 60
    with open(os.devnull):
        assert usage_of(os.getpid(), 0).files == after.files + 1
    assert after.threads >= 1 and after.cpu_s >= before.cpu_s and block[0:1] == b"\1"
    with pytest.raises(InputError, match=r"^The memory of process 4194305 cannot be read: .*\.$"):
        usage_of(4194305, 0)  # one more than there can be


def soak(output, *arguments: str) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("rclpy", reason="rclpy is not installed: the node needs ROS 2")
    command = [sys.executable, "-m", "loftr_ros.ros.soak", "--output", str(output), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, env=cli.environment())


BUSY = ["--overhead", "500", "--reply", "5000"]  # the machine may do other things as well


def test_a_short_soak(tmp_path):
    """Limits that the start of a node keeps: what it allocates once is no growth of a long run."""
    small = ["--matcher", "sift", "--rate", "0", "--seconds", "15", "--loop", "90", "--width", "320", "--height", "240"]
    loose = ["--growth", "100", "--rise", "20", *BUSY]
    done = soak(tmp_path / "out", *small, *loose, "--everything", "-p", "window:=3", "-p", "reliable:=true")
    assert done.returncode == 0, done.stdout + done.stderr
    read = json.loads((tmp_path / "out" / "soak.json").read_text())
    assert read["passed"] is True
    assert [f["name"] for f in read["findings"]][:2] == ["node", "memory"]
    assert len(read["answers"]["state"]) >= 5 and read["answers"]["state"][-1] == "OK"
    assert all(client > 0 for client in read["answers"]["client_ms"])
    assert all(50 < rss < 1000 for rss in read["usage"]["rss_mb"]) and len(read["usage"]["rss_mb"]) >= 5
    assert (tmp_path / "out" / "soak.png").stat().st_size > 10_000
    assert "Waiting for images on /soak/image" in (tmp_path / "out" / "node.log").read_text()
    assert len(read["replies_ms"]) >= 4 and all(0 < ms < 5000 for ms in read["replies_ms"])
    assert all(0 < overhead < 500 for overhead in read["answers"]["overhead_ms"])
    assert "ok   states other than OK: none" in done.stdout


def test_a_node_that_cannot_start_is_told(tmp_path):
    done = soak(tmp_path, "--loop", "60", "--width", "64", "--height", "64", "-p", "window:=0")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f"error: The node did not start; see {tmp_path / 'node.log'}."
    assert "window" in (tmp_path / "node.log").read_text()


@pytest.mark.parametrize("arguments", [["--seconds", "1"], ["--rate", "-1"], ["--loop", "5"], ["--width", "10"]])
def test_impossible_runs_are_refused(arguments, tmp_path):
    done = soak(tmp_path / "out", *arguments)
    assert done.returncode == 2 and done.stderr.startswith("error: A ") and not (tmp_path / "out").exists()
