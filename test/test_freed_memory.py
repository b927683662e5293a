# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""A matcher that runs for days does not hold more and more memory that it has freed."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from support import lively, texture

from loftr_ros import cli
from loftr_ros.loftr import memory
from loftr_ros.matching import loftr

# Blocks that stay (1 MiB in all) between blocks that go (200 MiB): the second ones leave gaps.
GAPS = """
import os
import numpy as np
from loftr_ros.evaluation.endurance import usage_of
from loftr_ros.loftr.memory import give_back_freed_memory, keep_freed_memory
assert keep_freed_memory()
blocks = [np.ones(size) for _ in range(100) for size in (2 << 17, 1 << 10)]
stay = blocks[1::2]
full = usage_of(os.getpid(), 0).rss_mb
del blocks
freed = usage_of(os.getpid(), 0).rss_mb
assert give_back_freed_memory()
print(full - freed, freed - usage_of(os.getpid(), 0).rss_mb, sum(s.sum() for s in stay))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc can keep and give back")
def test_freed_memory_between_blocks_that_stay_is_given_back():
    done = subprocess.run(
        [sys.executable, "-c", GAPS], capture_output=True, text=True, timeout=60, check=False, env=cli.environment()
    )
    assert done.returncode == 0, done.stderr
    kept, given_back, total = map(float, done.stdout.split())
    assert kept < 20  # by keep_freed_memory; without it, the whole is given back at once, or only the last of it
    assert given_back > 150
    assert total == 100 * 1024


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert memory.give_back_freed_memory() is False and memory.keep_freed_memory() is False


def test_a_c_library_without_these_functions_is_left_alone(monkeypatch):
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert memory.give_back_freed_memory() is False and memory.keep_freed_memory() is False


def test_loftr_gives_it_back_every_20_frames_and_finds_the_same(monkeypatch, tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "tiny.safetensors"
    save_file({key: value.contiguous() for key, value in lively("tiny", 0).state_dict().items()}, str(path))
    matcher = loftr.LoFTRMatcher("tiny", path, "cpu", threshold=0.01)
    given_back = []
    monkeypatch.setattr(loftr, "give_back_freed_memory", lambda: given_back.append(len(results)) or True)
    image = texture(48, 64)
    results: list = []
    for _ in range(45):
        results.append(matcher.match_features(matcher.extract(image), matcher.extract(image)))
    assert given_back == [9, 19, 29, 39]  # in the second extraction of every tenth match
    assert len(results[0]) > 10
    for result in results[1:]:
        np.testing.assert_array_equal(result.points1, results[0].points1)
