# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""A matcher that runs for days does not hold more and more memory."""

from __future__ import annotations

import mmap
import subprocess
import sys
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from support import texture

from loftr_ros import allocator, cli
from loftr_ros.config import Config
from loftr_ros.loftr import memory
from loftr_ros.matching import load_matcher
from loftr_ros.ros import tracker

ON_LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc can be told to keep memory")

# 200 MiB of tensors that come and go; then where a tensor lies, and what is there once it and others are gone.
PLACES = """
import os
import torch
from loftr_ros.evaluation.endurance import usage_of
from loftr_ros.allocator import keep_freed_memory
from loftr_ros.loftr.memory import apart

def place(address):
    for line in open("/proc/self/maps"):
        start, end = (int(number, 16) for number in line.split()[0].split("-"))
        if start <= address < end:
            return "heap" if "[heap]" in line else "pages"
    return "nothing"

assert keep_freed_memory()
going = [torch.ones(1 << 18) for _ in range(200)]
full = usage_of(os.getpid(), 0).rss_mb
del going
print(full - usage_of(os.getpid(), 0).rss_mb)
for make in (torch.clone, apart):
    tensor = make(torch.ones(1 << 21))
    address = tensor.data_ptr()
    print(place(address))
    others = [make(torch.ones(k << 10)) for k in range(1, 13)]
    del tensor, others
    print(place(address))
"""


def printed_by(script: str) -> list[str]:
    """The words that a process of its own prints."""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False, env=cli.environment()
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@ON_LINUX
def test_freed_memory_is_kept_but_not_that_of_what_lies_apart():
    given_back, *places = printed_by(PLACES)
    assert float(given_back) < 20
    assert places == ["heap", "heap", "pages", "nothing"]


RESERVE = """
import os
import torch
from loftr_ros import allocator
from loftr_ros.evaluation.endurance import usage_of

def rss():
    return usage_of(os.getpid(), 0).rss_mb

before = rss()
assert allocator.touch_reserve()
print(rss() - before)
assert allocator.keep_freed_memory()
assert allocator.touch_reserve()
touched = rss()
print(touched - before)
taken = torch.ones(10 << 18)
print(rss() - touched)
"""


@ON_LINUX
def test_a_reserve_stays_where_freed_memory_is_kept_and_is_what_the_heap_takes_next():
    without, with_it, grown = (float(word) for word in printed_by(RESERVE))
    assert abs(without) < 5
    assert with_it > 60
    assert grown < 2


def test_a_tensor_apart_is_the_same_and_lives_as_long_as_it_is_used():
    for tensor in (torch.randn(3, 4, 5).bfloat16().permute(2, 0, 1), torch.arange(7), torch.zeros(0, 3)):
        other = memory.apart(tensor)
        assert other.dtype == tensor.dtype and other.is_contiguous() and torch.equal(other, tensor)
    wide = memory.apart(torch.tensor([1.5, -2.0], dtype=torch.bfloat16), torch.float32)
    assert wide.dtype == torch.float32 and wide.tolist() == [1.5, -2.0]
    view = memory.apart(torch.arange(1000))[500:]
    assert view.sum() == sum(range(500, 1000))  # its pages are still there


def test_what_lies_apart_gets_the_pages_of_what_is_gone_and_no_others(monkeypatch):
    memory.release_spare_pages()
    new = Mock(wraps=mmap.mmap)
    monkeypatch.setattr(memory.mmap, "mmap", new)
    for number in range(5):
        kept = memory.apart(torch.full((3000,), number))
        gone = memory.apart(torch.full((3000,), -number))
        view = gone[1000:]
        del gone
        assert (memory.apart(torch.zeros(3000, dtype=torch.int64)) == 0).all()
        assert (kept == number).all() and (view == -number).all()  # a view keeps what it is a view of
        del kept, view
    assert new.call_count == 3  # for 15 tensors


def test_only_few_spare_pages_are_kept_and_none_where_memory_is_short():
    tensors = [memory.apart(torch.ones(1024 * k)) for k in range(1, 40)]
    del tensors
    assert len(memory._spare) == memory._spare.maxlen < 39
    memory.release_spare_pages()
    assert len(memory._spare) == 0


def test_features_on_a_cpu_lie_apart():
    matcher = load_matcher("tiny", device="cpu")
    matcher.mask = np.full((96, 128), 255, np.uint8)
    features = matcher.extract(texture(96, 128, 50)).network
    for tensor in (features.tokens, features.fine, features.image, features.mask):
        assert tensor.data_ptr() % 4096 == 0  # the start of a page
    assert features.tokens.dtype == torch.float32


def test_the_node_touches_its_reserve_once_when_the_first_frames_are_done(monkeypatch):
    touched = []
    monkeypatch.setattr(tracker, "touch_reserve", lambda: touched.append(worker.processed))
    monkeypatch.setattr(tracker.conversions, "status_message", Mock())
    worker = tracker.Tracker(Mock(), Config(), *(Mock() for _ in range(4)), "status")
    for _ in range(250):
        worker._report(Mock(pose_world_camera=np.eye(4)), {})
    assert touched == [100]


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(allocator.sys, "platform", "darwin")
    assert allocator.keep_freed_memory() is False
    assert allocator.touch_reserve() is False


def test_a_c_library_without_these_functions_is_left_alone(monkeypatch):
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())
    assert allocator.keep_freed_memory() is False
    assert allocator.touch_reserve() is False


@ON_LINUX
def test_threads_of_the_node_have_no_heaps_of_their_own():
    """Those are pieces of 64 MB, on addresses that such a number divides."""
    script = """
import re, sys, threading
if sys.argv[1] == "node":
    import loftr_ros.ros.node
import numpy as np

def work():
    kept.append([bytearray(50_000) for _ in range(400)])

kept = []
for _ in range(3):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
size = 0
for line in open("/proc/self/smaps"):
    if re.match("^[0-9a-f]+-[0-9a-f]+ ", line):
        field = line.split()
        start = int(field[0].split("-")[0], 16)
        counts = field[1].startswith("rw") and len(field) < 6 and start % (1 << 26) == 0
    elif line.startswith("Rss:") and counts:
        size += int(line.split()[1])
print(size)
"""

    def kilobytes(which: str) -> int:
        done = subprocess.run([sys.executable, "-c", script, which], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert kilobytes("plain") > 15_000, "the test can tell"
    assert kilobytes("node") < 1_000
