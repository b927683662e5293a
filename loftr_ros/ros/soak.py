# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""`soak`: play a rendered room into a node of its own for long, watch its memory, latency and states, and judge them.

The camera goes round and round in the room without a jump. Written to the output folder: soak.json, soak.png, node.log.
The exit code is 1 where a limit is broken.
"""

from __future__ import annotations

import argparse
import gc
import json
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from nav_msgs.msg import Path as PathMessage
from rcl_interfaces.srv import GetParameters
from sensor_msgs.msg import Image as ImageMessage
from sensor_msgs.msg import PointCloud2
from std_srvs.srv import Trigger

import loftr_ros
from loftr_ros import cli
from loftr_ros.config import MATCHERS
from loftr_ros.errors import InputError
from loftr_ros.evaluation.endurance import Answer, Finding, Limits, Record, contents, judge, plot, table, usage_of
from loftr_ros.files import make_folder, write_bytes_atomically
from loftr_ros.geometry.camera import Camera
from loftr_ros.ros.player import CAMERA_AT_BASE, Player, spinning
from loftr_ros.synthetic.room import make_room, room_camera, round_trip
from loftr_ros.types import Frame, Image, MotionState

_NAMESPACE = "/soak"
_NODE_NAME = "vo_node"
_START_S = 120.0
_ANSWER_S = 5.0  # then the frame, or its answer, is taken for lost
_SILENT_S = 60.0
_CALL_S = 1.0
_END_S = 30.0
_SAMPLE_S = 1.0
_STEP_AT_OWN_RATE_NS = 100_000_000


class SoakPlayer(Player):
    """A player that keeps what it hears in a Record."""

    def __init__(self, camera: Camera, record: Record, everything: bool) -> None:
        self._record = record
        self._sent: dict[int, float] = {}
        self.started = time.monotonic()
        super().__init__(camera, _NODE_NAME)
        if everything:
            for kind, topic in _COSTLY:
                self.create_subscription(kind, topic, lambda _: None, 10)
        self._asked = [
            (self._parameters, GetParameters.Request(names=["scale"])),
            (self.create_client(Trigger, f"{_NODE_NAME}/resume"), Trigger.Request()),
        ]

    def reach_services(self, timeout_s: float, node: Any) -> None:
        """Call each service until it answers once: the way of an answer may be found later than that of the call."""
        deadline = time.monotonic() + timeout_s
        for client, request in self._asked:
            answered = threading.Event()
            while not answered.is_set() and time.monotonic() < deadline and node.poll() is None:
                client.call_async(request).add_done_callback(lambda _, answered=answered: answered.set())
                answered.wait(_CALL_S)

    def ask(self) -> None:
        """Call a service and ask for a parameter; how long the answers take goes into the record."""
        for client, request in self._asked:
            if client.service_is_ready():
                self._record.asked += 1
                asked = time.monotonic()
                client.call_async(request).add_done_callback(
                    lambda _, asked=asked: self._record.replies_ms.append(round(1e3 * (time.monotonic() - asked), 2))
                )

    def send(self, frame: Frame) -> None:
        self._sent[frame.stamp_ns] = time.monotonic()
        self._record.sent += 1
        super().send(frame)

    def _on_status(self, message: DiagnosticStatus) -> None:
        now = time.monotonic()
        values = {item.key: item.value for item in message.values}
        sent = self._sent.pop(int(values["stamp"].replace(".", "")))
        self._record.answers.append(
            Answer(
                seconds=round(now - self.started, 4),
                state=MotionState(values["state"]),
                reason=message.message,
                keyframe=values["keyframe"] == "true",
                latency_ms=float(values["latency_ms"]),
                client_ms=round(1e3 * (now - sent), 2),
                received=int(values["received_frames"]),
                dropped=int(values["dropped_frames"]) + int(values["late_frames"]),
                age_ms=float(values["age_ms"]) if values["age_ms"] else None,
                overhead_ms=float(values["processing_ms"]) - float(values["odometry_ms"]),
            )
        )
        super()._on_status(message)


_COSTLY = (
    (PathMessage, "path"),
    (ImageMessage, f"{_NODE_NAME}/matches"),
    (PointCloud2, f"{_NODE_NAME}/match_array"),
    (PointCloud2, f"{_NODE_NAME}/points"),
)


def play(player: SoakPlayer, images: Sequence[Image], rate_hz: float, record: Record, node: Any) -> None:
    """Send the images over and over for the record's time. Raises InputError when the node ends or is silent."""
    step_ns = round(1e9 / rate_hz) if rate_hz else _STEP_AT_OWN_RATE_NS
    first_ns = time.time_ns()
    player.started = time.monotonic()
    next_usage = 0.0
    for i in count():
        now = time.monotonic() - player.started
        if now >= record.seconds:
            return
        if node.poll() is not None:
            raise InputError(f"The node ended after {now:.0f} s with exit code {node.returncode}.")
        if now > _SILENT_S + (record.answers[-1].seconds if record.answers else 0.0):
            raise InputError(f"The node has not answered for {_SILENT_S:.0f} s.")
        if now >= next_usage:
            record.usage.append(usage_of(node.pid, round(now, 3)))
            player.ask()
            next_usage = max(next_usage + min(_SAMPLE_S, record.window_s / 10), now)
        frame = Frame(first_ns + i * step_ns, images[i % len(images)])
        player.send(frame)
        if rate_hz:
            time.sleep(max(0.0, player.started + (i + 1) / rate_hz - time.monotonic()))
        else:
            player.wait_for_answer(frame.stamp_ns, _ANSWER_S)


def rendered(options: argparse.Namespace) -> tuple[Camera, list[Image]]:
    """The camera, and its views on one way round the room."""
    room = make_room(room_camera(options.width, options.height), detailed=True)
    poses = round_trip(options.loop)
    views = cli.progress(enumerate(poses), len(poses), "rendering")
    return room.camera, [room.view(pose, i)[0] for i, pose in views]


@contextmanager
def running_node(options: argparse.Namespace) -> Iterator[subprocess.Popen[bytes]]:
    """The node in a process of its own, which writes node.log; ended by SIGINT."""
    extrinsics = "[" + ", ".join(str(v) for v in CAMERA_AT_BASE) + "]"
    command = [sys.executable, "-m", "loftr_ros.ros.node", "--ros-args", "-r", f"__ns:={_NAMESPACE}"]
    for setting in (f"matcher:={options.matcher}", f"extrinsics:={extrinsics}", *options.parameter):
        command += ["-p", setting]
    with (options.output / "node.log").open("wb") as log:
        node = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=cli.environment())
        try:
            yield node
        finally:
            node.send_signal(signal.SIGINT)
            try:
                node.wait(_END_S)
            except subprocess.TimeoutExpired:
                node.kill()
                node.wait()


def run(options: argparse.Namespace, record: Record) -> Finding:
    """Fill the record. What became of the node is the finding."""
    camera, images = rendered(options)
    gc.collect()
    gc.freeze()  # the client's own pauses would count as latency
    rclpy.init(args=["--ros-args", "-r", f"__ns:={_NAMESPACE}"])
    try:
        with running_node(options) as node:
            player = SoakPlayer(camera, record, options.everything)
            with spinning(player):
                if not player.wait_for_node(_START_S, lambda: node.poll() is None):
                    raise InputError(f"The node did not start; see {options.output / 'node.log'}.")
                player.reach_services(_START_S, node)
                play(player, images, options.rate, record, node)
    finally:
        rclpy.try_shutdown()
    log = (options.output / "node.log").read_text(errors="replace")
    errors = [line for line in log.splitlines() if "[ERROR]" in line or "Traceback" in line]
    text = f"exit code {node.returncode}, {len(errors)} errors in its log" + "".join(f"\n    {e}" for e in errors[:3])
    return Finding("node", text, node.returncode == 0 and not errors)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--matcher", choices=MATCHERS, default="orb")
    parser.add_argument("--rate", type=float, default=30.0, metavar="HZ", help="0: each frame after the last's answer")
    parser.add_argument("--seconds", type=float, default=600.0, metavar="S")
    parser.add_argument("--output", type=Path, default=Path("soak_output"), metavar="DIR")
    parser.add_argument("--loop", type=int, default=600, metavar="N", help="frames on one way round the room")
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--everything", action="store_true", help="also listen to path, points, matches and pictures")
    parser.add_argument("-p", "--parameter", action="append", default=[], metavar="NAME:=VALUE", help="of the node")
    limits = Limits()
    parser.add_argument("--growth", type=float, default=limits.growth_mb, metavar="MB", help="most growth of memory")
    parser.add_argument("--rise", type=float, default=limits.rise, metavar="SHARE", help="most growth of the latency")
    parser.add_argument("--age", type=float, default=limits.age_ms, metavar="MS", help="largest age of a frame")
    parser.add_argument("--overhead", type=float, default=limits.overhead_ms, metavar="MS", help="of the node, median")
    parser.add_argument("--reply", type=float, default=limits.reply_ms, metavar="MS", help="of services, longest")
    return parser


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    _check(options)
    make_folder(options.output)
    record = Record(options.seconds, is_live=options.rate > 0)
    findings = []
    try:
        findings.append(run(options, record))
        findings += judge(record, Limits(options.growth, options.rise, options.age, options.overhead, options.reply))
    except KeyboardInterrupt:
        findings.append(Finding("run", "interrupted", False))
    finally:  # what has been measured is not lost with the node
        if record.answers:
            _keep(options.output, record, findings, arguments)
    return 0 if all(f.ok for f in findings) else 1


def _check(options: argparse.Namespace) -> None:
    """Raises InputError."""
    if not 5 <= options.seconds <= 1e7 or not 0 <= options.rate <= 1000:
        raise InputError("A run needs at least 5 seconds, and a rate of 0 to 1000 frames a second.")
    sides = (options.width, options.height)
    if not 60 <= options.loop <= 10000 or min(sides) < 64 or max(sides) > 8192:
        raise InputError("A way round the room needs 60 to 10000 frames, with sides of 64 to 8192 pixels.")


def _keep(folder: Path, record: Record, findings: Sequence[Finding], arguments: Sequence[str]) -> None:
    about = {"command": shlex.join(["soak", *arguments]), "version": loftr_ros.__version__, "seconds": record.seconds}
    text = json.dumps(contents(record, findings, about))
    write_bytes_atomically(folder / "soak.json", text.encode())
    plot(folder / "soak.png", record)
    for row in table(record):
        print("  ".join(f"{name} {value:g}" for name, value in row.items()))
    for finding in findings:
        print(f"{'ok  ' if finding.ok else 'FAIL'} {finding.name}: {finding.text}")
    print(f"results in {folder}")


def entry_point() -> int:
    return cli.run(main)


if __name__ == "__main__":
    sys.exit(entry_point())
