"""Files to and from a store: each whole or not at all, tried again where that can help, sentences on what fails.

A store where an upload shows only once it is complete (S3, Google's, Azure's: a PUT or the end of a multipart upload)
is written to by the file's own name. Any other gets the file under a hidden name, which is then renamed. Either way
the size that arrived is compared.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import unquote

from kits.errors import KitsError, disk_is_full
from kits.io.atomic import PARTIAL
from kits.io.cases import DICOM_ENDINGS
from kits.io.formats import ending_of
from kits.io.stores.url import WEB, Url

T = TypeVar("T")
S3, GOOGLE, AZURE = ("s3", "s3a"), ("gs", "gcs"), ("abfs", "abfss", "az")
COMMITTED = (*S3, *GOOGLE, *AZURE)
"""Stores where no part of an upload is ever seen."""
CREDENTIALS = (
    dict.fromkeys(S3, "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or FSSPEC_S3_ANON=true for public data")
    | dict.fromkeys(GOOGLE, "GOOGLE_APPLICATION_CREDENTIALS, or FSSPEC_GS_TOKEN=anon for public data")
)  # fmt: skip
"""Variables by which stores know who asks."""
WAITS_SECONDS = (1.0, 4.0)
"""Between attempts, beyond those that the store's own library makes."""
SILENT_SECONDS = 60.0
"""A web server that says nothing for so long is given up; a long download is not."""
IDENTITIES = ("ETag", "etag", "Content-MD5", "md5Hash", "content_md5", "content_settings_md5")
"""What stores tell of a file that changes with its contents."""
FINAL = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError, ValueError)
FORBIDDEN = (
    "NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError", "RefreshError", "DefaultCredentialsError",
)  # fmt: skip
"""Errors of the stores' libraries, by name, for these are imported only where they are used."""
log = logging.getLogger(__name__)


class StoreError(KitsError):
    """A store that does not do as it is asked."""


class NotThereError(StoreError):
    """There is no such file, folder or bucket."""


def connect(url: Url) -> tuple[Any, str]:
    """The file system of a URL, and its path there.

    Raises:
        StoreError: nothing reads such URLs, or what does is not installed or cannot begin.
    """
    try:
        from fsspec.core import url_to_fs
        from fsspec.registry import known_implementations
    except ImportError as error:
        raise StoreError(f"{url.shown}: stores need fsspec; run `pip install 'kits-cascade[cohort]'`.") from error
    settings: dict[str, Any] = {}
    try:
        if url.protocol in S3:
            settings = {"max_concurrency": 1}  # else ten blocks of 50 MB are held at a time
        elif url.protocol in GOOGLE:
            # Else uploads to buckets of one zone show while they grow; and each call asks first what a bucket is.
            os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
            logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it logs tracebacks of what we tell in a sentence
        elif url.protocol in WEB:
            from aiohttp import ClientTimeout

            timeout = ClientTimeout(total=None, sock_connect=SILENT_SECONDS, sock_read=SILENT_SECONDS)
            settings = {"client_kwargs": {"timeout": timeout}}
        return url_to_fs(str(url), **settings)
    except ImportError as error:
        package = known_implementations[url.protocol]["class"].partition(".")[0]
        ours = url.protocol in (*S3, *WEB)
        remedy = "'kits-cascade[cohort]'" if ours else package
        raise StoreError(f"{url.shown}: its store needs a package ({error}); run `pip install {remedy}`.") from error
    except Exception as error:
        if url.protocol not in known_implementations:
            raise StoreError(
                f"{url.shown}: no store is known by {url.protocol}:// ({error}); give s3://, gs:// or a path."
            ) from error
        raise told(url, error) from error


def attempt(url: Url, work: Callable[[Any, str], T]) -> T:
    """Do something with a file system and a path, more than once if that can help.

    Raises:
        NotThereError: there is no such thing.
        StoreError: it cannot be done.
    """
    system, path = connect(url)
    for wait in (*WAITS_SECONDS, None):
        try:
            system.invalidate_cache()  # what another process wrote meanwhile counts
            return work(system, path)
        except Exception as error:
            if wait is None or is_final(error):
                raise told(url, error) from error
            log.debug("%s: tried again in %g s", url.shown, wait, exc_info=True)
            time.sleep(wait)
    raise AssertionError


def is_final(error: Exception) -> bool:
    """Whether another attempt would end the same way."""
    return isinstance(error, FINAL) or is_forbidden(error) or disk_is_full(error)


def is_forbidden(error: Exception) -> bool:
    """Whether a store refuses, or there is nothing to show it."""
    status = getattr(error, "status", getattr(error, "code", 0))
    refused = status in (401, 403) or str(error).startswith("Forbidden: ")  # as gcsfs says it
    return refused or isinstance(error, PermissionError) or type(error).__name__ in FORBIDDEN


def told(url: Url, error: Exception) -> StoreError:
    """What a person is told of an error."""
    reason = " ".join(str(error).replace(url, url.shown).split())[:200]
    if isinstance(error, FileNotFoundError):
        return NotThereError(f"{url.shown}: is not there; check bucket, folder and name.")
    if is_forbidden(error):
        variables = CREDENTIALS.get(url.protocol, "")
        return StoreError(
            f"{url.shown}: the store refuses ({reason}); check the credentials{variables and f' ({variables})'}."
        )
    if disk_is_full(error):
        return StoreError(f"{url.shown}: there is no room for it on this machine; let TMPDIR name a larger disk.")
    return StoreError(
        f"{url.shown}: the store cannot be used ({type(error).__name__}: {reason}); check network, address and "
        "region, and run again with --skip-existing."
    )


def below(url: Url) -> dict[PurePosixPath, Mapping[str, Any]]:
    """The files at any depth below a folder, by their place in it, sorted, with what the store tells of each.

    Names that would lead elsewhere on a disk are left out.
    """

    def find(system: Any, path: str) -> dict[PurePosixPath, Mapping[str, Any]]:
        root = path.rstrip("/") + "/"
        found = {}
        for name, info in sorted(system.find(root if url.protocol in WEB else path, detail=True).items()):
            inner = name.removeprefix(root)
            if url.protocol in WEB:  # an index page's links; those with a query sort it
                inner = "" if "?" in inner else unquote(inner)
            if name.startswith(root) and inner and not inner.endswith("/") and ".." not in inner.split("/"):
                found[PurePosixPath(inner.lstrip("/"))] = info
        return found

    return attempt(url, find)


def is_file(url: Url) -> bool:
    """Whether a URL names a file rather than a folder.

    Raises:
        NotThereError: it names neither.
    """
    if url.protocol in WEB:  # which has no folders, only pages
        name = Path(url.name)
        return not url.shown.endswith("/") and bool(ending_of(name) or name.suffix.lower() in (*DICOM_ENDINGS, ".csv"))
    return attempt(url, lambda system, path: system.info(path)["type"] == "file")


def exists(url: Url) -> bool:
    """Whether there is such a file."""
    return attempt(url, lambda system, path: bool(system.exists(path)))


def identity(info: Mapping[str, Any]) -> str:
    """What tells a file's contents from any other's, by its store's word; empty where the store gives none."""
    for name in IDENTITIES:
        if (value := str(info.get(name) or "")) and not value.startswith("W/"):
            return f"{name} {value.strip(chr(34))} {info.get('size')}"
    return ""


def file_identity(url: Url) -> str:
    """``identity`` of one file."""
    return attempt(url, lambda system, path: identity(system.info(path)))


def fetch(files: Mapping[Url, Path], sizes: Sequence[int | None] = ()) -> None:
    """Copy files of one store to this machine.

    Args:
        files: URL -> where to.
        sizes: how many bytes each should have, where that is known.

    Raises:
        StoreError: one cannot be had, or did not arrive whole.
    """
    if not files:
        return
    first = next(iter(files))

    def get(system: Any, _: str) -> None:
        system.get([system._strip_protocol(str(url)) for url in files], [str(path) for path in files.values()])
        for (url, path), size in zip(files.items(), sizes, strict=False):
            if size is not None and (got := path.stat().st_size) != size:
                raise OSError(f"{url.shown} arrived with {got} of {size} bytes")

    attempt(first, get)


def send(path: Path, url: Url) -> None:
    """Copy a file to a store, where it appears whole or not at all.

    Raises:
        StoreError: it cannot be.
    """

    def put(system: Any, place: str) -> None:
        if url.protocol in COMMITTED:
            system.put_file(str(path), place)
            arrived(system, path, place)
            return
        folder, _, name = place.rpartition("/")
        system.makedirs(folder, exist_ok=True)
        partial = f"{folder}/{PARTIAL}{secrets.token_hex(8)}{''.join(PurePosixPath(name).suffixes[-2:])}"
        try:
            system.put_file(str(path), partial)
            arrived(system, path, partial)
            system.mv(partial, place)
        except Exception:
            with suppress(Exception):
                system.rm_file(partial)
            raise

    attempt(url, put)


def arrived(system: Any, path: Path, place: str) -> None:
    """Compare what a store holds with what was sent.

    Raises:
        OSError: it is not as long; the store's copy is removed.
    """
    system.invalidate_cache()
    got, sent = system.info(place)["size"], path.stat().st_size
    if got != sent:
        system.rm_file(place)
        raise OSError(f"{got} of {sent} bytes arrived")


def rename(url: Url, to: Url) -> None:
    """Give a file of a store another name."""

    def move(system: Any, path: str) -> None:
        if url.protocol in COMMITTED:  # which copy and remove in any case, if not by calls that few of them know
            system.cp_file(path, connect(to)[1])
            system.rm_file(path)
        else:
            system.mv(path, connect(to)[1])

    attempt(url, move)


def remove(url: Url) -> None:
    """Remove a file, if it is there."""
    with suppress(NotThereError):
        attempt(url, lambda system, path: system.rm_file(path))
