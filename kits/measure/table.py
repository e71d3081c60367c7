"""Lesions as a table: CSV, a row a lesion."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kits.io.atomic import write_text

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


def row(case: str, lesion: Mapping[str, Any]) -> dict[str, object]:
    """A lesion's figures by ``COLUMNS``; what cannot be computed is None, an empty cell."""
    result: dict[str, object] = {"case": case} | {name: lesion[name] for name in FIGURES}
    if score := lesion["renal"]:
        items = {"r": "radius", "e": "exophytic", "n": "nearness", "l": "location"}
        result |= {f"renal_{letter}": score[item]["points"] for letter, item in items.items()}
        result |= {"renal_a": score["face"], "renal_total": score["total"], "renal_complexity": score["complexity"]}
    if lesion["padua"] and lesion["padua"]["total_range"]:
        result["padua_least"], result["padua_most"] = lesion["padua"]["total_range"]
    return result


def write_csv(path: Path, cases: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
    """Write the lesions of cases, whole or not at all.

    Args:
        path: where to.
        cases: each its name and ``dataclasses.asdict`` of its ``Measurements``, or the same read from JSON.

    Raises:
        OutputError: it cannot be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for case, measured in cases:
        writer.writerows(row(case, lesion) for lesion in measured["lesions"])
    write_text(text.getvalue(), path)
