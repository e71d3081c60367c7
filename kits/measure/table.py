"""Lesions as a table: CSV, a row a lesion."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from kits.io.atomic import write_text
from kits.measure.results import Lesion, Measurements

FIGURES = (
    "side",
    "name",
    "volume_ml",
    "axial_mm",
    "perpendicular_mm",
    "longest_mm",
    "hu_mean",
    "hu_sd",
    "pole",
    "face",
    "rim",
    "outside_share",
    "between_lines",
    "to_sinus_mm",
    "to_sinus_centre_mm",
    "surface_mm2",
    "contact_mm2",
    "cut",
    "confidence",
)
COLUMNS = (
    "case",
    *FIGURES,
    *(f"renal_{item}" for item in ("r", "e", "n", "a", "l", "total", "complexity")),
    "padua_least",
    "padua_most",
)


def row(case: str, lesion: Lesion) -> dict[str, object]:
    """A lesion's figures by ``COLUMNS``; what cannot be computed is None, an empty cell."""
    result: dict[str, object] = {"case": case} | {name: getattr(lesion, name) for name in FIGURES}
    if score := lesion.renal:
        items = {"r": score.radius, "e": score.exophytic, "n": score.nearness, "l": score.location}
        result |= {f"renal_{letter}": item.points for letter, item in items.items()}
        result |= {"renal_a": score.face, "renal_total": score.total, "renal_complexity": score.complexity}
    if lesion.padua and lesion.padua.total_range:
        result["padua_least"], result["padua_most"] = lesion.padua.total_range
    return result


def write_csv(path: Path, cases: Iterable[tuple[str, Measurements]]) -> None:
    """Write the lesions of cases, (name, measurements) each, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for case, measured in cases:
        writer.writerows(row(case, lesion) for lesion in measured.lesions)
    write_text(text.getvalue(), path)
