#!/usr/bin/env python3
# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Put the copyright statement on top of each source file that lacks it."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
STATEMENT = "# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0\n"
SOURCES = ("setup.py", "loftr_ros/**/*.py", "launch/*.py", "test/**/*.py", "scripts/*.py", "scripts/[a-z]*", ".ci/run")


def without() -> list[Path]:
    """Source files that do not begin with the statement, or with #! and the statement."""
    files = {p for pattern in SOURCES for p in ROOT.glob(pattern) if p.is_file() and p.suffix in (".py", "")}
    return [p for p in sorted(files) if STATEMENT not in p.read_text().splitlines(keepends=True)[:2]]


def main() -> int:
    for path in without():
        lines = path.read_text().splitlines(keepends=True)
        lines.insert(1 if lines and lines[0].startswith("#!") else 0, STATEMENT)
        path.write_text("".join(lines))
        print(path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
