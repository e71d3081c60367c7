"""The process that ``kits.io.reader`` reads in: questions come by a socket, an answer each goes back.

A question is a line of JSON: what to read, and within how many bytes of memory and seconds. The system itself ends this
process when the seconds are over, even in the midst of a library's C++ code.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import resource
import signal
import socket
import sys
import tempfile
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np

from kits.errors import KitsError
from kits.io.cases import Case
from kits.io.images import read_labels, read_volume


class Shared:
    """Makes one array in memory that another process can map, as ``np.empty`` would."""

    handle: int

    def __call__(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """An array of zeros."""
        dtype = np.dtype(dtype)
        size = math.prod(shape) * dtype.itemsize
        if hasattr(os, "memfd_create"):
            self.handle = os.memfd_create("voxels")
        else:
            with tempfile.TemporaryFile() as file:  # it has no name, so nothing is left behind
                self.handle = os.dup(file.fileno())
        os.truncate(self.handle, size)
        return np.frombuffer(mmap.mmap(self.handle, size), dtype).reshape(shape)


def answer(question: dict[str, Any], shared: Shared) -> dict[str, Any]:
    """Read what is asked for; its voxels lie in ``shared``."""
    path = Path(question["path"])
    if question["what"] == "labels":
        labels, grid = read_labels(path, shared)
        return {"shape": labels.shape, "dtype": labels.dtype.str, "home": astuple(grid)}
    volume = read_volume(Case(question["name"], path, question["output_name"]), shared)
    return {
        "shape": volume.hu.shape,
        "dtype": volume.hu.dtype.str,
        "spacing": volume.spacing,
        "home": astuple(volume.home),
        "warnings": [(warning.code, warning) for warning in volume.warnings],
    }


def answered(question: dict[str, Any], shared: Shared) -> dict[str, Any]:
    """The answer, or a sentence on why there is none."""
    path = question["path"]
    try:
        return answer(question, shared)
    except KitsError as error:
        return {"error": str(error)}
    except MemoryError:
        return {"error": f"{path}: memory ran out while it was read; give more memory, or crop the scan."}
    except Exception as error:  # a bug, or damage that nobody thought of: no reason to lose the other files
        return {"error": f"{path}: cannot be read ({type(error).__name__}: {error}); export it again."}


def limit_memory(more: int) -> None:
    """Let this process map so many bytes more than now, and no further."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def main() -> None:
    """Answer until the other end is closed."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    end = socket.socket(fileno=int(sys.argv[1]))
    for line in end.makefile("rb"):
        question = json.loads(line)
        if sys.platform == "linux":
            limit_memory(question["memory"])
        signal.alarm(question["seconds"])
        shared = Shared()
        text = json.dumps(answered(question, shared)).encode() + b"\n"
        signal.alarm(0)
        handles = [shared.handle] if hasattr(shared, "handle") else []
        sent = socket.send_fds(end, [text], handles)
        end.sendall(text[sent:])
        for handle in handles:
            os.close(handle)


if __name__ == "__main__":
    main()
