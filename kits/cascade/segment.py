"""Stages 2 and 3: kidney and tumour inside the regions, and the way back to the native grid.

Two ways: every slice of the scan is predicted, its neighbours sampled 3 and 6 mm away; or, to the paper's letter, 3 mm
slices, whose probabilities are interpolated back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional

from kits.cascade.preprocess import Slices
from kits.cascade.stage import Stage
from kits.choices import KIDNEY
from kits.geometry import Box, Grids, Region, Shape, Span, spans
from kits.io.volume import Volume
from kits.plan import OFFSETS, WINDOW_PX

Chunk = tuple[int, torch.Tensor]
"""The index of a first slice, and the probabilities of it and the following ones: (n, 3, rows, columns)."""

REACHES_MM2 = 50.0
"""A kidney that shows so much in a region's last slice goes on beyond it."""
ALIKE_HU, ALIKE = 15.0, 0.25
"""By how much, or by what share, the middle HU of a kidney differs from slice to slice."""
LOOKS = 9
"""Slices of a region whose kidney tells what is usual."""


def segment(
    volume: Volume, grids: Grids, regions: Sequence[Region], stage: Stage
) -> Iterator[tuple[Box, torch.Tensor]]:
    """Probabilities of background, kidney and tumour where the regions lie; all else is background.

    Args:
        volume: the CT.
        grids: its grids.
        regions: from ``locate``.
        stage: the members of the ensemble.

    Yields:
        (box on the native grid, float32 (slices, 3, rows, columns)), of at most ``CHUNK`` slices or of what these
        cover, in the slices' order; no more than one is held.
    """
    rows, columns = grids.plane(regions)
    hu_ZYX = volume.hu[:, rows, columns]
    depth, height, width = grids.working.shape
    if grids.in_plane_is_native:
        height, width = hu_ZYX.shape[1:]
    wanted = [
        (*grids.working_slices(region), tuple((top - rows.start, left - columns.start) for top, left in region.windows))
        for region in regions
    ]
    found = predict(stage.slices(hu_ZYX, (depth, height, width)), wanted, stage, grids.step)
    if not grids.plan.every_slice:
        found = to_native_slices(found, depth, len(hu_ZYX))
    for first, chunk in found:
        yield (slice(first, first + len(chunk)), rows, columns), chunk


def predict(slices: Slices, wanted: Sequence[Span], stage: Stage, step: float) -> Iterator[Chunk]:
    """Probabilities of the wanted slices, in native rows and columns, chunk by chunk.

    Args:
        slices: of the part of the volume that is looked at.
        wanted: slices and windows among them.
        stage: the networks.
        step: slices between the neighbours that the networks see.
    """
    reach = int(step * max(OFFSETS)) + 1
    for first, last, windows in spans(wanted):
        low, high = max(0, first - reach), min(slices.shape[0], last + reach)
        input_ZYX = stage.input(slices, low, high)
        probabilities = stage.predict(input_ZYX, range(first - low, last - low), windows, step)
        yield first, to_native_plane(probabilities, slices.shape, slices.hu_ZYX.shape)


def beyond(
    labels: np.ndarray, regions: Sequence[Region], volume: Volume, grids: Grids
) -> tuple[list[Region], list[Region]]:
    """Where kidneys go on beyond their regions' ends: stage 1 misses poles, and much of a kidney without contrast.

    Args:
        labels: uint8 (z, y, x) of the whole volume, 0 is background.
        regions: where stage 2 has looked.
        volume: the CT; what has not the HU of the kidneys, such as a spleen beside one, is not followed.
        grids: its grids.

    Returns:
        The regions, longer by ``plan.margin_mm`` at each end that a kidney reaches; and what ``segment`` has to look at
        for that: the slices that are new, with all windows that see them.
    """
    depth, *plane = grids.native.shape
    scale = np.array(plane) / grids.working.shape[1:]
    more = max(1, math.ceil(grids.plan.margin_mm / grids.native.spacing[0]))
    overlap = math.ceil(depth / grids.working.shape[0])  # what lies between two thicker slices needs both
    looks = {z for region in regions for z in np.linspace(region.first, region.last - 1, LOOKS).astype(int).tolist()}
    kidneys = [volume.hu[z][labels[z] == KIDNEY] for z in looks]
    kidney_hu = [float(np.median(kidney)) for kidney in kidneys if kidney.size]
    usual = float(np.median(kidney_hu)) if kidney_hu else math.nan

    def reaches(region: Region, at: int, following: int) -> bool:
        """Whether something is labelled there, where no other region shows the following slice."""
        seen = np.zeros(plane, bool)
        others = (other for other in regions if other is not region and other.first <= following < other.last)
        for windows, value in ((region.windows, True), *((other.windows, False) for other in others)):
            for corner in windows:
                (top, left), (bottom, right) = np.multiply(corner, scale), np.add(corner, WINDOW_PX) * scale
                seen[round(top) : round(bottom), round(left) : round(right)] = value
        kidney = seen & (labels[at] == KIDNEY)
        count = np.count_nonzero(seen & (labels[at] > 0))
        if kidney.any() and abs(np.median(volume.hu[at][kidney]) - usual) > max(ALIKE_HU, ALIKE * abs(usual)):
            count -= np.count_nonzero(kidney)
        return bool(count * math.prod(grids.native.spacing[1:]) >= REACHES_MM2)

    longer, new = [], []
    for region in regions:
        first, last = region.first, region.last
        if first > 0 and reaches(region, first, first - 1):
            first = max(0, first - more)
            new.append((first, region.first + overlap))
        if last < depth and reaches(region, last - 1, last):
            last = min(depth, last + more)
            new.append((region.last - overlap, last))
        longer.append(replace(region, first=first, last=last))
    shown = [
        replace(region, first=max(region.first, low), last=min(region.last, high))
        for low, high in new
        for region in longer
        if region.first < high and low < region.last
    ]
    return longer, shown


def to_native_plane(probabilities: torch.Tensor, grid: Shape, shape: tuple[int, ...]) -> torch.Tensor:
    """Cut the padding off and, where the plane was resampled, interpolate back to native rows and columns."""
    probabilities = probabilities[..., : grid[1], : grid[2]]
    if grid[1:] == shape[1:]:
        return probabilities
    return functional.interpolate(probabilities, size=shape[1:], mode="bilinear")


def to_native_slices(chunks: Iterator[Chunk], resliced: int, depth: int) -> Iterator[Chunk]:
    """Interpolate probabilities of 3 mm slices to the native slices whose centres lie between theirs.

    The outermost 3 mm slices of the volume stand for all that lies beyond their centres.

    Args:
        chunks: each a first 3 mm slice, and probabilities from it on; in order.
        resliced, depth: number of 3 mm and of native slices of the volume.
    """
    step = resliced / depth
    centres = ((np.arange(depth, dtype=np.float32) + 0.5) * step - 0.5).clip(0, resliced - 1)
    held: Chunk | None = None
    for first, probabilities in chunks:
        if held and held[0] + len(held[1]) == first:  # what lies between two chunks needs both
            first, probabilities = first - 1, torch.cat([held[1][-1:], probabilities])
        last = first + len(probabilities) - 1
        low, high = int(np.searchsorted(centres, first, "left")), int(np.searchsorted(centres, last, "right"))
        if low < high:
            # Made on the device: a GPU that is indexed from the CPU is waited for.
            native = torch.arange(low, high, device=probabilities.device)
            position = ((native + 0.5) * step - 0.5).clamp(0, resliced - 1).sub(first).clamp(0, last - first)
            below = position.floor().long()
            weight = (position - below).to(probabilities)[:, None, None, None]
            above = (below + 1).clamp_max(last - first)
            yield low, torch.lerp(probabilities[below], probabilities[above], weight)
        held = first, probabilities
