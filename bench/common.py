"""What the benches share: simulated scans, the machine's name, children that are measured, tables and pictures."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

ROOT = Path(__file__).parent.parent
IN_PLANE_MM = 0.78
AIR, FAT, MUSCLE, DISC, LIVER, MARROW, KIDNEY, BONE = -1000, -100, 60, 90, 110, 170, 180, 700
VERTEBRA_MM, DISC_MM = 36, 8


def write_scan(path: Path, slices: int, slice_mm: float, rows: int = 512) -> None:
    """Write a simulated contrast CT of an abdomen, ``slices`` x ``rows`` x ``rows``, with noise and two kidneys.

    The kidneys are 110 mm high and lie in the scan's middle; no patient's data goes in.
    """
    random = np.random.default_rng(0)
    stored = np.empty((slices, rows, rows), np.int16)
    noise = random.normal(0, 12, (16, rows, rows)).astype(np.int16)
    y, x = np.meshgrid(*[(np.arange(rows) - rows / 2) * IN_PLANE_MM * 512 / rows] * 2, indexing="ij", sparse=True)
    for index in range(slices):
        z = (index - (slices - 1) / 2) * slice_mm
        hu = np.full((rows, rows), AIR, np.int16)
        for value, centre_y, centre_x, semi_y, semi_x in (
            (FAT, 0, 0, 120, 170),
            (MUSCLE, 0, 0, 105, 155),
            (FAT, 5, 0, 85, 130),  # peritoneal and retroperitoneal fat, in which the organs lie
            (LIVER, -20, -75, 60, 50),
            (LIVER, -30, 60, 30, 40),
            (MUSCLE, 50, -38, 20, 18),
            (MUSCLE, 50, 38, 20, 18),
            (BONE, 75, 0, 14, 15),  # the vertebra's arch, around its canal
            (MUSCLE, 75, 0, 9, 10),
            (BONE, 50, 0, 17, 20),
            (MARROW if z % VERTEBRA_MM > DISC_MM else DISC, 50, 0, 15, 18),
            (KIDNEY, 15, 0, 10, 10),  # aorta
        ):
            hu[((y - centre_y) / semi_y) ** 2 + ((x - centre_x) / semi_x) ** 2 < 1] = value
        for side in (-1, 1):
            height = 1 - (z / 55) ** 2
            if height > 0:
                outer = ((y - 45) / 27) ** 2 + ((x - 75 * side) / 24) ** 2
                hu[outer < height] = KIDNEY
                if height > 0.5:  # renal sinus
                    hu[((y - 45) / 9) ** 2 + ((x - 60 * side) / 13) ** 2 < height - 0.5] = FAT
        grain = noise[index % len(noise)]
        stored[index] = hu + grain * np.where(hu == MARROW, 4, 1)
    image = sitk.GetImageFromArray(stored)
    image.SetSpacing((IN_PLANE_MM, IN_PLANE_MM, slice_mm))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path), useCompression=True)


@dataclass(frozen=True)
class Usage:
    """What a process used: seconds by the clock and of all cores, and bytes of memory at its peak."""

    wall: float
    cpu: float
    peak: int


def measured(arguments: Sequence[str | Path]) -> tuple[Usage, str]:
    """Run Python with these arguments in the repository; its usage, and the last line that it printed.

    Raises:
        RuntimeError: it failed.
    """
    started = time.perf_counter()
    command = [sys.executable, *map(str, arguments)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        lines = process.stdout.read().splitlines()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}")
    wall = time.perf_counter() - started
    return Usage(wall, usage.ru_utime + usage.ru_stime, 1024 * usage.ru_maxrss), lines[-1] if lines else ""


def machine(device: str) -> str:
    """The processor's name and how many cores of it there are, or the GPU's name."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    names = [
        line.split(": ", 1)[1]
        for line in cpuinfo.read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    flags = " with bf16" if "avx512_bf16" in cpuinfo.read_text(encoding="utf-8") else " without bf16"
    return f"{names[0] if names else platform.processor()}, {len(os.sched_getaffinity(0))} cores{flags}"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines)


def save(name: str, out: Path, text: str, figures: dict[str, object]) -> None:
    """Write ``out/name.md`` and ``out/name.json``, and print the text."""
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.md").write_text(text, encoding="utf-8")
    (out / f"{name}.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(text)
