"""Files that are whole or absent: written aside, brought to the disk, then renamed.

The name aside is this process' own, so that two runs that write one file do not meet in it: the later one's stays.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from isal import igzip
from isal.igzip_lib import IsalError

from kits.errors import OutputError

# Its stubs call IsalError a value; it is a class.
UNREADABLE: tuple[type[Exception], ...] = (RuntimeError, EOFError, igzip.BadGzipFile, IsalError)  # type: ignore[assignment]

UNWRITABLE: tuple[type[Exception], ...] = (OSError, *UNREADABLE)

PARTIAL = ".partial-"
LONGEST_NAME = 255
"""Bytes that a name may have on Linux's file systems."""
ENDING = 16
"""Bytes of a name's end that a shortened name keeps: the ending says what format a file has."""


def write_text(text: str, path: Path) -> None:
    """Write a text file in UTF-8: either whole or, if anything fails, not at all.

    A device or a pipe, such as ``/dev/stdout``, is written into as it is.

    Raises:
        OutputError: It cannot be written.
    """
    if not is_stream(path):
        with aside(path) as partial:
            partial.write_text(text, encoding="utf-8")
        return
    try:
        with path.open("w", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); give another place.") from error


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """A hidden name beside ``path`` to write to, which takes its place once all went well and is on the disk.

    Raises:
        OutputError: It cannot be written, or ``path`` is a device or a pipe, which a file must not replace.
    """
    if is_stream(path):
        raise OutputError(f"{path}: is a device or a pipe, not a file; give a name for a file.")
    ending = re.search(r"(\.[A-Za-z0-9]{1,8}){0,2}$", path.name)  # by which ITK picks the format
    # Nothing else of the name, whose length and bytes may be more than ITK can take.
    partial = path.with_name(f"{PARTIAL}{secrets.token_hex(8)}{ending[0] if ending else ''}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with claimed(partial):
            yield partial
            if not partial.stat().st_size:
                raise EOFError("nothing was written")
            to_disk(partial)
            partial.replace(path)
        with suppress(OSError):  # some file systems know no such thing for folders
            to_disk(path.parent)
    except UNWRITABLE as error:
        reason = getattr(error, "strerror", None) or "the disk may be full"
        raise OutputError(
            f"{path}: cannot be written ({reason}); check the output folder's permissions and free space."
        ) from error
    finally:
        with suppress(OSError):  # e.g. its folder is a file: then nothing was written either
            partial.unlink(missing_ok=True)


@contextmanager
def claimed(partial: Path) -> Iterator[None]:
    """Hold a lock on a file for as long as it is being written, by which ``sweep`` knows that its writer lives."""
    with partial.open("ab") as file:
        with suppress(OSError):  # not every network file system has locks
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def sweep(folders: Iterable[Path]) -> None:
    """Remove what writers that were killed left half-written in these folders."""
    for folder in set(folders):
        with suppress(OSError):  # it may not be there yet
            for path in folder.glob(f"{PARTIAL}*"):
                with path.open("ab") as file, suppress(BlockingIOError):
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()


def to_disk(path: Path) -> None:
    """Wait until a file's contents, or a folder's names, would survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_stream(path: Path) -> bool:
    """Whether a path is a device, a pipe or a socket, or one of the names below /dev and /proc that stand for one."""
    place = path.absolute()
    if place.is_relative_to("/proc") or (place.is_relative_to("/dev") and not place.is_relative_to("/dev/shm")):
        return not path.is_dir()
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def fitting(name: str) -> str:
    """A name that file systems take: a longer one's middle gives way to its checksum.

    Example:
        >>> fitting("scan.nii.gz"), len(fitting("n" * 300 + ".nii.gz")), fitting("n" * 300 + ".nii.gz")[-7:]
        ('scan.nii.gz', 255, '.nii.gz')
    """
    encoded = os.fsencode(name)
    if len(encoded) <= LONGEST_NAME:
        return name
    checksum = hashlib.sha256(encoded).hexdigest()[:16]
    start = encoded[: LONGEST_NAME - len(checksum) - ENDING].decode(errors="ignore")
    return f"{start}{checksum}{encoded[-ENDING:].decode(errors='ignore')}"
