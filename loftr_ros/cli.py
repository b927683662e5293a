# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""What all commands share: errors of the user become one sentence and exit code 2."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from loftr_ros.errors import LoftrRosError


def run(main: Callable[[Sequence[str]], int], arguments: Sequence[str] | None = None) -> int:
    """Call a command's main with its arguments; return the exit code.

    0: done; 1: a fault of the program; 2: an error of the user, or of the machine. One sentence says which. With
    LOFTR_ROS_TRACEBACK set in the environment, faults show where they are.
    """
    try:
        return main(sys.argv[1:] if arguments is None else arguments)
    except LoftrRosError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has left
        sys.stderr.close()
        return 0
    except (OSError, MemoryError) as error:  # a full disk under the output, say
        print(f"error: {_sentence(error)}", file=sys.stderr)
        return 2
    except Exception as error:
        if os.environ.get("LOFTR_ROS_TRACEBACK"):
            raise
        text = f"error: This should not happen: {type(error).__name__}: {_sentence(error)}"
        print(f"{text} LOFTR_ROS_TRACEBACK=1 shows where.", file=sys.stderr)
        return 1


def _sentence(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__).rstrip(".") + "."


def progress(items: Iterable[Any], total: int | None, text: str, quiet: bool = False) -> Any:
    """The items, with a progress bar on stderr: smooth on a terminal, a line now and then in a log."""
    interval = 0.1 if sys.stderr.isatty() else 15.0
    return tqdm(items, desc=text, total=total, unit="frame", mininterval=interval, disable=quiet)


def environment() -> dict[str, str]:
    """For a fresh Python: it finds this package where it was imported from."""
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path}
