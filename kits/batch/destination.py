"""Where a whole run's results go: a folder of this machine, or a store that one stands for."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from kits.batch.options import Options
from kits.batch.record import FOLDER
from kits.batch.report import CaseReport, Manifest
from kits.errors import OutputError
from kits.io.atomic import write_text
from kits.io.checksum import files_below
from kits.io.stores.transfer import StoreError, remove, send
from kits.io.stores.url import WEB, Url

SEND_SECONDS = 60.0
"""Between two sendings of a manifest: it lists all cases, and a store takes no part of a file."""


class StoredManifest(Manifest):
    """A manifest on a store, sent now and then, and at the end.

    Args:
        path: where it is written here.
        url: where it goes.
    """

    def __init__(self, path: Path, url: Url) -> None:
        super().__init__(path, SEND_SECONDS)
        self.file, self.url = path, url

    def begin(self) -> None:
        super().begin()
        send(self.file, self.url)

    def end(self, reports: Sequence[CaseReport]) -> None:
        super().end(reports)
        try:
            send(self.file, self.url)
        except StoreError as error:
            self.complain(error)


def manifest_of(report: Path | Url | None, folder: Path) -> Manifest:
    """The manifest of a run's report.

    Args:
        report: where it goes.
        folder: where one that goes to a store is written.
    """
    return StoredManifest(folder / "report.json", report) if isinstance(report, Url) else Manifest(report)


def check_store(options: Options, folder: Path) -> None:
    """Refuse what cannot be on a store, and try the one that results go to before hours of work depend on it.

    Args:
        options: of the run.
        folder: a temporary one.

    Raises:
        OutputError: an option names what cannot be used so.
        StoreError: the store cannot be written to.
    """
    for extra in options.extras:
        if isinstance(extra.value, str) and "://" in extra.value:
            raise OutputError(f"{extra.option} {extra.value}: give a path of this machine; only --output and --report "
                              "can lie on a store, and what goes to OUTPUT goes there with it.")  # fmt: skip
    for url in (options.output, options.report):
        if isinstance(url, Url) and url.protocol in WEB:
            raise OutputError(f"{url.shown}: nothing is written to web servers; give a path, s3:// or gs://.")
    if not isinstance(options.output, Url):
        return
    if options.zip:
        raise OutputError(f"--zip packs label maps of this machine; give --output a path, not {options.output}.")
    if options.input == options.output:
        raise OutputError(f"{options.output} is the input folder too; give --output another folder than --input.")
    probe = folder / f"probe-{secrets.token_hex(8)}"  # of this run alone: others may begin at the same moment
    write_text("Can be written to.\n", probe)
    send(probe, url := options.output / FOLDER / probe.name)
    probe.unlink()
    with suppress(StoreError):  # one may be allowed to write, but not to remove
        remove(url)


def send_rest(folder: Path, url: Url) -> list[str]:
    """Send what a run wrote at its end; returns a sentence on each file that could not be."""
    complaints = []
    for path in files_below(folder):
        try:
            send(path, url / str(path.relative_to(folder)))
        except StoreError as error:
            complaints.append(str(error))
    return complaints
