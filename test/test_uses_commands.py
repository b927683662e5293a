# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""The commands are offered under the names that the README tells."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = dict(re.findall(r'"(\w+) = ([\w.]+):entry_point"', (ROOT / "setup.py").read_text()))


@pytest.mark.parametrize("name", ["match", "retrieve", "attention", "reconstruct", "compare"])
def test_command_is_installed_documented_and_helps(name, capsys):
    module = importlib.import_module(SCRIPTS[name])
    assert SCRIPTS[name] == f"loftr_ros.uses.{name}" and callable(module.entry_point)
    assert f"`{name}` |" in (ROOT / "README.md").read_text() or f"`{name} " in (ROOT / "README.md").read_text()
    with pytest.raises(SystemExit) as done:
        module.main(["--help"])
    assert done.value.code == 0 and f"usage: {name} " in capsys.readouterr().out
