# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""What SECURITY.md claims: no code from data, no shell, no network unless asked, no file outside its folder."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import texture

from loftr_ros import cli
from loftr_ros.config import OutputConfig
from loftr_ros.errors import ConfigError, InputError
from loftr_ros.evaluation.render_room import write_sequence
from loftr_ros.evaluation.trajectory import Trajectory
from loftr_ros.synthetic.room import make_room, room_camera, round_trip

ROOT = Path(__file__).parent.parent
SOURCES = sorted(
    [*(ROOT / "loftr_ros").rglob("*.py"), *(ROOT / "launch").glob("*.py"), *(ROOT / "scripts").glob("*.py")]
)

# Calls that run a text or bytes as code, or give them to a shell.
CODE = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "subprocess.getoutput"),
    *("subprocess.getstatusoutput", "runpy.run_path", "torch.hub.load", "yaml.load", "yaml.unsafe_load"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads", "shelve.open", "joblib.load"),
}
# What keeps these from running code, and must stand in every call of them.
GUARDED = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
}
NETWORK = {"socket", "ssl", "http", "urllib", "requests", "aiohttp", "ftplib", "smtplib", "websockets", "httpx", "grpc"}
PROCESSES = {"subprocess", "multiprocessing", "pty"}
MAY_USE_THE_NETWORK = {"loftr_ros/loftr/weights.py"}
MAY_START_PROCESSES = {
    "loftr_ros/evaluation/contender_process.py",
    "loftr_ros/ros/soak.py",
    "scripts/mutate.py",
    "scripts/odometry_table.py",
}


def dotted(node: ast.AST) -> str:
    """`a.b.c` of a name or an attribute; "" for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and dotted(node.value):
        return f"{dotted(node.value)}.{node.attr}"
    return ""


def dangerous(source: str) -> list[str]:
    """The calls that may run code from data, or give a text to a shell."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module in ("pickle", "marshal", "shelve", "torch.hub"):
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        keywords = {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)}
        if name in CODE or keywords.get("shell"):
            found.append(name)
        if name in GUARDED and keywords.get(GUARDED[name][0]) is not GUARDED[name][1]:
            found.append(name)
    return found


def imported(source: str) -> set[str]:
    """Top-level names of all that a source imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


def names_of(files) -> set[str]:
    return {str(path.relative_to(ROOT)) for path in files}


@pytest.mark.parametrize(
    "source, calls",
    [
        ("eval(text)", ["eval"]),
        ("import os\nos.system(text)", ["os.system"]),
        ("subprocess.run(text, shell=True)", ["subprocess.run"]),
        ("subprocess.run([program], shell=False)", []),
        ("network.eval()", []),
        ("torch.load(path)", ["torch.load"]),
        ("torch.load(path, weights_only=False)", ["torch.load"]),
        ("torch.load(path, weights_only=True)", []),
        ("np.load(path, allow_pickle=False)", []),
        ("np.load(path, allow_pickle=True)", ["np.load"]),
        ("from pickle import loads", ["pickle.loads"]),
        ("re.compile(pattern)", []),
    ],
)
def test_the_check_sees_what_it_should(source, calls):
    assert dangerous(source) == calls


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_runs_code_from_data_or_a_shell(path):
    assert dangerous(path.read_text()) == []


def test_only_the_download_of_weights_uses_the_network():
    assert names_of(p for p in SOURCES if imported(p.read_text()) & NETWORK) == MAY_USE_THE_NETWORK


def test_only_known_places_start_processes():
    assert names_of(p for p in SOURCES if imported(p.read_text()) & PROCESSES) == MAY_START_PROCESSES


EVENTS = ("socket.connect", "socket.getaddrinfo", "socket.bind", "urllib.Request", "os.system", "pickle.find_class")
# An audit hook hears of every connection, name look-up, new process and unpickled global of an interpreter.
WATCHED = """
import json, sys
heard = []
def hook(event, arguments):
    if event in {events}:
        heard.append([event, repr(arguments)])
sys.addaudithook(hook)
{code}
print("HEARD", json.dumps(heard))
"""
NODE = """
import numpy as np, rclpy
from loftr_ros.ros.node import VisualOdometryNode
rclpy.init()
values = [rclpy.Parameter("extrinsics", value=[0.0] * 6 + [1.0])]
node = VisualOdometryNode(namespace="watched", parameter_overrides=values)
node.start()
matches = node._matcher.match(*np.load({images!r}, allow_pickle=False))
node.close()
print("MATCHES", len(matches))
"""


def watched(code: str) -> tuple[list[list[str]], str]:
    """What a fresh interpreter does with the network, shells and pickles while it runs some code; and its output."""
    command = [sys.executable, "-c", WATCHED.format(events=EVENTS, code=code)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT, env=cli.environment()
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.split("HEARD ")[1]), done.stdout


def test_the_watch_hears_of_connections_and_pickles():
    code = "import pickle, socket, contextlib\npickle.loads(pickle.dumps(ValueError))\n"
    code += "with contextlib.suppress(OSError): socket.create_connection(('127.0.0.1', 9), timeout=1)"
    events = [event for event, _ in watched(code)[0]]
    assert {"pickle.find_class", "socket.getaddrinfo", "socket.connect"} == set(events)


def test_the_node_starts_and_matches_without_network_shell_or_pickle(tmp_path):
    """Beside what DDS does in C++, which is ROS's own."""
    pytest.importorskip("rclpy", reason="rclpy is not installed: the node needs ROS 2")
    image = texture(240, 320)
    np.save(tmp_path / "images.npy", np.stack([image, np.roll(image, 8, axis=1)]))
    heard, output = watched(NODE.format(images=str(tmp_path / "images.npy")))
    assert int(re.search(r"MATCHES (\d+)", output)[1]) > 100
    assert heard == []


def test_replay_needs_no_network(tmp_path):
    room = tmp_path / "room"
    write_sequence(room, make_room(room_camera(160, 120)), round_trip(3, share=0.02), 10.0)
    (room / "groundtruth_tum.txt").unlink()
    code = f"from loftr_ros.evaluation.replay import main\nmain([{str(room)!r}, '--output', {str(tmp_path / 'out')!r}, "
    heard, _ = watched(code + "'--matcher', 'sift'])")
    assert (tmp_path / "out" / "report.html").is_file()
    assert heard == []


TRAJECTORY = Trajectory([0], [np.eye(4)])


@pytest.mark.parametrize("file", ["../out.txt", "a/../../out.txt", "/tmp/out.txt", "", "..", "a/.."])
def test_a_trajectory_file_outside_its_folder_is_no_setting(file):
    with pytest.raises(ConfigError, match="^trajectory_file must be a file inside trajectory_folder"):
        OutputConfig(trajectory_file=file)


@pytest.fixture
def saved(tmp_path):
    """Saves to a file name in the folder `inside`, which has links out of it; returns the path."""
    pytest.importorskip("rclpy", reason="rclpy is not installed: the node needs ROS 2")
    from loftr_ros.ros.saving import save_trajectory

    inside, outside = tmp_path / "inside", tmp_path / "outside"
    (inside / "deep").mkdir(parents=True)
    outside.mkdir()
    (outside / "precious.txt").write_text("precious")
    (inside / "folder").symlink_to(outside)
    (inside / "file.txt").symlink_to(outside / "precious.txt")
    (inside / "dangling.txt").symlink_to(outside / "new.txt")
    (inside / "deep" / "up").symlink_to("../..")
    (inside / "around").symlink_to("deep")
    return lambda file, folder=inside: save_trajectory(
        TRAJECTORY, OutputConfig(trajectory_folder=str(folder), trajectory_file=file)
    )[0]


@pytest.mark.parametrize(
    "file", ["folder/new.txt", "folder/precious.txt", "file.txt", "dangling.txt", "deep/up/new.txt"]
)
def test_links_lead_no_trajectory_out_of_its_folder(saved, tmp_path, file):
    with pytest.raises(InputError, match="lies outside trajectory_folder"):
        saved(file)
    assert [p.name for p in (tmp_path / "outside").iterdir()] == ["precious.txt"]
    assert (tmp_path / "outside" / "precious.txt").read_text() == "precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["inside", "outside"]


def test_links_within_the_folder_and_to_it_are_followed(saved, tmp_path):
    assert saved("around/t.txt") == tmp_path.resolve() / "inside" / "deep" / "t.txt"
    (tmp_path / "link").symlink_to("inside")
    path = saved("t.txt", tmp_path / "link")
    assert path == tmp_path.resolve() / "inside" / "t.txt"
    assert np.loadtxt(path).tolist() == [0, 0, 0, 0, 0, 0, 0, 1]
