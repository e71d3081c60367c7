"""The paper's two architectures, one figure a file."""

from torch import nn

from kits.networks.resnet import ResNet
from kits.networks.resunet import ResUNet

ARCHITECTURES: dict[str, type[nn.Module]] = {"res-unet": ResUNet, "res-net": ResNet}

__all__ = ["ARCHITECTURES", "ResNet", "ResUNet"]
