"""What all commands share: errors of the user become one sentence and exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from loftr_ros.errors import LoftrRosError


def run(main: Callable[[Sequence[str]], int], arguments: Sequence[str] | None = None) -> int:
    """Call a command's main with its arguments; return the exit code."""
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
