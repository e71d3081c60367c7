"""Checksums of what a scan is read from, and of the weights."""

from __future__ import annotations

import errno
import hashlib
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from kits.errors import InputError
from kits.io.cases import Case
from kits.io.formats import ending_of

BLOCK_BYTES = 1 << 20
DETACHED = (".mhd", ".nhdr", ".hdr")
"""Endings of headers whose voxels lie in a file of their own."""
DATA_FILE = re.compile(rb"^(?:ElementDataFile *=|data ?file:)(.+)$", re.MULTILINE)


def input_checksum(case: Case) -> str:
    """SHA-256 of a scan's file; of several files, such as a folder's, that of their names and checksums.

    Raises:
        InputError: It cannot be read.
    """
    try:
        files = input_files(case.source)
        if files == [case.source]:
            return file_checksum(case.source)
        folder = case.source if case.source.is_dir() else case.source.parent
        lines = [f"{file_checksum(path)}  {path.relative_to(folder)}\n" for path in files]
        return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()
    except OSError as error:
        raise InputError(
            f"{error.filename or case.source}: cannot be opened ({error.strerror}); check path and permissions."
        ) from error


def input_files(source: Path) -> list[Path]:
    """The files that a scan is read from."""
    if source.is_dir():
        return list(files_below(source))
    if source.suffix.lower() in DETACHED:
        return [source, *voxel_files(source)]
    if source.is_file() and not ending_of(source):  # a DICOM slice stands for its series
        return sorted(path for path in files_below(source.parent) if path.parent == source.parent)
    return [source]


def voxel_files(header: Path) -> list[Path]:
    """Files beside a header that may hold its voxels: of its name but for the ending, or named in it."""
    names = named_files(header)
    beside = (path for path in header.parent.iterdir() if path.stem == header.stem or path.name in names)
    return sorted(path for path in beside if path != header and path.is_file())


def named_files(header: Path) -> set[str]:
    """What a header names as the file of its voxels."""
    with header.open("rb") as file:
        found = DATA_FILE.findall(file.read(BLOCK_BYTES))
    return {name.decode(errors="surrogateescape").strip() for name in found}


def files_below(folder: Path) -> Iterator[Path]:
    """The regular files at any depth below a folder, sorted; never a pipe, which would be waited for."""
    for path in sorted(folder.rglob("*")):
        with suppress(OSError):  # such as a link to nowhere
            if stat.S_ISREG(path.stat().st_mode):
                yield path


def file_checksum(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read block by block.

    Raises:
        OSError: It cannot be read, or is no regular file.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "is no regular file", str(path))
    checksum = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            checksum.update(block)
    return checksum.hexdigest()


def weights_checksums(folder: Path) -> dict[str, str]:
    """The SHA-256 of every weight file of a folder."""
    return {path.name: file_checksum(path) for path in sorted(folder.glob("*.safetensors"))}
