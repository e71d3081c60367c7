"""The memory there is, and how glibc keeps it."""

from __future__ import annotations

import ctypes
from pathlib import Path

from kits.errors import InputError
from kits.io.cases import Case
from kits.io.images import count_voxels

BASE_BYTES = 1_600_000_000

BYTES_A_VOXEL = 12
"""Measured peaks lie below ``BASE_BYTES`` + ``BYTES_A_VOXEL`` times the scan's voxels (docs/decisions.md)."""

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8
"""Numbers of glibc's settings, from its malloc.h."""

KEPT_AHEAD_BYTES = 2**28

CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def keep_memory() -> None:
    """Keep what is freed for what comes next, large arrays included, until ``return_memory``.

    By itself glibc maps each large array anew, and the system clears it page by page: half of a training step's time.
    """
    tell_malloc({M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1, M_TOP_PAD: KEPT_AHEAD_BYTES})


def share_memory() -> None:
    """One heap for all threads that start from now on; by itself glibc gives each its own, and none uses another's."""
    tell_malloc({M_ARENA_MAX: 1})


def tell_malloc(settings: dict[int, int]) -> None:
    """Set numbers of glibc's allocator; other C libraries are left alone."""
    tell = getattr(ctypes.CDLL(None), "mallopt", None)
    if tell:
        for number, value in settings.items():
            tell(number, value)


def return_memory() -> None:
    """Give memory that was freed back to the system; glibc by itself keeps what lies between blocks in use."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)


def check_memory(case: Case) -> None:
    """Refuse a case that would not fit into memory, judged by its header: the system would kill us without a word.

    Raises:
        InputError: the scan needs more than there is.
    """
    need, limit = BASE_BYTES + BYTES_A_VOXEL * count_voxels(case), memory_limit()
    if need > limit:
        raise InputError(
            f"{case.source}: needs about {need / 1e9:.1f} GB of memory, but only {limit / 1e9:.1f} GB can be had; "
            "give the container or machine more, or crop the scan to the abdomen."
        )


def memory_limit() -> int:
    """Bytes that this process may hold in all: its control group's limit, or what it holds and what is free."""
    limits = [path.read_text().strip() for path in CGROUP_LIMITS if path.exists()]
    free = _kilobytes("/proc/meminfo", "MemAvailable") + _kilobytes("/proc/self/status", "VmRSS")
    return min([free, *(int(limit) for limit in limits if limit.isdigit())])  # "max" is no limit


def _kilobytes(path: str, name: str) -> int:
    """A line of /proc such as ``MemAvailable:  123 kB``, in bytes."""
    line = next(line for line in Path(path).read_text().splitlines() if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])
