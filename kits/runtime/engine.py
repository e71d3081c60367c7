"""Slices through networks on a device: batches, windows, ensembles.

Tensor names end in their dimensions: B batch, Z slices, C classes, Y rows, X columns.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import threading
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import nn

from kits.choices import Precision, Runner
from kits.errors import KitsError
from kits.geometry import WINDOW_PX, Corner
from kits.networks import Network
from kits.runtime.devices import choose_device, explained, free_memory, out_of_memory
from kits.runtime.openvino import compile_with_openvino
from kits.runtime.placed import Placed, place
from kits.runtime.precision import PRECISIONS, precisions
from kits.runtime.stacks import indices_on, stack_slices

FEWEST_CLASSES = 3
BATCH = {"cpu": 4, "cuda": 32}
log = logging.getLogger(__name__)


class Engine:
    """Runs networks where they run fastest, for one thread at a time: others wait for ``turn``.

    Args:
        device: a word for ``choose_device``, or a device that it gave.
        engine: a ``Runner``: ``torch``, ``openvino`` (CPU only), or ``auto`` (OpenVINO on a CPU where it is installed).
        precision: a ``Precision``; ``auto`` is the first of ``precisions`` that gives the CPU's numbers.

    Raises:
        KitsError: a GPU is asked for that is not there or does not work, or OpenVINO where it cannot run.
        ValueError: a word is none of those that there are.
    """

    def __init__(self, device: str | torch.device = "auto", engine: str = "auto", precision: str = "auto") -> None:
        engine, precision = Runner(engine).value, Precision(precision).value
        self.device = device if isinstance(device, torch.device) else choose_device(device)
        self.precisions = precisions(self.device) if precision == "auto" else (PRECISIONS[precision],)
        self.precision = self.precisions[0]
        self.batch = BATCH.get(self.device.type, BATCH["cpu"])
        self.whole_batches = self.device.type != "cpu"
        self.engine = choose_engine(engine, self.device)
        self.turn = threading.Lock()

    def __str__(self) -> str:
        return f"{self.device} in {self.precision_name}, by {self.engine}"

    @property
    def precision_name(self) -> str:
        """A key of ``PRECISIONS``; on a GPU that of the network that was placed last."""
        return next(name for name, precision in PRECISIONS.items() if precision == self.precision)

    def place(self, network: nn.Module) -> Network:
        """Make a network in evaluation mode ready to run here: compiled, or moved to the device and recorded there.

        Raises:
            KitsError: the GPU has not the memory, or gives other numbers than the CPU.
        """
        if self.engine == "openvino":
            return compile_with_openvino(network, self.precision)
        with explained(self.device):
            placed = place(network, self.device, self.precisions, self.batch)
        self.precision = placed.precision
        return placed

    def autocast(self) -> torch.autocast:
        """Mixed precision, for a ``with`` around the training of a network."""
        return torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32)

    @torch.inference_mode()
    def predict(
        self,
        networks: Sequence[Network],
        slices_ZYX: torch.Tensor,
        centres: Sequence[int],
        windows: Iterable[Corner],
        step: float = 1.0,
    ) -> torch.Tensor:
        """Class probabilities of some slices inside some windows, averaged over networks and overlapping windows.

        The mean of the networks' softmax is stage 3, the ensemble (paper section 2.3). Where windows overlap, each
        counts the more the nearer the pixel is to its middle. Outside the windows all is background. A GPU's work is
        queued and not waited for.

        Args:
            networks: from ``place``.
            slices_ZYX: standardised slices (z, y, x), at least ``WINDOW_PX`` wide and high.
            centres: indices of the slices to predict.
            windows: (row, column) of the top left corners of the 256 x 256 px windows to look at.
            step: slices between the five neighbours that the networks see.

        Returns:
            float32 (len(centres), classes, y, x) on the device.
        """
        planes = [(slice(top, top + WINDOW_PX), slice(left, left + WINDOW_PX)) for top, left in windows]
        sum_ZCYX: torch.Tensor | None = None
        weights_YX = torch.zeros(slices_ZYX.shape[1:], device=self.device)
        weight_YX = window_weight(self.device)
        for ys, xs in planes:
            weights_YX[ys, xs] += weight_YX
        indices = indices_on(self.device, centres)
        done = 0
        while done < len(planes) * len(indices):
            batch = [(*planes[at], some) for at, some in pieces(done, self.batch, len(planes), len(indices))]
            try:
                stacks = [stack_slices(slices_ZYX[:, ys, xs], indices[some], step) for ys, xs, some in batch]
                probabilities = self._ensemble(networks, self._whole(stacks)).mul_(weight_YX)
            except RuntimeError as error:  # libraries and recordings have words of their own for it
                if self.batch == 1 or not out_of_memory(error):
                    raise
                self._halve_batch(networks)
                continue
            if sum_ZCYX is None:
                shape = len(centres), probabilities.shape[1], *slices_ZYX.shape[1:]
                sum_ZCYX = torch.zeros(shape, device=self.device)
            seen = [len(one) for one in stacks]
            for (ys, xs, some), part in zip(batch, probabilities[: sum(seen)].split(seen), strict=True):
                sum_ZCYX[some, :, ys, xs] += part
            done += self.batch
        if sum_ZCYX is None:  # nothing to look at
            sum_ZCYX = torch.zeros((len(centres), FEWEST_CLASSES, *slices_ZYX.shape[1:]), device=self.device)
        outside_YX = weights_YX == 0
        sum_ZCYX[:, 0].masked_fill_(outside_YX, 1)
        return sum_ZCYX.div_(weights_YX.masked_fill_(outside_YX, 1))

    def _whole(self, stacks: list[torch.Tensor]) -> torch.Tensor:
        """A batch of its pieces; on a GPU filled up with zeros, so that one recording and one tuning serve all."""
        missing = self.batch - sum(len(one) for one in stacks)
        if missing and self.whole_batches:
            stacks = [*stacks, stacks[0].new_zeros(missing, *stacks[0].shape[1:])]
        return torch.cat(stacks) if len(stacks) > 1 else stacks[0]

    def _halve_batch(self, networks: Sequence[Network]) -> None:
        """After memory ran out, give back what is held, and go on with less at a time."""
        for network in networks:
            if isinstance(network, Placed):  # its recording is of a batch that is too large now
                network.forget()
        free_memory(self.device)
        self.batch //= 2
        log.warning("The GPU ran out of memory; going on with batches of %d slices.", self.batch)

    def _ensemble(self, networks: Sequence[Network], stacks_BCYX: torch.Tensor) -> torch.Tensor:
        """Mean of the networks' softmax, float32 (batch, classes, y, x)."""
        probabilities = networks[0](stacks_BCYX).float().softmax(1)
        for network in networks[1:]:
            probabilities += network(stacks_BCYX).float().softmax(1)
        return probabilities.div_(len(networks)) if len(networks) > 1 else probabilities


def pieces(done: int, batch: int, windows: int, slices: int) -> Iterator[tuple[int, slice]]:
    """A batch of the slices of all windows, laid one after the other: a window's index, and which of its slices.

    Example:
        >>> list(pieces(4, 4, windows=2, slices=6))
        [(0, slice(4, 6, None)), (1, slice(0, 2, None))]
    """
    last = min(done + batch, windows * slices)
    for window in range(done // slices, -(-last // slices)):
        yield window, slice(max(done - window * slices, 0), min(last - window * slices, slices))


def choose_engine(wanted: str, device: torch.device) -> str:
    """``openvino`` or ``torch``; by itself OpenVINO on a CPU, where it is installed (docs/decisions.md has the times).

    Raises:
        KitsError: OpenVINO is asked for where it is not installed, or on a GPU.
    """
    if wanted == "torch" or (wanted == "auto" and device.type != "cpu"):
        return "torch"
    if device.type != "cpu":
        raise KitsError("OpenVINO runs on the CPU only; add --device cpu, or leave --engine out.")
    if importlib.util.find_spec("openvino"):
        return "openvino"
    if wanted == "auto":
        return "torch"
    raise KitsError("OpenVINO is not installed; run `pip install openvino`, or use --engine torch.")


def window_weight(device: torch.device) -> torch.Tensor:
    """How much each pixel of a window counts where windows overlap: 1 in its middle, falling to the edges; (y, x).

    A network sees little around a pixel at the edge, such as the other kidney in one kidney's region.
    """
    ramp = 1 - (2 * (torch.arange(WINDOW_PX, device=device) + 0.5) / WINDOW_PX - 1).abs()
    return ramp[:, None] * ramp
