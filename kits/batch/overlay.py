"""A picture of a segmentation: CT slices with the contours of kidneys and tumours, on one sheet.

Shown as radiologists do: the patient's right on the left, the head up, the abdomen's soft-tissue window, one
scale for every view.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from kits.geometry import Spacing
from kits.io.atomic import aside

WINDOW_HU = (-160, 240)
AXIAL_SLICES = 6
PANEL_WIDTH = 480  # px; three panels and their gaps make the sheet
PANEL_HEIGHT = 800  # px at most
GAP = 14
BODY_HU = -250.0  # air is below, fat and tissue above
BODY_SHARE = 0.04  # of a row or column above BODY_HU, for it to be shown
MARGIN_MM = 50.0  # shown around the kidneys
SCALE_BAR_MM = 50
BACKGROUND = (14, 16, 20)
INK = (235, 238, 242)

Array = NDArray[Any]
Colour = tuple[int, int, int]


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
    """One panel: a slice of the volume, its caption, and the letters at its left, right, top and bottom."""

    index: tuple[slice | int, slice | int, slice | int]
    caption: str
    letters: tuple[str, str, str, str]


def draw_overlay(volume_hu: Array, spacing: Spacing, labels: Array, reference: Array | None = None) -> Image.Image:
    """Draw a contact sheet: axial slices through the kidneys, a coronal and a sagittal one, and a legend.

    Args:
        volume_hu: HU (z, y, x); x grows to the patient's left, y to posterior, z to superior.
        spacing: mm (z, y, x).
        labels: label map of the same shape: 1 kidney, 2 tumour (and 3, a cyst, drawn as kidney).
        reference: another label map to compare with, drawn in thin lines.

    Returns:
        An RGB picture 1500 px wide. Where both maps are empty it shows the whole volume.

    Raises:
        ValueError: the shapes differ.
    """
    for array in (labels, reference):
        if array is not None and array.shape != volume_hu.shape:
            raise ValueError(f"a label map has shape {array.shape}, the volume {volume_hu.shape}")
    shown = labels > 0
    found = bool(shown.any())
    if reference is not None:
        shown |= reference > 0
    views, extent = _views(volume_hu, spacing, shown, "" if found else "\nno kidney found")
    mm_z, mm_y, mm_x = ((axis.stop - axis.start) * step for axis, step in zip(extent, spacing, strict=True))
    scale = min(PANEL_WIDTH / max(mm_x, mm_y), PANEL_HEIGHT / max(mm_z, mm_y))
    contours = find_contours(labels, reference)
    panels = [draw_panel(view, volume_hu, spacing, contours, scale) for view in views]
    panels.append(draw_legend(contours, spacing))
    return draw_sheet(panels)


def write_overlay(
    path: Path, volume_hu: Array, spacing: Spacing, labels: Array, reference: Array | None = None
) -> None:
    """Draw a contact sheet as ``draw_overlay`` does and write it, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    sheet = draw_overlay(volume_hu, spacing, labels, reference)
    with aside(path) as partial:
        sheet.save(partial, format="PNG", optimize=True)


def find_contours(labels: Array, reference: Array | None) -> list[Contour]:
    """The lines to draw, later ones on top; an empty reference tumour has none."""
    kidney, tumour = (1, 2, 3), (2,)
    contours = [
        Contour("kidney, with tumour", labels, kidney, (0, 214, 190), 3),
        Contour("tumour", labels, tumour, (255, 64, 96), 3),
    ]
    if reference is not None:
        contours.append(Contour("reference kidney", reference, kidney, (255, 214, 64), 2))
        if (reference == 2).any():
            contours.append(Contour("reference tumour", reference, tumour, (255, 255, 255), 2))
    return contours


def _views(
    volume_hu: Array, spacing: Spacing, shown: NDArray[np.bool_], note: str
) -> tuple[list[View], tuple[slice, slice, slice]]:
    """The eight views, and the part (z, y, x) that they show: the kidneys' surroundings within the body."""
    depth, height, width = volume_hu.shape
    used = [np.flatnonzero(shown.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    empty = not used[0].size
    z_low, z_high = (0, depth - 1) if empty else (int(used[0][0]), int(used[0][-1]))
    body = volume_hu[z_low : z_high + 1 : max(1, (z_high - z_low) // 8)] > BODY_HU
    slices = _extent(np.ones(depth, dtype=bool), used[0], spacing[0])
    rows = _extent(body.mean(axis=(0, 2)) > BODY_SHARE, used[1], spacing[1])
    columns = _extent(body.mean(axis=(0, 1)) > BODY_SHARE, used[2], spacing[2])

    # Evenly over the labelled extent, from the head down.
    steps = (np.arange(AXIAL_SLICES, 0, -1) - 0.5) / AXIAL_SLICES
    axial = [int(z_low + step * (z_high - z_low + 1)) for step in steps]
    y = height // 2 if empty else int(shown.sum(axis=(0, 2)).argmax())
    x = width // 2 if empty else int(shown.sum(axis=(0, 1)).argmax())
    views = [
        View((z, rows, columns), f"axial {z + 1} of {depth}{note}", ("R", "L", "A", "P")) for z in dict.fromkeys(axial)
    ]
    views += [
        View((slices, y, columns), f"coronal {y + 1} of {height}{note}", ("R", "L", "H", "F")),
        View((slices, rows, x), f"sagittal {x + 1} of {width}{note}", ("A", "P", "H", "F")),
    ]
    return views, (slices, rows, columns)


def _extent(body: NDArray[np.bool_], used: NDArray[np.intp], spacing: float) -> slice:
    """The indices along one axis that hold body, near the labels if there are any; all if there is neither."""
    inside = np.flatnonzero(body)
    if used.size:
        margin = round(MARGIN_MM / spacing)
        inside = inside[(inside >= used[0] - margin) & (inside <= used[-1] + margin)]
        inside = np.union1d(inside, used)
    return slice(int(inside[0]), int(inside[-1]) + 1) if inside.size else slice(0, body.size)


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

    panel = Image.new("RGB", (max(PANEL_WIDTH, size[0]), max(size[1], 120)))
    panel.paste(picture, ((panel.width - size[0]) // 2, (panel.height - size[1]) // 2))
    draw = ImageDraw.Draw(panel)
    right, bottom = panel.width - 8, panel.height - 8
    _write(draw, (8, 6), view.caption, "la", 16)
    places = (
        (8, bottom / 2, "lm"),
        (right, bottom / 2, "rm"),
        (right / 2, 6, "ma"),
        (right / 2, bottom, "md"),
    )
    for letter, (at_x, at_y, anchor) in zip(view.letters, places, strict=True):
        _write(draw, (at_x, at_y), letter, anchor, 20)
    bar = round(SCALE_BAR_MM * scale)
    draw.line([(right - bar, bottom), (right, bottom)], INK, 3)
    _write(draw, (right - bar / 2, bottom - 5), f"{SCALE_BAR_MM} mm", "md", 14)
    return panel


def _upright(array: Array, view: View) -> Array:
    """The view's plane; a coronal or sagittal one has the head up, since z grows to superior."""
    plane = array[view.index]
    return plane if isinstance(view.index[0], int) else plane[::-1]


def _outline(mask: Array, size: tuple[int, int], width: int) -> Image.Image:
    """The mask's inner edge at the picture's size, as an anti-aliased alpha channel."""
    twice = (2 * size[0], 2 * size[1])
    large = Image.fromarray(mask.astype(np.uint8) * 255).resize(twice, Image.Resampling.BILINEAR)
    filled = np.asarray(large) >= 128
    edge = filled & ~ndimage.minimum_filter(filled, 2 * width + 1, mode="nearest")
    return Image.fromarray(edge.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)


def draw_legend(contours: list[Contour], spacing: Spacing) -> Image.Image:
    """What the colours mean, with each class's volume."""
    panel = Image.new("RGB", (PANEL_WIDTH, 50 + 34 * len(contours)), BACKGROUND)
    draw = ImageDraw.Draw(panel)
    millilitres = np.prod(spacing) / 1000
    for row, contour in enumerate(contours):
        y = 34 + 34 * row
        draw.line([(16, y), (56, y)], contour.colour, 2 * contour.width)
        volume = np.isin(contour.labels, contour.values).sum() * millilitres
        _write(draw, (72, y), f"{contour.name}: {volume:.0f} ml", "lm", 18)
    _write(draw, (16, 34 + 34 * len(contours)), f"window {WINDOW_HU[0]} to {WINDOW_HU[1]} HU", "lm", 14)
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


def _write(draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, anchor: str, size: int) -> None:
    """Text that stays legible on any grey."""
    font = ImageFont.load_default(size)
    draw.text(place, text, INK, font, anchor, stroke_width=2, stroke_fill=(0, 0, 0))
