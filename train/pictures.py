"""``python -m train pictures``: axial pictures without masks of the kidneys become lone slices with labels.

Public collections hold thousands of CT slices as pictures, without masks, but with a word for each patient: healthy, a
stone, a cyst, or a tumour. Of such a slice the cascade's own kidneys are near the truth. What it calls tumour in a
patient without one is known to be wrong: just what it has to learn. What is watery in a kidney with cysts is one. Where
there is a tumour somebody's outlines tell it, or somebody who has looked at what the cascade calls so. What grey values
mean is read off the picture: fat and muscle are the two peaks.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cc3d
import numpy as np
from PIL import Image, UnidentifiedImageError
from scipy import ndimage
from tqdm import tqdm

from kits.cascade.cascade import Cascade
from kits.choices import CYST, KIDNEY, TUMOUR
from kits.errors import InputError
from kits.io.atomic import write_text
from kits.io.volume import Volume
from kits.plan import SLICE_MM

GREY_HU = (-160.0, 350.0)
"""HU of grey 0 and 255 in what is written, for the source's ``grey_hu``."""
FAT_HU, MUSCLE_HU = -105.0, 55.0
FAT_GREY, APART_GREY = (8, 66), (70, 130)
"""Where fat's peak is looked for, and how far above it muscle's."""
SOFT_GREY, SOFT_HU = (60, 140), 1.36
"""Where muscle's peak is looked for in a picture whose fat is black, and how many HU a grey value of it is."""
BODY_MM = 350.0
"""A body's usual width: a picture does not tell its pixels' size."""
PIXEL_MM = (0.66, 0.98)
REPEATS = 11
"""Slices of the thin volume that the cascade is shown."""
HILUM_PX = 8
"""Tumour nearer to kidney than this, on two sides, lies in its hollow: kidney too; else it is none."""
SPECK_MM2, HUGE_MM2, MUCH_TUMOUR_MM2 = 150.0, 9000.0, 1500.0
"""Smaller pieces go; a slice with a larger piece, or more tumour outside kidneys, is left out: the cascade failed."""
SMOOTH_MM = 2.0
"""Noise is smoothed by so much before a pixel is called watery."""
TUMOUR_MM2 = 120.0
"""Smaller pieces that are called tumour are kidney, where nobody outlined them."""
WATER_HU, DARKER_HU = (-15.0, 28.0), 10.0
"""What a cyst's pixels measure, and how much darker than kidney they are, which without contrast medium is little."""
CYST_MM2, CYST_FILLS, RIM_MM = 80.0, 0.6, 2.0
"""Smaller ones are not called cyst, nor what fills less of its box, as a renal pelvis does. Their rim is blurred."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Slice:
    """A picture in HU.

    Args:
        hu: int16 (rows, columns).
        mm: size of a pixel, as guessed.
    """

    hu: np.ndarray
    mm: float


def calibrated(grey: np.ndarray) -> Slice | None:
    """A picture, uint8 (rows, columns), in HU by its two peaks; None if it does not show fat and muscle."""
    body = largest(ndimage.binary_opening(grey > 3, iterations=2))
    columns = np.flatnonzero(body.any(0))
    if not len(columns):
        return None
    inner = ndimage.binary_erosion(ndimage.binary_fill_holes(body), iterations=4)
    counts = ndimage.gaussian_filter1d(np.bincount(grey[inner], minlength=256).astype(float), 2)
    peaks = [n for n in range(6, 200) if counts[n] >= counts[max(0, n - 4) : n + 5].max() > 0.004 * counts.sum()]
    fat = max((n for n in peaks if FAT_GREY[0] <= n <= FAT_GREY[1]), key=counts.__getitem__, default=None)
    if fat is None and counts[0] > 4 * counts[8]:  # cut away, as windows of soft tissue do
        soft = max((n for n in peaks if SOFT_GREY[0] <= n <= SOFT_GREY[1]), key=counts.__getitem__, default=None)
        return None if soft is None else in_hu(grey, soft, SOFT_HU, columns)
    if fat is None:
        return None
    near, far = (fat + apart for apart in APART_GREY)
    muscle = max((n for n in peaks if near <= n <= far), key=counts.__getitem__, default=None)
    if muscle is None:
        return None
    return in_hu(grey, muscle, (MUSCLE_HU - FAT_HU) / (muscle - fat), columns)


def in_hu(grey: np.ndarray, muscle: int, per_grey: float, columns: np.ndarray) -> Slice:
    """A picture in HU by the grey value of muscle and how many HU one is; columns: those of the body, for its width."""
    hu = MUSCLE_HU + (grey.astype(np.float32) - muscle) * per_grey
    return Slice(np.rint(hu).astype(np.int16), float(np.clip(BODY_MM / (columns[-1] - columns[0] + 1), *PIXEL_MM)))


def largest(mask: np.ndarray) -> np.ndarray:
    """The largest component of a mask (rows, columns)."""
    return cc3d.largest_k(np.ascontiguousarray(mask), k=1) > 0


def without_tumour(labels: np.ndarray, mm: float) -> np.ndarray | None:
    """A slice's labels, uint8 (rows, columns), if nothing in it is tumour; None if they are not to be trusted."""
    tumour = labels == TUMOUR
    reach = np.pad(labels == KIDNEY, 2 * HILUM_PX)
    hollow = ndimage.binary_closing(reach, np.ones((3, 3), bool), HILUM_PX)[(slice(2 * HILUM_PX, -2 * HILUM_PX),) * 2]
    if np.count_nonzero(tumour & ~hollow) * mm * mm > MUCH_TUMOUR_MM2:
        return None
    kidney = ((labels == KIDNEY) | (tumour & hollow)).astype(np.uint8)
    kidney = cc3d.dust(kidney, threshold=round(SPECK_MM2 / mm / mm), connectivity=4)
    sizes = cc3d.statistics(cc3d.connected_components(kidney, connectivity=4))["voxel_counts"][1:]
    return None if len(sizes) and sizes.max() * mm * mm > HUGE_MM2 else kidney * np.uint8(KIDNEY)


def with_cysts(one: Slice, labels: np.ndarray) -> np.ndarray | None:
    """A slice's labels, uint8 (rows, columns), if no mass in it is tumour, but some are cysts; None as above.

    What is watery in what the cascade called kidney or tumour is a cyst. A slice where water lies beside a kidney is
    left out, as it may be a cyst that the cascade missed.
    """
    kidney = ndimage.binary_erosion(labels == KIDNEY, iterations=2)
    if not kidney.any():
        return None
    smooth = ndimage.gaussian_filter(one.hu.astype(np.float32), SMOOTH_MM / one.mm)
    kidney_hu = float(np.median(smooth[kidney]))
    brightest = min(WATER_HU[1], kidney_hu - DARKER_HU)
    watery = (smooth > WATER_HU[0]) & (smooth < brightest)
    rim = max(1, round(RIM_MM / one.mm))
    missed = ndimage.binary_opening(watery & (labels == 0), iterations=2 * rim)
    if (missed & ndimage.binary_dilation(labels > 0, iterations=2 * rim)).any():
        return None
    found = cc3d.connected_components(ndimage.binary_opening(watery & (labels > 0), iterations=rim), connectivity=4)
    about = cc3d.statistics(found)
    compact = [
        number
        for number, (box, size) in enumerate(zip(about["bounding_boxes"], about["voxel_counts"], strict=True))
        if number and size * one.mm**2 >= CYST_MM2 and size >= CYST_FILLS * found[box].size
    ]
    cysts = np.isin(found, compact)
    if compact:  # to half way between the two
        half = (kidney_hu + float(np.median(smooth[cysts]))) / 2
        cysts = ndimage.binary_dilation(cysts, iterations=rim, mask=(labels > 0) & (smooth < half))
    kept = without_tumour(np.where(cysts, np.uint8(KIDNEY), labels), one.mm)
    return None if kept is None else np.where(cysts & (kept > 0), np.uint8(CYST), kept)


def with_tumours(labels: np.ndarray, mm: float, outline: np.ndarray | None = None) -> np.ndarray | None:
    """A slice's labels, uint8 (rows, columns), of a patient with a tumour; None where none is left.

    Args:
        labels: what the cascade called it.
        mm: size of a pixel.
        outline: where somebody drew a tumour, perhaps not to its rim: what is called tumour and hangs together with it
            is a part of it, and nothing else is tumour. Without one the cascade is trusted but for specks.
    """
    tumour = (labels == TUMOUR) | (False if outline is None else outline)
    numbered = cc3d.connected_components(np.ascontiguousarray(tumour), connectivity=4)
    if outline is None:
        sizes = np.bincount(numbered.ravel())
        true = np.flatnonzero(sizes * mm * mm >= TUMOUR_MM2)
    else:
        true = np.unique(numbered[outline])
    found = np.where(labels > 0, np.uint8(KIDNEY), np.uint8(0))
    found[np.isin(numbered, true[true > 0])] = TUMOUR
    return found if (found == TUMOUR).any() else None


@dataclass(frozen=True)
class Asked:
    """What is known of the pictures.

    Args:
        cysts: the patients have cysts, and no tumours.
        tumours: they have tumours.
        outlines: folder with the tumours' outlines, of the pictures' names: what is not black in them.
        patients: regular expression whose first group is a patient's name in a picture's; else each is its own.
    """

    cysts: bool = False
    tumours: bool = False
    outlines: Path | None = None
    patients: str = "(.*)"

    def labels(self, path: Path, one: Slice, seen: np.ndarray) -> np.ndarray | None:
        """A picture's labels, from those that the cascade gave it; None if it cannot be used."""
        if not self.tumours and self.outlines is None:
            return with_cysts(one, seen) if self.cysts else without_tumour(seen, one.mm)
        outline = None
        if self.outlines is not None:
            drawn = self.outlines / path.name
            if not drawn.exists():
                raise InputError(f"{drawn}: there are no outlines of {path}; add them, or leave the picture out.")
            try:
                outline = np.asarray(Image.open(drawn).convert("L")) > 0
            except (OSError, UnidentifiedImageError) as error:
                raise InputError(f"{drawn} is no picture ({error}); fetch it again.") from error
            if outline.shape != seen.shape:
                raise InputError(f"{drawn} has not the size of {path}; make them alike.")
        return with_tumours(seen, one.mm, outline)

    def patient(self, path: Path) -> str:
        """Whose a picture is."""
        found = re.match(self.patients, path.stem)
        return found[1] if found else path.stem


NOTHING = Asked()


def label_pictures(paths: list[Path], out: Path, cascade: Cascade, asked: Asked = NOTHING) -> list[dict[str, object]]:
    """Write a source of the kind ``slices``: what can be used of some pictures, with ``slices.json``; returns that.

    Args:
        paths: the pictures.
        out: folder to write.
        cascade: that labels them.
        asked: what is known of them.

    Raises:
        InputError: none can be used, or outlines are missing.
    """
    out.mkdir(parents=True, exist_ok=True)
    entries = []
    cases: dict[str, int] = {}
    for number, one, labels in labelled(paths, cascade, asked):
        low, high = GREY_HU
        grey = np.rint((np.clip(one.hu, low, high) - low) * (255 / (high - low))).astype(np.uint8)
        names = f"{number:05d}_ct.png", f"{number:05d}_label.png"
        for name, array in zip(names, (grey, labels), strict=True):
            Image.fromarray(array).save(out / name)
        spacing = [SLICE_MM, round(one.mm, 4), round(one.mm, 4)]
        case = cases.setdefault(asked.patient(paths[number]), number)
        entries.append({"case": case, "ct": names[0], "label": names[1], "spacing_mm": spacing})
    if not entries:
        raise InputError(f"Of {len(paths)} pictures none shows a body with fat and muscle whose kidneys were found.")
    write_text(json.dumps(entries, indent=1) + "\n", out / "slices.json")
    log.info("%s: %d of %d pictures.", out, len(entries), len(paths))
    return entries


def labelled(paths: list[Path], cascade: Cascade, asked: Asked) -> Iterator[tuple[int, Slice, np.ndarray]]:
    """The number, HU and labels of those pictures that can be used."""
    for number, path in enumerate(tqdm(paths, disable=None)):
        try:
            grey = np.asarray(Image.open(path).convert("L"))
        except (OSError, UnidentifiedImageError) as error:
            log.warning("%s: is left out, since it is no picture (%s).", path, error)
            continue
        if (one := calibrated(grey)) is None:
            log.debug("%s: shows no fat and muscle.", path)
            continue
        volume = Volume.from_array(np.repeat(one.hu[None], REPEATS, axis=0), (SLICE_MM, one.mm, one.mm), path.name)
        seen = cascade.predict(volume).labels[REPEATS // 2]
        labels = asked.labels(path, one, seen)
        if labels is not None:
            yield number, one, labels


def pattern(text: str) -> str:
    """A regular expression with a group; raises ``ValueError`` if it is none."""
    with suppress(re.error):
        if re.compile(text).groups:
            return text
    raise ValueError(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``pictures``."""
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="of axial pictures, one patient's kind")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take one of N, since neighbours look alike")
    parser.add_argument("--cysts", action="store_true", help="the patients have cysts: what is watery becomes label 3")
    parser.add_argument("--tumours", action="store_true", help="they have tumours: what the cascade calls so stays")
    text = "folder with pictures of the same names, black but for the tumours: outlines that somebody drew"
    parser.add_argument("--outlines", type=Path, metavar="DIR", help=text)
    text = "file with names of pictures, a line each: take these alone, as of those whose labels somebody looked at"
    parser.add_argument("--only", type=Path, metavar="FILE", help=text)
    text = "regular expression whose first group is a patient's name in a picture's; by default each is its own"
    parser.add_argument("--patients", type=pattern, default=Asked.patients, metavar="REGEX", help=text)
    parser.add_argument("--weights", type=Path, required=True, help="folder with the weight files that label them")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for slices.json and its pictures"
    )


def main(arguments: argparse.Namespace) -> None:
    """Run ``pictures``; raises ``KitsError`` where nothing can be used."""
    paths = [path for folder in arguments.folders for path in sorted(folder.iterdir())[:: arguments.every]]
    if arguments.only:
        try:
            names = set(arguments.only.read_text(encoding="utf-8").splitlines())
        except (OSError, ValueError) as error:
            raise InputError(f"{arguments.only} cannot be read ({error}); give a text file with names.") from error
        paths = [path for path in paths if path.name in names]
    asked = Asked(arguments.cysts, arguments.tumours, arguments.outlines, arguments.patients)
    label_pictures(paths, arguments.out, Cascade.load(arguments.weights), asked)
