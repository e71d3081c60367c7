"""The folder of viewer pages: ``index.html``, ``assets/`` and, a case, ``cases/NAME.html`` with its data beside it.

It opens from disk, without a network: classic scripts, all data in them, and a content security policy that lets
nothing else in. Names of cases come from outside, so they are data everywhere: in JSON, set as text by the scripts.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from kits.batch.colours import COLOURS, NAMES
from kits.batch.viewer.fetch import NAME, niivue
from kits.batch.viewer.findings import findings_of
from kits.batch.viewer.picture import LOWEST_HU, STEP_HU, Shown, nifti_bytes, show, start_mm, thumbnail
from kits.batch.viewer.surfaces import surfaces
from kits.io.atomic import aside, write_text
from kits.io.volume import Volume
from kits.measure.results import Measurements

WEB = Path(__file__).parent / "web"
ASSETS = ("style.css", "common.js", "lists.js", "case.js", "index.js")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "base-uri 'none'; form-action 'none'"
)


def write_page(
    folder: Path, name: str, volume: Volume, labels: np.ndarray, measured: Measurements, warnings: Sequence[str] = ()
) -> list[Path]:
    """Write a case's page and the index over all pages in the folder.

    Args:
        folder: of all pages; made if missing.
        name: the case's, unique in the folder.
        volume: the CT.
        labels: uint8 (z, y, x) on its canonical grid: 1 kidney, 2 tumour, 3 cyst.
        measured: what was measured of both.
        warnings: what reader and cascade remarked.

    Returns:
        The page and the index.

    Raises:
        OutputError: It cannot be written, or NiiVue is not here.
    """
    prepare(folder)
    shown = show(volume, labels)
    findings = findings_of(volume, measured, warnings)
    drawn = {
        "surfaces": [
            {"label": part.label, "name": part.name, "mz3": _text(mz3)}
            for part, mz3 in surfaces(volume, labels, measured)
        ]
    }
    case = {"name": name, **asdict(findings), **pictures(volume, shown), **drawn}
    cases = folder / "cases"
    with aside(cases / f"{name}.png") as partial:
        partial.write_bytes(thumbnail(shown))
    write_text(f"window.KITS_CASE = {to_script(case)};\n", cases / f"{name}.data.js")
    page = cases / f"{name}.html"
    write_text(_filled("case.html", TITLE=html.escape(name), DATA=html.escape(quote(f"{name}.data.js"))), page)
    totals: dict[str, float] = {}
    for side in findings.sides:
        for key, value in side.items():
            if key.endswith("_ml"):
                totals[key] = round(totals.get(key, 0.0) + value, 3)
    line = {
        "name": name,
        "page": f"cases/{quote(name)}.html",
        "picture": f"cases/{quote(name)}.png",
        "sides": findings.sides,
        "totals": totals,
        "lesions": len(findings.lesions),
        "confidence": findings.confidence,
        "warnings": findings.warnings,
    }
    write_text(to_script(line) + "\n", cases / f"{name}.json")  # last: where it is, the page is whole
    return [page, write_index(folder)]


def write_index(folder: Path, failed: Mapping[str, str] | None = None) -> Path:
    """Write the index over all pages that the folder holds.

    Args:
        folder: of all pages.
        failed: cases of the run that have none, each with the sentence that says why.
    """
    found = sorted(path for path in (folder / "cases").glob("*.json") if not path.name.startswith("."))
    lines = [json.loads(path.read_text(encoding="utf-8")) for path in found]
    done = {line["name"] for line in lines}
    lines += [{"name": name, "error": why} for name, why in (failed or {}).items() if name not in done]
    index = folder / "index.html"
    write_text(_filled("index.html", DATA=to_script(lines)), index)
    return index


def prepare(folder: Path) -> None:
    """Put the scripts that all pages share into the folder, each if it differs from what is there.

    Raises:
        OutputError: NiiVue was not fetched yet, or the folder cannot be written to.
    """
    files = {NAME: niivue()} | {asset: (WEB / asset).read_bytes() for asset in ASSETS}
    for name, content in files.items():
        path = folder / "assets" / name
        if not (path.is_file() and path.read_bytes() == content):
            with aside(path) as partial:
                partial.write_bytes(content)


def pictures(volume: Volume, shown: Shown) -> dict[str, Any]:
    """CT and labels, each as base64 of a gzipped file, and how they came from the scan."""
    return {
        "ct": _text(nifti_bytes(shown.grey, shown.affine, STEP_HU, LOWEST_HU)),
        "labels": _text(nifti_bytes(shown.labels, shown.affine)),
        "classes": [{"label": label, "name": NAMES[label], "colour": colour} for label, colour in COLOURS.items()],
        "start_mm": start_mm(shown),
        "scan": {"size": list(volume.hu.shape[::-1]), "spacing_mm": [round(mm, 3) for mm in volume.spacing[::-1]]},
        "shown": {
            "size": list(shown.grey.shape[::-1]),
            "spacing_mm": [round(mm, 3) for mm in shown.spacing[::-1]],
            "lowest_hu": LOWEST_HU,
            "step_hu": STEP_HU,
        },
    }


def to_script(value: object) -> str:
    """JSON that may stand in a script or an HTML file: nothing in it can end either."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _filled(template: str, **parts: str) -> str:
    """A page with its blanks filled, in one go: what fills one may look like another."""
    parts["POLICY"] = POLICY
    text = (WEB / template).read_text(encoding="utf-8")
    return re.sub("@([A-Z]+)@", lambda blank: parts[blank[1]], text)


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()
