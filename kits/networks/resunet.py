"""Res-UNet: figure 2 of the paper, read top to bottom beside this file. 2.43 M parameters.

Tensor names end in their dimensions: B batch, C channels, Y rows, X columns.
"""

import torch
from torch import nn

from kits.choices import Mode
from kits.networks.registry import register


class ResBlock(nn.Module):
    """Pre-activated residual block (figure 2, middle): BN-ReLU-Conv3x3 twice, plus a linear 1x1 shortcut.

    Args:
        inputs: channels in.
        outputs: channels out.
        stride: 2 halves the rows and columns (blocks 2 to 5), 1 keeps them.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride)
        self.residual = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(inputs, outputs, 3, stride, padding=1),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1),
        )

    def forward(self, x_BCYX: torch.Tensor) -> torch.Tensor:
        return self.shortcut(x_BCYX) + self.residual(x_BCYX)


class Up(nn.Module):
    """Transposed 2x2 convolution with stride 2, concatenation with the skip, residual block (figure 2, right)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.upsample = nn.ConvTranspose2d(inputs, inputs, 2, stride=2)
        self.block = ResBlock(inputs + outputs, outputs)

    def forward(self, x_BCYX: torch.Tensor, skip_BCYX: torch.Tensor) -> torch.Tensor:
        return self.block(torch.cat([self.upsample(x_BCYX), skip_BCYX], dim=1))


@register("res-unet", title="Res-UNet", mode=Mode.PAPER)
class ResUNet(nn.Module):
    """The network of stage 1 and the first of stage 2 (paper section 2.3, figure 2).

    Takes standardised slices ``(batch, 5, rows, columns)``, rows and columns divisible by 16; gives the logits of
    background, kidney and tumour for the central slice, ``(batch, 3, rows, columns)``.
    """

    def __init__(self, channels: int = 5) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 8, 3, padding=1)
        self.block1 = ResBlock(8, 16)
        self.block2 = ResBlock(16, 32, stride=2)
        self.block3 = ResBlock(32, 64, stride=2)
        self.block4 = ResBlock(64, 128, stride=2)
        self.block5 = ResBlock(128, 256, stride=2)
        self.block6 = Up(256, 128)
        self.block7 = Up(128, 64)
        self.block8 = Up(64, 32)
        self.block9 = Up(32, 16)
        self.head = nn.Conv2d(16, 3, 1)

    def forward(self, x_BCYX: torch.Tensor) -> torch.Tensor:
        skip1 = self.block1(self.stem(x_BCYX))
        skip2 = self.block2(skip1)
        skip3 = self.block3(skip2)
        skip4 = self.block4(skip3)
        x_BCYX = self.block6(self.block5(skip4), skip4)
        x_BCYX = self.block7(x_BCYX, skip3)
        x_BCYX = self.block8(x_BCYX, skip2)
        x_BCYX = self.block9(x_BCYX, skip1)
        return self.head(x_BCYX)
