"""The name of a file or folder on a store, such as ``s3://bucket/folder``."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit, urlunsplit

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
WEB = ("http", "https")


class Url(str):
    """A place on a store; a query, which may be a signature, is no part of its name.

    Example:
        >>> Url("s3://bucket/scans/") / "case0.nii.gz"
        's3://bucket/scans/case0.nii.gz'
        >>> Url("https://host/a%20b.nii.gz?signature=1").name
        'a b.nii.gz'
    """

    @property
    def protocol(self) -> str:
        """What it begins with, e.g. ``s3``."""
        return self.partition("://")[0].lower()

    @property
    def path(self) -> PurePosixPath:
        """Bucket or host, and the names below it."""
        if self.protocol in WEB:
            parts = urlsplit(self)
            return PurePosixPath(parts.netloc, *unquote(parts.path).split("/"))
        return PurePosixPath(self.partition("://")[2])

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.name

    @property
    def parent(self) -> Url:
        """The folder that it lies in."""
        return Url(self.shown.rstrip("/").rpartition("/")[0])

    @property
    def shown(self) -> str:
        """What people are shown: without what may be secret."""
        if self.protocol not in WEB:
            return str(self)
        parts = urlsplit(self)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

    def __truediv__(self, name: str | PurePosixPath) -> Url:
        return Url(f"{self.rstrip('/')}/{name}")

    def within(self, other: Url) -> bool:
        """Whether it is another place or lies below it."""
        return f"{self.rstrip('/')}/".startswith(f"{other.rstrip('/')}/")


def place(text: str) -> Path | Url:
    """What a command line names: a place on a store, or a path of this machine (``file://`` is one)."""
    found = SCHEME.match(text)
    if not found:
        return Path(text)
    return Path(unquote(text[found.end() :])) if found[1].lower() == "file" else Url(text)
