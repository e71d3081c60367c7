"""What a run has to live with: an end that comes early, and the memory there is.

An early end is asked for by a signal or by the clock, and comes at the next ``check``, never in the midst of a file.
"""

from __future__ import annotations

import ctypes
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path
from types import FrameType

from kits.errors import InputError, KitsError
from kits.files import Case, count_voxels

BASE_BYTES = 1_600_000_000
BYTES_A_VOXEL = 12
"""Measured peaks lie below ``BASE_BYTES`` + ``BYTES_A_VOXEL`` times the scan's voxels (docs/decisions.md)."""
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8
"""Numbers of glibc's settings, from its malloc.h."""
KEPT_AHEAD_BYTES = 2**28
SIGNALS = (signal.SIGTERM, signal.SIGINT)
CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


class Stopped(KitsError):
    """The run is to end before all is done; what is finished stays."""


class Watch:
    """Says when to stop: after a number of seconds, or once the process was told to.

    Args:
        seconds: time limit, counted from now.
    """

    def __init__(self, seconds: float = inf) -> None:
        self.seconds = seconds
        self.deadline = time.monotonic() + seconds
        self.received = ""

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Heed the signals that ask a process to end; a second one ends it at once."""
        before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        signal.signal(number, signal.SIG_DFL)

    def check(self) -> None:
        """Go on, or not.

        Raises:
            Stopped: it is time to end.
        """
        if self.received:
            raise Stopped(f"The run was told to end ({self.received})")
        if time.monotonic() > self.deadline:
            raise Stopped(f"The time limit of {self.seconds:g} s was reached")


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
