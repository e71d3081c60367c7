"""The stack on which this thread's signals are handled, kept as it was while a library sets up its own.

OpenVINO gives the thread that compiles a model an alternate signal stack and unmaps it when the model goes, without
taking it back where two models went in the order they came. The next signal, Ctrl-C included, then ends Python.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class _Stack(ctypes.Structure):
    """``stack_t`` of Linux's ``sigaltstack(2)``."""

    _fields_ = (("pointer", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def kept_signal_stack() -> Iterator[None]:
    """Give the calling thread back the alternate signal stack, or the absence of one, that it had before.

    Systems other than Linux are left alone.
    """
    if not sys.platform.startswith("linux"):
        yield
        return
    libc, before = ctypes.CDLL(None, use_errno=True), _Stack()
    known = libc.sigaltstack(None, ctypes.byref(before)) == 0
    try:
        yield
    finally:
        if known:
            libc.sigaltstack(ctypes.byref(before), None)
