"""What a training run is told: one dataclass, one preset a network.

Constants of the paper stand here with their sections; where a preset leaves the paper, the comment says why.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Config:
    """One network's training.

    Args:
        architecture: a key of ``kits.networks.ARCHITECTURES``.
        role: ``locate`` (halved slices) or ``segment`` (regions at full resolution).
        shares: how much of a batch has neither kidney nor tumour (B), kidney only (K), kidney and tumour (KT).
        class_weights: of background, kidney and tumour in the cross-entropy (Table 1).
        steps: optimiser steps of the whole schedule.
        batch: slices a step.
        patch: rows and columns of a training patch, px. The networks are convolutional, so less than the 256 px of
            inference costs less, but they then learn nothing of what lies near a window's edge.
        learning_rate: the highest of the one-cycle schedule.
        weight_decay: of AdamW.
        flip: how often a patch is mirrored, right to left (Table 1: never for Res-UNet1).
        dropout: whether Res-Net's dropout is on. A run without it has to follow one with it: the network learns to
            rely on the noise that 32 dropouts make, and is useless in inference, where there is none.
        volume_share: how often a slice comes from a whole volume (with true neighbours) rather than a lone slice.
        average: decay of the running average of the weights that is kept in the end.
        seed: of everything random.
    """

    architecture: str
    role: str
    shares: tuple[float, float, float]
    class_weights: tuple[float, float, float]
    steps: int = 1000
    batch: int = 8
    patch: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    flip: float = 0.5
    dropout: bool = True
    volume_share: float = 0.3
    average: float = 0.99
    seed: int = 0


# The paper's class weights raise tumour threefold; with a Dice term beside the cross-entropy, less is enough.
PRESETS = {
    "res-unet1": Config("res-unet", "locate", (0.34, 0.33, 0.33), (0.5, 1.0, 1.5), flip=0.0),
    "res-unet2": Config("res-unet", "segment", (0.1, 0.4, 0.5), (0.5, 1.0, 1.5)),
    "res-net": Config("res-net", "segment", (0.1, 0.4, 0.5), (0.5, 1.0, 1.5), learning_rate=1e-3),
}
