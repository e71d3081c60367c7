"""Where things lie: boxes, regions, windows and the slices that they span.

Arrays are (z, y, x), lengths in mm.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

Spacing = tuple[float, float, float]
"""mm, (z, y, x)."""
Box = tuple[slice, slice, slice]
Corner = tuple[int, int]
"""(row, column) of a window's top left corner."""
Span = tuple[int, int, tuple[Corner, ...]]
"""A range of slices, its end exclusive, and the windows to look at in it."""

WINDOW_PX = 256
"""Rows and columns that a network sees at once (paper section 2.3)."""
CHUNK = 32
"""Slices whose probabilities are held at a time."""


@dataclass(frozen=True)
class Region:
    """A region of interest: a range of the volume's own slices, and windows of 256 x 256 px to look at.

    Args:
        first, last: the native slices, ``last`` exclusive.
        windows: (row, column) corners on the networks' in-plane grid; several for what does not fit into one.
    """

    first: int
    last: int
    windows: tuple[Corner, ...]


def cover(low: int, high: int, limit: int) -> list[int]:
    """Starts of the windows of ``WINDOW_PX`` that cover [low, high) and stay within [0, limit).

    One window, centred, where it suffices; otherwise evenly spaced, overlapping ones.

    Example:
        >>> cover(100, 200, 512), cover(0, 400, 400)
        ([22], [0, 144])
    """
    length = max(high - low, WINDOW_PX)
    first = min(max((low + high - length) // 2, 0), max(limit - length, 0))
    count = -(-length // WINDOW_PX)
    gaps = max(count - 1, 1)
    return [first + round(index * (length - WINDOW_PX) / gaps) for index in range(count)]


def spans(wanted: Sequence[Span]) -> Iterator[tuple[int, int, list[Corner]]]:
    """Cut ranges of slices, each with its windows, into spans of at most ``CHUNK`` slices that want the same windows.

    Example:
        >>> list(spans([(0, 4, ((0, 0),)), (2, 6, ((9, 9),))]))
        [(0, 2, [(0, 0)]), (2, 4, [(0, 0), (9, 9)]), (4, 6, [(9, 9)])]
    """
    borders = sorted({border for first, last, _ in wanted for border in (first, last)})
    for low, high in itertools.pairwise(borders):
        windows = dict.fromkeys(w for first, last, ws in wanted if first <= low and high <= last for w in ws)
        if windows:
            for first in range(low, high, CHUNK):
                yield first, min(first + CHUNK, high), list(windows)


def bounding_box(mask: np.ndarray) -> tuple[slice, slice, slice] | None:
    """The smallest box that holds all of a 3-D mask, or None for an empty one."""
    box = []
    for axis in range(3):
        hits = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        if not len(hits):
            return None
        box.append(slice(int(hits[0]), int(hits[-1]) + 1))
    return box[0], box[1], box[2]


def moved(box: tuple[slice, slice, slice], outer: tuple[slice, slice, slice]) -> tuple[slice, slice, slice]:
    """A box that was counted from another one's corner, on the whole grid."""
    z, y, x = (slice(s.start + at.start, s.stop + at.start) for s, at in zip(box, outer, strict=True))
    return z, y, x
