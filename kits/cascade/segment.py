"""Stages 2 and 3: kidney and tumour inside the regions, and the way back to the native grid.

Two ways: every slice of the scan is predicted, its neighbours sampled 3 and 6 mm away; or, to the paper's letter, 3 mm
slices, whose probabilities are interpolated back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.nn import functional

from kits.cascade.locate import pad_to_window
from kits.cascade.preprocess import SLICE_MM, preprocess, working_shape
from kits.geometry import WINDOW_PX, Box, Region, Span, spans
from kits.io.volume import Volume
from kits.networks import Network
from kits.normalisation import Normalisation
from kits.runtime.engine import Engine
from kits.runtime.stacks import OFFSETS

Slices = tuple[int, torch.Tensor]
"""The index of a first slice, and the probabilities of it and the following ones: (n, 3, rows, columns)."""


def segment(
    volume: Volume,
    regions: Sequence[Region],
    networks: Sequence[Network],
    norm: Normalisation,
    engine: Engine,
    to_the_letter: bool = False,
) -> Iterator[tuple[Box, torch.Tensor]]:
    """Probabilities of background, kidney and tumour where the regions lie; all else is background.

    Each is (box on the native grid, float32 (slices, 3, rows, columns)), of at most ``CHUNK`` slices or of what these
    cover, in the slices' order; no more than one is held.

    Args:
        volume: the CT.
        regions: from ``locate``.
        networks: the members of the ensemble, from ``Engine.place``.
        norm: how their input is standardised.
        engine: where they run.
        to_the_letter: predict 3 mm slices, as the paper does, and interpolate their probabilities back.
    """
    grid = working_shape(volume.hu.shape, volume.spacing, to_the_letter, to_the_letter)
    rows, columns = plane_of(regions, grid, volume)
    hu_ZYX = volume.hu[:, rows, columns]
    if grid[1:] == volume.hu.shape[1:]:
        grid = grid[0], hu_ZYX.shape[1], hu_ZYX.shape[2]
    scale = len(hu_ZYX) / grid[0]  # native slices a slice
    wanted = [
        (
            int(region.first / scale),
            min(grid[0], math.ceil(region.last / scale)),
            tuple((top - rows.start, left - columns.start) for top, left in region.windows),
        )
        for region in regions
    ]
    step = 1.0 if to_the_letter else SLICE_MM / volume.spacing[0]
    found = predict(hu_ZYX, grid, wanted, networks, norm, engine, step)
    for first, chunk in to_native_slices(found, grid[0], len(hu_ZYX)) if to_the_letter else found:
        yield (slice(first, first + len(chunk)), rows, columns), chunk


def plane_of(regions: Sequence[Region], grid: tuple[int, int, int], volume: Volume) -> tuple[slice, slice]:
    """The native rows and columns that some window reaches; all of them where the plane is resampled."""
    whole = slice(0, volume.hu.shape[1]), slice(0, volume.hu.shape[2])
    if not regions or grid[1:] != volume.hu.shape[1:]:
        return whole
    corners = np.array([window for region in regions for window in region.windows])
    lows, highs = corners.min(0).tolist(), (corners.max(0) + WINDOW_PX).tolist()
    rows, columns = (slice(low, min(high, all.stop)) for low, high, all in zip(lows, highs, whole, strict=True))
    return rows, columns


def predict(
    hu_ZYX: np.ndarray,
    grid: tuple[int, int, int],
    wanted: Sequence[Span],
    networks: Sequence[Network],
    norm: Normalisation,
    engine: Engine,
    step: float,
) -> Iterator[Slices]:
    """Probabilities of the wanted slices of the working grid, in native rows and columns, chunk by chunk.

    Args:
        hu_ZYX: int16 HU.
        grid: (slices, rows, columns) of the working grid.
        wanted: slices and windows on that grid.
        networks, norm, engine: see ``segment``.
        step: slices between the neighbours that the networks see.
    """
    reach = int(step * max(OFFSETS)) + 1
    for first, last, windows in spans(wanted):
        low, high = max(0, first - reach), min(grid[0], last + reach)
        slices_ZYX = pad_to_window(preprocess(hu_ZYX, grid, norm, engine.device, low, high), norm.air)
        probabilities = engine.predict(networks, slices_ZYX, range(first - low, last - low), windows, step)
        yield first, to_native_plane(probabilities, grid, hu_ZYX.shape)


def to_native_plane(probabilities: torch.Tensor, grid: tuple[int, int, int], shape: tuple[int, ...]) -> torch.Tensor:
    """Cut the padding off and, where the plane was resampled, interpolate back to native rows and columns."""
    probabilities = probabilities[..., : grid[1], : grid[2]]
    if grid[1:] == shape[1:]:
        return probabilities
    return functional.interpolate(probabilities, size=shape[1:], mode="bilinear")


def to_native_slices(chunks: Iterator[Slices], resliced: int, depth: int) -> Iterator[Slices]:
    """Interpolate probabilities of 3 mm slices to the native slices whose centres lie between theirs.

    The outermost 3 mm slices of the volume stand for all that lies beyond their centres.

    Args:
        chunks: each a first 3 mm slice, and probabilities from it on; in order.
        resliced, depth: number of 3 mm and of native slices of the volume.
    """
    centres = ((torch.arange(depth) + 0.5) * (resliced / depth) - 0.5).clamp(0, resliced - 1)
    held: Slices | None = None
    for first, probabilities in chunks:
        if held and held[0] + len(held[1]) == first:  # what lies between two chunks needs both
            first, probabilities = first - 1, torch.cat([held[1][-1:], probabilities])
        native = torch.nonzero((centres >= first) & (centres <= first + len(probabilities) - 1))[:, 0]
        if len(native):
            position = centres[native] - first
            below = position.floor().long()
            weight = (position - below).to(probabilities)[:, None, None, None]
            above = (below + 1).clamp_max(len(probabilities) - 1)
            yield int(native[0]), torch.lerp(probabilities[below], probabilities[above], weight)
        held = first, probabilities
