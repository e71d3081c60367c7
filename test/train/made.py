"""Made-up scans, folders and runs for the tests of training."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from kits.normalisation import Normalisation
from test.helpers.threshold import oriented, phantom
from train.config import Config, Data, Source
from train.data.cache import Scan, scan_of
from train.loop import Material, Trainer
from train.presets import PRESETS

CPU = torch.device("cpu")
NORM = Normalisation(-10.0, 60.0)
SPACING = (3.0, 0.8, 0.8)
BEST = PRESETS["best"]["res-unet2"]
SMALL = replace(
    BEST,
    patch=64,
    augmentation=replace(BEST.augmentation, lesions=0.0, pasted=0.0),
    schedule=replace(BEST.schedule, batch=2, epochs=3, epoch_steps=2),
)
DATA = Data((Source("kits", Path("made-up")),), trained_on="made-up ellipsoids", licence="Apache-2.0")


def made_scans(count: int = 3) -> list[Scan]:
    """Volumes with two kidneys and a tumour, and one lone slice."""
    hu, labels = phantom(shape=(8, 96, 128), radius_mm=(9.0, 14.0, 14.0))
    whole = [scan_of(f"case-{n}", f"kits-{n:05d}", hu, labels, SPACING) for n in range(1, count)]
    return [*whole, scan_of("slice", "kits-00099", hu[4:5], labels[4:5], SPACING)]


def kits_folder(folder: Path, count: int = 4) -> Path:
    """KiTS19's layout with made-up cases."""
    for number in range(count):
        hu, labels = phantom(shape=(12, 96, 128), spacing=(3.0, 0.8, 0.8), radius_mm=(12.0, 16.0, 16.0))
        case = folder / f"case_{number:05d}"
        case.mkdir(parents=True)
        for name, array in (("imaging", hu + np.int16(number)), ("segmentation", labels)):
            sitk.WriteImage(oriented(array, SPACING, (2, 0, 1), (-1, 1, -1)), str(case / f"{name}.nii.gz"))
    return folder


def trainer(
    config: Config = SMALL, folder: Path = Path(), start: Path | None = None, device: str = "cpu", **changes: object
) -> Trainer:
    """A run on made-up scans; ``changes`` are to ``Material``."""
    scans = made_scans()
    material = Material(**{"data": DATA, "train": scans, "valid": scans[-1:], "norm": NORM} | changes)
    return Trainer(config, material, folder, device, start)
