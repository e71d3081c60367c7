"""What a run notes of each finished case beside its label map, by which a later run knows that it is done.

``OUT/.kits-cascade/NAME.json`` holds checksums of the input and of the label map, what decided the labels (version,
mode, weights, options) and the case's report. A file a case, so that runs that share an output folder do not share a
file. A case is done if all of it still agrees; a label map's name alone proves nothing.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath

from kits.batch.report import CaseReport
from kits.choices import Status
from kits.errors import InputError
from kits.io.atomic import fitting, write_text
from kits.io.cases import Case
from kits.io.formats import ending_of

FOLDER = ".kits-cascade"
FORMAT = "kits-cascade case 1"
BLOCK_BYTES = 1 << 20
DETACHED = (".mhd", ".nhdr", ".hdr")
"""Endings of headers whose voxels lie in a file of their own."""
DATA_FILE = re.compile(rb"^(?:ElementDataFile *=|data ?file:)(.+)$", re.MULTILINE)


@dataclass
class Record:
    """What is noted of a finished case.

    Args:
        input: ``input_checksum`` of the scan.
        recipe: what decided the labels.
        labels: SHA-256 of the label map's file.
        report: the case's.
        extras: what else was written of these labels: option -> files.
    """

    input: str
    recipe: Mapping[str, object]
    labels: str
    report: CaseReport
    extras: dict[str, list[str]] = field(default_factory=dict)

    def write(self, folder: Path, case: Case) -> None:
        """Note it.

        Raises:
            OutputError: It cannot be written.
        """
        write_text(json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n", place(folder, case))

    def proves(self, folder: Path, case: Case, recipe: Mapping[str, object], checksum: str) -> bool:
        """Whether a case's label map is whole, and made of this very input in this very way."""
        if self.input != checksum or self.recipe != recipe:
            return False
        with suppress(OSError):
            return self.labels == file_checksum(folder / case.output_name)
        return False

    def has(self, option: str, files: Sequence[Path]) -> bool:
        """Whether an extra of these labels is there."""
        return self.extras.get(option, []) == [str(file) for file in files] and all(file.is_file() for file in files)


def read_record(folder: Path, case: Case) -> Record | None:
    """What is noted of a case; None where nothing is, or nothing that can be understood."""
    try:
        found = json.loads(place(folder, case).read_text(encoding="utf-8"))
        if found.pop("format") != FORMAT:
            return None
        report = CaseReport(**found.pop("report"))
        report.status = Status(report.status)
        return Record(report=report, **found)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def place(folder: Path, case: Case) -> Path:
    """Where a case's record lies."""
    output = PurePosixPath(case.output_name)
    return folder / FOLDER / output.parent / fitting(f"{output.name}.json")


def set_aside(folder: Path, case: Case) -> Path | None:
    """Rename a label map that is none of the run's, so that nobody takes it for one; returns its new name.

    Raises:
        OSError: it cannot be renamed.
    """
    place(folder, case).unlink(missing_ok=True)
    path = folder / case.output_name
    if not stat.S_ISREG(path.lstat().st_mode if path.exists() else 0):
        return None
    stale = path.with_name(fitting(f"{case.stem}.stale{path.name[len(case.stem) :]}"))
    path.replace(stale)
    return stale


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
    named = DATA_FILE.findall(header.read_bytes()[:BLOCK_BYTES])
    names = {name.decode(errors="surrogateescape").strip() for name in named}
    beside = (path for path in header.parent.iterdir() if path.stem == header.stem or path.name in names)
    return sorted(path for path in beside if path != header and path.is_file())


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
