# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""`compare`: matchers side by side on two images, a sequence, or a folder of pairs, on one HTML page."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from loftr_ros import cli
from loftr_ros.errors import InputError
from loftr_ros.files import write_atomically
from loftr_ros.uses.comparison import DEFAULT, Outcome, Pair, available, compare, load_pairs
from loftr_ros.uses.comparison_page import page


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="compare", description=__doc__)
    parser.add_argument(
        "input", nargs="+", type=Path, help="two images; a sequence folder; or a folder whose subfolders hold two each"
    )
    parser.add_argument("--matchers", default="", metavar="NAME,NAME", help="(all that can be had)")
    parser.add_argument("--gap", type=int, default=3, metavar="N", help="frames apart, of a sequence (3)")
    parser.add_argument("--pairs", type=int, default=4, metavar="N", help="most pairs of a folder (4)")
    parser.add_argument("--camera-info", type=Path, metavar="FILE", help="calibration of the images")
    parser.add_argument("--max-side", type=int, default=640, metavar="PX", help="shrink the longer side to it (640)")
    parser.add_argument("--output", type=Path, default=Path("compare.html"), metavar="FILE", help="(compare.html)")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    if len(options.input) > 2:
        raise InputError(f"Two images or one folder can be compared, not {len(options.input)} things.")
    if options.gap < 1 or options.pairs < 1 or options.max_side < 0:
        raise InputError("--gap and --pairs must be at least 1, and --max-side at least 0.")
    pairs = load_pairs(options.input, options.gap, options.pairs, options.camera_info, options.max_side)
    names = tuple(options.matchers.split(",")) if options.matchers else DEFAULT
    matchers, missing = available(names)
    if not matchers:
        raise InputError(next(iter(missing.values())))
    steps = [(pair, matcher) for pair in pairs for matcher in matchers]
    bar = tqdm(steps, desc="compare", unit="match", disable=options.quiet, leave=False)
    made = [compare(matcher, pair) for pair, matcher in bar]
    outcomes = [made[i : i + len(matchers)] for i in range(0, len(made), len(matchers))]
    print(json.dumps(_numbers(pairs, outcomes), indent=2) if options.json else _text(outcomes, missing))
    write_atomically(options.output, [page(pairs, outcomes, missing)])
    if not options.json:
        print(f"page in {options.output}")
    return 0


def _numbers(pairs: Sequence[Pair], outcomes: Sequence[Sequence[Outcome]]) -> list[dict[str, object]]:
    fields = [field.name for field in dataclasses.fields(Outcome) if field.name != "picture"]
    return [
        {"pair": pair.name, **{name: getattr(outcome, name) for name in fields}}
        for pair, row in zip(pairs, outcomes)
        for outcome in row
    ]


def _text(outcomes: Sequence[Sequence[Outcome]], missing: dict[str, str]) -> str:
    lines = []
    for column in zip(*outcomes):
        inliers, matches = sum(o.inliers for o in column), sum(o.matches for o in column)
        lines.append(f"{column[0].matcher}: {inliers} inliers of {matches} matches")
    lines += [f"not compared: {name}: {reason}" for name, reason in missing.items()]
    return "\n".join(lines)


def entry_point() -> int:
    return cli.run(main)


if __name__ == "__main__":
    sys.exit(entry_point())
