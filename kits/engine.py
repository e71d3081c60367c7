"""Slices through networks on a device, in mixed precision: the one place that knows devices.

Tensor names end in their dimensions: B batch, Z slices, C classes, Y rows, X columns.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import nn

from kits.errors import KitsError
from kits.stacks import stack_slices

WINDOW_PX = 256
"""Rows and columns that a network sees at once (paper section 2.3)."""
CLASSES = 3
BATCH = {"cpu": 4, "cuda": 32}
CPUINFO = Path("/proc/cpuinfo")
log = logging.getLogger(__name__)

Corner = tuple[int, int]


class Engine:
    """Runs networks where they run fastest.

    Args:
        device: ``cuda``, ``cpu`` or ``auto`` (the GPU if there is one).

    Raises:
        KitsError: ``cuda`` is asked for where there is none.
    """

    def __init__(self, device: str = "auto") -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise KitsError("No CUDA device was found; use --device cpu, or start the container with --gpus all.")
        self.device = torch.device(device)
        self.precision = fastest_precision(self.device)
        self.batch = BATCH[self.device.type]
        log.info("Networks run on %s in %s.", self.device, str(self.precision).removeprefix("torch."))

    def place(self, network: nn.Module) -> nn.Module:
        """Move a network to the device, in the memory format that its convolutions like best."""
        # Tensor.to knows memory formats, but torch's own annotations of Module.to leave them out.
        return network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def predict(
        self,
        networks: Sequence[nn.Module],
        slices_ZYX: torch.Tensor,
        centres: Sequence[int],
        windows: Iterable[Corner],
        step: float = 1.0,
    ) -> torch.Tensor:
        """Class probabilities of some slices inside some windows, averaged over networks and overlapping windows.

        The mean of the networks' softmax is stage 3, the ensemble (paper section 2.3). Where windows overlap, each
        counts the more the nearer the pixel is to its middle. Outside the windows all is background.

        Args:
            networks: placed on this device.
            slices_ZYX: standardised slices (z, y, x), at least ``WINDOW_PX`` wide and high.
            centres: indices of the slices to predict.
            windows: (row, column) of the top left corners of the 256 x 256 px windows to look at.
            step: slices between the five neighbours that the networks see.

        Returns:
            float32 (len(centres), 3, y, x) on the device.
        """
        sum_ZCYX = torch.zeros((len(centres), CLASSES, *slices_ZYX.shape[1:]), device=self.device)
        weights_YX = torch.zeros(slices_ZYX.shape[1:], device=self.device)
        weight_YX = window_weight(self.device)
        indices = torch.as_tensor(list(centres), device=self.device)
        for top, left in windows:
            rows, columns = slice(top, top + WINDOW_PX), slice(left, left + WINDOW_PX)
            weights_YX[rows, columns] += weight_YX
            done = 0
            while done < len(indices):
                try:
                    stacks = stack_slices(slices_ZYX[:, rows, columns], indices[done : done + self.batch], step)
                    probabilities = self._ensemble(networks, stacks) * weight_YX
                    sum_ZCYX[done : done + self.batch, :, rows, columns] += probabilities
                except torch.cuda.OutOfMemoryError:
                    if self.batch == 1:
                        raise
                    torch.cuda.empty_cache()
                    self.batch = self.batch // 2
                    log.warning("The GPU ran out of memory; going on with batches of %d slices.", self.batch)
                    continue
                done += self.batch
        outside_YX = weights_YX == 0
        sum_ZCYX[:, 0, outside_YX] = 1
        return sum_ZCYX.div_(weights_YX.masked_fill_(outside_YX, 1))

    def _ensemble(self, networks: Sequence[nn.Module], stacks_BCYX: torch.Tensor) -> torch.Tensor:
        """Mean of the networks' softmax, float32 (batch, 3, y, x)."""
        stacks_BCYX = stacks_BCYX.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            logits = [network(stacks_BCYX) for network in networks]
        return torch.stack([one.float().softmax(1) for one in logits]).mean(0)


def window_weight(device: torch.device) -> torch.Tensor:
    """How much each pixel of a window counts where windows overlap: 1 in its middle, falling to the edges; (y, x).

    A network sees little around a pixel at the edge, such as the other kidney in one kidney's region.
    """
    ramp = 1 - (2 * (torch.arange(WINDOW_PX, device=device) + 0.5) / WINDOW_PX - 1).abs()
    return ramp[:, None] * ramp


def fastest_precision(device: torch.device) -> torch.dtype:
    """fp16 on CUDA, bf16 on a CPU that multiplies it in hardware, else fp32 (bf16 would be slower there)."""
    if device.type == "cuda":
        return torch.float16
    flags = CPUINFO.read_text() if CPUINFO.exists() else ""
    return torch.bfloat16 if "avx512_bf16" in flags or "amx_bf16" in flags else torch.float32


def cover(low: int, high: int, limit: int) -> list[int]:
    """Starts of the windows of ``WINDOW_PX`` that cover [low, high) and stay within [0, limit).

    One window, centred, where it suffices; otherwise evenly spaced, overlapping ones.

    Example:
        >>> cover(100, 200, 512), cover(0, 400, 400)
        ([22], [0, 144])
    """
    length = max(high - low, WINDOW_PX)
    first = min(max((low + high - length) // 2, 0), max(limit - length, 0))
    count = -(-length // WINDOW_PX)
    gaps = max(count - 1, 1)
    return [first + round(index * (length - WINDOW_PX) / gaps) for index in range(count)]
