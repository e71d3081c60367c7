"""What several tests share: synthetic CT volumes, and folders of weights that no training made."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from torch import nn

from kits.choices import Role
from kits.networks import ResNet, ResUNet
from kits.normalisation import Normalisation
from kits.runtime.weights import WeightsInfo, save_weights, write_checksums

AIR_HU, BODY_HU, FAT_HU, KIDNEY_HU = -1000, 40, -100, 180
FAT_MM = 4.0
THRESHOLDS_HU = (110.0, 240.0)
"""From where on the networks of ``threshold_weights`` call a voxel kidney, and tumour."""
NORM = Normalisation(mean=60.0, std=80.0)
MEMBERS = {"res-unet1": ("locate", ResUNet), "res-unet2": ("segment", ResUNet), "res-net": ("segment", ResNet)}


def pytest_configure() -> None:
    """One thread: on a busy machine, two that wait for each other take ten times as long over small tensors.

    And Hypothesis times no example, for the same reason.
    """
    torch.set_num_threads(1)
    settings.register_profile("kits", deadline=None)
    settings.load_profile("kits")


@pytest.fixture(scope="session")
def make_ct() -> Callable[..., np.ndarray]:
    """A function ``(shape, spacing)`` that gives a synthetic CT: int16 HU (z, y, x), canonical orientation.

    Air at -1000, an elliptic body of 40 HU with a rim of fat at -100, and two ellipsoid kidneys of 180 HU, all sized
    by the shape. The patient's right kidney (low x) is the smaller one, so no flip goes unnoticed.
    """

    def make(shape: tuple[int, int, int] = (12, 64, 64), spacing: tuple[float, float, float] = (3.0, 0.8, 0.8)):
        z, y, x = np.meshgrid(*((np.arange(n) + 0.5) / n - 0.5 for n in shape), indexing="ij", sparse=True)
        semi_y, semi_x = 0.45, 0.48
        rim_y, rim_x = (FAT_MM / (n * mm) for n, mm in zip(shape[1:], spacing[1:], strict=True))
        hu = np.full(shape, AIR_HU, np.int16)
        hu[np.broadcast_to((y / semi_y) ** 2 + (x / semi_x) ** 2 < 1, shape)] = FAT_HU
        hu[np.broadcast_to((y / (semi_y - rim_y)) ** 2 + (x / (semi_x - rim_x)) ** 2 < 1, shape)] = BODY_HU
        for centre_x, size in ((-0.21, 0.9), (0.21, 1.0)):
            kidney = (z / (0.45 * size)) ** 2 + ((y - 0.08) / (0.2 * size)) ** 2 + ((x - centre_x) / 0.14) ** 2
            hu[kidney < 1] = KIDNEY_HU
        return hu

    return make


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder of the cascade's three networks with seeded random values, and its SHA256SUMS."""
    folder = tmp_path_factory.mktemp("tiny_weights")
    for seed, (name, (role, architecture)) in enumerate(MEMBERS.items()):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            save_weights(folder / f"{name}.safetensors", architecture(), info_of(role, architecture))
    write_checksums(folder)
    return folder


@pytest.fixture(scope="session")
def threshold_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder whose networks, set by hand, tell kidney and tumour by ``THRESHOLDS_HU`` alone.

    So the cascade's answer to any volume is known beforehand.
    """
    folder = tmp_path_factory.mktemp("threshold_weights")
    for name, (role, architecture) in MEMBERS.items():
        save_weights(folder / f"{name}.safetensors", thresholding(architecture()), info_of(role, architecture))
    write_checksums(folder)
    return folder


def info_of(role: str, architecture: type[nn.Module]) -> WeightsInfo:
    name = {ResUNet: "res-unet", ResNet: "res-net"}[architecture]
    return WeightsInfo(Role(role), name, NORM, "nothing: made by the tests", "Apache-2.0")


@torch.no_grad()
def thresholding(network: nn.Module) -> nn.Module:
    """A network whose logits depend on nothing but the voxel's own HU; all but one path through it is zero."""
    for parameter in network.parameters():
        parameter.zero_()
    if isinstance(network, ResUNet):
        network.stem.weight[0, 2, 1, 1] = 1  # the central slice
        network.block1.shortcut.weight[0, 0] = 1
        network.block9.block.shortcut.weight[0, 32] = 1  # the skip, after the 32 channels from below
        head, middle = network.head, 0
    elif isinstance(network, ResNet):
        first, second, third = network.encode
        up, up_again, head = network.decode
        first.weight[0, 2, 3, 3] = 1
        for p in range(4):  # the four pixels that a stride of 2 merges travel as four channels
            second.weight[p, 0, 1 + p // 2, 1 + p % 2] = 1
            up_again.weight[p, 0, p // 2, p % 2] = 1
            for q in range(4):
                third.weight[4 * p + q, p, 1 + q // 2, 1 + q % 2] = 1
                up.weight[4 * p + q, p, q // 2, q % 2] = 1
        middle = 3
    steepness = 20.0
    kidney, tumour = ((hu - NORM.mean) / NORM.std for hu in THRESHOLDS_HU)
    # Three lines, of which background, kidney and tumour are the highest in turn.
    head.weight[1, 0, middle, middle] = steepness
    head.bias[1] = -steepness * kidney
    head.weight[2, 0, middle, middle] = 2 * steepness
    head.bias[2] = -steepness * (kidney + tumour)
    return network
