"""Files that are whole or absent: written aside, then renamed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from isal import igzip
from isal.igzip_lib import IsalError

from kits.errors import OutputError

# Its stubs call IsalError a value; it is a class.
UNREADABLE: tuple[type[Exception], ...] = (RuntimeError, EOFError, igzip.BadGzipFile, IsalError)  # type: ignore[assignment]

UNWRITABLE: tuple[type[Exception], ...] = (OSError, *UNREADABLE)


def write_text(text: str, path: Path) -> None:
    """Write a text file in UTF-8: either whole or, if anything fails, not at all.

    Raises:
        OutputError: It cannot be written.
    """
    with aside(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """A hidden name beside ``path`` to write to, which takes its place once all went well."""
    partial = path.with_name(f".partial-{path.name}")  # the prefix keeps the ending, by which ITK picks the format
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except UNWRITABLE as error:
        reason = getattr(error, "strerror", None) or "the disk may be full"
        raise OutputError(
            f"{path}: cannot be written ({reason}); check the output folder's permissions and free space."
        ) from error
    finally:
        with suppress(OSError):  # e.g. its folder is a file: then nothing was written either
            partial.unlink(missing_ok=True)
