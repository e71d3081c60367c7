"""A cascade whose networks only threshold: what it must find in a made volume is known to the voxel."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from torch import nn

from kits.cascade.cascade import Cascade
from kits.cascade.stage import Stage
from kits.choices import Role
from kits.io.volume import Volume
from kits.normalisation import Normalisation
from kits.runtime.engine import Engine
from kits.runtime.runtime import Runtime
from kits.runtime.weights import Member, WeightsInfo

NORM = Normalisation(50.0, 80.0)
AIR, FAT, BODY, KIDNEY, TUMOUR = -1000, -100, 40, 180, 290


class Threshold(nn.Module):
    """Kidney above 120 HU, tumour above 240 HU, in the central slice; remembers how many slices it saw."""

    def __init__(self, confidence: float = 20.0) -> None:
        super().__init__()
        self.confidence, self.seen = confidence, 0

    def forward(self, x_BCYX: torch.Tensor) -> torch.Tensor:
        self.seen += len(x_BCYX)
        hu = x_BCYX[:, 2] * NORM.std + NORM.mean
        label = (hu > 120).long() + (hu > 240).long()
        return nn.functional.one_hot(label, 3).permute(0, 3, 1, 2).float() * self.confidence


def member(role: str, network: nn.Module | None = None) -> Member:
    """A threshold network, or another, as a member of the cascade."""
    return Member(role, network or Threshold(), WeightsInfo(Role(role), "res-unet", NORM, "nothing", "Apache-2.0"))


def stage(network: nn.Module | None = None) -> Stage:
    """A stage of one threshold network, or of another, on this CPU."""
    return Stage.of([member("segment", network)], Engine("cpu", "torch", "fp32"))


def threshold_cascade(mode: str = "native") -> Cascade:
    return Cascade([member("locate")], [member("segment"), member("segment")], Runtime.of("cpu", mode, "torch", "fp32"))


def phantom(
    shape: tuple[int, int, int] = (40, 128, 160),
    spacing: tuple[float, float, float] = (3.0, 0.8, 0.8),
    kidneys: tuple[tuple[float, float, float], ...] = ((0.5, 0.55, 0.25), (0.45, 0.55, 0.72)),
    radius_mm: tuple[float, float, float] = (36.0, 17.0, 17.0),
    tumour_mm: float = 8.0,
) -> tuple[np.ndarray, np.ndarray]:
    """HU and label map: ellipsoid kidneys (centres as fractions of the shape), a tumour on the first one's flank."""
    z, y, x = np.meshgrid(
        *(np.arange(n) * mm for n, mm in zip(shape, spacing, strict=True)), indexing="ij", sparse=True
    )
    size = np.array(shape) * spacing
    hu = np.full(shape, AIR, np.int16)
    for scale, value in ((0.48, FAT), (0.44, BODY)):
        body = ((y - size[1] / 2) / (scale * size[1])) ** 2 + ((x - size[2] / 2) / (scale * size[2])) ** 2
        hu[np.broadcast_to(body < 1, shape)] = value
    labels = np.zeros(shape, np.uint8)
    for number, centre in enumerate(kidneys):
        cz, cy, cx = np.array(centre) * size
        rz, ry, rx = radius_mm
        inside = ((z - cz) / rz) ** 2 + ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1
        hu[inside], labels[inside] = KIDNEY, 1
        if number == 0 and tumour_mm:
            ball = (z - cz) ** 2 + (y - cy + ry) ** 2 + (x - cx) ** 2 < tumour_mm**2
            hu[ball], labels[ball] = TUMOUR, 2
    return hu, labels


def labels_in(path: Path) -> np.ndarray:
    """The array of a label map's file."""
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def phantom_volume(**settings: object) -> tuple[Volume, np.ndarray]:
    hu, labels = phantom(**settings)  # type: ignore[arg-type]
    return Volume.from_array(hu, settings.get("spacing", (3.0, 0.8, 0.8))), labels  # type: ignore[arg-type]


def oriented(array: np.ndarray, spacing: tuple[float, float, float], order: tuple[int, ...], signs: tuple[int, ...]):
    """The same volume stored with its axes in another order and direction: an ITK image."""
    stored = array.transpose(order)
    stored = stored[tuple(slice(None, None, sign) for sign in signs)]
    image = sitk.GetImageFromArray(np.ascontiguousarray(stored))
    # Rows: world x, y, z; columns: stored axes in ITK's order (x fastest, which is NumPy's last).
    direction = np.zeros((3, 3))
    for axis, (source, sign) in enumerate(zip(order, signs, strict=True)):
        direction[2 - source, 2 - axis] = sign
    image.SetDirection(direction.ravel().tolist())
    image.SetSpacing([spacing[source] for source in reversed(order)])
    start = [0.0, 0.0, 0.0]
    for source, sign in zip(order, signs, strict=True):
        start[2 - source] = 0.0 if sign > 0 else (array.shape[source] - 1) * spacing[source]
    image.SetOrigin(start)
    return image


def dice(prediction: np.ndarray, truth: np.ndarray) -> float:
    return float(2 * (prediction & truth).sum() / (prediction.sum() + truth.sum()))
