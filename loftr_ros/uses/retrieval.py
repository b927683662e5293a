# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""Places in a folder of images: a descriptor of each, kept in a file, and verified matches with the most alike."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loftr_ros.errors import InputError
from loftr_ros.evaluation.sequences import read_image
from loftr_ros.files import write_bytes_atomically
from loftr_ros.matching import PlaceMatcher
from loftr_ros.places import PlaceIndex
from loftr_ros.types import Image
from loftr_ros.uses.similarity import score, verify

_FORMAT = "loftr_ros places 1"
_FIELDS = ("format", "matcher", "names", "stamps", "descriptors")


@dataclass(frozen=True)
class FolderIndex:
    """Descriptors of the images of a folder.

    Attributes:
        names: N file names.
        stamps: [N, 2] size in bytes and time of change in nanoseconds of each file.
        descriptors: [N, D] unit vectors.
        matcher: fingerprint of the matcher that they come from.
    """

    names: list[str]
    stamps: NDArray[np.int64]
    descriptors: NDArray[np.float32]
    matcher: str


@dataclass(frozen=True)
class Place:
    """An image that was found.

    Attributes:
        name: of its file.
        alike: cosine similarity of the descriptors.
        score: similarity in [0, 1] from verified matches; None where it was not verified.
        inliers: verified matches.
    """

    name: str
    alike: float
    score: float | None = None
    inliers: int = 0


def default_file(folder: Path) -> Path:
    """Where the index of a folder is kept: in the user's cache, so that the folder stays as it is."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    return Path(cache) / "loftr_ros" / "places" / f"{name}.npz"


def save(index: FolderIndex, file: Path) -> None:
    """Raises InputError where the file cannot be written."""
    content = io.BytesIO()
    np.savez(
        content,
        format=np.array(_FORMAT),
        matcher=np.array(index.matcher),
        names=np.array(index.names, dtype=np.str_),
        stamps=index.stamps,
        descriptors=index.descriptors,
    )
    write_bytes_atomically(file, content.getvalue())


def load(file: Path) -> FolderIndex | None:
    """The saved index; None where there is no file. Raises InputError for a file of another kind."""
    if not file.exists():
        return None
    try:
        with np.load(file, allow_pickle=False) as table:
            values = {key: table[key] for key in _FIELDS}
    except (OSError, KeyError, ValueError, zipfile.BadZipFile, EOFError):
        raise InputError(f"{file} is not an index of places; delete it or name another file.") from None
    if str(values["format"]) != _FORMAT:
        raise InputError(f"{file} is an index of another version; delete it or name another file.")
    return FolderIndex(
        [str(n) for n in values["names"]], values["stamps"], values["descriptors"], str(values["matcher"])
    )


def update(
    files: list[Path],
    matcher: PlaceMatcher,
    old: FolderIndex | None,
    tell: Callable[[str], None] = lambda text: None,
    each: Callable[[list[Path]], list[Path]] = lambda files: files,
) -> tuple[FolderIndex, int]:
    """An index of exactly these images, and how many of them had to be described.

    A descriptor is taken over from the old index where the file has the same name, size and time of change, and the
    matcher is the same.

    Args:
        tell: gets a sentence for every image that cannot be read, which is left out.
        each: wraps the files that are described (for a progress bar).
    """
    fingerprint = matcher.fingerprint
    known: dict[tuple[str, int, int], NDArray[np.float32]] = {}
    if old is not None and old.matcher == fingerprint:
        keys = zip(old.names, old.stamps[:, 0].tolist(), old.stamps[:, 1].tolist())
        known = dict(zip(keys, old.descriptors))
    keyed = {file: (file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files}
    missing = [file for file in files if keyed[file] not in known]
    for file in each(missing):
        try:
            known[keyed[file]] = matcher.describe(matcher.extract(read_image(file)))
        except InputError as error:
            tell(str(error))
    kept = [keyed[file] for file in files if keyed[file] in known]
    index = FolderIndex(
        names=[key[0] for key in kept],
        stamps=np.array([key[1:] for key in kept], dtype=np.int64).reshape(-1, 2),
        descriptors=np.array([known[key] for key in kept], dtype=np.float32),
        matcher=fingerprint,
    )
    return index, len(missing)


def search(
    index: FolderIndex, folder: Path, matcher: PlaceMatcher, query: Image, count: int = 5, shortlist: int = 10
) -> list[Place]:
    """The places that are most like the query, best first.

    Args:
        folder: of the images of the index.
        query: [H, W] grey.
        count: how many to return.
        shortlist: how many of the most alike descriptors are verified by matching; these come first, by their score.

    Raises:
        InputError: an image of the index cannot be read any more.
    """
    features = matcher.extract(query)
    places = PlaceIndex()
    for name, descriptor in zip(index.names, index.descriptors):
        places.add(descriptor, name)
    candidates = places.query(matcher.describe(features), max(count, shortlist))
    verified = [_verified(matcher, query, features, folder / name, alike) for name, alike in candidates[:shortlist]]
    verified.sort(key=lambda place: -(place.score or 0.0))  # stable: equals stay in the order of their descriptors
    rest = [Place(name, alike) for name, alike in candidates[shortlist:]]
    return (verified + rest)[:count]


def _verified(matcher: PlaceMatcher, query: Image, features: object, file: Path, alike: float) -> Place:
    image = read_image(file)
    other = matcher.extract(image)
    matches = matcher.match_features(features, other)
    inliers = verify(matches, query.shape)
    keypoints = matcher.keypoints(features), matcher.keypoints(other)
    return Place(file.name, alike, score(matches, inliers, query.shape, image.shape, *keypoints), int(inliers.sum()))
