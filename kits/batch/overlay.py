"""A picture of a segmentation: CT slices with the contours of kidneys and lesions, on one sheet.

One slice goes through the middle of every lesion, others evenly through the kidneys; all at one scale.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from kits.batch.colours import COLOURS, REFERENCE_COLOURS
from kits.batch.panels import (
    BACKGROUND,
    GAP,
    PANEL_WIDTH,
    WINDOW_HU,
    Array,
    Contour,
    View,
    draw_legend,
    draw_panel,
    draw_sheet,
    write,
)
from kits.choices import CYST, KIDNEY, TUMOUR
from kits.geometry import Spacing
from kits.io.atomic import aside
from kits.measure.measure import measure
from kits.measure.results import PURPOSE, KidneyFigures, Lesion, Measurements

AXIAL_SLICES = 6
PANEL_HEIGHT = 800  # px at most
BODY_HU = -250.0  # air is below, fat and tissue above
BODY_SHARE = 0.04  # of a row or column above BODY_HU, for it to be shown
MARGIN_MM = 50.0  # shown around the kidneys
SMALL_MM = 30.0  # lesions shorter than this are pointed at
AMBER = (255, 196, 84)
WITH_MASSES = "kidney with masses"


@dataclass(frozen=True)
class Heading:
    """What a sheet says above its slices.

    Args:
        name: the case's.
        warnings: what a person should know before trusting the labels.
        measured: the case's measurements, where they are at hand; else they are made.
    """

    name: str = ""
    warnings: tuple[str, ...] = ()
    measured: Measurements | None = None


def draw_overlay(
    volume_hu: Array,
    spacing: Spacing,
    labels: Array,
    reference: Array | None = None,
    heading: Heading | None = None,
) -> Image.Image:
    """Draw a contact sheet: axial slices through the kidneys and every lesion, a coronal and a sagittal one, a legend.

    Args:
        volume_hu: HU (z, y, x); x grows to the patient's left, y to posterior, z to superior.
        spacing: mm (z, y, x).
        labels: label map of the same shape: 1 kidney, 2 tumour, 3 cyst.
        reference: another label map to compare with, drawn in thin lines.
        heading: the case's name and warnings.

    Returns:
        An RGB picture 1500 px wide. Where both maps are empty it shows the whole volume.

    Raises:
        ValueError: the shapes differ.
    """
    for array in (labels, reference):
        if array is not None and array.shape != volume_hu.shape:
            raise ValueError(f"a label map has shape {array.shape}, the volume {volume_hu.shape}")
    heading = heading or Heading()
    measured = heading.measured or measure(labels, volume_hu, spacing)
    shown = labels > 0
    if reference is not None:
        shown |= reference > 0
    views, extent = _views(volume_hu, spacing, shown, measured)
    mm_z, mm_y, mm_x = ((axis.stop - axis.start) * step for axis, step in zip(extent, spacing, strict=True))
    scale = min(PANEL_WIDTH / max(mm_x, mm_y), PANEL_HEIGHT / max(mm_z, mm_y))
    contours = find_contours(labels, reference)
    panels = [draw_panel(view, volume_hu, spacing, contours, scale) for view in views]
    panels.append(draw_legend(contours, spacing, figures(measured)))
    sheet = draw_sheet(panels)
    return with_heading(sheet, heading, measured)


def write_overlay(
    path: Path,
    volume_hu: Array,
    spacing: Spacing,
    labels: Array,
    reference: Array | None = None,
    heading: Heading | None = None,
) -> None:
    """Draw a contact sheet as ``draw_overlay`` does and write it, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    sheet = draw_overlay(volume_hu, spacing, labels, reference, heading)
    with aside(path) as partial:
        sheet.save(partial, format="PNG", optimize=True)


def find_contours(labels: Array, reference: Array | None) -> list[Contour]:
    """The lines to draw, later ones on top; what a map need not hold has none where it is empty."""
    all_of_it = (KIDNEY, TUMOUR, CYST)
    contours = [
        Contour(WITH_MASSES, labels, all_of_it, COLOURS[KIDNEY], 3),
        Contour("tumour", labels, (TUMOUR,), COLOURS[TUMOUR], 3),
    ]
    if (labels == CYST).any():
        contours.insert(1, Contour("cyst", labels, (CYST,), COLOURS[CYST], 3))
    if reference is not None:
        contours.append(Contour(f"reference {WITH_MASSES}", reference, all_of_it, REFERENCE_COLOURS[KIDNEY], 2))
        if (reference == TUMOUR).any():
            contours.append(Contour("reference tumour", reference, (TUMOUR,), REFERENCE_COLOURS[TUMOUR], 2))
    return contours


def _views(
    volume_hu: Array, spacing: Spacing, shown: NDArray[np.bool_], measured: Measurements
) -> tuple[list[View], tuple[slice, slice, slice]]:
    """The views, and the part (z, y, x) that they show: the kidneys' surroundings within the body."""
    depth, height, width = volume_hu.shape
    note = "" if measured.right or measured.left else "\nno kidney found"
    used = [np.flatnonzero(shown.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    empty = not used[0].size
    z_low, z_high = (0, depth - 1) if empty else (int(used[0][0]), int(used[0][-1]))
    body = volume_hu[z_low : z_high + 1 : max(1, (z_high - z_low) // 8)] > BODY_HU
    slices = _extent(np.ones(depth, dtype=bool), used[0], spacing[0])
    rows = _extent(body.mean(axis=(0, 2)) > BODY_SHARE, used[1], spacing[1])
    columns = _extent(body.mean(axis=(0, 1)) > BODY_SHARE, used[2], spacing[2])
    if measured.lesions:
        _, y, x = measured.lesions[0].middle
    else:
        y = height // 2 if empty else int(shown.sum(axis=(0, 2)).argmax())
        x = width // 2 if empty else int(shown.sum(axis=(0, 1)).argmax())
    views = [
        View((z, rows, columns), f"axial {z + 1} of {depth}{note}{captions(there)}", ("R", "L", "A", "P"), marks(there))
        for z, there in axial_slices(z_low, z_high, measured.lesions)
    ]
    through = [[one for one in measured.lesions[:1] if one.middle[axis] == at] for axis, at in ((1, y), (2, x))]
    views += [
        View((slices, y, columns), f"coronal {y + 1} of {height}{note}{captions(through[0])}", ("R", "L", "H", "F")),
        View((slices, rows, x), f"sagittal {x + 1} of {width}{note}{captions(through[1])}", ("A", "P", "H", "F")),
    ]
    return views, (slices, rows, columns)


def axial_slices(low: int, high: int, lesions: tuple[Lesion, ...]) -> list[tuple[int, list[Lesion]]]:
    """The axial slices to show, from the head down, each with the lesions whose middle lies on it.

    They lie evenly over the labelled extent; one that is near to a lesion's middle moves there.
    """
    steps = (np.arange(AXIAL_SLICES) + 0.5) / AXIAL_SLICES
    even = dict.fromkeys(int(low + step * (high - low + 1)) for step in steps)
    middles = dict.fromkeys(one.middle[0] for one in lesions)
    for z in middles:
        if even and len(even) > 1:
            even.pop(min(even, key=lambda at: abs(at - z)))
    chosen = sorted({*even, *middles}, reverse=True)
    return [(z, [one for one in lesions if one.middle[0] == z]) for z in chosen]


def captions(lesions: list[Lesion]) -> str:
    """A line for each lesion on a slice."""
    return "".join(f"\n{one.name}, {one.side}, {one.volume_ml:.1f} ml" for one in lesions)


def marks(lesions: list[Lesion]) -> tuple[tuple[float, ...], ...]:
    """Where to point: at what is easily overlooked."""
    return tuple(one.middle for one in lesions if one.longest_mm < SMALL_MM)


def _extent(body: NDArray[np.bool_], used: NDArray[np.intp], spacing: float) -> slice:
    """The indices along one axis that hold body, near the labels if there are any; all if there is neither."""
    inside = np.flatnonzero(body)
    if used.size:
        margin = round(MARGIN_MM / spacing)
        inside = inside[(inside >= used[0] - margin) & (inside <= used[-1] + margin)]
        inside = np.union1d(inside, used)
    return slice(int(inside[0]), int(inside[-1]) + 1) if inside.size else slice(0, body.size)


def figures(measured: Measurements) -> list[str]:
    """The measurements in lines for the legend."""
    lines = []
    for one in measured.lesions:
        score = f", R.E.N.A.L. {one.renal.text}" if one.renal else ""
        lines.append(f"{one.name}, {one.side}: {one.volume_ml:.1f} ml, {one.axial_mm:.0f} mm axial{score}")
    return [*lines, f"window {WINDOW_HU[0]} to {WINDOW_HU[1]} HU", *textwrap.wrap(PURPOSE, 64)]


def side_line(side: str, found: KidneyFigures | None) -> str:
    """One side in a line."""
    if found is None:
        return f"{side}: no kidney"
    parts = [f"parenchyma {found.parenchyma_ml:.0f}"]
    parts += [f"{name} {ml:.1f}" for name, ml in (("tumour", found.tumour_ml), ("cyst", found.cyst_ml)) if ml]
    return f"{side}: {WITH_MASSES} {found.kidney_with_masses_ml:.0f} ml ({', '.join(parts)})"


def with_heading(sheet: Image.Image, heading: Heading, measured: Measurements) -> Image.Image:
    """The sheet below the case's name, its sides' volumes and its warnings."""
    warnings = [line for text in heading.warnings for line in textwrap.wrap(text, 150)]
    top = GAP + (36 if heading.name else 0)
    high = top + 26 + 24 * len(warnings)
    result = Image.new("RGB", (sheet.width, sheet.height + high), BACKGROUND)
    draw = ImageDraw.Draw(result)
    write(draw, (GAP, GAP), textwrap.shorten(heading.name, 90), "la", 26)
    sides = "     ".join(side_line(side, getattr(measured, side)) for side in ("right", "left"))
    write(draw, (GAP, top), sides, "la", 18)
    for row, line in enumerate(warnings):
        write(draw, (GAP, top + 26 + 24 * row), line, "la", 17, AMBER)
    result.paste(sheet, (0, high))
    return result
