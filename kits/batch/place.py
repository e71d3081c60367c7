"""Where one case's files lie while it is worked on: where they are, or, with a store, in a temporary folder.

A scan of a store is fetched as its case comes and removed with it, so that no more than the few cases at hand are on
this machine. Results are written here, whole, and sent: extras first, then the label map, then the record that says
that it is done.
"""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from kits.batch.record import place as place_of_record
from kits.batch.record import set_aside, stale_name
from kits.batch.report import Outputs
from kits.io.atomic import claimed
from kits.io.cases import Case
from kits.io.checksum import files_below
from kits.io.stores.scan import fetch_scan, scan_identity
from kits.io.stores.transfer import NotThereError, StoreError, exists, fetch, remove, rename, send
from kits.io.stores.url import Url

PREFIX = "kits-cascade-"
LOCK = ".lock"


class Place:
    """Files of this machine: nothing is fetched or sent.

    Args:
        outputs: where the case's results are written.
    """

    def __init__(self, outputs: Outputs) -> None:
        self.outputs = outputs

    def seen(self, case: Case) -> str:
        """What the scan's store says of its contents; empty if it says nothing."""
        return ""

    def fetch(self, case: Case) -> Case:
        """The case with its scan on this machine."""
        return case

    def recall(self, case: Case) -> None:
        """Have label map and record of an earlier run on this machine."""

    def holds(self, path: Path) -> bool:
        """Whether a file that an earlier run wrote is there."""
        return path.is_file()

    def publish(self, case: Case) -> None:
        """Bring what was written to where it is to stay."""

    def set_aside(self, case: Case) -> str:
        """Rename a label map that is none of the run's, so that nobody takes it for one; returns its new name.

        Raises:
            OSError, StoreError: it cannot be.
        """
        return str(set_aside(self.outputs.folder, case) or "")

    def release(self) -> None:
        """Remove what was needed for this case alone."""


class Temporary(Place):
    """A folder for a case whose scan or results lie on a store.

    Args:
        outputs: of the run.
        folder: does not exist yet; is the case's own.
    """

    def __init__(self, outputs: Outputs, folder: Path) -> None:
        super().__init__(outputs.at(folder / "out") if outputs.store else outputs)
        self.folder = folder

    def seen(self, case: Case) -> str:
        return scan_identity(case) if case.origin else ""

    def fetch(self, case: Case) -> Case:
        if not case.origin or case.source.is_relative_to(self.folder):
            return case
        return fetch_scan(case, self.folder / "in")

    def recall(self, case: Case) -> None:
        if self.outputs.store:
            for path in (place_of_record(self.outputs.folder, case), self.outputs.folder / case.output_name):
                try:
                    fetch({self.url(path): path})
                except NotThereError:
                    return

    def url(self, path: Path) -> Url:
        """Where a file of the output folder goes."""
        assert self.outputs.store
        return self.outputs.store / PurePosixPath(path.relative_to(self.outputs.folder))

    def holds(self, path: Path) -> bool:
        if self.outputs.store and path.is_relative_to(self.outputs.folder):
            return exists(self.url(path))
        return super().holds(path)

    def publish(self, case: Case) -> None:
        if self.outputs.store:
            last = [self.outputs.folder / case.output_name, place_of_record(self.outputs.folder, case)]
            others = [path for path in files_below(self.outputs.folder) if path not in last]
            for path in (*others, *last):
                if path.is_file():
                    send(path, self.url(path))

    def set_aside(self, case: Case) -> str:
        if not self.outputs.store:
            return super().set_aside(case)
        remove(self.url(place_of_record(self.outputs.folder, case)))
        label_map = self.url(self.outputs.folder / case.output_name)
        stale = label_map.parent / stale_name(case)
        if not exists(label_map):
            return ""
        rename(label_map, stale)
        return stale.shown

    def release(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder; those of processes that were killed are removed first.

    Raises:
        StoreError: there is no room for one.
    """
    for lock in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/{LOCK}"):
        with suppress(OSError), lock.open("r+b") as file:  # another user's, or one in use
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)
    try:
        folder = tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True)
    except OSError as error:
        raise StoreError(f"{tempfile.gettempdir()}: {error.strerror}; let TMPDIR name a folder with room.") from error
    with folder as name, claimed(Path(name, LOCK)):
        yield Path(name)
