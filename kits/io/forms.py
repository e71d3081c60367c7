"""The forms in which challenges hand over their cases, told by what lies in the input folder.

========================  ===========================================  ============================================
form                      input                                        output
========================  ===========================================  ============================================
files                     ``NAME.nii.gz``, ``.nii``, ``.mha`` ...      ``NAME.nii.gz``
KiTS19                    ``case_00210/imaging.nii.gz``                ``prediction_00210.nii.gz``
KiTS21                    ``images/ct/NAME.mha``, or another folder    ``images/SOCKET/NAME.mha``
grand-challenge.org       ``inputs.json``, ``images/.../UUID.mha``     ``images/SOCKET/output.mha``
========================  ===========================================  ============================================

SOCKET is what the challenge calls its output; KiTS21's is ``kidney-tumor-and-cyst``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from kits.errors import InputError, printable
from kits.io.cases import Case, survey
from kits.io.formats import ending_of

SOCKET = "kidney-tumor-and-cyst"
IMAGES = "images"
KITS21 = Path(IMAGES, "ct")
INPUTS = "inputs.json"


@dataclass(frozen=True)
class Form:
    """What lies in an input folder.

    Args:
        description: for the log, e.g. ``KiTS19 case folders``.
        cases: sorted by name.
        passed_over: a sentence on each thing that looks like a volume but cannot be used.
        ignored: names of what is no volume.
    """

    description: str
    cases: list[Case]
    passed_over: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)


def recognise(source: Path, socket: str = SOCKET, apart: Iterable[Path] = ()) -> Form:
    """Tell an input's form and list its cases.

    Args:
        source: a folder in one of the forms, or a single file.
        socket: the output's name, where the form has one.
        apart: folders that are not looked into, such as the output's.

    Raises:
        InputError: No case was found, two would write one label map, or ``inputs.json`` is not as it should be.
    """
    if (source / INPUTS).is_file():
        image = _image_of_job(source)
        case = Case(printable(image.stem), image, str(PurePosixPath(IMAGES, socket, "output.mha")))
        return Form(f"a grand-challenge.org job on {printable(str(image.relative_to(source)))}", [case])
    if folder := _folder_of_images(source):
        images = _mha(folder)
        cases = [Case(printable(path.stem), path, str(PurePosixPath(IMAGES, socket, path.name))) for path in images]
        if not cases:
            raise InputError(f"{folder}: no CT volume found; looked for *.mha.")
        others = [path for path in sorted(folder.iterdir()) if ending_of(path) and path not in images]
        passed = [printable(f"{path}: is no *.mha file, or hidden; convert, copy or rename it.") for path in others
                  if not path.name.startswith("._")]  # fmt: skip
        return Form(f"KiTS21's, {printable(str(folder.relative_to(source)))}/*.mha", cases, passed)
    found = survey(source, apart)
    kinds = dict.fromkeys(_kind(case) for case in found.cases)
    return Form(" and ".join(kinds), found.cases, found.passed_over, found.ignored)


def _folder_of_images(source: Path) -> Path | None:
    """``images/ct``, as KiTS21 has it, or the one folder below ``images`` that holds MHA files."""
    if (source / KITS21).is_dir():
        return source / KITS21
    try:
        folders = [path for path in sorted((source / IMAGES).iterdir()) if path.is_dir() and _mha(path)]
    except OSError:
        return None
    if len(folders) > 1:
        names = ", ".join(path.name for path in folders)
        raise InputError(f"{source / IMAGES}: several folders hold images ({names}); leave only that of the CT.")
    return folders[0] if folders else None


def _kind(case: Case) -> str:
    if case.is_dicom:
        return "folders of DICOM slices"
    return "KiTS19 case folders" if case.source.name.startswith("imaging.") else "files"


def _mha(folder: Path) -> list[Path]:
    """The visible MHA files of a folder, sorted; none if it cannot be listed or is not there."""
    return sorted(path for path in folder.glob("[!.]*") if path.suffix.lower() == ".mha" and path.is_file())


def _image_of_job(source: Path) -> Path:
    """The one CT image that grand-challenge.org's ``inputs.json`` tells of.

    The file is a list of socket values, each with a ``socket`` (``interface`` until 2025) whose ``relative_path``
    says where below the input folder the value lies: ``images/...`` for an image, whose file name is a UUID.
    """
    listing = source / INPUTS
    remedy = f"give the {INPUTS} of one job with one CT image"
    try:
        values = json.loads(listing.read_text(encoding="utf-8"))
        sockets = [value.get("socket") or value["interface"] for value in values]
        paths = [PurePosixPath(socket["relative_path"]) for socket in sockets]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{listing}: is not grand-challenge.org's list of inputs ({error!r}); {remedy}.") from error
    folders = [path for path in paths if path.parts[:1] == ("images",) and ".." not in path.parts]
    if len(folders) != 1:
        named = ", ".join(map(str, paths)) or "none"
        raise InputError(f"{listing}: names {len(folders)} images (inputs: {named}); {remedy}.")
    folder = source / folders[0]
    images = _mha(folder)
    if len(images) != 1:
        found = ", ".join(path.name for path in images) or "none"
        raise InputError(f"{folder}: should hold one *.mha (TIFF knows no slice spacing), but holds {found}; {remedy}.")
    return images[0]
