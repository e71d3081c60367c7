"""Where slices to learn from come from: lone labelled slices and whole volumes, as one kind of thing.

A lone slice stands for its own neighbours. Volumes pass through the same preprocessing as in inference.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from PIL import Image

from kits.files import Case, read_image, read_volume
from kits.preprocess import Normalisation, preprocess, working_shape
from kits.volume import Grid

CPU = torch.device("cpu")
WIDE = Normalisation(0.0, 1.0, (-1000.0, 1000.0))
"""Keeps HU as they are: training clips to the window only after it has varied the intensities."""


@dataclass(frozen=True)
class Scan:
    """Labelled slices of one patient on the grid of the networks.

    Args:
        patient: who it is; patients, not scans, are split into training and validation.
        hu: int16 HU, (z, y, x): a volume at 3 mm, or one lone slice.
        labels: uint8, as ``hu``: 0 background, 1 kidney (cysts included, as in KiTS19), 2 tumour.
    """

    patient: str
    hu: np.ndarray
    labels: np.ndarray


def slice_folder(folder: Path, halve: bool) -> list[Scan]:
    """Lone slices: PNG pairs listed in ``slices.json``, grey values as that folder's window says.

    Each entry names ``case``, ``ct``, ``label`` and ``spacing_mm``. Grey 0 to 255 is -80 to 320 HU in KiTS23's
    figures and 0 to 255 HU in KiTS19's, whose 0 stands for all that is below, mostly fat (taken as -100 HU); a folder
    named ``*kits19*`` holds the latter.
    """
    kits19 = "kits19" in folder.name
    scans = []
    for entry in json.loads((folder / "slices.json").read_text()):
        grey = np.asarray(Image.open(folder / entry["ct"]).convert("L")).astype(np.float32)
        hu = np.where(grey > 0, grey, -100) if kits19 else grey * (400 / 255) - 80
        labels = np.asarray(Image.open(folder / entry["label"]))
        spacing = (3.0, *entry["spacing_mm"][1:])
        scans.append(on_working_grid(f"kits-{entry['case']:05d}", np.rint(hu).astype(np.int16)[None],
                                     labels[None], spacing, halve))  # fmt: skip
    return scans


def volume_folder(folder: Path, halve: bool) -> list[Scan]:
    """Whole volumes: ``NAME/ct.nii.gz`` with ``NAME/label.nii.gz``; patients are named so, KiTS ones kits-00166."""
    scans = []
    for path in sorted(folder.glob("*/ct.nii.gz")):
        name = path.parent.name
        ct = read_volume(Case(name, path, f"{name}.nii.gz"))
        labels = read_canonical_labels(path.with_name("label.nii.gz"))
        scans.append(on_working_grid(name.replace("kits_", "kits-"), ct.hu, labels, ct.spacing, halve))
    return scans


def read_canonical_labels(path: Path) -> np.ndarray:
    """A label map in canonical orientation, uint8 (z, y, x)."""
    image = sitk.Cast(read_image(path), sitk.sitkUInt8)
    order, flips = Grid.of(image).canonical_axes()
    return sitk.GetArrayFromImage(image).transpose(order)[flips]


def on_working_grid(
    patient: str, hu: np.ndarray, labels: np.ndarray, spacing: tuple[float, float, float], halve: bool
) -> Scan:
    """A scan as the networks see it: 3 mm slices, in-plane within KiTS19's range, halved for stage 1."""
    shape = working_shape(hu.shape, spacing)
    if halve:
        shape = (shape[0], -(-shape[1] // 2), -(-shape[2] // 2))
    labels = np.where(labels == 3, 1, labels).astype(np.uint8)
    resampled = torch.nn.functional.interpolate(
        torch.from_numpy(labels)[None, None].float(), size=shape, mode="nearest-exact"
    )[0, 0].to(torch.uint8)
    return Scan(patient, preprocess(hu, shape, WIDE, CPU).round().to(torch.int16).numpy(), resampled.numpy())
