# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""report.html, opened by a real browser without a network."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from loftr_ros.evaluation import replay
from loftr_ros.evaluation.album import Album
from loftr_ros.evaluation.render_room import write_sequence
from loftr_ros.evaluation.report import state_spans
from loftr_ros.synthetic.room import make_room, room_camera, round_trip
from loftr_ros.types import Estimate, MotionState

FRAMES = 14
# No network: a name that does not resolve for all hosts; WebGL without a GPU.
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND",
    "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--window-size=1280,2000",
)  # fmt: skip


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> Path:
    """The output of a replay of a rendered room."""
    folder = tmp_path_factory.mktemp("report")
    write_sequence(folder / "a <room> & more", make_room(room_camera(320, 240)), round_trip(FRAMES, share=0.15), 10.0)
    arguments = [str(folder / "a <room> & more"), "--output", str(folder / "out"), "--matcher", "sift", "--quiet"]
    assert replay.main(arguments) == 0
    return folder / "out"


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no browser: install chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    running = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield running
    running.quit()


@pytest.fixture(scope="module")
def page(browser, result):
    browser.get((result / "report.html").as_uri())
    browser.implicitly_wait(20)
    browser.find_element("css selector", "#timing .barlayer .point")
    return browser


def traces(page, name: str) -> list[dict]:
    """The data that a chart was drawn from, as the browser holds it."""
    script = """
        const list = values => Array.from(values ?? []);
        return document.getElementById(arguments[0]).data.map(
            t => ({name: t.name, type: t.type, x: list(t.x), y: list(t.y), z: list(t.z), base: list(t.base)}));"""
    return page.execute_script(script, name)


def test_it_loads_without_errors_and_without_a_network(page):
    assert [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"] == []
    loaded = page.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [name for name in loaded if not name.startswith("data:")] == []


def test_every_chart_is_drawn(page):
    for name in ("top", "error", "states", "inliers", "timing"):
        size = page.find_element("css selector", f"#{name} .main-svg").size
        assert size["width"] > 300 and size["height"] > 200
        shapes = f"#{name} .scatterlayer path, #{name} .barlayer .point path"
        assert page.find_elements("css selector", shapes), name
    pixels = page.execute_script(
        """const canvas = document.querySelector('#space canvas');
        const context = canvas.getContext('webgl2') || canvas.getContext('webgl');
        document.getElementById('space')._fullLayout.scene._scene.glplot.redraw();
        const data = new Uint8Array(4 * canvas.width * canvas.height);
        context.readPixels(0, 0, canvas.width, canvas.height, context.RGBA, context.UNSIGNED_BYTE, data);
        return new Set(new Uint32Array(data.buffer)).size;"""
    )
    assert pixels > 20  # colours: axes, text and lines, not an empty canvas


def test_no_chart_is_wider_than_its_place(page):
    widths = page.execute_script(
        "return Array.from(document.querySelectorAll('.plotly-graph-div')).map("
        "d => [d.id, d.querySelector('.main-svg').getBoundingClientRect().width, d.clientWidth])"
    )
    assert len(widths) >= 4 and all(250 < drawn <= place for _, drawn, place in widths), widths


def test_charts_show_the_numbers_of_the_run(page, result):
    metrics = json.loads((result / "metrics.json").read_text())
    truth, estimate, *_ = traces(page, "space")
    assert (truth["name"], estimate["name"]) == ("ground truth", "estimate, aligned")
    assert len(truth["x"]) == len(estimate["x"]) == metrics["matched_poses"]
    positions = [np.array([t["x"], t["y"], t["z"]]).T for t in (truth, estimate)]
    distance = np.linalg.norm(positions[0] - positions[1], axis=1)
    (error,) = traces(page, "error")
    np.testing.assert_allclose(error["y"], distance, rtol=1e-6)
    assert np.sqrt(np.mean(distance**2)) == pytest.approx(metrics["ate_sim3_rmse_m"], rel=1e-6)
    assert len(traces(page, "timing")[0]["x"]) == len(traces(page, "inliers")[0]["y"]) == FRAMES
    # Every moment has one state: the spans add up to the run.
    assert sum(sum(t["x"]) for t in traces(page, "states")) == pytest.approx(FRAMES * 0.1)
    assert {t["name"] for t in traces(page, "states")} == set(metrics["states"])


def test_it_says_the_command_the_settings_and_the_input(page, result):
    text = page.find_element("css selector", "main").text
    assert "replay '" in text and "--matcher sift --quiet" in text
    assert "a <room> & more" in page.find_element("css selector", "h1").text
    metrics = json.loads((result / "metrics.json").read_text())
    rows = page.find_elements("css selector", "section:last-of-type tr")
    assert len(rows) == len(metrics["config"])
    assert any(row.text.split() == ["matcher", "sift"] for row in rows)


def test_match_pictures_are_in_it(page):
    widths = page.execute_script("return Array.from(document.images).map(i => i.complete ? i.naturalWidth : 0)")
    assert len(widths) >= 4
    assert set(widths) == {720}


def test_the_page_needs_no_other_file(result):
    text = (result / "report.html").read_text()
    assert "http-equiv" not in text and 'src="http' not in text and '<link rel="stylesheet"' not in text


def test_without_plotly_the_rest_is_written(result, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    replay.save(replay.Run([Estimate(0, MotionState.LOST)], [5.0]), tmp_path, None, {})
    assert capsys.readouterr().err == "report.html is left out: it needs plotly (pip install plotly).\n"
    assert (tmp_path / "metrics.json").is_file()
    assert not (tmp_path / "report.html").exists()


def test_album_keeps_a_dozen_at_most_evenly_spread():
    album = Album()
    for i in range(200):
        if album.wants_next():
            album.add(i, np.full((4, 6, 3), i % 256, np.uint8))
    stamps = [stamp for stamp, _ in album.pages]
    assert 6 <= len(stamps) <= 12
    assert len(set(np.diff(stamps))) == 1
    assert stamps[0] == 0 and stamps[-1] >= 160


def test_states_in_a_row_are_one_span():
    states = [MotionState.INITIALIZING, MotionState.OK, MotionState.OK, MotionState.LOST]
    estimates = [Estimate(i * 500_000_000, state) for i, state in enumerate(states)]
    assert state_spans(estimates) == [
        (MotionState.INITIALIZING, 0.0, 0.5),
        (MotionState.OK, 0.5, 1.0),
        (MotionState.LOST, 1.5, 0.5),
    ]
