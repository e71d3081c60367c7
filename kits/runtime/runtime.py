"""How and where the cascade runs, as one value that travels together."""

from __future__ import annotations

import re
from dataclasses import dataclass

from kits.choices import Mode, Precision, Runner
from kits.plan import NATIVE, Plan

DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


@dataclass(frozen=True)
class Runtime:
    """How and where the cascade runs.

    Args:
        device: ``auto`` (the GPU if there is one), ``cpu``, ``cuda``, or one of several GPUs, such as ``cuda:1``.
        runner: what runs the networks.
        precision: of the networks.
        plan: what the cascade does; its mode says whose networks run.

    Raises:
        ValueError: there is no such device.

    Example:
        >>> Runtime.of(device="cpu", mode="paper").plan.every_slice
        False
    """

    device: str = "auto"
    runner: Runner = Runner.AUTO
    precision: Precision = Precision.AUTO
    plan: Plan = NATIVE

    def __post_init__(self) -> None:
        if not DEVICE.fullmatch(self.device):
            raise ValueError(f"device must be auto, cpu, cuda or cuda:NUMBER, got {self.device!r}")

    @classmethod
    def of(
        cls,
        device: str = "auto",
        mode: Mode | str = Mode.NATIVE,
        runner: Runner | str = Runner.AUTO,
        precision: Precision | str = Precision.AUTO,
    ) -> Runtime:
        """A runtime from the words that people write, with a mode's own plan.

        Raises:
            ValueError: a word is none of those that there are.
        """
        return cls(device, Runner(runner), Precision(precision), Plan.of(mode))


DEFAULT = Runtime()
"""The fastest that this machine has, in the mode ``native``."""
