"""In which numbers networks compute: what is faster here, by a trial."""

from __future__ import annotations

import functools
import time
from pathlib import Path

import torch
from torch.nn import functional

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

CPUINFO = Path("/proc/cpuinfo")

BF16_PAYS_BELOW = 0.8
"""bf16 costs digits, so it has to be at least this much faster than fp32."""


def precisions(device: torch.device) -> tuple[torch.dtype, ...]:
    """The precisions that a device may run networks in, the fastest first; on a GPU a trial has to choose one.

    On CUDA half precision, where the GPU has bf16 that, and single. On a CPU bf16 where it is clearly faster than fp32,
    by its flags and by a trial, else fp32: the flags alone do not tell, since some CPUs that have the instructions run
    them at half of fp32's speed.
    """
    if device.type == "cuda":
        bf16 = (torch.bfloat16,) if torch.cuda.is_bf16_supported(including_emulation=False) else ()
        return torch.float16, *bf16, torch.float32
    pays = knows_bf16() and (convolution_seconds(torch.bfloat16) < BF16_PAYS_BELOW * convolution_seconds(torch.float32))
    return (torch.bfloat16 if pays else torch.float32,)


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
