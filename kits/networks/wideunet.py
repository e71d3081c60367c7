"""Wide-UNet: our own. The Res-UNet's form, begun at half resolution and wider. 3.15 M parameters.

At full resolution the Res-UNet spends half of its time on a few channels of many pixels, waiting for memory. Here a
strided stem folds the slice's detail into 32 channels, skips are added instead of concatenated, and the last
convolution gives four pixels at once, so that the same seconds hold twice as many steps of training.

Tensor names end in their dimensions: B batch, C channels, Y rows, X columns.
"""

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from kits.choices import Mode
from kits.networks.registry import register
from kits.networks.resunet import ResBlock

import os
WIDTHS = (32, 64, 128, 160, 176) if not os.environ.get("X_WIDE") else (48, 96, 176, 224, 256)
"""Channels at 1/2, 1/4, 1/8, 1/16 and 1/32 of the slice's rows and columns."""
BLOCKS = (1, 2, 2, 2, 1)
"""Residual blocks of the encoder at each of these."""


@register("wide-unet", title="Wide-UNet", mode=Mode.NATIVE)
class WideUNet(nn.Module):
    """A network for either stage.

    Takes standardised slices ``(batch, 5, rows, columns)``, rows and columns divisible by 32; gives the logits of
    background, kidney and tumour for the central slice, ``(batch, 3, rows, columns)``.
    """

    def __init__(self, channels: int = 1 + 2 * int(os.environ.get("X_REACH", 2)), classes: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, WIDTHS[0], 4, stride=2, padding=1)
        self.encode = nn.ModuleList(
            nn.Sequential(
                ResBlock(WIDTHS[max(level - 1, 0)], width, stride=2 if level else 1),
                *(ResBlock(width, width) for _ in range(blocks - 1)),
            )
            for level, (width, blocks) in enumerate(zip(WIDTHS, BLOCKS, strict=True))
        )
        self.narrow = nn.ModuleList(nn.Conv2d(deeper, width, 1) for width, deeper in pairwise(WIDTHS))
        self.decode = nn.ModuleList(ResBlock(width, width) for width in WIDTHS[:-1])
        self.head = nn.Sequential(
            nn.BatchNorm2d(WIDTHS[0]),
            nn.ReLU(inplace=True),
            nn.Conv2d(WIDTHS[0], 4 * classes, 3, padding=1),
            nn.PixelShuffle(2),
        )

    def forward(self, x_BCYX: torch.Tensor) -> torch.Tensor:
        x_BCYX = self.stem(x_BCYX)
        skips = []
        for encode in self.encode:
            x_BCYX = encode(x_BCYX)
            skips.append(x_BCYX)
        deep = []
        for level in reversed(range(len(self.decode))):
            x_BCYX = functional.interpolate(self.narrow[level](x_BCYX), scale_factor=2.0) + skips[level]
            x_BCYX = self.decode[level](x_BCYX)
            deep.append(x_BCYX)
        if getattr(self, "aux", None) is not None and self.training:
            return self.head(x_BCYX), self.aux[0](deep[2]), self.aux[1](deep[1])
        return self.head(x_BCYX)
