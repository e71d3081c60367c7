"""Slices through networks on a device, in mixed precision: the one place that knows devices and runtimes.

Tensor names end in their dimensions: B batch, Z slices, C classes, Y rows, X columns.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Iterable, Sequence

import torch
from torch import nn

from kits.errors import KitsError
from kits.geometry import WINDOW_PX, Corner
from kits.networks import Network
from kits.runtime.cuda_graph import Recorded, recorded_if_faster
from kits.runtime.openvino import compile_with_openvino
from kits.runtime.precision import PRECISIONS, fastest_precision
from kits.runtime.stacks import OFFSETS, stack_slices

CLASSES = 3
BATCH = {"cpu": 4, "cuda": 32}
ENGINES = ("auto", "openvino", "torch")
log = logging.getLogger(__name__)


class Engine:
    """Runs networks where they run fastest.

    Args:
        device: ``cuda``, ``cpu`` or ``auto`` (the GPU if there is one).
        engine: ``torch``, ``openvino`` (CPU only), or ``auto`` (OpenVINO on a CPU where it is installed).
        precision: a key of ``PRECISIONS``, or ``auto`` (see ``fastest_precision``).

    Raises:
        KitsError: ``cuda`` is asked for where there is none, or OpenVINO where it cannot run.
    """

    def __init__(self, device: str = "auto", engine: str = "auto", precision: str = "auto") -> None:
        if engine not in ENGINES:
            raise ValueError(f"engine must be one of {ENGINES}, got {engine!r}")
        if precision not in ("auto", *PRECISIONS):
            raise ValueError(f"precision must be auto or one of {tuple(PRECISIONS)}, got {precision!r}")
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise KitsError("No CUDA device was found; use --device cpu, or start the container with --gpus all.")
        self.device = torch.device(device)
        self.precision = fastest_precision(self.device) if precision == "auto" else PRECISIONS[precision]
        self.batch = BATCH[self.device.type]
        self.engine = choose_engine(engine, self.device)

    def __str__(self) -> str:
        return f"{self.device} in {self.precision_name}, by {self.engine}"

    @property
    def precision_name(self) -> str:
        """A key of ``PRECISIONS``."""
        return next(name for name, precision in PRECISIONS.items() if precision == self.precision)

    def place(self, network: nn.Module) -> Network:
        """Make a network in evaluation mode ready to run here: compiled, or moved to the device and recorded there."""
        if self.engine == "openvino":
            return compile_with_openvino(network, self.precision)
        # Tensor.to knows memory formats, but torch's own annotations of Module.to leave them out.
        network = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.device.type == "cpu":
            return network
        stacks_BCYX = torch.randn(self.batch, len(OFFSETS), WINDOW_PX, WINDOW_PX, device=self.device)
        return recorded_if_faster(network, stacks_BCYX.contiguous(memory_format=torch.channels_last), self.precision)

    def autocast(self) -> torch.autocast:
        """Mixed precision, for a ``with`` around a network's call."""
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
        counts the more the nearer the pixel is to its middle. Outside the windows all is background.

        Args:
            networks: from ``place``.
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
        indices = torch.as_tensor(list(centres))
        for top, left in windows:
            rows, columns = slice(top, top + WINDOW_PX), slice(left, left + WINDOW_PX)
            weights_YX[rows, columns] += weight_YX
            done = 0
            while done < len(indices):
                try:
                    stacks = stack_slices(slices_ZYX[:, rows, columns], indices[done : done + self.batch], step)
                    probabilities = self._ensemble(networks, stacks)
                    sum_ZCYX[done : done + self.batch, :, rows, columns] += probabilities.mul_(weight_YX)
                except torch.cuda.OutOfMemoryError:
                    if self.batch == 1:
                        raise
                    for network in networks:
                        if isinstance(network, Recorded):  # of a batch that is too large now
                            network.forget()
                    torch.cuda.empty_cache()
                    self.batch = self.batch // 2
                    log.warning("The GPU ran out of memory; going on with batches of %d slices.", self.batch)
                    continue
                done += self.batch
        outside_YX = weights_YX == 0
        sum_ZCYX[:, 0].masked_fill_(outside_YX, 1)
        return sum_ZCYX.div_(weights_YX.masked_fill_(outside_YX, 1))

    def _ensemble(self, networks: Sequence[Network], stacks_BCYX: torch.Tensor) -> torch.Tensor:
        """Mean of the networks' softmax, float32 (batch, 3, y, x)."""
        if self.engine == "torch":  # OpenVINO takes plain rows, and arranges them itself
            stacks_BCYX = stacks_BCYX.contiguous(memory_format=torch.channels_last)
        with self.autocast():
            logits = [network(stacks_BCYX) for network in networks]
        probabilities = logits[0].float().softmax(1)
        for one in logits[1:]:
            probabilities += one.float().softmax(1)
        return probabilities.div_(len(logits)) if len(logits) > 1 else probabilities


def engines_of_stages(device: str = "auto", engine: str = "auto", precision: str = "auto") -> tuple[Engine, Engine]:
    """Where stage 1 and stage 2 run.

    Stage 1 only says where to look; stage 2 decides the labels, of which bf16 changes up to 0.08 %. So with ``auto`` a
    CPU that is faster in bf16 takes it for stage 1 alone, and label maps are those of fp32 (docs/decisions.md).

    Args:
        device, engine, precision: of ``Engine``; a precision that is asked for is both stages'.
    """
    first = second = Engine(device, engine, precision)
    if precision == "auto" and first.precision == torch.bfloat16:
        second = Engine(device, engine, "fp32")
    log.info("Networks run on %s%s.", first, "" if second is first else f"; stage 2 on {second}")
    return first, second


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
