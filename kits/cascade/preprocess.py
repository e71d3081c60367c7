"""Preprocessing as one DALI graph (paper section 2.2): reslice, clip, standardise, and halve for stage 1.

The same graph runs on the GPU and, where there is none, on DALI's CPU backend; the device is a parameter.
Tensor names end in their dimensions: Z slices, Y rows, X columns.
"""

from __future__ import annotations

import functools
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali import math as dali_math

from kits.geometry import Shape
from kits.normalisation import Normalisation
from kits.plan import WINDOW_PX
from kits.runtime.devices import free_memory, out_of_memory

SLAB_SLICES = 48
"""Slices resampled at a time: bounds the memory of the float copies, whatever the volume's length."""

ROI_INPUTS = ("size", "start", "end")
"""The graph's inputs that say which part of the slab to resample to which size, a number an axis."""

_turn = threading.Lock()
"""Of whoever runs a graph: threads share them."""


@functools.lru_cache(maxsize=16)
def _graph(axes: tuple[int, ...], norm: Normalisation, device_id: int | None) -> Any:
    """The DALI pipeline that resamples ``axes``; DALI keeps one resampling kernel a pipeline, hence one each."""

    @pipeline_def(batch_size=1, num_threads=2, device_id=device_id, prefetch_queue_depth=1)
    def graph() -> Any:
        ct = fn.external_source(name="ct", dtype=types.INT16, ndim=3)
        if device_id is not None:
            ct = ct.gpu()
        if axes:
            size, start, end = (fn.external_source(name=n, dtype=types.FLOAT, ndim=1) for n in ROI_INPUTS)
            # Half-pixel centres; a step that shrinks an axis is antialiased, one that stretches it is linear.
            ct = fn.tensor_resize(
                ct, axes=list(axes), sizes=size, roi_start=start, roi_end=end, roi_relative=False,
                interp_type=types.INTERP_LINEAR, antialias=True, dtype=types.FLOAT,
            )  # fmt: skip
        return norm.apply(fn.cast(ct, dtype=types.FLOAT), dali_math.clamp)

    pipeline = graph()
    pipeline.build()
    return pipeline


@dataclass(frozen=True, eq=False)
class Slices:
    """The standardised slices of a volume on a grid, made as they are asked for (paper section 2.2).

    Resampled, then clipped to the HU window, then standardised.

    Args:
        hu_ZYX: int16 HU, (z, y, x).
        shape: (slices, rows, columns) to resample to; both grids cover the same extent (half-pixel centres).
        norm: clipping and standardisation.
        device: where DALI works and the result lies.
    """

    hu_ZYX: np.ndarray
    shape: Shape
    norm: Normalisation
    device: torch.device

    def slab(self, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Slices [start, stop), all by default: float32 (z, y, x) on ``device``; a GPU is not waited for.

        Runs over slabs of ``SLAB_SLICES`` output slices, fewer where a GPU has not the memory, each with the neighbours
        that the filter reaches, so that the result is that of one pass over the whole and memory stays bounded.
        """
        stop = self.shape[0] if stop is None else stop
        out_ZYX = torch.empty((stop - start, *self.shape[1:]), dtype=torch.float32, device=self.device)
        first, at_a_time = start, SLAB_SLICES
        while first < stop:
            last = min(first + at_a_time, stop)
            try:
                with _turn:  # DALI owns what it gives: share it, copy it into place, let it go.
                    out_ZYX[first - start : last - start] = torch.from_dlpack(self._resample(first, last))
            except (RuntimeError, MemoryError) as error:
                if self.device.type == "cpu" or not out_of_memory(error) or at_a_time == 1:
                    raise
                free_memory(self.device)
                at_a_time //= 2
                continue
            first = last
        return out_ZYX

    def _resample(self, first: int, last: int) -> Any:
        """Slices [first, last) in one run of the graph: DALI's tensor; on a GPU in the order of torch's stream."""
        hu_ZYX, shape = self.hu_ZYX, self.shape
        axes = tuple(axis for axis in range(3) if shape[axis] != hu_ZYX.shape[axis])
        on_cpu = self.device.type == "cpu"
        graph = _graph(axes, self.norm, None if on_cpu else self.device.index or 0)
        step = hu_ZYX.shape[0] / shape[0]
        reach = int(np.ceil(max(step, 1))) + 1 if 0 in axes else 0
        low = max(0, int(np.floor(first * step)) - reach)
        high = min(hu_ZYX.shape[0], int(np.ceil(last * step)) + reach)
        roi = (
            (last - first, *shape[1:]),
            (first * step - low, 0, 0),
            (last * step - low, *hu_ZYX.shape[1:]),
        )
        inputs = {"ct": [np.ascontiguousarray(hu_ZYX[low:high])]}
        if axes:
            inputs |= {
                name: [np.array(values, np.float32)[list(axes)]] for name, values in zip(ROI_INPUTS, roi, strict=True)
            }
        (slab,) = graph.run(None if on_cpu else torch.cuda.current_stream(self.device), **inputs)
        return slab[0]


def pad_to_window(slices_ZYX: torch.Tensor, air: float) -> torch.Tensor:
    """Slices at least 256 px wide and high, filled with air at the right and the bottom."""
    missing = [max(0, WINDOW_PX - length) for length in slices_ZYX.shape[1:]]
    return torch.nn.functional.pad(slices_ZYX, (0, missing[1], 0, missing[0]), value=air)
