# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""The benchmark: its arithmetic, and that it measures what it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support import is_one_sentence, pinhole, texture

from loftr_ros import cli
from loftr_ros.errors import InputError
from loftr_ros.evaluation import benchmark, contenders
from loftr_ros.evaluation.benchmark import Report, Score, Share, ratios, tables
from loftr_ros.evaluation.contender_process import processes
from loftr_ros.evaluation.contenders import PAIR, TRACKED, Setup
from loftr_ros.evaluation.odometry_times import instrumented, stopwatch_for
from loftr_ros.evaluation.stopwatch import Stopwatch, Times
from loftr_ros.matching import load_matcher
from loftr_ros.odometry.window import Window


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self, monkeypatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def work(self, seconds: float) -> None:
        self.now += seconds


def test_a_stage_is_timed_without_the_stages_inside_it(monkeypatch):
    clock, watch = Clock(monkeypatch), Stopwatch()
    inner = watch.timed("inner", clock.work)
    watch.next_frame()
    with watch.stage("outer"):
        clock.work(1)
        inner(2)
        with watch.stage("middle"):
            inner(3)
            clock.work(4)
        clock.work(5)
    watch.next_frame()
    inner(7)
    assert watch.frames == [{"inner": 5, "middle": 4, "outer": 6}, {"inner": 7}]


def test_a_stage_that_fails_is_timed_too(monkeypatch):
    clock, watch = Clock(monkeypatch), Stopwatch()
    with watch.stage("outer"):
        with pytest.raises(ValueError), watch.stage("inner"):
            clock.work(1)
            raise ValueError
        clock.work(2)
    assert watch.frames == [{"inner": 1, "outer": 2}]


def test_a_device_is_waited_for_before_every_reading(monkeypatch):
    clock = Clock(monkeypatch)
    watch = Stopwatch(wait=lambda: clock.work(0.5))
    with watch.stage("stage"):
        clock.work(1)
    assert watch.frames == [{"stage": 1.5}]


def test_times_are_medians_and_percentiles_in_milliseconds():
    assert Times.of([0.001 * i for i in range(1, 102)]) == Times(51.0, 96.0, 101)


def test_all_stages_of_a_tracked_frame_are_seen_and_left_as_they_were():
    matcher, image = load_matcher("tiny", device="cpu"), texture(96, 128, 40)
    adjusting, watch = Window.adjust, stopwatch_for(matcher)
    keyframe = matcher.extract(image)
    with instrumented(matcher, watch):
        matcher.match_features(keyframe, matcher.extract(image))
    assert set(watch.frames[0]) == {"upload", "backbone", "coarse", "match", "fine", "download"}
    assert min(watch.frames[0].values()) > 0
    assert Window.adjust is adjusting and "extract" not in vars(matcher) and "refine" not in vars(matcher.network)


def test_contenders_take_turns_and_slow_ones_fewer():
    calls = []

    def run(name: str, seconds: float, matches: int):
        return lambda: (calls.append(name), (seconds, matches))[1]

    found = benchmark.time_runs([run("a", 0.5, 7), run("b", 3.0, 9)], 16, quiet=True)
    assert found == [(Times(500.0, 500.0, 16), 7), (Times(3000.0, 3000.0, 4), 9)]
    assert calls == ["a", "b"] * 2 + ["a", "a", "b"] * 4 + ["a", "a"] * 12  # a quick one has a run of its own before


@pytest.mark.parametrize("name", ["kornia", "kornia-autocast", "xfeat", "xfeat-10k"])
def test_contenders_of_others_need_their_packages(name, monkeypatch):
    monkeypatch.setattr(contenders.importlib.util, "find_spec", lambda module: None)
    assert not contenders.available(name)
    assert contenders.available("tiny") and contenders.available("sift")


def test_recordings_of_another_shape_lose_their_edges():
    rows, columns, camera = benchmark.centre(pinhole(540, 360), (640, 480))
    assert (rows, columns) == (slice(0, 360), slice(30, 510)) and (camera.width, camera.height) == (480, 360)
    point = np.array([[0.1, -0.2, 1.0]])
    moved = pinhole(540, 360).project(point) - camera.project(point)
    np.testing.assert_allclose(moved, [[30, 0]], atol=1e-9)


def score(name: str, work: str, median: float, peak: float | None = None) -> Score:
    return Score(name, work, Times(median, median, 5), 100, peak)


SCORES = [
    score("tiny", TRACKED, 100.0, 300.0),
    score("tiny", PAIR, 150.0),
    score("outdoor", TRACKED, 2000.0),
    score("kornia LoFTR outdoor", PAIR, 7000.0, 1500.4),
    score("sift", PAIR, 130.0),
]


def test_ratios_are_pairs_of_others_over_our_tracked_frames():
    assert ratios(SCORES) == {
        "tiny": {"kornia LoFTR outdoor": 70.0, "sift": 1.3},
        "outdoor": {"kornia LoFTR outdoor": 3.5, "sift": 0.07},
    }


def test_the_tables_hold_the_numbers():
    share = Share("640x480", 4800, 30.0, 120.0, 25.0)
    text = tables(Report({"cpu": "X", "gpu": None}, [], SCORES, ratios(SCORES), [share]))
    assert text.startswith("cpu X.")
    assert "| kornia LoFTR outdoor | pair | 7000.0 | 7000.0 | 5 | 100 | 1500 | 70.0 | 3.5 |" in text
    assert "| tiny | tracked frame | 100.0 | 100.0 | 5 | 100 | 300 |  |  |" in text
    assert "| 640x480 | 4800 | 30.0 | 120.0 | 25 % |" in text


def test_a_contender_has_a_process_and_a_memory_of_its_own():
    small, large = texture(64, 64, 41), texture(4000, 4000, 42)
    ballast = np.ones(60_000_000)  # of this process: 458 MiB that are not the contenders'
    with processes([("orb", PAIR)], Setup(small, small, {}, "cpu")) as (one,):
        seconds, matches = one.run()
        peak = one.peak_mib()
    with processes([("orb", PAIR)], Setup(large, small, {}, "cpu")) as (other,):
        slower, _ = other.run()
        larger = other.peak_mib()
    assert slower > seconds > 0 and matches == len(load_matcher("orb").match(small, small))
    assert peak is None or larger is None or (50 < peak < 458 * ballast[0] and larger > peak + 30)


def test_a_contender_that_fails_says_why():
    image = texture(64, 64, 41)
    with (
        pytest.raises(InputError, match="tiny failed: .*does not exist"),
        processes([("tiny", PAIR)], Setup(image, image, {"tiny": "/nowhere.safetensors"}, "cpu")) as (broken,),
    ):
        broken.run()


def test_our_outdoor_size_and_kornia_get_the_same_weights(tmp_path):
    pytest.importorskip("kornia")
    whole = texture(104, 144, 43)
    image0, image1 = whole[:96, :128].copy(), whole[8:, 16:].copy()
    weights = {"outdoor": benchmark.random_weights(tmp_path, image0)}
    setup = Setup(image0, image1, weights, "cpu")
    counts = [contender.run() for name in ("outdoor", "kornia") for contender in contenders.make(name, setup)]
    assert len(counts) == 3 and len(set(counts)) == 1 and counts[0] > 10


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> tuple[str, dict]:
    """The command itself, in a process of its own."""
    file = tmp_path_factory.mktemp("benchmark") / "times.json"
    arguments = ["--contenders", "orb,sift", "--pair-size", "160x120", "--sizes", "160x120", "--frames", "10"]
    command = [sys.executable, "-m", "loftr_ros.evaluation.benchmark", *arguments, "--repeats", "3", "--quiet"]
    root = Path(__file__).parent.parent
    result = subprocess.run(
        [*command, "--device", "cpu", "--json", str(file)],
        capture_output=True,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout, json.loads(file.read_text())


def test_the_command_measures_odometry_and_contenders(report):
    text, numbers = report
    odometry = numbers["odometry"][0]
    assert odometry["size"] == "160x120" and odometry["frames"] == 10 and odometry["matcher"] == "tiny"
    stages = odometry["stages"]
    assert {"upload", "backbone", "coarse", "match", "fine", "download", "pose"} <= set(stages)
    assert sum(stage["median"] for stage in stages.values()) == pytest.approx(odometry["frame"]["median"], rel=0.5)
    assert [(s["name"], s["times"]["count"]) for s in numbers["scores"]] == [("orb", 3), ("sift", 3)]
    assert all(s["peak_mib"] is None or s["peak_mib"] > 50 for s in numbers["scores"])
    assert numbers["machine"]["threads"] >= 1 and "| whole frame |" in text


@pytest.mark.parametrize("arguments", [["--frames", "3"], ["--repeats", "1"], ["nowhere"], ["--precision", "float8"]])
def test_bad_arguments_get_one_sentence(arguments, capsys):
    assert cli.run(benchmark.main, [*arguments, "--contenders", "none", "--quiet", "--matcher", "orb"]) == 2
    assert is_one_sentence(capsys.readouterr().err.strip())
