"""What a run begins with: random weights, the optimiser, its learning rates."""

from __future__ import annotations

import torch
from torch import nn

from kits.choices import KIDNEY
from kits.networks import ARCHITECTURES

from .config import Config, Schedule

FEWER_CYSTS = 2.0
"""By how much a new class' logits begin lower than kidney's."""


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


def with_classes(network: nn.Module, architecture: str, classes: int) -> nn.Module:
    """A network that knows three classes as one of so many: cysts begin as kidney does, but less likely."""
    wider = ARCHITECTURES[architecture](classes)
    before = network.state_dict()
    state = {}
    for name, tensor in wider.state_dict().items():
        own = before[name]
        if own.shape != tensor.shape:  # the last convolution's: an equal part of its channels for each class
            kidney = own.chunk(3)[KIDNEY]
            own = torch.cat([own, kidney - FEWER_CYSTS if own.ndim == 1 else kidney])
        state[name] = own
    wider.load_state_dict(state)
    return wider


def optimiser_of(
    network: nn.Module, how: Schedule, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """The optimiser and its learning-rate schedule."""
    optimiser: torch.optim.Optimizer
    if how.optimiser == "adam":
        optimiser = torch.optim.Adam(network.parameters(), how.learning_rate)
    else:
        optimiser = torch.optim.AdamW(network.parameters(), how.learning_rate, weight_decay=how.weight_decay)
    if how.one_cycle:
        return optimiser, torch.optim.lr_scheduler.OneCycleLR(
            optimiser, how.learning_rate, total_steps=steps, pct_start=0.15
        )
    return optimiser, torch.optim.lr_scheduler.ConstantLR(optimiser, factor=1.0)


def set_modes(network: nn.Module, dropout: bool) -> None:
    """Training mode, with or without dropout."""
    network.train()
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.train(dropout)
