"""Where cases lie and results go when that is no local folder: s3://, gs://, http:// and the like, by fsspec.

A case is brought to a temporary folder, segmented there, and its results are sent, the manifest's entry last: what has
its entry is whole. An object store shows an object once all of it is there; elsewhere a file is sent under another name
and moved.
"""

from __future__ import annotations

import posixpath
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from kits.errors import InputError, KitsError, OutputError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

ATOMIC = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"}
"""Stores that show an upload only once it is whole."""


def is_url(text: str) -> bool:
    """Whether this names a place that fsspec opens, rather than a local path."""
    return "://" in text and not text.startswith("file://")


def filesystem(url: str) -> tuple[AbstractFileSystem, str]:
    """The file system of an URL, and the path in it.

    Raises:
        KitsError: fsspec, or the package that it needs for such URLs, is not installed, or it knows none.
    """
    try:
        from fsspec.core import url_to_fs

        return url_to_fs(url)
    except ImportError as error:
        raise KitsError(f"{url}: {error}; pip install 'kits-cascade[cohort]' and fsspec's package for it.") from error
    except ValueError as error:
        raise KitsError(f"{url}: {error}; give a local path, or an URL such as s3://bucket/folder.") from error


def listing(url: str) -> list[str]:
    """Paths of all files under an URL, relative to it, sorted; of a single file its name alone.

    Raises:
        InputError: there is nothing, or it cannot be listed.
    """
    files, path = filesystem(url)
    try:
        found = sorted(posixpath.relpath(name, path) for name in files.find(path) if not name.endswith("/"))
    except OSError as error:
        raise InputError(f"{url}: cannot be listed ({error}); check the address and your credentials.") from error
    if not found:
        raise InputError(f"{url}: holds no file; check the address.")
    return [posixpath.basename(path)] if found == ["."] else found


@contextmanager
def brought(url: str, names: list[str], folder: Path) -> Iterator[Path]:
    """Files under an URL in a local folder, for as long as the ``with`` lasts.

    Raises:
        InputError: one cannot be had.
    """
    files, path = filesystem(url)
    try:
        for name in names:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                files.get_file(
                    path if name == posixpath.basename(path) and files.isfile(path) else f"{path}/{name}", target
                )
            except OSError as error:
                raise InputError(f"{url}/{name}: cannot be fetched ({error}); try again, or check it.") from error
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def send(local: Path, url: str) -> None:
    """Put a file at an URL, where it appears whole or not at all.

    Raises:
        OutputError: it cannot be put there.
    """
    files, path = filesystem(url)
    aside = path if urlsplit(url).scheme in ATOMIC else posixpath.join(
        posixpath.dirname(path), f".partial-{posixpath.basename(path)}"
    )  # fmt: skip
    try:
        files.makedirs(posixpath.dirname(path), exist_ok=True)
        files.put_file(str(local), aside)
        if aside != path:
            files.mv(aside, path)
    except (OSError, NotImplementedError) as error:
        raise OutputError(f"{url}: cannot be written ({error}); check permissions and space.") from error
