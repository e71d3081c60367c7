"""What is measured, as plain figures: ``dataclasses.asdict`` gives what JSON can hold.

Lengths in mm, areas in mm2, volumes in ml, shares from 0 to 1; None is what cannot be computed.
"""

from __future__ import annotations

from dataclasses import dataclass

PURPOSE = "For research only: not a medical device, not for diagnosis or treatment."


@dataclass(frozen=True)
class Points:
    """One item of a score, and what it was computed from, or why it cannot be."""

    points: int | None
    basis: str


@dataclass(frozen=True)
class Renal:
    """R.E.N.A.L. nephrometry of one tumour (Kutikov and Uzzo, J Urol 2009;182:844-853).

    Args:
        face: a (anterior), p (posterior) or x (neither); no points.
        hilar: the suffix h, which needs the renal vessels.
        total: 4 to 12, None where an item is missing.
        complexity: low (4 to 6), moderate (7 to 9) or high (10 to 12).
        text: as it is written, such as ``2+1+3+a+2 = 8a``; ? where an item is missing.
    """

    radius: Points
    exophytic: Points
    nearness: Points
    face: str | None
    location: Points
    hilar: Points
    total: int | None
    complexity: str | None
    text: str


@dataclass(frozen=True)
class Padua:
    """PADUA of one tumour (Ficarra et al., Eur Urol 2009;56:786-793).

    The collecting system is not segmented, so that the total is only known to be one of two.

    Args:
        total_range: the least and the greatest total that fit, 6 to 14; None where more is missing.
    """

    location: Points
    exophytic: Points
    rim: Points
    sinus: Points
    collecting_system: Points
    size: Points
    face: str | None
    total_range: tuple[int, int] | None


@dataclass(frozen=True)
class Lesion:
    """One tumour or cyst: a connected component (26 neighbours) of its label.

    Args:
        name: such as ``tumour 1``; the largest is 1.
        kind: tumour or cyst.
        side: right or left.
        volume_ml: voxels times a voxel's volume.
        axial_mm, perpendicular_mm, longest_mm: see ``kits.measure.shapes.Diameters``.
        axial_ends: the axial diameter's ends, in voxels (z, y, x) of the canonical volume.
        centre: centre of gravity, in voxels.
        middle: a voxel within the lesion, on the slice nearest to its centre.
        hu_mean, hu_sd: of all its voxels.
        pole: upper, middle or lower: where most of it lies, by the polar lines.
        face: anterior, posterior or neither of the kidney's long axis (two thirds of it must lie there).
        rim: medial or lateral of the kidney's long axis, by its centre.
        outside_share: of its volume, outside the parenchyma's convex hull.
        between_lines: share of its volume between the polar lines.
        crosses_middle: whether it reaches the slice midway between the polar lines.
        to_sinus_mm: gap to the sinus; 0 where they touch.
        to_sinus_centre_mm: from its nearest voxel to the sinus' centre, about which the collecting system lies.
        surface_mm2, contact_mm2: its surface, and the part of it that parenchyma lies against.
        cut: the scan's first or last slice cuts it.
        confidence: the networks' mean probability over its voxels, where given.
    """

    name: str
    kind: str
    side: str
    volume_ml: float
    axial_mm: float
    perpendicular_mm: float
    longest_mm: float
    axial_ends: tuple[tuple[float, ...], ...]
    centre: tuple[float, ...]
    middle: tuple[int, ...]
    hu_mean: float | None
    hu_sd: float | None
    pole: str | None
    face: str | None
    rim: str | None
    outside_share: float | None
    between_lines: float | None
    crosses_middle: bool | None
    to_sinus_mm: float | None
    to_sinus_centre_mm: float | None
    surface_mm2: float
    contact_mm2: float
    cut: bool
    confidence: float | None
    renal: Renal | None = None
    padua: Padua | None = None


@dataclass(frozen=True)
class KidneyFigures:
    """One side.

    Args:
        kidney_with_masses_ml: all that is labelled: kidney, tumours and cysts.
        parenchyma_ml: what is labelled kidney; in maps without the label cyst that includes cysts.
        length_mm: the longest distance between two points of the parenchyma.
        hu_mean, hu_sd: of the parenchyma's voxels.
        sinus_ml: the sinus as far as the mask shows it.
        polar_lines: the sinus' first and last slice, counted from the feet; 0 is the volume's first.
        cut: the scan's first or last slice cuts it.
        confidence: the networks' mean probability of kidney with masses over its voxels, where given.
    """

    side: str
    kidney_with_masses_ml: float
    parenchyma_ml: float
    tumour_ml: float
    cyst_ml: float
    length_mm: float | None
    hu_mean: float | None
    hu_sd: float | None
    sinus_ml: float | None
    polar_lines: tuple[int, int] | None
    cut: bool
    confidence: float | None


@dataclass(frozen=True)
class Measurements:
    """All of a case; a side without any label is None."""

    purpose: str
    right: KidneyFigures | None
    left: KidneyFigures | None
    lesions: tuple[Lesion, ...]
