"""Labelled cases to learn from: whole KiTS cases, other volumes with masks, lone slices, all as one kind of thing.

Another kind of source is one more function from a ``Source`` to its cases, listed in ``KINDS``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from PIL import Image

from kits.choices import CYST, KIDNEY
from kits.errors import InputError
from kits.io.cases import Case
from kits.io.images import read_image, read_volume
from kits.io.volume import Grid, Volume
from kits.plan import SLICE_MM

from ..config import Source

FAULTY = tuple(f"kits-{number:05d}" for number in (15, 23, 37, 68, 125, 133))
"""KiTS19 cases whose labels were wrong in early releases."""
TOLERANCES = (("origin", 0.1), ("spacing_xyz", 1e-3), ("direction", 1e-3))
"""By how much the grids of a CT and its label map may differ: mm, mm, and cosines."""

log = logging.getLogger(__name__)

Loaded = tuple[np.ndarray, np.ndarray, tuple[float, float, float]]


@dataclass(frozen=True)
class LabelledCase:
    """A case of a source, not yet read.

    Args:
        name: unique among all cases.
        patient: who it is; patients, not cases, are split into training and validation.
        made_of: patients whose scans or labels a simulated case was made of.
        files: what it is read from, the CT and its labels first.
        read: gives int16 HU and uint8 labels in {0, 1, 2, 3}, both canonical (z, y, x), and the spacing in mm; raises
            ``InputError`` where they do not fit each other.
        interpolated: gives the slices, canonical z, that were made from their neighbours: they are context for these,
            but nothing is learned from them, nor scored on them.
    """

    name: str
    patient: str
    files: tuple[Path, ...]
    read: Callable[[], Loaded]
    made_of: tuple[str, ...] = ()
    interpolated: Callable[[], tuple[int, ...]] = tuple


def kits_cases(source: Source) -> Iterator[LabelledCase]:
    """KiTS19's layout: ``case_NNNNN`` with ``imaging.nii.gz`` and ``segmentation.nii.gz``.

    ``info.json`` beside them may list ``interpolated`` slices, counted like ``first_slice``, the number of the file's
    first one. KiTS19's repository holds the label maps alone; what of its CT is not downloaded yet is told, the rest is
    used.
    """
    absent = []
    for folder in sorted(source.path.glob("case_*")):
        ct, label = folder / "imaging.nii.gz", folder / "segmentation.nii.gz"
        if label.exists() and not ct.exists():
            absent.append(folder.name)
        elif label.exists():  # KiTS19's test cases have none
            name = f"{source.name}-{folder.name.removeprefix('case_')}"
            about = folder / "simulation.json"  # from `python -m train simulate`
            made_of = json.loads(about.read_text(encoding="utf-8"))["patients"] if about.exists() else ()
            info = folder / "info.json"
            files = (ct, label, info) if info.exists() else (ct, label)
            read, made = partial(read_pair, ct, label), partial(interpolated_slices, ct, info)
            yield LabelledCase(name, name, files, read, tuple(made_of), made)
    if absent:
        log.warning(
            "%s: %d cases have no imaging.nii.gz and are left out (download them, in KiTS19's folder by "
            "`python -m starter_code.get_imaging`): %s.", source.path, len(absent), ", ".join(absent)
        )  # fmt: skip


def interpolated_slices(ct: Path, info: Path) -> tuple[int, ...]:
    """The canonical slices (z) of a volume that its ``info.json``, if it has one, calls interpolated.

    Raises:
        InputError: the volume or the listing cannot be read, or they do not fit each other.
    """
    if not info.exists():
        return ()
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(ct))
    try:
        about = json.loads(info.read_text(encoding="utf-8"))
        listed = [int(number) - int(about["first_slice"]) for number in about["interpolated"]]
        reader.ReadImageInformation()
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{info} does not tell which slices of {ct.name} are interpolated: {error}.") from error
    grid = Grid(reader.GetSize(), reader.GetSpacing(), reader.GetOrigin(), reader.GetDirection())
    order, flips = grid.canonical_axes()
    slices = grid.size_xyz[2 - order[0]]
    if any(not 0 <= number < slices for number in listed):
        raise InputError(f"{info} lists slices that {ct.name} with its {slices} slices does not hold.")
    return tuple(sorted(slices - 1 - number if flips[0].step == -1 else number for number in listed))


def volume_cases(source: Source) -> Iterator[LabelledCase]:
    """Other volumes: ``NAME/ct.nii.gz`` with ``NAME/label.nii.gz``; a folder ``kits_00166`` is KiTS's patient."""
    for ct in sorted(source.path.glob("*/ct.nii.gz")):
        label = ct.with_name("label.nii.gz")
        name = ct.parent.name
        if not label.exists():
            log.warning("%s has no label.nii.gz beside it, and is left out.", ct)
            continue
        yield LabelledCase(name, patient_of(name), (ct, label), partial(read_pair, ct, label))


def patient_of(name: str) -> str:
    """A patient's name from a file's or folder's: ``case_00166`` and ``kits_00166`` are ``kits-00166``."""
    for prefix in ("case_", "kits_"):
        if name.startswith(prefix):
            return f"kits-{name.removeprefix(prefix)}"
    return name


def slice_cases(source: Source) -> Iterator[LabelledCase]:
    """Lone slices: pairs of pictures listed in ``slices.json`` with ``case``, ``ct``, ``label`` and ``spacing_mm``."""
    listing = source.path / "slices.json"
    for number, entry in enumerate(json.loads(listing.read_text(encoding="utf-8")) if listing.exists() else []):
        ct, label = source.path / entry["ct"], source.path / entry["label"]
        patient = f"{source.name}-{entry['case']:05d}"
        spacing = (SLICE_MM, *entry["spacing_mm"][1:])
        yield LabelledCase(
            f"{source.path.name}-{number:04d}",
            patient,
            (ct, label),
            partial(read_pictures, ct, label, spacing, source),
        )


KINDS = {"kits": kits_cases, "volumes": volume_cases, "slices": slice_cases}


def find_labelled(source: Source) -> list[LabelledCase]:
    """All labelled cases of a source.

    Raises:
        InputError: there are none, or a listing is damaged.
    """
    cases = list(KINDS[source.kind](source))
    if not cases:
        raise InputError(f"{source.path} holds no labelled case of the kind {source.kind!r}.")
    return cases


def read_pair(ct: Path, label: Path) -> Loaded:
    """A volume's HU, its labels and its spacing, in canonical orientation."""
    volume = read_volume(Case(ct.parent.name, ct, ct.name))
    return volume.hu, labels_of(volume, label), volume.spacing


def labels_of(volume: Volume, path: Path) -> np.ndarray:
    """A volume's label map, uint8 (z, y, x) in {0, 1, 2, 3} on its canonical grid, from a file of the same geometry.

    Raises:
        InputError: the file cannot be read, differs from the volume in size or place, or holds none of KiTS's labels.
    """
    image = read_image(path)
    grid = Grid.of(image)
    if volume.home.size_xyz != grid.size_xyz:
        raise InputError(f"{path} has {grid.size_xyz} voxels, {volume.name} {volume.home.size_xyz}: not of one scan.")
    if any(not np.allclose(getattr(volume.home, name), getattr(grid, name), atol=by) for name, by in TOLERANCES):
        raise InputError(f"{path} lies elsewhere than {volume.name} (affines differ): resample it, or mend its header.")
    order, flips = grid.canonical_axes()
    return checked_labels(sitk.GetArrayViewFromImage(image).transpose(order)[flips], path)


def read_pictures(ct: Path, label: Path, spacing: tuple[float, float, float], source: Source) -> Loaded:
    """A lone slice as a volume of one; grey values become HU as the source says."""
    grey = np.asarray(Image.open(ct).convert("L")).astype(np.float32)
    low, high = source.grey_hu
    hu = grey * ((high - low) / 255) + low
    if source.black_hu is not None:
        hu = np.where(grey > 0, hu, source.black_hu)
    labels = np.asarray(Image.open(label))
    if labels.shape != hu.shape:
        raise InputError(f"{label} has {labels.shape} pixels, {ct} {hu.shape}: they do not belong together.")
    return np.rint(hu).astype(np.int16)[None], checked_labels(labels, label)[None], spacing


def checked_labels(labels: np.ndarray, path: Path) -> np.ndarray:
    """Labels as KiTS23 means them, uint8: 0 background, 1 kidney, 2 tumour, 3 cyst.

    Raises:
        InputError: there are other values than 0 to 3.
    """
    values = np.unique(labels)
    if not np.isin(values, (0, 1, 2, CYST)).all():
        raise InputError(f"{path} holds the labels {values.tolist()}; known are 0, 1, 2 and {CYST} (cyst).")
    return labels.astype(np.uint8)


def kits19_labels(labels: np.ndarray) -> np.ndarray:
    """Labels as KiTS19 means them: cysts are kidney."""
    return np.where(labels == CYST, np.uint8(KIDNEY), labels)
