"""Preprocessing as one DALI graph (paper section 2.2): reslice, clip, standardise, and halve for stage 1.

The same graph runs on the GPU and, where there is none, on DALI's CPU backend; the device is a parameter.
Tensor names end in their dimensions: Z slices, Y rows, X columns.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali import math as dali_math

from kits.normalisation import Normalisation

SLICE_MM = 3.0
"""Slice thickness that the networks see (section 2.2)."""
KITS_IN_PLANE_MM = (0.4, 1.1)
"""KiTS19's in-plane spacings: within them slices keep their own; outside, they are resampled to TYPICAL_MM."""
TYPICAL_MM = 0.78
FINEST_MM = 0.62
"""Finer than this the networks take kidney for tumour: few that they learned from look as large."""
SLAB_SLICES = 48
"""Slices resampled at a time: bounds the memory of the float copies, whatever the volume's length."""

ROI_INPUTS = ("size", "start", "end")
"""The graph's inputs that say which part of the slab to resample to which size, a number an axis."""


def working_shape(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], reslice: bool = True, to_the_letter: bool = False
) -> tuple[int, int, int]:
    """The size, (slices, rows, columns), that a volume has before the networks.

    Slices come to lie ``SLICE_MM`` apart (to within half a slice over the whole volume) unless ``reslice`` is
    False. Rows and columns stay as they are inside ``KITS_IN_PLANE_MM`` and above ``FINEST_MM``, otherwise they come to
    ``TYPICAL_MM``.

    Args:
        shape: (slices, rows, columns) of the volume.
        spacing: mm, (z, y, x).
        reslice: whether the slices change too.
        to_the_letter: keep rows and columns finer than ``FINEST_MM``, too, as the paper does.

    Example:
        >>> working_shape((100, 512, 512), (1.5, 0.8, 0.8))
        (50, 512, 512)
    """
    slices = max(1, round(shape[0] * spacing[0] / SLICE_MM)) if reslice else shape[0]
    least, most = KITS_IN_PLANE_MM if to_the_letter else (FINEST_MM, KITS_IN_PLANE_MM[1])
    if all(least <= mm <= most for mm in spacing[1:]):
        return slices, shape[1], shape[2]
    rows, columns = (max(1, round(n * mm / TYPICAL_MM)) for n, mm in zip(shape[1:], spacing[1:], strict=True))
    return slices, rows, columns


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
        return (dali_math.clamp(fn.cast(ct, dtype=types.FLOAT), *norm.window) - norm.mean) / norm.std

    pipeline = graph()
    pipeline.build()
    return pipeline


def preprocess(
    hu_ZYX: np.ndarray,
    shape: tuple[int, int, int],
    norm: Normalisation,
    device: torch.device,
    start: int = 0,
    stop: int | None = None,
) -> torch.Tensor:
    """Resample a volume to ``shape``, clip it to the HU window and standardise it (paper section 2.2).

    Runs over slabs of ``SLAB_SLICES`` output slices, each with the neighbours that the filter reaches, so that
    the result is that of one pass over the whole and memory stays bounded.

    Args:
        hu_ZYX: int16 HU, (z, y, x).
        shape: (slices, rows, columns) to resample to; both grids cover the same extent (half-pixel centres).
        norm: clipping and standardisation.
        device: where DALI works and the result lies.
        start, stop: which slices of the result to make; all by default.

    Returns:
        float32 (z, y, x) on ``device``: slices [start, stop) of a volume of size ``shape``.
    """
    stop = shape[0] if stop is None else stop
    axes = tuple(axis for axis in range(3) if shape[axis] != hu_ZYX.shape[axis])
    graph = _graph(axes, norm, None if device.type == "cpu" else device.index or 0)
    step = hu_ZYX.shape[0] / shape[0]
    reach = int(np.ceil(max(step, 1))) + 1 if 0 in axes else 0
    out_ZYX = torch.empty((stop - start, *shape[1:]), dtype=torch.float32, device=device)
    for first in range(start, stop, SLAB_SLICES):
        last = min(first + SLAB_SLICES, stop)
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
        (slab,) = graph.run(**inputs)
        # DALI owns the slab and reuses it at the next run: share it, copy it into place, let it go.
        out_ZYX[first - start : last - start] = torch.from_dlpack(slab[0])
        if device.type == "cuda":
            torch.cuda.current_stream(device).synchronize()
    return out_ZYX
