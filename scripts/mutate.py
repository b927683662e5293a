#!/usr/bin/env python3
# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Do the tests notice faults? Makes one small change at a time in a copy of the package, and runs tests on it.

    .venv/bin/python scripts/mutate.py [--count 120] [--seed 0] [--json FILE] [--files GLOB...]

A sample of all changes (comparisons, arithmetic, constants, boolean logic, returns) is drawn with a seed. One that no
test notices survives: then a test is missing, or the change changes nothing. docs/mutation.md lists the survivors. Each
runs the tests of its own file first, then those of its neighbours, and stops at the first failure.
"""

from __future__ import annotations

import argparse
import ast
import copy
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from loftr_ros import cli
from loftr_ros.errors import InputError
from loftr_ros.files import write_bytes_atomically

ROOT = Path(__file__).parent.parent
FILES = ("geometry/*.py", "odometry/*.py")
# What to run, until something fails; %s is the name of the file. The last ones take long, and --quick leaves them out.
TESTS = {
    "geometry": (["test_geometry_%s.py"], ["test_geometry_*.py", "test_odometry_*.py"], ["test_odometry.py"]),
    "odometry": (["test_odometry_%s.py"], ["test_odometry_*.py"], ["test_odometry.py"]),
}
# Many runs each, to compare a covariance with errors.
SLOW = "not (covariance_is_that_of_the_errors or covariance_is_honest or composed_covariance_agrees)"
COMPARE = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
OPPOSITE = {ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.GtE: ast.LtE, ast.Is: ast.IsNot, ast.IsNot: ast.Is}
ARITHMETIC = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult}
BOOLEAN = {ast.And: ast.Or, ast.Or: ast.And, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd}


def variants(node: ast.AST) -> Iterator[ast.AST]:
    """All small changes of one node."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        for table in (COMPARE, OPPOSITE):
            if type(node.ops[0]) in table:
                yield _changed(node, ops=[table[type(node.ops[0])]()])
    elif isinstance(node, (ast.BinOp, ast.BoolOp, ast.AugAssign)):
        table = {**ARITHMETIC, **BOOLEAN}
        if type(node.op) in table:
            yield _changed(node, op=table[type(node.op)]())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub, ast.Invert)):
        yield node.operand
    elif isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            yield _changed(node, value=not node.value)
        elif isinstance(node.value, int):
            yield _changed(node, value=node.value + 1)
        elif isinstance(node.value, float):
            yield _changed(node, value=2 * node.value or 1.0)
    elif isinstance(node, ast.Return) and node.value is not None and not _is_none(node.value):
        yield _changed(node, value=ast.Constant(None))


def _changed(node: ast.AST, **fields: object) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def places(tree: ast.AST, inside: bool = True) -> Iterator[tuple[ast.AST, str, int | None, ast.AST]]:
    """Parent, field, position in it, and node, of every node that is computed with: no annotations, no messages."""
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "decorator_list", "exc") or isinstance(tree, ast.JoinedStr):
            continue
        for i, item in enumerate(value) if isinstance(value, list) else ((None, value),):
            if isinstance(item, ast.AST):
                yield tree, name, i, item
                yield from places(item)


def mutants(path: Path) -> list[tuple[str, str]]:
    """What is changed, and the changed source, for all small changes of a file."""
    source = path.read_text()
    tree = ast.parse(source)
    found = []
    for parent, name, i, node in list(places(tree)):
        for variant in variants(node):
            _put(parent, name, i, variant)
            text = f"{path.parent.name}/{path.name}:{node.lineno}: {_text(node)} -> {_text(variant)}"
            found.append((text, ast.unparse(ast.fix_missing_locations(tree))))
            _put(parent, name, i, node)
    return found


def _put(parent: ast.AST, name: str, i: int | None, node: ast.AST) -> None:
    if i is None:
        setattr(parent, name, node)
    else:
        getattr(parent, name)[i] = node


def _text(node: ast.AST) -> str:
    return " ".join(ast.unparse(ast.fix_missing_locations(copy.deepcopy(node))).split())


def judge(path: Path, source: str, timeout_s: float, quick: bool = False) -> str:
    """Who noticed the changed source of a file: a test, the time limit, or nobody ("survived")."""
    with tempfile.TemporaryDirectory(prefix="mutant") as folder:
        package = Path(folder) / "loftr_ros"
        shutil.copytree(ROOT / "loftr_ros", package, ignore=shutil.ignore_patterns("__pycache__"))
        (package / path.relative_to(ROOT / "loftr_ros")).write_text(source)
        done: set[Path] = set()
        for patterns in TESTS[path.parent.name][: 2 if quick else 3]:
            files = {f for p in patterns for f in (ROOT / "test").glob(p % path.stem if "%" in p else p)} - done
            done |= files
            who = _noticed(Path(folder), sorted(files), timeout_s) if files else ""
            if who:
                return who
    return "survived"


def _noticed(folder: Path, files: list[Path], timeout_s: float) -> str:
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(folder)]
    command += ["-x", "-q", "--no-header", "-p", "no:cacheprovider", "-k", SLOW]
    # CI: hypothesis draws the same examples every time, and takes as long for them as it needs.
    environment = {**os.environ, "PYTHONPATH": str(folder), "OPENBLAS_NUM_THREADS": "1", "CI": "true"}
    try:
        done = subprocess.run(
            [*command, *map(str, files)], cwd=folder, env=environment, capture_output=True, text=True,
            timeout=timeout_s, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "time limit"
    if done.returncode == 0:
        return ""
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0].split(" - ")[0] if failed else f"exit code {done.returncode}"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=120, help="changes to try")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--files", nargs="+", default=FILES, metavar="GLOB", help="below loftr_ros/")
    parser.add_argument("--timeout", type=float, default=600.0, metavar="S", help="for each run of pytest")
    parser.add_argument("--quick", action="store_true", help="without the tests that take long")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there, after each of them")
    options = parser.parse_args(arguments)
    paths = sorted(p for glob in options.files for p in (ROOT / "loftr_ros").glob(glob) if p.name != "__init__.py")
    if not paths or {p.parent.name for p in paths} - TESTS.keys():
        raise InputError(f"There are no files to change like {' '.join(options.files)}, or no tests for them.")
    if (who := judge(paths[0], paths[0].read_text(), options.timeout)) != "survived":
        raise InputError(f"The tests fail on the package as it is: {who}.")
    everything = [(path, *mutant) for path in paths for mutant in mutants(path)]
    sample = random.Random(options.seed).sample(everything, min(options.count, len(everything)))
    print(f"{len(sample)} of {len(everything)} changes", flush=True)
    results: dict[str, str] = {}

    def run(path: Path, text: str, source: str) -> None:
        started = time.monotonic()
        results[text] = judge(path, source, options.timeout, options.quick)
        print(f"{time.monotonic() - started:6.1f} s  {text}: {results[text]}", flush=True)
        if options.json is not None:
            write_bytes_atomically(options.json, (json.dumps(results, indent=2) + "\n").encode())

    with ThreadPoolExecutor(options.workers) as pool:
        list(pool.map(lambda item: run(*item), sample))
    survived = [text for text, who in results.items() if who == "survived"]
    print(f"{len(results) - len(survived)} noticed, {len(survived)} survived")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
