"""Reading in a process of its own, so that no file can end, block or fill the one that does the work.

A decoder may crash on a damaged file, wait for ever on a network drive, or ask for more memory than there is. The
child (``kits.io.child``) is then gone, one sentence tells of the file, and the next file gets a new child. Voxels come
in shared memory that no file system holds (``memfd``), headers and sentences as JSON: nothing of a file is executed.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from kits.errors import InputError
from kits.io.cases import Case
from kits.io.remark import Remark
from kits.io.volume import Grid, Volume

BASE_SECONDS = 120
SECONDS_A_MB = 0.5
"""A file that needs longer hangs: even a slow network drive brings 2 MB a second."""
CHUNK = 1 << 16


def memory_there_is() -> int:
    """Bytes of the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


class Reader:
    """Reads volumes and label maps in a child process, one at a time; usable from any thread.

    Args:
        memory: says how many bytes a file may take, asked before each.
        patience: what the time limit is multiplied by.

    Example:
        >>> with Reader() as reader:                       # doctest: +SKIP
        ...     volume = reader.read(find_cases(folder)[0])
    """

    def __init__(self, memory: Callable[[], int] = memory_there_is, patience: float = 1.0) -> None:
        self._memory, self._patience = memory, patience
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._stopped = False
        self._start()  # now, so that what it imports is there when it is wanted

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def read(self, case: Case) -> Volume:
        """The CT volume of a case, in canonical orientation.

        Raises:
            InputError: it cannot be read, is not a CT volume, or the reader was stopped meanwhile.
        """
        told, hu = self._ask("volume", case.source, name=case.name, output_name=case.output_name)
        warnings = tuple(Remark(code, text) for code, text in told["warnings"])
        x, y, z = told["spacing"]
        return Volume(case.name, hu, (x, y, z), _grid(told["home"]), warnings)

    def read_labels(self, path: Path) -> tuple[np.ndarray, Grid]:
        """A label map as it is stored: uint8 (z, y, x) in the file's axis order, and its grid.

        Raises:
            InputError: it cannot be read, is no label map, or the reader was stopped meanwhile.
        """
        told, labels = self._ask("labels", path)
        return labels, _grid(told["home"])

    def stop(self) -> None:
        """End the child at once, whatever it does; a reading that another thread waits for fails."""
        self._stopped = True
        child = self._child
        if child:
            child.kill()
            with self._lock:  # a reading at hand has noticed by then
                self._bury()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        root = str(Path(__file__).parents[2])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OPENBLAS_NUM_THREADS": "1"}
        with theirs:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "kits.io.child", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # C++ libraries would tear the progress bar
                env=environment,
                start_new_session=True,  # Ctrl-C is for us alone
            )
        self._socket = ours

    def _bury(self) -> int:
        """Wait for the child, which is ending; returns its exit status."""
        if not self._child:
            return 0
        self._socket.close()
        self._child.kill()
        status = self._child.wait()
        self._child = None
        return status

    def _ask(self, what: str, path: Path, **more: str) -> tuple[Any, np.ndarray]:
        """One question to the child: what it tells, and the array that came with it."""
        limit = self._patience * (BASE_SECONDS + SECONDS_A_MB * _bytes_of(path) / 1e6)
        request = {"what": what, "path": str(path), "memory": self._memory(), "seconds": math.ceil(limit), **more}
        with self._lock:
            if self._stopped:
                raise InputError(f"{path}: reading was stopped.")
            if self._child and self._child.poll() is not None:  # it ended between two files
                self._bury()
            if not self._child:
                self._start()
            try:
                self._socket.sendall(json.dumps(request).encode() + b"\n")
                reply, handles = _receive(self._socket)
            except (OSError, EOFError) as error:
                status = self._ended()
                raise InputError(f"{path}: {self._why(status, limit)}") from error
        if "error" in reply:
            raise InputError(reply["error"])
        return reply, _mapped(handles[0], reply["shape"], np.dtype(reply["dtype"]))

    def _ended(self) -> int:
        """The exit status of a child that closed its end."""
        try:
            status = self._child.wait(5) if self._child else 0
        except subprocess.TimeoutExpired:
            status = 0
        self._bury()
        return status

    def _why(self, status: int, limit: float) -> str:
        if self._stopped:
            return "reading was stopped."
        if status == -signal.SIGALRM:
            return f"reading took more than {limit:.0f} s and was ended; copy it to a local disk, or export it again."
        if status == -signal.SIGKILL:
            return "the system ended its reading, most likely because memory ran out; give more, or crop the scan."
        if status < 0:
            name = signal.Signals(-status).name
            return f"its reader crashed ({name}); the file is damaged or made to harm; export it again."
        return f"its reader ended with status {status}; check that Python can start and import kits."


def _bytes_of(path: Path) -> int:
    try:
        files = path.iterdir() if path.is_dir() else [path]
        return sum(file.stat().st_size for file in files if file.is_file())
    except OSError:
        return 0


def _receive(end: socket.socket) -> tuple[Any, list[int]]:
    text, handles, _, _ = socket.recv_fds(end, CHUNK, 1)
    while text and not text.endswith(b"\n"):
        more = end.recv(CHUNK)
        if not more:
            break
        text += more
    if not text.endswith(b"\n"):
        for handle in handles:
            os.close(handle)
        raise EOFError("the child ended")
    return json.loads(text), handles


def _mapped(handle: int, shape: list[int], dtype: np.dtype) -> np.ndarray:
    """An array over the memory that a handle stands for; it goes when the array does."""
    try:
        memory = mmap.mmap(handle, math.prod(shape) * dtype.itemsize)
    finally:
        os.close(handle)
    return np.frombuffer(memory, dtype).reshape(shape)


def _grid(told: list[Any]) -> Grid:
    size, spacing, origin, direction = map(tuple, told)
    return Grid(size, spacing, origin, direction)
