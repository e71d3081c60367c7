"""A network on a device, in some precision: checked against the CPU, its kernels launched at once as a CUDA graph."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
from torch import nn

from kits.errors import KitsError
from kits.geometry import WINDOW_PX
from kits.networks import Network
from kits.runtime.devices import answers, free_memory
from kits.runtime.stacks import OFFSETS

MOST_APART = 0.02
"""By how much probabilities may differ from fp32's on the CPU, the mean of a window. Of the shipped networks fp16's are
up to 0.0004 apart, bf16's up to 0.008."""
log = logging.getLogger(__name__)


class Placed:
    """A network on a device; what it returns may be overwritten at its next call.

    Convolutions hold their weights in ``precision``, batch norm in single, as autocast has them, without casting the
    frozen weights again at every call.

    Args:
        network: in evaluation mode; left as it is, unless it is to run on the CPU in single precision.
        device: where it runs.
        precision: in which numbers.
    """

    def __init__(self, network: nn.Module, device: torch.device, precision: torch.dtype) -> None:
        self.device, self.precision = device, precision
        if device.type != "cpu" or precision != torch.float32:
            network = copy.deepcopy(network)
        # Tensor.to knows memory formats, but torch's own annotations of Module.to leave them out.
        self.network = network.to(device, precision, memory_format=torch.channels_last)  # type: ignore[call-overload]
        for module in self.network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.float()
        self.graph: Network | None = None
        self.batch = 0

    def __call__(self, stacks_BCYX: torch.Tensor) -> torch.Tensor:
        stacks_BCYX = stacks_BCYX.to(self.precision, memory_format=torch.channels_last)
        if self.graph and len(stacks_BCYX) == self.batch:
            return self.graph(stacks_BCYX)
        with self.kernels():
            return self.network(stacks_BCYX)

    def kernels(self) -> AbstractContextManager[None]:
        """How cuDNN chooses them: by trial, and none that computes fp32 in TF32, whose numbers have 10 bits."""
        if self.device.type != "cuda":
            return nullcontext()
        return torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=self.precision != torch.float32)

    def apart(self, expected: torch.Tensor, stacks_BCYX: torch.Tensor) -> float:
        """How far its probabilities are from those expected, on average; no number, if one of them is none."""
        found = self(stacks_BCYX.to(self.device)).float().softmax(1)
        return float((found - expected.to(self.device)).abs().mean())

    def record(self, batch: int) -> None:
        """From now on launch the kernels of a batch of this size at once, a few hundred, if they give the same."""
        stacks_BCYX = probe(batch).to(self.device, self.precision).contiguous(memory_format=torch.channels_last)
        try:
            expected = self(stacks_BCYX).float().softmax(1)
            with torch.cuda.device(self.device), self.kernels():
                recorded = torch.cuda.make_graphed_callables(self.network.forward, (stacks_BCYX.clone(),))
            self.graph = cast(Network, recorded)
            self.batch = batch
            apart = self.apart(expected, stacks_BCYX)
        except RuntimeError as error:
            self.forget()
            if not answers(self.device):
                raise
            log.info("Kernels are launched one by one: CUDA could not record them (%s).", error)
            free_memory(self.device)
            return
        if not apart <= MOST_APART:  # nor is it where one of them is no number
            self.forget()
            log.warning("Kernels are launched one by one: recorded, they give probabilities that are %.3f off.", apart)

    def forget(self) -> None:
        """Give the recording's memory back; from now on kernels are launched one by one."""
        self.graph, self.batch = None, 0


@torch.inference_mode()
def place(network: nn.Module, device: torch.device, precisions: Sequence[torch.dtype], batch: int) -> Placed:
    """A network on a device, in the first of some precisions that gives what fp32 gives on the CPU.

    Half precision overflows on some GPUs and in some networks; and labels of no numbers would be an empty map.

    Args:
        network: on the CPU, in evaluation mode.
        device: where it is to run; the CPU is taken at its word.
        precisions: the ones to try.
        batch: slices that it will mostly be given.

    Raises:
        KitsError: none of them does.
    """
    if device.type == "cpu":
        return Placed(network, device, precisions[0])
    window_BCYX = probe(1)
    expected = network(window_BCYX).softmax(1)
    for precision in precisions:
        placed = Placed(network, device, precision)
        apart = placed.apart(expected, window_BCYX)
        if apart <= MOST_APART:
            placed.record(batch)
            return placed
        name = str(precision).removeprefix("torch.")
        log.warning("In %s the GPU's probabilities are %.3f off the CPU's: not used.", name, apart)
    raise KitsError(
        f"{device} gives other numbers than the CPU; use --device cpu"
        f"{', or leave --precision out' if torch.float32 not in precisions else ''}."
    )


def probe(batch: int) -> torch.Tensor:
    """Something like standardised slices of an abdomen, always the same: float32 (batch, 5, y, x) on the CPU."""
    noise = torch.Generator().manual_seed(0)
    y, x = (torch.linspace(-1, 1, WINDOW_PX)[(...,) + (None,) * axis] for axis in (1, 0))
    slice_YX = torch.where((y / 0.8) ** 2 + (x / 0.95) ** 2 < 1, 0.0, -2.5)  # a body in air
    for middle in (-0.4, 0.4):
        slice_YX[((y - 0.2) / 0.2) ** 2 + ((x - middle) / 0.15) ** 2 < 1] = 1.5
    one = slice_YX + 0.2 * torch.randn(1, len(OFFSETS), WINDOW_PX, WINDOW_PX, generator=noise)
    return one.repeat(batch, 1, 1, 1)
