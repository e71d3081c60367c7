"""Slices through networks on a device, in mixed precision: the one place that knows devices and runtimes.

Tensor names end in their dimensions: B batch, Z slices, C classes, Y rows, X columns.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from kits.errors import KitsError
from kits.graphs import Recorded, recorded_if_faster
from kits.stacks import OFFSETS, stack_slices

WINDOW_PX = 256
"""Rows and columns that a network sees at once (paper section 2.3)."""
CLASSES = 3
BATCH = {"cpu": 4, "cuda": 32}
ENGINES = ("auto", "openvino", "torch")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CPUINFO = Path("/proc/cpuinfo")
BF16_PAYS_BELOW = 0.8
"""bf16 costs digits, so it has to be at least this much faster than fp32."""
log = logging.getLogger(__name__)

Corner = tuple[int, int]
Network = Callable[[torch.Tensor], torch.Tensor]
"""Stacks of slices (batch, 5, rows, columns) to logits (batch, 3, rows, columns), both on the engine's device."""


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


def compile_with_openvino(network: nn.Module, precision: torch.dtype) -> Network:
    """Compile a network for this CPU, for any batch of windows; nothing is written to disk.

    What a compiled network returns is overwritten at its next call.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # importing it would report home
    openvino = importlib.import_module("openvino")
    shape = (len(OFFSETS), WINDOW_PX, WINDOW_PX)
    with torch.inference_mode():
        traced = torch.jit.trace(network, torch.zeros(1, *shape), check_trace=False)
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": {torch.bfloat16: "bf16", torch.float16: "f16"}.get(precision, "f32"),
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "ENABLE_CPU_PINNING": False,  # two containers on one machine would both be pinned to its first cores
    }
    compiled = openvino.compile_model(openvino.convert_model(traced, input=[-1, *shape]), "CPU", settings)

    def run(stacks_BCYX: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(compiled(stacks_BCYX.numpy(), share_inputs=True, share_outputs=True)[0])

    return run


def window_weight(device: torch.device) -> torch.Tensor:
    """How much each pixel of a window counts where windows overlap: 1 in its middle, falling to the edges; (y, x).

    A network sees little around a pixel at the edge, such as the other kidney in one kidney's region.
    """
    ramp = 1 - (2 * (torch.arange(WINDOW_PX, device=device) + 0.5) / WINDOW_PX - 1).abs()
    return ramp[:, None] * ramp


def fastest_precision(device: torch.device) -> torch.dtype:
    """fp16 on CUDA; on a CPU bf16 where it is clearly faster than fp32, by its flags and by a trial, else fp32.

    The flags alone do not tell: some CPUs that have the instructions run them at half of fp32's speed.
    """
    if device.type == "cuda":
        return torch.float16
    pays = knows_bf16() and (convolution_seconds(torch.bfloat16) < BF16_PAYS_BELOW * convolution_seconds(torch.float32))
    return torch.bfloat16 if pays else torch.float32


def knows_bf16() -> bool:
    """Whether the CPU has instructions for bf16."""
    flags = CPUINFO.read_text() if CPUINFO.exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


@functools.cache
def convolution_seconds(precision: torch.dtype) -> float:
    """Seconds that a convolution of a network's middle takes on this CPU in some precision, the best of a few."""
    images = torch.ones(4, 64, 64, 64, dtype=precision).contiguous(memory_format=torch.channels_last)
    kernels = torch.ones(64, 64, 3, 3, dtype=precision)
    seconds = []
    with torch.inference_mode():
        for _ in range(6):
            started = time.perf_counter()
            functional.conv2d(images, kernels, padding=1)
            seconds.append(time.perf_counter() - started)
    return min(seconds)


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
