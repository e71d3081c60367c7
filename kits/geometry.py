"""Where things lie: the grids of a case, and the boxes, regions, windows and slices on them.

Arrays are (z, y, x), lengths in mm. All grids of a case cover the same extent (half-pixel centres), so an index on one
becomes an index on another by the ratio of their lengths.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from kits.plan import SLICE_MM, WINDOW_PX, Plan

Shape = tuple[int, int, int]
"""(slices, rows, columns)."""
Spacing = tuple[float, float, float]
"""mm, (z, y, x)."""
Box = tuple[slice, slice, slice]
Corner = tuple[int, int]
"""(row, column) of a window's top left corner."""
Span = tuple[int, int, tuple[Corner, ...]]
"""A range of slices, its end exclusive, and the windows to look at in it."""

CHUNK = 32
"""Slices whose probabilities are held at a time."""

KIDNEY_MM = 100.0
"""A kidney's usual height. A scan that shows less cannot hold a whole one."""

USUAL_PLACES = ((0.58, 0.34), (0.58, 0.66))
"""Where kidneys lie in a slice, as shares of its rows and columns."""


class Scan(Protocol):
    """What has voxels of a size: a ``kits.Volume``."""

    @property
    def hu(self) -> np.ndarray: ...

    @property
    def spacing(self) -> Spacing: ...


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


@dataclass(frozen=True)
class Lattice:
    """A regular grid of voxels."""

    shape: Shape
    spacing: Spacing

    @property
    def voxels(self) -> int:
        """How many there are."""
        return math.prod(self.shape)

    def resampled(self, shape: Shape) -> Lattice:
        """A lattice of another size over the same extent."""
        z, y, x = (mm * n / m for mm, n, m in zip(self.spacing, self.shape, shape, strict=True))
        return Lattice(shape, (z, y, x))


@dataclass(frozen=True)
class Grids:
    """The grids of a case, made once: ``Grids.of(volume, plan)``.

    Args:
        native: the scan's own voxels, in canonical order.
        resliced: slices ``SLICE_MM`` thick, to within half a slice over the whole scan; rows and columns native, or of
            ``plan.typical_mm`` where the scan's are finer or coarser than the plan allows.
        working: what stage 2 sees: the rows and columns of ``resliced``, and the slices of ``native`` or ``resliced``.
        halved: what stage 1 sees: the slices of ``resliced``, half of its rows and columns (paper section 2.3).
        plan: that they were made by.

    Example:
        >>> Grids.from_shape((100, 512, 512), (1.5, 0.8, 0.8), PAPER).halved.shape
        (50, 256, 256)
    """

    native: Lattice
    resliced: Lattice
    working: Lattice
    halved: Lattice
    plan: Plan

    @classmethod
    def of(cls, volume: Scan, plan: Plan) -> Grids:
        """The grids of a volume; asked again for the same, they are the same object."""
        slices, rows, columns = volume.hu.shape
        return cls.from_shape((slices, rows, columns), volume.spacing, plan)

    @classmethod
    @functools.lru_cache(maxsize=64)
    def from_shape(cls, shape: Shape, spacing: Spacing, plan: Plan) -> Grids:
        """The grids of a volume of this size (slices, rows, columns) and spacing (mm)."""
        native = Lattice(shape, spacing)
        slices, rows, columns = max(1, round(shape[0] * spacing[0] / SLICE_MM)), *shape[1:]
        if not all(plan.finest_mm <= mm <= plan.coarsest_mm for mm in spacing[1:]):
            rows, columns = (
                max(1, round(n * mm / plan.typical_mm)) for n, mm in zip(shape[1:], spacing[1:], strict=True)
            )
        resliced = native.resampled((slices, rows, columns))
        working = native.resampled((shape[0], rows, columns)) if plan.every_slice else resliced
        return cls(native, resliced, working, native.resampled((slices, -(-rows // 2), -(-columns // 2))), plan)

    @property
    def in_plane_is_native(self) -> bool:
        """Whether the networks see the scan's own rows and columns."""
        return self.working.shape[1:] == self.native.shape[1:]

    @property
    def height_mm(self) -> float:
        """How much of the body's length the scan shows."""
        return self.native.shape[0] * self.native.spacing[0]

    @property
    def kidney_in_view(self) -> float:
        """The share of a kidney's height that the scan shows, at most 1; always 1 if the plan scales no limits."""
        return min(1.0, self.height_mm / KIDNEY_MM) if self.plan.scale_thin_scans else 1.0

    @property
    def step(self) -> float:
        """Slices of ``working`` between the neighbours that stage 2 sees."""
        return SLICE_MM / self.native.spacing[0] if self.plan.every_slice else 1.0

    def smallest_component(self, shape: Shape) -> float:
        """Fewest voxels that a component must have on a grid of this size over the whole scan (section 2.4).

        They make as much volume as the plan's ``smallest_voxels`` of ``resliced``.
        """
        return self.plan.smallest_voxels * self.kidney_in_view * math.prod(shape) / self.resliced.voxels

    @property
    def smallest_tumour(self) -> float:
        """Fewest native voxels that a tumour must have."""
        return self.plan.smallest_tumour_ml * 1000 / math.prod(self.native.spacing) * self.kidney_in_view

    def region(self, box: Box) -> Region:
        """The region of a component's box on ``halved``: with its margin, grown to whole windows in-plane (2.3)."""
        lows, highs = [], []
        for axis, length in enumerate((self.native.shape[0], *self.working.shape[1:])):
            margin = self.plan.margin_mm / (self.native.shape[axis] * self.native.spacing[axis])  # share of the axis
            lows.append(max(0, math.floor((box[axis].start / self.halved.shape[axis] - margin) * length)))
            highs.append(min(length, math.ceil((box[axis].stop / self.halved.shape[axis] + margin) * length)))
        rows, columns = (cover(lows[axis], highs[axis], self.working.shape[axis]) for axis in (1, 2))
        return Region(lows[0], highs[0], tuple(itertools.product(rows, columns)))

    def usual_regions(self) -> list[Region]:
        """The right and the left kidney's usual places, through all slices."""
        plane = np.array(self.working.shape[1:])
        regions = []
        for place in USUAL_PLACES:
            corner = (plane * place - WINDOW_PX / 2).clip(0, (plane - WINDOW_PX).clip(0))
            row, column = corner.round().astype(int).tolist()
            regions.append(Region(0, self.native.shape[0], ((row, column),)))
        return regions

    def plane(self, regions: Sequence[Region]) -> tuple[slice, slice]:
        """The native rows and columns that some window reaches; all of them where the plane is resampled."""
        rows, columns = self.native.shape[1:]
        if not regions or not self.in_plane_is_native:
            return slice(0, rows), slice(0, columns)
        corners = [window for region in regions for window in region.windows]
        (top, left), (bottom, right) = np.min(corners, 0).tolist(), np.max(corners, 0).tolist()
        return slice(top, min(bottom + WINDOW_PX, rows)), slice(left, min(right + WINDOW_PX, columns))

    def working_slices(self, region: Region) -> tuple[int, int]:
        """A region's slices on ``working``, the last exclusive."""
        native_a_slice = self.native.shape[0] / self.working.shape[0]
        return (
            int(region.first / native_a_slice),
            min(self.working.shape[0], math.ceil(region.last / native_a_slice)),
        )


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


def covering(rows: int, columns: int) -> list[Corner]:
    """The windows that cover a whole slice."""
    return list(itertools.product(cover(0, rows, rows), cover(0, columns, columns)))


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


def bounding_box(mask: np.ndarray) -> Box | None:
    """The smallest box that holds all of a 3-D mask, or None for an empty one."""
    box = []
    for axis in range(3):
        hits = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        if not len(hits):
            return None
        box.append(slice(int(hits[0]), int(hits[-1]) + 1))
    return box[0], box[1], box[2]


def translated(box: Box, origin: Box) -> Box:
    """A box that was counted from another one's corner, on the whole grid."""
    z, y, x = (slice(s.start + at.start, s.stop + at.start) for s, at in zip(box, origin, strict=True))
    return z, y, x
