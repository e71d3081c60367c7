"""One scan of a store, brought to this machine."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath

from kits.io.cases import DICOM_ENDINGS, Case
from kits.io.checksum import DETACHED, named_files
from kits.io.formats import PARTS, ending_of
from kits.io.stores.transfer import NotThereError, below, fetch, file_identity, identity
from kits.io.stores.url import WEB, Url


def scan_identity(case: Case) -> str:
    """What tells a scan's contents from any other's without fetching it; empty where its store does not say."""
    url, name = Url(case.origin), Path(Url(case.origin).name)
    if ending_of(name):
        return "" if name.suffix.lower() in DETACHED else file_identity(url)
    if url.protocol in WEB or name.suffix.lower() in DICOM_ENDINGS:
        return ""
    files = {inner: identity(info) for inner, info in below(url).items()}
    if not all(files.values()):
        return ""
    lines = "".join(f"{inner}  {one}\n" for inner, one in files.items())
    return f"{len(files)} files {hashlib.sha256(lines.encode(errors='surrogateescape')).hexdigest()}"


def fetch_scan(case: Case, folder: Path) -> Case:
    """Bring a scan to a folder; returns the case with its file or folder there.

    Raises:
        StoreError: it cannot be had whole.
    """
    url = Url(case.origin)
    name = Path(url.name)
    target = folder / (url.name or "scan")
    if ending_of(name):
        fetch({url: target})
        if name.suffix.lower() in DETACHED:
            fetch_voxels(url, target)
    elif name.suffix.lower() in DICOM_ENDINGS:  # a slice stands for its series
        fetch_folder(url.parent, target.parent, deep=False)
    else:
        fetch_folder(url, target)
    return replace(case, source=target)


def fetch_folder(url: Url, target: Path, deep: bool = True) -> None:
    """Bring a folder's files, at any depth or its own alone."""
    found = {inner: info for inner, info in below(url).items() if deep or len(inner.parts) == 1}
    if not found:
        raise NotThereError(f"{url.shown}: holds no file; check bucket, folder and name.")
    fetch({url / inner: target / inner for inner in found}, [info.get("size") for info in found.values()])


def fetch_voxels(url: Url, header: Path) -> None:
    """Bring the files beside a header that may hold its voxels: named in it, or of its name but for the ending."""
    names = {*named_files(header), *(f"{PurePosixPath(url.name).stem}{part}" for part in PARTS)}
    for name in sorted(name for name in names if "/" not in name and Path(name).suffix):  # as the readers, no paths
        with suppress(NotThereError):  # which the reader will tell
            fetch({url.parent / name: header.parent / name})
