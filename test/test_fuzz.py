# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""A quick share of what scripts/fuzz does at length: mutated messages and files are refused, or they are good."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: some targets need messages")

import fuzz  # noqa: E402

CASES = 3000
MOST_GROWTH_MB = 30.0


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_a_target_takes_or_refuses_what_it_gets(name):
    cases = math.ceil(CASES * fuzz.SHARES[name] / sum(fuzz.SHARES.values()))
    fuzz.run(name, 3, seed=0)  # what is loaded once does not count
    found = fuzz.run(name, cases, seed=1)
    assert found.faults == [] and found.cases == cases == found.accepted + found.refused
    assert found.memory_mb[-1] - found.memory_mb[0] < MOST_GROWTH_MB


@pytest.mark.parametrize("name", [name for name in fuzz.TARGETS if name not in ("wheels", "odometry")])
def test_a_target_both_takes_and_refuses(name):
    """Else the cases would say nothing."""
    found = fuzz.run(name, 30 if name in ("video", "bag", "sequence") else 100, seed=7)
    assert found.accepted > 0 and found.refused > 0


def test_the_same_numbers_make_the_same_cases():
    runs = [fuzz.run("camera_info", 200, seed=3) for _ in range(2)]
    assert runs[0].accepted == runs[1].accepted > 0 and runs[0].kinds == runs[1].kinds
    assert fuzz.run("camera_info", 200, seed=4).accepted != runs[0].accepted


def test_a_fault_is_found_and_named(monkeypatch):
    def broken(rng, folder):
        if rng.random() < 0.1:
            raise ZeroDivisionError("by zero")

    monkeypatch.setitem(fuzz.TARGETS, "image", broken)
    found = fuzz.run("image", 100, seed=1)
    assert 0 < len(found.faults) < 30
    assert found.faults[0].startswith("image ") and "ZeroDivisionError: by zero at test_fuzz.py:" in found.faults[0]
