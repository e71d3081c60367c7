"""Stages 2 and 3: kidney and tumour inside the regions, and the way back to the native grid.

Two ways: ``native`` predicts every slice of the scan, its neighbours sampled 3 and 6 mm away; ``paper`` predicts
3 mm slices and interpolates their probabilities back.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.nn import functional

from kits.engine import Corner, Engine
from kits.locate import Region, pad_to_window
from kits.preprocess import SLICE_MM, Normalisation, preprocess, working_shape
from kits.stacks import OFFSETS
from kits.volume import Volume

CHUNK = 32
"""Slices whose probabilities are held at a time."""

Chunk = tuple[int, torch.Tensor]
"""The index of a first slice, and the probabilities of it and the following ones: (n, 3, rows, columns)."""


def segment(
    volume: Volume,
    regions: Sequence[Region],
    networks: Sequence[nn.Module],
    norm: Normalisation,
    engine: Engine,
    mode: str = "native",
) -> Iterator[Chunk]:
    """Probabilities of background, kidney and tumour for the native slices that the regions reach, in order.

    Each chunk is (first slice, float32 (n, 3, rows, columns)) on the native grid; no more than one is held.

    Args:
        volume: the CT.
        regions: from ``locate``.
        networks: the members of the ensemble, placed on the engine's device.
        norm: how their input is standardised.
        engine: where they run.
        mode: ``native`` or ``paper``.
    """
    if mode == "native":
        yield from predict_native(volume, regions, networks, norm, engine)
    else:
        yield from predict_resliced(volume, regions, networks, norm, engine)


def predict_native(
    volume: Volume,
    regions: Sequence[Region],
    networks: Sequence[nn.Module],
    norm: Normalisation,
    engine: Engine,
) -> Iterator[Chunk]:
    """Every native slice, its neighbours sampled at -6, -3, +3 and +6 mm."""
    depth = volume.hu.shape[0]
    grid = working_shape(volume.hu.shape, volume.spacing, reslice=False)
    step = SLICE_MM / volume.spacing[0]
    reach = int(step * max(OFFSETS)) + 1
    for first, last, windows in spans([(r.first, r.last, r.windows) for r in regions]):
        low, high = max(0, first - reach), min(depth, last + reach)
        slices_ZYX = preprocess(volume.hu[low:high], (high - low, *grid[1:]), norm, engine.device)
        probabilities = engine.predict(
            networks, pad_to_window(slices_ZYX, norm.air), range(first - low, last - low), windows, step
        )
        yield first, to_native_plane(probabilities, grid, volume)


def predict_resliced(
    volume: Volume,
    regions: Sequence[Region],
    networks: Sequence[nn.Module],
    norm: Normalisation,
    engine: Engine,
) -> Iterator[Chunk]:
    """Every 3 mm slice as in the paper; its probabilities are interpolated to the native slices."""
    depth = volume.hu.shape[0]
    grid = working_shape(volume.hu.shape, volume.spacing)
    scale = depth / grid[0]
    slices_ZYX = pad_to_window(preprocess(volume.hu, grid, norm, engine.device), norm.air)
    wanted = [(int(r.first / scale), min(grid[0], math.ceil(r.last / scale)), r.windows) for r in regions]
    held: Chunk | None = None
    for first, last, windows in spans(wanted):
        probabilities = engine.predict(networks, slices_ZYX, range(first, last), windows)
        chunk = first, to_native_plane(probabilities, grid, volume)
        if held and held[0] + len(held[1]) == first:  # what lies between two chunks needs both
            chunk = first - 1, torch.cat([held[1][-1:], chunk[1]])
        yield to_native_slices(chunk, grid[0], depth)
        held = chunk


def to_native_plane(probabilities: torch.Tensor, grid: tuple[int, int, int], volume: Volume) -> torch.Tensor:
    """Cut the padding off and, where the plane was resampled, interpolate back to native rows and columns."""
    probabilities = probabilities[..., : grid[1], : grid[2]]
    if grid[1:] == volume.hu.shape[1:]:
        return probabilities
    return functional.interpolate(probabilities, size=volume.hu.shape[1:], mode="bilinear")


def to_native_slices(chunk: Chunk, resliced: int, depth: int) -> Chunk:
    """Interpolate probabilities of 3 mm slices to the native slices whose centres lie between theirs.

    The outermost 3 mm slices of the volume stand for all that lies beyond their centres.

    Args:
        chunk: (first 3 mm slice, their probabilities).
        resliced, depth: number of 3 mm and of native slices of the volume.
    """
    first, probabilities = chunk
    last = first + len(probabilities) - 1
    centres = ((torch.arange(depth) + 0.5) * (resliced / depth) - 0.5).clamp(0, resliced - 1)
    native = torch.nonzero((centres >= first) & (centres <= last))[:, 0]
    if not len(native):
        return 0, probabilities[:0]
    position = centres[native] - first
    below = position.floor().long()
    weight = (position - below).to(probabilities)[:, None, None, None]
    above = (below + 1).clamp_max(len(probabilities) - 1)
    return int(native[0]), torch.lerp(probabilities[below], probabilities[above], weight)


def spans(ranges: Sequence[tuple[int, int, tuple[Corner, ...]]]) -> Iterator[tuple[int, int, list[Corner]]]:
    """Cut ranges of slices, each with its windows, into spans of at most ``CHUNK`` slices that want the same windows.

    Example:
        >>> list(spans([(0, 4, ((0, 0),)), (2, 6, ((9, 9),))]))
        [(0, 2, [(0, 0)]), (2, 4, [(0, 0), (9, 9)]), (4, 6, [(9, 9)])]
    """
    borders = sorted({border for first, last, _ in ranges for border in (first, last)})
    for low, high in itertools.pairwise(borders):
        windows = dict.fromkeys(w for first, last, ws in ranges if first <= low and high <= last for w in ws)
        if windows:
            for first in range(low, high, CHUNK):
                yield first, min(first + CHUNK, high), list(windows)
