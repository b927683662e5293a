# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""The errors that a user can cause. Commands print their message, one clear sentence, and exit with code 2."""


_MOST_TEXT = 300


def brief(error: BaseException) -> str:
    """What another library's error says, for a sentence: its first line, not too long, without a full stop."""
    text = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    line = text.splitlines()[0].rstrip(".: ")
    return line if len(line) <= _MOST_TEXT else line[:_MOST_TEXT] + "..."


class LoftrRosError(Exception):
    """Base of all errors whose message is meant for the user."""


class ConfigError(LoftrRosError):
    """A setting has an unknown name, the wrong type, or a value out of its range."""


class InputError(LoftrRosError):
    """An image, recording, calibration or trajectory file cannot be used."""


class WeightsError(LoftrRosError):
    """A file of network weights is missing, damaged, or made for another network."""


class MatcherError(LoftrRosError):
    """A matcher failed with a frame: it raised something, or returned what are no matches."""


class ExhaustedError(MatcherError):
    """A matcher ran out of memory, and may not go on with less."""


class GeometryError(LoftrRosError):
    """A geometric problem is degenerate, so it has no (unique) solution."""


class ExportError(LoftrRosError):
    """A network cannot be exported, or its export does something else than the network."""
