"""In which numbers networks compute: what is faster here."""

from __future__ import annotations

from pathlib import Path

import torch

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

CPUINFO = Path("/proc/cpuinfo")


def precisions(device: torch.device) -> tuple[torch.dtype, ...]:
    """The precisions that a device may run networks in, the fastest first; on a GPU a trial has to choose one.

    On CUDA half precision, where the GPU has bf16 that, and single. On a CPU bf16 where it is faster than fp32, else
    fp32; what the CPU is decides, and no trial: one on a busy machine would change the label maps of the next run.
    """
    if device.type == "cuda":
        bf16 = (torch.bfloat16,) if torch.cuda.is_bf16_supported(including_emulation=False) else ()
        return torch.float16, *bf16, torch.float32
    return (torch.bfloat16 if bf16_pays() else torch.float32,)


def bf16_pays() -> bool:
    """Whether the CPU multiplies in bf16 faster than in fp32: by AMX, or by AMD's AVX-512.

    Intel's CPUs with ``avx512_bf16`` but without AMX take 1.5 to 1.8 times as long in it (docs/experiments.md).
    """
    told = CPUINFO.read_text() if CPUINFO.exists() else ""
    return "amx_bf16" in told or ("avx512_bf16" in told and "AuthenticAMD" in told)
