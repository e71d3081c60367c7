"""Stage 1: where the kidneys are (paper sections 2.3 and 2.4, figure 1 left)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from kits.engine import WINDOW_PX, Corner, Engine, cover
from kits.postprocess import components, smallest_component
from kits.preprocess import SLICE_MM, Normalisation, preprocess, working_shape
from kits.volume import Volume

KIDNEYS = 2
"""The two largest components are the kidneys (section 2.3)."""
MARGIN_MM = 15.0
"""Stage 1 misses the poles: regions reach this much further up and down."""
CHUNK = 32


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


def locate(
    volume: Volume,
    networks: Sequence[nn.Module],
    norm: Normalisation,
    engine: Engine,
    to_the_letter: bool = False,
) -> list[Region]:
    """Find the kidneys on 3 mm slices of half the in-plane resolution.

    Kidney and tumour merge into one class; components too small go; the two largest that remain are the kidneys.

    Args:
        volume: the CT.
        networks: Res-UNet1, or several to average, placed on the engine's device.
        norm: how their input is standardised.
        engine: where they run.
        to_the_letter: see ``smallest_component``.

    Returns:
        No, one or two regions, the larger component first.
    """
    working = working_shape(volume.hu.shape, volume.spacing)
    halved = (working[0], -(-working[1] // 2), -(-working[2] // 2))
    slices_ZYX = pad_to_window(preprocess(volume.hu, halved, norm, engine.device), norm.air)
    windows = [(y, x) for y in cover(0, halved[1], halved[1]) for x in cover(0, halved[2], halved[2])]
    found_ZYX = torch.empty(halved, dtype=torch.bool)
    for first in range(0, halved[0], CHUNK):
        centres = range(first, min(first + CHUNK, halved[0]))
        background_ZYX = engine.predict(networks, slices_ZYX, centres, windows)[:, 0, : halved[1], : halved[2]]
        found_ZYX[first : centres.stop] = (background_ZYX < 0.5).cpu()
    smallest = smallest_component(halved, volume.hu.shape, volume.spacing, to_the_letter)
    _, boxes = components(found_ZYX.numpy(), smallest)
    return [region_of(box, halved, working, volume) for box in boxes[:KIDNEYS]]


def region_of(
    box: tuple[slice, slice, slice],
    halved: tuple[int, int, int],
    working: tuple[int, int, int],
    volume: Volume,
) -> Region:
    """The region of a component's bounding box: grown to 256 px in-plane, by a margin in z (section 2.3)."""
    depth = volume.hu.shape[0]
    margin = MARGIN_MM / SLICE_MM
    first = int((box[0].start - margin) * depth / halved[0])
    last = -int(-(box[0].stop + margin) * depth // halved[0])
    corners = [
        cover(
            round(box[a].start * working[a] / halved[a]),
            round(box[a].stop * working[a] / halved[a]),
            working[a],
        )
        for a in (1, 2)
    ]
    windows = tuple((y, x) for y in corners[0] for x in corners[1])
    return Region(max(0, first), min(depth, last), windows)


def pad_to_window(slices_ZYX: torch.Tensor, air: float) -> torch.Tensor:
    """Slices at least 256 px wide and high, filled with air at the right and the bottom."""
    missing = [max(0, WINDOW_PX - length) for length in slices_ZYX.shape[1:]]
    return (
        torch.nn.functional.pad(slices_ZYX, (0, missing[1], 0, missing[0]), value=air) if any(missing) else slices_ZYX
    )
