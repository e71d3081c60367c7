"""The parts of a picture of CT slices: panels with contours, legends, and the sheet that holds them.

Shown as radiologists do: the patient's right on the left, the head up, the abdomen's soft-tissue window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from kits.batch.colours import Colour
from kits.geometry import Spacing

WINDOW_HU = (-160, 240)
PANEL_WIDTH = 480  # px; three panels and their gaps make the sheet
GAP = 14
SCALE_BAR_MM = 50
POINTER = (24, 38)  # px from the middle of what is pointed at
BACKGROUND = (14, 16, 20)
INK = (235, 238, 242)

Array = NDArray[Any]


@dataclass(frozen=True)
class Contour:
    """One line of the drawing: which labels of which map it goes round, and how it looks."""

    name: str
    labels: Array
    values: tuple[int, ...]
    colour: Colour
    width: int  # half pixels


@dataclass(frozen=True)
class View:
    """One panel: a slice of the volume, its caption, and the letters at its left, right, top and bottom.

    Args:
        marks: voxels (z, y, x) on this slice to point at.
    """

    index: tuple[slice | int, slice | int, slice | int]
    caption: str
    letters: tuple[str, str, str, str]
    marks: tuple[tuple[float, ...], ...] = ()


def draw_panel(view: View, volume_hu: Array, spacing: Spacing, contours: list[Contour], scale: float) -> Image.Image:
    """One view at ``scale`` px a mm, with its contours, caption, letters and scale bar."""
    low, high = WINDOW_HU
    plane = _upright(volume_hu, view)
    grey = np.clip((plane.astype(np.float32) - low) / (high - low), 0, 1) * 255
    mm = [step for step, index in zip(spacing, view.index, strict=True) if isinstance(index, slice)]
    size = (
        max(1, round(plane.shape[1] * mm[1] * scale)),
        max(1, round(plane.shape[0] * mm[0] * scale)),
    )
    picture = Image.fromarray(grey.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC).convert("RGB")
    for contour in contours:
        line = _outline(np.isin(_upright(contour.labels, view), contour.values), size, contour.width)
        picture.paste(contour.colour, mask=line)

    for mark in view.marks:
        _point_at(picture, _place_in(view, mark))
    panel = Image.new("RGB", (max(PANEL_WIDTH, size[0]), max(size[1], 120)))
    panel.paste(picture, ((panel.width - size[0]) // 2, (panel.height - size[1]) // 2))
    draw = ImageDraw.Draw(panel)
    right, bottom = panel.width - 8, panel.height - 8
    write(draw, (8, 6), view.caption, "la", 16)
    places = (
        (8, bottom / 2, "lm"),
        (right, bottom / 2, "rm"),
        (right / 2, 6, "ma"),
        (right / 2, bottom, "md"),
    )
    for letter, (at_x, at_y, anchor) in zip(view.letters, places, strict=True):
        write(draw, (at_x, at_y), letter, anchor, 20)
    bar = round(SCALE_BAR_MM * scale)
    draw.line([(right - bar, bottom), (right, bottom)], INK, 3)
    write(draw, (right - bar / 2, bottom - 5), f"{SCALE_BAR_MM} mm", "md", 14)
    return panel


def _upright(array: Array, view: View) -> Array:
    """The view's plane; a coronal or sagittal one has the head up, since z grows to superior."""
    plane = array[view.index]
    return plane if isinstance(view.index[0], int) else plane[::-1]


def _place_in(view: View, voxel: tuple[float, ...]) -> tuple[float, float]:
    """Where a voxel lies in a view, as shares (x, y) of its width and height."""
    y, x = (
        (at - index.start + 0.5) / (index.stop - index.start)
        for at, index in zip(voxel, view.index, strict=True)
        if isinstance(index, slice)
    )
    return x, y if isinstance(view.index[0], int) else 1 - y


def _point_at(picture: Image.Image, place: tuple[float, float]) -> None:
    """Four short lines round a place."""
    x, y = (share * length for share, length in zip(place, picture.size, strict=True))
    draw = ImageDraw.Draw(picture)
    for along_x, along_y in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        near, far = ((x + along_x * reach, y + along_y * reach) for reach in POINTER)
        draw.line([near, far], (0, 0, 0), 4)
        draw.line([near, far], INK, 2)


def _outline(mask: Array, size: tuple[int, int], width: int) -> Image.Image:
    """The mask's inner edge at the picture's size, as an anti-aliased alpha channel."""
    twice = (2 * size[0], 2 * size[1])
    large = Image.fromarray(mask.astype(np.uint8) * 255).resize(twice, Image.Resampling.BILINEAR)
    filled = np.asarray(large) >= 128
    edge = filled & ~ndimage.minimum_filter(filled, 2 * width + 1, mode="nearest")
    return Image.fromarray(edge.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)


def draw_legend(contours: list[Contour], spacing: Spacing, lines: Sequence[str] = ()) -> Image.Image:
    """What the colours mean, with each class's volume, and further lines below."""
    below = 34 + 34 * len(contours)
    panel = Image.new("RGB", (PANEL_WIDTH, below + 16 + 22 * len(lines)), BACKGROUND)
    draw = ImageDraw.Draw(panel)
    millilitres = np.prod(spacing) / 1000
    for row, contour in enumerate(contours):
        y = 34 + 34 * row
        draw.line([(16, y), (56, y)], contour.colour, 2 * contour.width)
        volume = np.isin(contour.labels, contour.values).sum() * millilitres
        write(draw, (72, y), f"{contour.name}: {volume:.0f} ml", "lm", 18)
    for row, line in enumerate(lines):
        write(draw, (16, below + 22 * row), line, "lm", 15)
    return panel


def draw_sheet(panels: list[Image.Image]) -> Image.Image:
    """Panels three a row, each row as high as its highest panel."""
    rows = [panels[start : start + 3] for start in range(0, len(panels), 3)]
    heights = [max(panel.height for panel in row) for row in rows]
    width = 3 * PANEL_WIDTH + 4 * GAP
    sheet = Image.new("RGB", (width, sum(heights) + GAP * (len(rows) + 1)), BACKGROUND)
    top = GAP
    for row, height in zip(rows, heights, strict=True):
        for column, panel in enumerate(row):
            sheet.paste(panel, (GAP + column * (PANEL_WIDTH + GAP), top))
        top += height + GAP
    return sheet


def write(
    draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, anchor: str, size: int, colour: Colour = INK
) -> None:
    """Text that stays legible on any grey."""
    font = ImageFont.load_default(size)
    draw.text(place, text, colour, font, anchor, stroke_width=2, stroke_fill=(0, 0, 0))
