"""Which cases lie under a folder, and what their label maps are called: the names of KiTS files, once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kits.errors import InputError

# ITK itself knows upper-case endings for some formats only, so each is told by name.
READERS = {".nii": "NiftiImageIO", ".nii.gz": "NiftiImageIO", ".mha": "MetaImageIO", ".nrrd": "NrrdImageIO"}

LOOKED_FOR = "*.nii, *.nii.gz, *.mha, *.nrrd, case_*/imaging.nii.gz or folders of DICOM slices"


@dataclass(frozen=True)
class Case:
    """One volume to segment.

    Args:
        name: For people, e.g. ``case_00210``.
        source: A file, or a folder of DICOM slices.
        output_name: Path of its label map below the output folder, e.g. ``prediction_00210.nii.gz``.
    """

    name: str
    source: Path
    output_name: str

    @property
    def stem(self) -> str:
        """The label map's name without folder and ending, for what else is written of the case."""
        name = Path(self.output_name).name
        return name[: -len(ending_of(Path(name)))]


def find_cases(source: Path) -> list[Case]:
    """The cases that ``source`` is (a file, a DICOM or KiTS folder) or holds, sorted by name.

    Raises:
        InputError: Nothing was found, or two inputs would write the same output.
    """
    if source.is_file():
        cases = [_file_case(source)] if ending_of(source) else []
    elif source.is_dir():
        try:
            cases = list(_cases_in(source))
        except OSError as error:
            raise InputError(
                f"{error.filename or source}: cannot be read ({error.strerror}); check its permissions."
            ) from error
    else:
        raise InputError(f"{source}: no such file or folder; give {LOOKED_FOR}.")
    if not cases:
        raise InputError(f"{source}: no CT volume found; looked for {LOOKED_FOR}.")
    by_output: dict[str, Case] = {}
    for case in cases:
        other = by_output.setdefault(case.output_name, case)
        if other is not case:
            raise InputError(
                f"{other.source} and {case.source} would both write {case.output_name}; rename or remove one."
            )
    return sorted(cases, key=lambda case: case.name)


def _cases_in(folder: Path) -> Iterator[Case]:
    if kits := _kits_imaging(folder):  # beside it lies segmentation.nii.gz, which is no case
        yield _file_case(kits)
        return
    visible = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    yield from (_file_case(path) for path in visible if path.is_file() and ending_of(path))
    for path in [folder, *(path for path in visible if path.is_dir())]:
        if kits := _kits_imaging(path):
            yield _file_case(kits)
        elif _holds_dicom(path):
            name = path.absolute().name
            yield Case(name, path, f"{name}.nii.gz")


def ending_of(path: Path) -> str:
    """The ending of ``path`` in lower case if a volume can be read from it, else an empty string."""
    return max((e for e in READERS if path.name.lower().endswith(e)), key=len, default="")


def _file_case(path: Path) -> Case:
    name = path.name[: -len(ending_of(path))]
    label = f"{path.absolute().parent.name}/{name}" if name == "imaging" else name
    if kits := re.fullmatch(r"(?:case_(\d+)/imaging|imaging_(\d+))", label):
        number = kits[1] or kits[2]
        return Case(f"case_{number}", path, f"prediction_{number}.nii.gz")
    return Case(name, path, f"{name}.nii.gz")


def _kits_imaging(folder: Path) -> Path | None:
    """``imaging.nii.gz`` (or another format) of a folder in the form of the KiTS data set."""
    if not re.fullmatch(r"case_\d+", folder.absolute().name):
        return None
    return next((path for ending in READERS if (path := folder / f"imaging{ending}").is_file()), None)


def _holds_dicom(folder: Path) -> bool:
    """Whether a file directly in ``folder`` has DICOM's magic word after its 128 bytes of preamble."""
    with suppress(PermissionError):  # such as lost+found on a mounted disk: no reason to stop
        for path in sorted(folder.iterdir()):
            if path.is_file() and not path.name.startswith(".") and path.name != "DICOMDIR" and not ending_of(path):
                with path.open("rb") as file:
                    if file.read(132)[128:] == b"DICM":
                        return True
    return False
