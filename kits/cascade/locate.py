"""Stage 1: where the kidneys are (paper sections 2.3 and 2.4, figure 1 left)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from kits.cascade.components import KIDNEY_MM, KIDNEYS, components, smallest_component
from kits.cascade.preprocess import preprocess, working_shape
from kits.geometry import CHUNK, WINDOW_PX, Corner, Region, cover
from kits.io.volume import Volume
from kits.networks import Network
from kits.normalisation import Normalisation
from kits.runtime.engine import Engine

MARGIN_MM = 15.0
"""Stage 1 misses the poles and rims: regions reach at least this much further, above all up and down."""
LOOK_EVERY = 3
"""Stage 1 looks at every third 3 mm slice, 9 mm apart, and at each one where a kidney begins, ends or is thin."""
THIN = 0.25
"""Share of its largest slice's area under which a component is thin: its poles, and what merely links it to others."""

USUAL_PLACES = ((0.58, 0.34), (0.58, 0.66))
"""Where kidneys lie in a slice, as shares of its rows and columns."""


def locate(
    volume: Volume,
    networks: Sequence[Network],
    norm: Normalisation,
    engine: Engine,
    to_the_letter: bool = False,
    progress: Callable[[float], None] = lambda done: None,
) -> list[Region]:
    """Find the kidneys on 3 mm slices of half the in-plane resolution.

    Kidney and tumour merge into one class; components too small go; the two largest that remain are the kidneys. Of a
    scan too thin for a whole kidney that shows none, stage 2 is to judge the places where kidneys usually are.

    Args:
        volume: the CT.
        networks: Res-UNet1, or several to average, from ``Engine.place``.
        norm: how their input is standardised.
        engine: where they run.
        to_the_letter: look at every 3 mm slice, and at no usual places; and see ``smallest_component``.
        progress: told how much is done, from 0 to 1.

    Returns:
        No, one or two regions, the larger component first; or the usual places.
    """
    slices_ZYX, halved, windows = halved_slices(volume, norm, engine, to_the_letter)
    smallest = smallest_component(halved, volume.hu.shape, volume.spacing, to_the_letter)

    every = 1 if to_the_letter else min(LOOK_EVERY, halved[0])
    looks = 0

    def look(centres: Sequence[int]) -> np.ndarray:
        """Where these slices show kidney, bool (slices, rows, columns)."""
        nonlocal looks
        found = np.empty((len(centres), *halved[1:]), bool)
        for first in range(0, len(centres), CHUNK):
            chunk = engine.predict(networks, slices_ZYX, centres[first : first + CHUNK], windows)
            found[first : first + CHUNK] = (chunk[:, 0, : halved[1], : halved[2]] < 0.5).cpu().numpy()
            looks += len(chunk)
            progress(looks / halved[0])
        return found

    # Each slice looked at stands for its group of neighbours, except where that might matter.
    middle = every // 2
    seen_ZYX = look(range(middle, halved[0], every))
    found_ZYX = seen_ZYX[np.minimum(np.arange(halved[0]) // every, len(seen_ZYX) - 1)]
    labels_ZYX, boxes = components(found_ZYX, smallest)
    doubtful: set[int] = set()
    for rank, (z, rows, columns) in enumerate(boxes[:KIDNEYS], start=1):
        area = (labels_ZYX[:, rows, columns] == rank).sum((1, 2))
        reach = range(max(0, z.start - every + middle + 1), min(z.stop + middle, halved[0]))
        doubtful |= {index for index in reach if area[index] < THIN * area.max() or not z.start < index < z.stop - 1}
    if unseen := sorted(doubtful - set(range(middle, halved[0], every))):
        found_ZYX[unseen] = look(unseen)
        _, boxes = components(found_ZYX, smallest)
    progress(1.0)
    regions = [region_of(box, halved, volume, to_the_letter) for box in boxes[:KIDNEYS]]
    if regions or to_the_letter or volume.hu.shape[0] * volume.spacing[0] >= KIDNEY_MM:
        return regions
    return usual_regions(volume)


def halved_slices(
    volume: Volume, norm: Normalisation, engine: Engine, to_the_letter: bool = False
) -> tuple[torch.Tensor, tuple[int, int, int], list[Corner]]:
    """What stage 1 sees: 3 mm slices of half the working rows and columns.

    Returns:
        The standardised slices, at least 256 px wide and high; their size (z, y, x) before this padding; and the
        windows that cover them.
    """
    slices, rows, columns = working_shape(volume.hu.shape, volume.spacing, to_the_letter=to_the_letter)
    halved = (slices, -(-rows // 2), -(-columns // 2))
    slices_ZYX = pad_to_window(preprocess(volume.hu, halved, norm, engine.device), norm.air)
    return slices_ZYX, halved, [(y, x) for y in cover(0, halved[1], halved[1]) for x in cover(0, halved[2], halved[2])]


def region_of(
    box: tuple[slice, slice, slice],
    halved: tuple[int, int, int],
    volume: Volume,
    to_the_letter: bool = False,
) -> Region:
    """The region of a component's bounding box with its margin, grown to 256 px in-plane (section 2.3)."""
    working = working_shape(volume.hu.shape, volume.spacing, to_the_letter=to_the_letter)
    lows, highs = [], []
    for axis, length in enumerate((volume.hu.shape[0], *working[1:])):
        margin = MARGIN_MM / (volume.hu.shape[axis] * volume.spacing[axis])  # as a share of the whole axis
        lows.append(max(0, math.floor((box[axis].start / halved[axis] - margin) * length)))
        highs.append(min(length, math.ceil((box[axis].stop / halved[axis] + margin) * length)))
    rows, columns = (cover(lows[axis], highs[axis], working[axis]) for axis in (1, 2))
    return Region(lows[0], highs[0], tuple((y, x) for y in rows for x in columns))


def usual_regions(volume: Volume) -> list[Region]:
    """The right and the left kidney's usual places, through all slices."""
    plane = np.array(working_shape(volume.hu.shape, volume.spacing)[1:])
    regions = []
    for place in USUAL_PLACES:
        corner = (plane * place - WINDOW_PX / 2).clip(0, (plane - WINDOW_PX).clip(0))
        y, x = corner.round().astype(int).tolist()
        regions.append(Region(0, volume.hu.shape[0], ((y, x),)))
    return regions


def pad_to_window(slices_ZYX: torch.Tensor, air: float) -> torch.Tensor:
    """Slices at least 256 px wide and high, filled with air at the right and the bottom."""
    missing = [max(0, WINDOW_PX - length) for length in slices_ZYX.shape[1:]]
    return torch.nn.functional.pad(slices_ZYX, (0, missing[1], 0, missing[0]), value=air)
