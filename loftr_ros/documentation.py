# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""The README's table of parameters, made from the settings: `python -m loftr_ros.documentation` rewrites it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from loftr_ros.config import Limits, default_of, limits_of, settings
from loftr_ros.files import write_bytes_atomically

BEGIN, END = "<!-- parameters: begin -->", "<!-- parameters: end -->"


def parameter_table() -> str:
    """A Markdown table: key, default, range, whether it may change at run time, description."""
    rows = ["| parameter | default | allowed | at run time | meaning |", "|---|---|---|---|---|"]
    for key, (_, item) in settings().items():
        limits, default = limits_of(item), default_of(item)
        change = "no" if limits.read_only else "yes"
        rows.append(f"| `{key}` | {_shown(default)} | {_allowed(limits, default)} | {change} | {limits.text} |")
    return "\n".join(rows)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return "`[]`"
    return f"`{value}`" if value != "" else "empty"


def _allowed(limits: Limits, default: Any) -> str:
    if limits.choices:
        return ", ".join(f"`{choice}`" for choice in limits.choices)
    if isinstance(default, bool):
        return "`true`, `false`"
    if limits.lengths:
        return " or ".join(str(n) for n in limits.lengths) + " numbers"
    if limits.minimum is not None and limits.maximum is not None:
        return f"{limits.minimum:g} to {limits.maximum:g}"
    return "text"


def with_table(text: str) -> str:
    """The README with its table renewed. Raises ValueError when it has no place for one."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError("the README has no markers for the table of parameters")
    return f"{head}{BEGIN}\n{parameter_table()}\n{END}{tail}"


def main() -> int:
    readme = Path(__file__).parent.parent / "README.md"
    write_bytes_atomically(readme, with_table(readme.read_text()).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
