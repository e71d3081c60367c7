"""Which cases lie under a folder, and what their label maps are called: the names of KiTS files, once.

Whatever looks like a volume but cannot be used is told by name, so that no scan is passed over without a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from kits.errors import InputError, printable
from kits.io.atomic import PARTIAL
from kits.io.dicom import looks_like_dicom
from kits.io.formats import ENDINGS, PARTS, ending_of
from kits.io.stores.url import Url

LOOKED_FOR = f"*{', *'.join(ENDINGS)}, case_*/imaging.nii.gz or folders of DICOM slices"
NOT_READ = (".nii.bz2", ".nii.xz", ".nii.zst", ".mgz", ".mgh", ".gipl", ".gipl.gz", ".vtk", ".vti", ".mnc", ".dcm.gz")
"""Endings of volumes that nothing here reads."""
DICOM_ENDINGS = (".dcm", ".ima")
LABELS = re.compile(r"(?:.*_)?(?:segmentations?|labels?|labelsTr|labelsTs|masks?|seg)", re.IGNORECASE)
"""Names of label maps, and of folders of them, that lie beside the scans of a data set."""
DEEPEST = 12


@dataclass(frozen=True)
class Case:
    """One volume to segment.

    Args:
        name: For people, e.g. ``case_00210``; printable.
        source: A file, or a folder of DICOM slices.
        output_name: Path of its label map below the output folder, e.g. ``prediction_00210.nii.gz``.
        origin: URL of the scan where it lies on a store; ``source`` is then only its name until it is fetched.
    """

    name: str
    source: Path
    output_name: str
    origin: str = ""

    @property
    def place(self) -> str:
        """What people are told of where it lies."""
        return Url(self.origin).shown if self.origin else str(self.source)

    @property
    def stem(self) -> str:
        """The label map's name without folder and ending, for what else is written of the case."""
        name = Path(self.output_name).name
        return name[: -len(ending_of(Path(name)))]

    @property
    def is_dicom(self) -> bool:
        """Whether it is read as DICOM."""
        return self.source.is_dir() or not ending_of(self.source)


@dataclass
class Survey:
    """What lies under a folder.

    Args:
        cases: sorted by name.
        passed_over: a sentence on each thing that looks like a volume but cannot be used; a run that has any did not
            do all that it was given.
        ignored: names of what is no volume, such as notes.
    """

    cases: list[Case] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)


def find_cases(source: Path) -> list[Case]:
    """The cases that ``source`` is or holds, as ``survey`` finds them.

    Raises:
        InputError: Nothing was found, or two inputs would write the same output.
    """
    return survey(source).cases


def survey(source: Path, apart: Iterable[Path] = ()) -> Survey:
    """The cases that ``source`` is (a file, a DICOM or KiTS folder) or holds, at any depth, and what is none.

    Args:
        source: a folder or a file.
        apart: folders that are not looked into, such as the output's.

    Raises:
        InputError: Nothing was found, or two inputs would write the same output.
    """
    found = Survey()
    if source.is_file():
        found.cases = list(_given_file(source))
    elif source.is_dir():
        _Walk(source, found, apart).into(source)
    elif source.exists():
        raise InputError(f"{source}: is neither a file nor a folder; give {LOOKED_FOR}.")
    else:
        raise InputError(f"{source}: no such file or folder; give {LOOKED_FOR}.")
    if not found.cases:
        reasons = " ".join(["", *found.passed_over[:3]])
        raise InputError(f"{source}: no CT volume found; looked for {LOOKED_FOR}.{reasons}")
    by_output: dict[str, Case] = {}
    for case in found.cases:
        other = by_output.setdefault(case.output_name, case)
        if other is not case:
            raise InputError(
                f"{other.source} and {case.source} would both write {case.output_name}; rename or remove one."
            )
    found.cases.sort(key=lambda case: case.name)
    return found


def _given_file(path: Path) -> Iterator[Case]:
    """The case that a file is, if it is one."""
    if ending_of(path):
        yield file_case(path)
    elif path.suffix.lower() in DICOM_ENDINGS or looks_like_dicom(path):
        name = path.name[: -len(path.suffix)] if path.suffix.lower() in DICOM_ENDINGS else path.name
        yield named_case(name, path)


class _Walk:
    """A walk through folders that notes what it meets."""

    def __init__(self, root: Path, found: Survey, apart: Iterable[Path]) -> None:
        self.root, self.found = root, found
        self.seen = {path.resolve() for path in apart} - {root.resolve()}

    def into(self, folder: Path, depth: int = 0) -> None:
        """Note a folder's cases, and go into its folders."""
        if folder.resolve() in self.seen or folder.name == "lost+found":  # such as links that lead round in circles
            return
        self.seen.add(folder.resolve())
        if depth > DEEPEST:
            self.pass_over(folder, f"lies more than {DEEPEST} folders deep; give a folder nearer to it as input")
            return
        try:
            entries = sorted(folder.iterdir())
            kits = _kits_imaging(folder)
        except OSError as error:
            self.pass_over(folder, f"cannot be read ({error.strerror}); check its permissions")
            return
        if kits:  # beside it lies segmentation.nii.gz, which is no case
            self.found.cases.append(file_case(kits))
            return
        if re.fullmatch(r"case_\d+", folder.absolute().name) and any(map(_is_label_map, entries)):
            self.pass_over(folder, "has a label map but no imaging.nii.gz; perhaps it is not downloaded yet")
            return
        is_dicom = self.holds_dicom(entries)
        if is_dicom:
            self.found.cases.append(named_case(folder.absolute().name, folder))
        for entry in entries:
            if entry.is_dir():
                self.into_below(entry, depth)
            else:
                self.file(entry, entries, depth, is_dicom)

    def into_below(self, folder: Path, depth: int) -> None:
        """Go into a folder and name what is found there: after the folder if it is one case, else by their paths."""
        if folder.name.startswith(".") or (depth and LABELS.fullmatch(folder.name)):
            self.ignore(folder)
            return
        before = len(self.found.cases)
        self.into(folder, depth + 1)
        if depth:
            return
        new = self.found.cases[before:]
        for index, case in enumerate(new, before):
            if case.output_name.startswith("prediction_"):
                continue
            parts = list(case.source.relative_to(self.root).parts)
            if not case.is_dicom:
                parts[-1] = parts[-1][: -len(ending_of(case.source))]
            name = parts[0] if len(new) == 1 else "_".join(parts)
            self.found.cases[index] = named_case(name, case.source)

    def file(self, path: Path, entries: list[Path], depth: int, in_dicom: bool) -> None:
        """Note what is no folder: a case, a part of one, or nothing that can be used."""
        name = path.name.lower()
        is_volume = bool(ending_of(path))
        if name.startswith(("._", PARTIAL, ".ds_store")):  # macOS's companions, our own unfinished files
            return
        if not path.exists():
            if is_volume or not in_dicom:  # among slices it is for the reader to say
                self.pass_over(path, "is a link to nowhere; copy the scan itself")
        elif not path.is_file():
            if is_volume or not in_dicom:
                self.pass_over(path, "is no regular file (a pipe, a socket or a device); give a file")
        elif is_volume and name.startswith("."):
            self.pass_over(path, "is hidden; rename it if it is a scan")
        elif is_volume and depth and _is_label_map(path):
            self.ignore(path)
        elif is_volume:
            self.found.cases.append(file_case(path))
        elif name.endswith(tuple(PARTS)):
            if not any(_is_header_of(other, path) for other in entries):
                self.pass_over(path, "has no header beside it (.hdr, .mhd or .nhdr); copy both files")
        elif name.endswith(NOT_READ):
            self.pass_over(path, "is of a kind that is not read; convert it to .nii.gz")
        elif not in_dicom:
            self.ignore(path)

    def holds_dicom(self, entries: list[Path]) -> bool:
        """Whether one of a folder's files is a DICOM slice, by its first bytes or, as damaged ones, by its name."""
        for path in entries:
            if path.is_file() and not path.name.startswith(".") and path.name != "DICOMDIR" and not ending_of(path):
                try:
                    if path.suffix.lower() in DICOM_ENDINGS or looks_like_dicom(path):
                        return True
                except OSError as error:
                    self.pass_over(path, f"cannot be read ({error.strerror}); check its permissions")
        return False

    def pass_over(self, path: Path, why: str) -> None:
        """Note what cannot be used."""
        self.found.passed_over.append(_sentence(path, why))

    def ignore(self, path: Path) -> None:
        """Note what is no volume."""
        self.found.ignored.append(printable(str(path.relative_to(self.root))))


def _sentence(path: Path, why: str) -> str:
    return printable(f"{path}: {why}.")


def _is_label_map(path: Path) -> bool:
    ending = ending_of(path)
    return bool(ending and LABELS.fullmatch(path.name[: -len(ending)]))


def _is_header_of(path: Path, data: Path) -> bool:
    """Whether a file is a header that may name another as its data: same name but for the ending."""
    return path.suffix.lower() in (".hdr", ".mhd", ".nhdr") and data.name.startswith(path.stem)


def file_case(path: Path) -> Case:
    """The case that a file of a volume is, by its name alone."""
    name = path.name[: -len(ending_of(path))]
    label = f"{path.absolute().parent.name}/{name}" if name == "imaging" else name
    if kits := re.fullmatch(r"(?:case_(\d+)/imaging|imaging_(\d+))", label):
        number = kits[1] or kits[2]
        return Case(f"case_{number}", path, f"prediction_{number}.nii.gz")
    return named_case(name, path)


def named_case(name: str, source: Path) -> Case:
    """A case with a name of its own."""
    return Case(printable(name), source, f"{name}.nii.gz")


def _kits_imaging(folder: Path) -> Path | None:
    """``imaging.nii.gz`` (or another format) of a folder in the form of the KiTS data set."""
    if not re.fullmatch(r"case_\d+", folder.absolute().name):
        return None
    return next((path for ending in ENDINGS if (path := folder / f"imaging{ending}").is_file()), None)
