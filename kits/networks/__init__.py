"""The paper's two architectures, one figure a file, and one of our own."""

from torch import nn

from kits.networks.resnet import ResNet
from kits.networks.resunet import ResUNet
from kits.networks.wideunet import WideUNet

ARCHITECTURES: dict[str, type[nn.Module]] = {"res-unet": ResUNet, "res-net": ResNet, "wide-unet": WideUNet}

__all__ = ["ARCHITECTURES", "ResNet", "ResUNet", "WideUNet"]
