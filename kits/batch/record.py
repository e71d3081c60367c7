"""What a run notes of each finished case beside its label map, by which a later run knows that it is done.

``OUT/.kits-cascade/NAME.json`` holds checksums of the input and of the label map, what decided the labels (version,
mode, weights, options) and the case's report. A file a case, so that runs that share an output folder do not share a
file. A case is done if all of it still agrees; a label map's name alone proves nothing.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath

from kits.batch.report import CaseReport
from kits.choices import Status
from kits.io.atomic import fitting, write_text
from kits.io.cases import Case
from kits.io.checksum import file_checksum

FOLDER = ".kits-cascade"
FORMAT = "kits-cascade case 1"


@dataclass
class Record:
    """What is noted of a finished case.

    Args:
        input: ``input_checksum`` of the scan.
        recipe: what decided the labels.
        labels: SHA-256 of the label map's file.
        report: the case's.
        extras: what else was written of these labels: option -> files; those in the output folder by their place in it.
        seen: what the scan's store said of its contents, if it lay on one: while it says the same, ``input`` holds.
    """

    input: str
    recipe: Mapping[str, object]
    labels: str
    report: CaseReport
    extras: dict[str, list[str]] = field(default_factory=dict)
    seen: str = ""

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

    def lists(self, option: str, files: Sequence[Path], folder: Path) -> bool:
        """Whether an extra of these labels was written, as these files."""
        named = [str(file) for file in files]  # as records of version 0.2 and before have them
        return self.extras.get(option, []) in (within(folder, files), named)


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


def within(folder: Path, files: Sequence[Path]) -> list[str]:
    """Files by their place in a folder, others by their path."""
    return [str(file.relative_to(folder) if file.is_relative_to(folder) else file) for file in files]


def set_aside(folder: Path, case: Case) -> Path | None:
    """Rename a label map that is none of the run's, so that nobody takes it for one; returns its new name.

    Raises:
        OSError: it cannot be renamed.
    """
    place(folder, case).unlink(missing_ok=True)
    path = folder / case.output_name
    if not stat.S_ISREG(path.lstat().st_mode if path.exists() else 0):
        return None
    stale = path.with_name(stale_name(case))
    path.replace(stale)
    return stale


def stale_name(case: Case) -> str:
    """What a label map of a case is called that is none of the run's."""
    return fitting(f"{case.stem}.stale{Path(case.output_name).name[len(case.stem) :]}")
