"""What architectures there are: each module of this package registers its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from kits.choices import Mode

Module = TypeVar("Module", bound=type[nn.Module])

Network = Callable[[torch.Tensor], torch.Tensor]
"""Stacks of slices (batch, 5, rows, columns) to logits (batch, classes, rows, columns), both on the engine's device."""


@dataclass(frozen=True)
class Architecture:
    """A kind of network; called with its number of classes, it makes one with its initial weights.

    Raises ``ValueError`` there if it does not know so many.

    Args:
        name: what weight files call it.
        title: what people call it.
        mode: which mode runs weights that are trained with it, unless the training says otherwise.
        module: its class.
        tells_cysts: whether it can tell them from kidney, as a fourth class.
    """

    name: str
    title: str
    mode: Mode
    module: type[nn.Module]
    tells_cysts: bool = False

    def __call__(self, classes: int = 3) -> nn.Module:
        if classes == 3:
            return self.module()
        if classes == 4 and self.tells_cysts:
            return self.module(cysts=True)
        raise ValueError(f"a {self.title} knows {'3 or 4' if self.tells_cysts else '3'} classes, not {classes}")


ARCHITECTURES: dict[str, Architecture] = {}
"""By name."""


def register(name: str, title: str, mode: Mode, tells_cysts: bool = False) -> Callable[[Module], Module]:
    """Make a class of networks known; ``Architecture`` says what the arguments are.

    Example:
        >>> @register("wide-unet", title="Wide-UNet", mode=Mode.NATIVE)    # doctest: +SKIP
        ... class WideUNet(nn.Module): ...

    Raises:
        ValueError: there is one of this name already.
    """

    def note(module: Module) -> Module:
        if name in ARCHITECTURES:
            raise ValueError(f"two networks are called {name!r}: {ARCHITECTURES[name].module} and {module}")
        ARCHITECTURES[name] = Architecture(name, title, mode, module, tells_cysts)
        return module

    return note
