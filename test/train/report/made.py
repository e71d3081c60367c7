"""Made-up cases and networks for Table 2."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from kits.runtime.weights import Member
from test.helpers.threshold import NORM, Threshold, member, oriented
from train.report.table import ENSEMBLE

SPACING = (3.0, 0.8, 0.8)
VOXEL_ML = 3.0 * 0.8 * 0.8 / 1000
SMALL = {"shape": (9, 96, 128), "radius_mm": (12.0, 15.0, 15.0), "tumour_mm": 7.0}
KITS_AXES = (2, 1, 0), (-1, 1, 1)
NETWORKS = ["res-unet1", "res-unet2", "res-net", ENSEMBLE]


class BlindToTumour(Threshold):
    """Takes tumour for kidney, without being sure: a surer network beside it decides."""

    def __init__(self) -> None:
        super().__init__(confidence=1.0)

    def forward(self, x_BCYX: torch.Tensor) -> torch.Tensor:
        tumour = x_BCYX > (240 - NORM.mean) / NORM.std
        return super().forward(torch.where(tumour, torch.full_like(x_BCYX, (180 - NORM.mean) / NORM.std), x_BCYX))


def named(name: str, role: str, network: Threshold) -> Member:
    return Member(name, network, member(role).info)


def trio(suffix: str = "") -> tuple[list[Member], list[Member]]:
    """Stage 1, and two members of stage 2 of which only one sees tumours, as a weights folder gives them."""
    return [named(f"res-unet1{suffix}", "locate", Threshold())], [
        named(f"res-net{suffix}", "segment", BlindToTumour()),
        named(f"res-unet2{suffix}", "segment", Threshold()),
    ]


def write_case(
    data: Path,
    number: int,
    hu: np.ndarray,
    labels: np.ndarray | None,
    axes: tuple[tuple[int, ...], tuple[int, ...]] = ((0, 1, 2), (1, 1, 1)),
) -> str:
    folder = data / f"case_{number:05d}"
    folder.mkdir(parents=True)
    sitk.WriteImage(oriented(hu, SPACING, *axes), str(folder / "imaging.nii.gz"))
    if labels is not None:
        sitk.WriteImage(oriented(labels, SPACING, *axes), str(folder / "segmentation.nii.gz"))
    return folder.name


def rough(labels: np.ndarray) -> np.ndarray:
    """A reference that no answer agrees with: some of its kidney and of its tumour are gone."""
    labels = labels.copy()
    labels[:4][labels[:4] == 1] = 0
    labels[:, ::5][labels[:, ::5] == 2] = 1
    return labels
