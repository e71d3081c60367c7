"""Stages 2 and 3: kidney and tumour inside the regions, and the way back to the native grid.

Two ways: every slice of the scan is predicted, its neighbours sampled 3 and 6 mm away; or, to the paper's letter, 3 mm
slices, whose probabilities are interpolated back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.nn import functional

from kits.cascade.preprocess import Slices
from kits.cascade.stage import Stage
from kits.geometry import Box, Grids, Region, Shape, Span, spans
from kits.io.volume import Volume
from kits.plan import OFFSETS

Chunk = tuple[int, torch.Tensor]
"""The index of a first slice, and the probabilities of it and the following ones: (n, 3, rows, columns)."""


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
