"""The NVIDIA driver as it says of itself, asked without torch: what torch says of an old one names no remedy."""

from __future__ import annotations

import ctypes
import os

import torch

NEEDED_DRIVER = {"12": 525, "13": 580}
"""The first driver series that runs programs built for a major version of CUDA (NVIDIA's table of minor version
compatibility)."""

LIBRARIES = ("libcuda.so.1", "libnvidia-ml.so.1")
"""The driver's own, which the NVIDIA container runtime hands in: CUDA's, and what tells the version."""

NO_REMEDY_HERE = "or use --device cpu"


def driver_version() -> str | None:
    """The driver's version, such as ``580.65.06``; empty if it does not tell; None if there is no driver."""
    try:
        ctypes.CDLL(LIBRARIES[0])
    except OSError:
        return None
    try:
        nvml = ctypes.CDLL(LIBRARIES[1])
    except OSError:  # a container that was given `compute` only
        return ""
    version = ctypes.create_string_buffer(80)
    if nvml.nvmlInit_v2() or nvml.nvmlSystemGetDriverVersion(version, ctypes.c_uint(len(version))):
        return ""
    return version.value.decode(errors="replace")


def older_image() -> str:
    """What to do where this build of torch is too new, to begin a list of remedies with; empty if it is the oldest."""
    built_for = (torch.version.cuda or "").partition(".")[0]
    return "" if built_for == min(NEEDED_DRIVER) else "take the image for CUDA 12 (docs/submitting.md), "


def why_no_gpu() -> str:
    """Why torch sees no GPU, with the remedy, in a sentence."""
    built_for = torch.version.cuda
    if not built_for:
        return f"This is torch for CPUs; use the GPU image, install torch from PyPI, {NO_REMEDY_HERE}."
    version = driver_version()
    if version is None:
        return (
            "No NVIDIA driver was found; start the container with --gpus all, on a machine with an NVIDIA GPU, its "
            f"driver and the NVIDIA Container Toolkit, {NO_REMEDY_HERE}."
        )
    needed = NEEDED_DRIVER.get(built_for.partition(".")[0])
    series = version.partition(".")[0]
    if needed and series.isdigit() and int(series) < needed:
        return (
            f"The NVIDIA driver is {version}, but CUDA {built_for} needs {needed} or newer; update the driver, "
            f"{older_image()}{NO_REMEDY_HERE}."
        )
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    chosen = "" if hidden is None else f" of those that CUDA_VISIBLE_DEVICES={hidden!r} leaves"
    return (
        f"The NVIDIA driver{f' {version}' if version else ''} shows no GPU{chosen}; see what `nvidia-smi` lists (with "
        f"MIG, an instance must have been made), start the container with --gpus all, {NO_REMEDY_HERE}."
    )
