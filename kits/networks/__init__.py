"""The paper's two architectures, one figure a file, and one of our own."""

from collections.abc import Callable

import torch
from torch import nn

from kits.networks.resnet import ResNet
from kits.networks.resunet import ResUNet
from kits.networks.wideunet import WideUNet

ARCHITECTURES: dict[str, type[nn.Module]] = {"res-unet": ResUNet, "res-net": ResNet, "wide-unet": WideUNet}

Network = Callable[[torch.Tensor], torch.Tensor]
"""Stacks of slices (batch, 5, rows, columns) to logits (batch, 3, rows, columns), both on the engine's device."""

__all__ = ["ARCHITECTURES", "Network", "ResNet", "ResUNet", "WideUNet"]
