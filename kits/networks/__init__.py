"""The paper's two architectures, one figure a file, and one of our own.

A new one is a module in this folder with a class under ``@register``; nothing else needs to name it.
"""

import importlib
import pkgutil

from kits.networks.registry import ARCHITECTURES, Architecture, Network, register
from kits.networks.resnet import ResNet
from kits.networks.resunet import ResUNet
from kits.networks.wideunet import WideUNet

for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    importlib.import_module(_module.name)

__all__ = ["ARCHITECTURES", "Architecture", "Network", "ResNet", "ResUNet", "WideUNet", "register"]
