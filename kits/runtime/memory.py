"""The memory there is, and how glibc keeps it."""

from __future__ import annotations

import ctypes
import resource
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

from kits.choices import Mode
from kits.errors import InputError
from kits.io.cases import Case
from kits.io.images import count_voxels

BASE_BYTES = 1_600_000_000
LEAST_BASE_BYTES = 1_100_000_000
"""On a CPU in the mode ``native``, whose networks are smaller."""
BYTES_A_VOXEL = 12
"""Measured peaks lie below the base plus so many times the scan's voxels (docs/decisions.md)."""

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8
"""Numbers of glibc's settings, from its malloc.h."""

KEPT_AHEAD_BYTES = 2**28

CGROUPS, MOUNTS = Path("/proc/self/cgroup"), Path("/proc/self/mountinfo")

CGROUP_LIMITS = {"cgroup2": "memory.max", "cgroup": "memory.limit_in_bytes"}
"""The file with a group's limit, in either version of control groups."""


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


def check_memory(case: Case, base: int = LEAST_BASE_BYTES) -> None:
    """Refuse a case that would not fit into memory, judged by its header: the system would kill us without a word.

    Args:
        case: whose header is looked at.
        base: bytes that the smallest scan takes.

    Raises:
        InputError: the scan needs more than there is.
    """
    need, limit = base + case_bytes(case), memory_limit()
    if need > limit:
        raise InputError(
            f"{case.source}: needs about {need / 1e9:.2f} GB of memory, but only {limit / 1e9:.2f} GB can be had; "
            "give the container or machine more, or crop the scan to the abdomen."
        )


def case_bytes(case: Case) -> int:
    """What a case takes beyond the base while it is worked on, by its header; 0 where that cannot be read."""
    return BYTES_A_VOXEL * count_voxels(case)


def base_bytes(mode: Mode, device: str) -> int:
    """What the smallest scan takes in a mode on a device."""
    return LEAST_BASE_BYTES if mode == Mode.NATIVE and device == "cpu" else BASE_BYTES


def memory_limit() -> int:
    """Bytes that this process may hold in all: the least of what its control groups, its own limits and the machine
    leave it."""
    held = _kilobytes("/proc/self/status", "VmRSS")
    limits = [held + _kilobytes("/proc/meminfo", "MemAvailable"), *cgroup_limits()]
    # `ulimit -v` and `-d` count what is asked for, not what is held.
    for kind, name in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        if (most := resource.getrlimit(kind)[0]) != resource.RLIM_INFINITY:
            limits.append(held + most - _kilobytes("/proc/self/status", name))
    return min(limits)


def cgroup_limits() -> Iterator[int]:
    """The limits of this process' control group and of all groups around it, in bytes.

    Slurm, systemd and Kubernetes nest groups, of which any may have a limit.
    """
    with suppress(OSError):
        groups = [line.split(":", 2) for line in CGROUPS.read_text().splitlines()]
        kinds = [(_version(number, controllers), path) for number, controllers, path in groups]
        paths = {kind: path for kind, path in kinds if kind}
        for line in MOUNTS.read_text().splitlines():
            before, _, after = line.partition(" - ")
            root, mount = before.split()[3:5]
            kind, _, options = after.split(maxsplit=2)
            if kind in paths and (kind == "cgroup2" or "memory" in options.split(",")):
                yield from _limits_upward(Path(mount), root, paths[kind], CGROUP_LIMITS[kind])


def _version(number: str, controllers: str) -> str:
    """The file system of a line of ``/proc/self/cgroup``, if it is one that limits memory."""
    return "cgroup2" if number == "0" else "cgroup" if "memory" in controllers.split(",") else ""


def _limits_upward(mount: Path, root: str, path: str, name: str) -> Iterator[int]:
    """The limits from a group up to the topmost one that is mounted; ``root`` is that one's path."""
    inside = PurePosixPath(path)
    below = inside.relative_to(root) if inside.is_relative_to(root) else PurePosixPath()
    for group in [below, *below.parents]:
        with suppress(OSError):  # not every group has a limit, and a container need not see them all
            if (text := (mount / group / name).read_text().strip()).isdigit():  # "max" is no limit
                yield int(text)


def _kilobytes(path: str, name: str) -> int:
    """A line of /proc such as ``MemAvailable:  123 kB``, in bytes."""
    line = next(line for line in Path(path).read_text().splitlines() if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])
