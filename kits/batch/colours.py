"""The colours and names of labels, the same in pictures, surfaces, viewers and tables.

Sky blue, vermilion and yellow after Okabe and Ito (Color Universal Design, 2008): apart for the colour-blind too.
"""

from __future__ import annotations

from pathlib import Path

from kits.choices import CYST, KIDNEY, TUMOUR
from kits.io.atomic import write_text

Colour = tuple[int, int, int]

NAMES = {KIDNEY: "kidney", TUMOUR: "tumour", CYST: "cyst"}
COLOURS: dict[int, Colour] = {KIDNEY: (86, 180, 233), TUMOUR: (230, 97, 0), CYST: (240, 228, 66)}
REFERENCE_COLOURS: dict[int, Colour] = {KIDNEY: (204, 121, 167), TUMOUR: (255, 255, 255)}
"""Of a second label map that the first is compared with; reddish purple and white."""


def itksnap_text() -> str:
    """The label description file that ITK-SNAP opens (Segmentation, Import Label Descriptions).

    A line a label: index, red, green, blue, alpha, visible in slices, visible in 3-D, name.
    """
    lines = ['0 0 0 0 0 0 0 "background"']
    lines += [f'{label} {r} {g} {b} 1 1 1 "{NAMES[label]}"' for label, (r, g, b) in COLOURS.items()]
    return "\n".join(["# ITK-SNAP label description file", *lines, ""])


def slicer_text() -> str:
    """The colour table file that 3D Slicer opens: a line a label of index, name, red, green, blue, alpha."""
    lines = ["0 background 0 0 0 0"]
    lines += [f"{label} {NAMES[label]} {r} {g} {b} 255" for label, (r, g, b) in COLOURS.items()]
    return "\n".join(["# Color table file for 3D Slicer", f"# {len(lines)} values", *lines, ""])


def write_tables(folder: Path) -> list[Path]:
    """Write ``labels.itksnap.txt`` and ``labels.ctbl`` to a folder; returns the files.

    Raises:
        OutputError: one cannot be written.
    """
    files = {folder / "labels.itksnap.txt": itksnap_text(), folder / "labels.ctbl": slicer_text()}
    for path, text in files.items():
        write_text(text, path)
    return list(files)
