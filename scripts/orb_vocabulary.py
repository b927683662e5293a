#!/usr/bin/env python3
# Copyright 2026 the loftr_ros authors. SPDX-License-Identifier: Apache-2.0
"""A vocabulary for ORB-SLAM3 from any photos, since orbslam3-python ships none.

    python scripts/orb_vocabulary.py PHOTOS vocabulary.txt

Hierarchical k-means of ORB descriptors in Hamming space (Galvez-Lopez and Tardos, "Bags of Binary Words", T-RO 2012),
written in the text format of DBoW2. Needs numpy and OpenCV only. The same photos give the same vocabulary.
"""

from __future__ import annotations

import argparse
import sys
from collections import deque
from pathlib import Path

import cv2
import numpy as np

BRANCHES, LEVELS = 10, 6
LEAST_IN_A_NODE = 30  # descriptors; fewer are not divided further
ROUNDS = 6
DESCRIPTORS = 600  # of each photo


def descriptors(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """[N, 32] ORB descriptors of all images below a folder, and [N] the number of the image each comes from."""
    orb = cv2.ORB_create(DESCRIPTORS)
    found, image_of = [], []
    for path in sorted(folder.rglob("*")):
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) if path.is_file() else None
        described = None if image is None else orb.detectAndCompute(image, None)[1]
        if described is not None:
            image_of.append(np.full(len(described), len(found)))
            found.append(described)
    if not found:
        sys.exit(f"{folder} holds no image with ORB keypoints.")
    return np.concatenate(found), np.concatenate(image_of)


def divide(signs: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Clusters of descriptors given as [N, 256] of -1 and 1: the cluster of each, and the centres."""
    centres = signs[rng.choice(len(signs), BRANCHES, replace=False)].copy()
    for _ in range(ROUNDS):
        cluster = np.argmax(signs @ centres.T, axis=1)
        for k in range(BRANCHES):
            members = signs[cluster == k]
            if len(members):
                centres[k] = np.where(members.sum(axis=0) >= 0, 1, -1)
    return np.argmax(signs @ centres.T, axis=1), centres


def nodes(found: np.ndarray, image_of: np.ndarray) -> list[str]:
    """The lines of the tree: parent, whether it is a word, descriptor, weight (inverse document frequency)."""
    rng, lines, images = np.random.default_rng(0), [], int(image_of[-1]) + 1
    signs = np.unpackbits(found, axis=1).astype(np.float32) * 2 - 1
    waiting = deque([(0, np.arange(len(found)), 1)])
    while waiting:
        parent, members, level = waiting.popleft()
        cluster, centres = divide(signs[members], rng)
        for k in range(BRANCHES):
            own = members[cluster == k]
            if len(own) == 0:
                continue
            is_word = level == LEVELS or len(own) < LEAST_IN_A_NODE
            weight = np.log(images / len(np.unique(image_of[own]))) if is_word else 0.0
            bits = " ".join(map(str, np.packbits(centres[k] > 0)))
            lines.append(f"{parent} {int(is_word)} {bits} {weight:.6f}")
            if not is_word:
                waiting.append((len(lines), own, level + 1))
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    lines = nodes(*descriptors(options.photos))
    options.output.write_text(f"{BRANCHES} {LEVELS} 0 0\n" + "\n".join(lines) + "\n")
    print(f"{len(lines)} nodes, {sum(line.split()[1] == '1' for line in lines)} words in {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
