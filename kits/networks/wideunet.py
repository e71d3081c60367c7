"""Wide-UNet: our own. The Res-UNet's form, begun at half resolution and wider. 3.15 M parameters, 3.30 M with cysts.

At full resolution the Res-UNet spends half of its time on a few channels of many pixels, waiting for memory. Here a
strided stem folds the slice's detail into 32 channels, skips are added instead of concatenated, and the last
convolution gives four pixels at once, so that the same seconds hold twice as many steps of training.

Cysts are few, so a branch of its own tells them: it can learn alone, and background and tumour stay so.

Tensor names end in their dimensions: B batch, C channels, Y rows, X columns.
"""

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from kits.choices import Mode
from kits.networks.registry import register
from kits.networks.resunet import ResBlock

WIDTHS = (32, 64, 128, 160, 176)
"""Channels at 1/2, 1/4, 1/8, 1/16 and 1/32 of the slice's rows and columns."""
BLOCKS = (1, 2, 2, 2, 1)
"""Residual blocks of the encoder at each of these."""
CYST_WIDTH, FEW_CYSTS = 16, -3.0
"""Channels of the branch for cysts, and the logit of a cyst, beside its kidney, before it has learned anything."""


@register("wide-unet", title="Wide-UNet", mode=Mode.NATIVE, tells_cysts=True)
class WideUNet(nn.Module):
    """A network for either stage.

    Takes standardised slices ``(batch, 5, rows, columns)``, rows and columns divisible by 32; gives the logits of
    background, kidney and tumour for the central slice, ``(batch, 3, rows, columns)``, and with ``cysts`` theirs, too.
    """

    def __init__(self, channels: int = 5, cysts: bool = False) -> None:
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
            nn.Conv2d(WIDTHS[0], 4 * 3, 3, padding=1),
            nn.PixelShuffle(2),
        )
        self.cysts = Cysts(channels) if cysts else None

    def forward(self, slices_BCYX: torch.Tensor) -> torch.Tensor:
        x_BCYX = self.stem(slices_BCYX)
        skips, decoded = [], []
        for encode in self.encode:
            x_BCYX = encode(x_BCYX)
            skips.append(x_BCYX)
        for level in reversed(range(len(self.decode))):
            x_BCYX = functional.interpolate(self.narrow[level](x_BCYX), scale_factor=2.0) + skips[level]
            x_BCYX = self.decode[level](x_BCYX)
            decoded.append(x_BCYX)
        logits_BCYX = self.head(x_BCYX)
        return logits_BCYX if self.cysts is None else self.cysts(slices_BCYX, decoded, logits_BCYX)


class Cysts(nn.Module):
    """How much of what is kidney is cyst: a branch of what the decoder holds at 1/8, 1/4 and 1/2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half, quarter, eighth = WIDTHS[:3]
        self.at_eighth = ResBlock(eighth, quarter)
        self.at_quarter = ResBlock(quarter, half)
        self.at_half = nn.Sequential(
            nn.BatchNorm2d(2 * half + channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(2 * half + channels, CYST_WIDTH, 3, padding=1),
            nn.BatchNorm2d(CYST_WIDTH),
            nn.ReLU(inplace=True),
            nn.Conv2d(CYST_WIDTH, 4, 3, padding=1),
            nn.PixelShuffle(2),
        )
        last = self.at_half[-2]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        nn.init.zeros_(last.weight)
        nn.init.constant_(last.bias, FEW_CYSTS)

    def forward(
        self, slices_BCYX: torch.Tensor, decoded: list[torch.Tensor], logits_BCYX: torch.Tensor
    ) -> torch.Tensor:
        """Logits of four classes.

        Args:
            slices_BCYX: what the network was given: a cyst is told by its HU.
            decoded: what its decoder made of it, at 1/2 last.
            logits_BCYX: of background, kidney and tumour.
        """
        eighth_BCYX, quarter_BCYX, half_BCYX = decoded[-3:]
        x_BCYX = functional.interpolate(self.at_eighth(eighth_BCYX), scale_factor=2.0) + quarter_BCYX
        x_BCYX = functional.interpolate(self.at_quarter(x_BCYX), scale_factor=2.0)
        x_BCYX = self.at_half(torch.cat([x_BCYX, half_BCYX, functional.avg_pool2d(slices_BCYX, 2)], dim=1))
        background, kidney, tumour = logits_BCYX.float().chunk(3, dim=1)
        cyst, other = functional.logsigmoid(x_BCYX.float()), functional.logsigmoid(-x_BCYX.float())
        return torch.cat([background, kidney + other, tumour, kidney + cyst], dim=1)
