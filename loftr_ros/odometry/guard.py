# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Between the odometry and its matcher: whatever goes wrong in there is one kind of error, and matches are numbers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loftr_ros.errors import LoftrRosError, MatcherError, brief
from loftr_ros.matching.base import Matcher
from loftr_ros.types import Image, Matches


class Guard:
    """A matcher whose failures are MatcherErrors.

    Attributes:
        describe: the matcher's own; None where it has none.
        zooms: whether `extract` can magnify images.
    """

    def __init__(self, matcher: Matcher) -> None:
        self._matcher = matcher
        self._takes_wanted = "wanted" in inspect.signature(matcher.match_features).parameters
        self.zooms = "zoom" in inspect.signature(matcher.extract).parameters
        describe = getattr(matcher, "describe", None)  # a matcher need not be able to
        self.describe: Callable[[Any], Any] | None = None if describe is None else self._guarded(describe)

    def extract(self, image: Image, zoom: float = 1.0) -> Any:
        """As the matcher. Raises MatcherError."""
        with self._watched():
            wish = {} if zoom == 1 else {"zoom": zoom}
            return self._matcher.extract(image, **wish)

    def match_features(self, features0: Any, features1: Any, wanted: NDArray[np.int64] | None = None) -> Matches:
        """As the matcher, without matches that are no numbers. Raises MatcherError.

        wanted: [K] keypoints of image 0 to return rather than others, where the matcher does not return all.
        """
        with self._watched():
            wish = {"wanted": wanted} if self._takes_wanted else {}
            matches = self._matcher.match_features(features0, features1, **wish)
            return matches[_usable(matches)]

    def match_back(self, features0: Any, features1: Any) -> Matches:
        """Matches of image 1 with image 0, after `match_features` of the same. Raises MatcherError."""
        with self._watched():
            back = getattr(self._matcher, "match_back", None)  # a matcher need not have a shorter way
            matches: Matches = (
                self._matcher.match_features(features1, features0) if back is None else back(features0, features1)
            )
            return matches[_usable(matches)]

    def _guarded(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def call(argument: Any) -> Any:
            with self._watched():
                return function(argument)

        return call

    @contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except LoftrRosError:
            raise
        except Exception as error:  # a matcher may fail in any way
            raise MatcherError(f"The matcher failed: {type(error).__name__}: {brief(error)}.") from error


def _usable(matches: Matches) -> Any:
    """[N] bool. Raises ValueError where the columns are not of one length."""
    columns = (matches.points0, matches.points1, matches.confidence, matches.index0, matches.sigma)
    lengths = {len(column) for column in columns}
    if len(lengths) != 1 or matches.points0.ndim != 2 or matches.points1.shape != matches.points0.shape:
        raise ValueError(f"its matches have columns of {', '.join(str(n) for n in sorted(lengths))} rows")
    finite = np.isfinite(matches.points0).all(axis=1) & np.isfinite(matches.points1).all(axis=1)
    finite &= np.isfinite(matches.confidence) & np.isfinite(matches.sigma) & (matches.sigma > 0)
    return finite & (matches.index0 >= 0)
