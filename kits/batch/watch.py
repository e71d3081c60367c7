"""An end that comes early.

It is asked for by a signal or by the clock, and comes at the next ``check``, never in the midst of a file.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from math import inf
from pathlib import Path
from types import FrameType
from typing import TypeVar

from kits.errors import KitsError

T = TypeVar("T")
TICK_SECONDS = 0.1
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Stopped(KitsError):
    """The run is to end before all is done; what is finished stays."""

    status = 1


class Watch:
    """Says when to stop: after a number of seconds, or once the process was told to.

    Args:
        seconds: time limit.
        spent: how many of them are over already.
    """

    def __init__(self, seconds: float = inf, spent: float = 0.0) -> None:
        self.seconds, self.began = seconds, time.monotonic() - spent
        self.received = ""

    def spent(self) -> float:
        """Seconds of the limit that are over."""
        return time.monotonic() - self.began

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Heed the signals that ask a process to end; a second one ends it at once.

        A signal that whoever started the process has it ignore, as ``nohup`` does, stays ignored. Outside the main
        thread, where Python hears no signals, only the clock counts.
        """
        in_main = threading.current_thread() is threading.main_thread()
        heard = [number for number in SIGNALS if in_main and signal.getsignal(number) != signal.SIG_IGN]
        before = {number: signal.signal(number, self._receive) for number in heard}
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
        if self.spent() > self.seconds:
            raise Stopped(f"The time limit of {self.seconds:g} s was reached")


def waited_for(coming: futures.Future[T], check: Callable[[], None]) -> T:
    """What is to come, or the error that came instead.

    Args:
        coming: it.
        check: asked again and again; ends the waiting by what it raises.
    """
    while not futures.wait([coming], TICK_SECONDS).done:
        check()
    return coming.result()


def process_age() -> float:
    """Seconds since this process was started: what its imports took counts; 0 where the system does not say."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()  # the name before may hold anything
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return max(time.clock_gettime(time.CLOCK_BOOTTIME) - started, 0.0)
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0
