"""What a run begins with: random weights, the optimiser, its learning rates."""

from __future__ import annotations

import torch
from torch import nn

from kits.networks import ARCHITECTURES

from .config import Config, Schedule

CYSTS = "cysts"
"""What the names of the weights begin with that tell cysts apart."""


def initialised(config: Config) -> nn.Module:
    """A network with random weights (Table 1's last column)."""
    network = ARCHITECTURES[config.architecture](config.classes)
    for module in network.modules():
        if config.initial != "default" and isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            if config.initial == "he-uniform":
                nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
            else:
                nn.init.trunc_normal_(module.weight, std=0.1, a=-0.2, b=0.2)  # Keras cuts at two deviations
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network


def with_cysts(network: nn.Module, architecture: str) -> nn.Module:
    """A network that knows three classes with a branch for the fourth, which has learned nothing yet."""
    wider = ARCHITECTURES[architecture](4)
    wider.load_state_dict(wider.state_dict() | network.state_dict())
    return wider


def optimiser_of(
    network: nn.Module, how: Schedule, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """The optimiser of what is to learn, and its learning-rate schedule."""
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimiser: torch.optim.Optimizer
    if how.optimiser == "adam":
        optimiser = torch.optim.Adam(learning, how.learning_rate)
    else:
        optimiser = torch.optim.AdamW(learning, how.learning_rate, weight_decay=how.weight_decay)
    if how.one_cycle:
        return optimiser, torch.optim.lr_scheduler.OneCycleLR(
            optimiser, how.learning_rate, total_steps=steps, pct_start=0.15
        )
    return optimiser, torch.optim.lr_scheduler.ConstantLR(optimiser, factor=1.0)


def set_modes(network: nn.Module, dropout: bool) -> None:
    """Training mode, with or without dropout; batch norms that do not learn keep their statistics."""
    network.train()
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.train(dropout)
        if isinstance(module, nn.BatchNorm2d) and not module.weight.requires_grad:
            module.eval()
