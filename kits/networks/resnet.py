"""Res-Net: figure 3 of the paper, read left to right beside this file. 1.24 M parameters.

Tensor names end in their dimensions: B batch, C channels, Y rows, X columns.
"""

import torch
from torch import nn

from kits.choices import Mode
from kits.networks.registry import register

DROPOUT = 0.5  # section 2.3, stage 2: throughout the residual blocks
BLOCKS = 16  # figure 3


class IdentityBlock(nn.Module):
    """Pre-activated residual block with an identity shortcut: BN-ReLU-Conv3x3-Dropout, twice (figure 3, right)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.Dropout(DROPOUT),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.Dropout(DROPOUT),
        )

    def forward(self, x_BCYX: torch.Tensor) -> torch.Tensor:
        return x_BCYX + self.residual(x_BCYX)


@register("res-net", title="Res-Net", mode=Mode.PAPER)
class ResNet(nn.Module):
    """The second network of stage 2 (paper section 2.3, figure 3): no skips, no dilation.

    Takes standardised slices ``(batch, 5, rows, columns)``, rows and columns divisible by 4; gives the logits of
    background, kidney and tumour for the central slice, ``(batch, 3, rows, columns)``.
    """

    def __init__(self, channels: int = 5) -> None:
        super().__init__()
        self.encode = nn.Sequential(
            nn.Conv2d(channels, 16, 7, padding=3),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
        )
        self.blocks = nn.Sequential(*(IdentityBlock(64) for _ in range(BLOCKS)))
        self.decode = nn.Sequential(
            nn.ConvTranspose2d(64, 64, 2, stride=2),
            nn.ConvTranspose2d(64, 32, 2, stride=2),
            nn.Conv2d(32, 3, 7, padding=3),
        )

    def forward(self, x_BCYX: torch.Tensor) -> torch.Tensor:
        return self.decode(self.blocks(self.encode(x_BCYX)))
