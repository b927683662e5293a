# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Files: results are written whole or not at all, and YAML is read without surprises."""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loftr_ros.errors import InputError, LoftrRosError, brief

_MOST_TEXT = 500
_DEEP = re.compile(r"(?:[\[{]\s*){100}")
_PART = ".part"  # how the names of files end that are still being written


def make_folder(path: Path) -> None:
    """Make a folder for results, before the work that leads to them. Raises InputError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"The folder {path} cannot be made: {brief(error)}.") from None


def write_atomically(path: Path, lines: Sequence[str]) -> None:
    """Write a text file whole or not at all; see write_bytes_atomically."""
    write_bytes_atomically(path, "".join(line + "\n" for line in lines).encode())


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: a crash, a kill or a full disk leaves the old one. Raises InputError.

    What a killed process leaves is a hidden file beside it, which the next one that writes this file removes.
    """
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_PART)
        with os.fdopen(handle, "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # says that its writer lives
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
    except OSError as error:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)
        raise InputError(f"{path} cannot be written: {brief(error)}.") from None


def _remove_abandoned(path: Path) -> None:
    """Remove what killed processes have left of this file: nobody holds a lock on it."""
    prefix = f".{path.name}."
    for left in path.parent.iterdir():
        if not (left.name.startswith(prefix) and left.name.endswith(_PART)):
            continue
        try:
            with left.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if file.seek(0, os.SEEK_END):  # an empty one may be about to be locked
                    left.unlink()
        except OSError:  # its writer lives, or has just finished it
            continue


def write_image(path: Path, pixels: Any) -> None:
    """Write an image [H, W] or [H, W, 3] (bgr), whole or not at all, in the format that the name ends with.

    Raises InputError.
    """
    import cv2

    try:
        done, content = cv2.imencode(path.suffix or ".png", pixels)
    except cv2.error:
        done = False
    if not done:
        raise InputError(f"Pictures cannot be written as '{path.suffix}'; name a .png or .jpg file, not {path}.")
    write_bytes_atomically(path, content.tobytes())


def read_yaml(path: str | Path, what: str, kind: type[LoftrRosError]) -> Any:
    """The content of a YAML file. Raises `kind`, one sentence that names `what` the file is, where it is none."""
    import yaml

    try:
        text = Path(path).read_text()
        if _DEEP.search(text):  # the parser would give up too, but takes seconds to do so
            raise RecursionError
        return yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise kind(f"The {what} {path} cannot be read: {brief(error)}.") from None
    except RecursionError:
        raise kind(f"The {what} {path} is not valid YAML: it is nested too deeply.") from None
    except (yaml.YAMLError, ValueError, OverflowError, TypeError) as error:  # dates and numbers that cannot be, too
        raise kind(f"The {what} {path} is not valid YAML: {_in_one_line(error)}.") from None


def _in_one_line(error: Exception) -> str:
    """All that YAML says, where the mistake is too."""
    text = " ".join(str(error).split()).rstrip(".")
    return text if len(text) <= _MOST_TEXT else text[:_MOST_TEXT] + "..."
