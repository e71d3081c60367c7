"""The forms in which challenges hand over their cases, told by what lies in the input folder.

========================  ===========================================  ============================================
form                      input                                        output
========================  ===========================================  ============================================
files                     ``NAME.nii.gz``, ``.nii``, ``.mha`` ...      ``NAME.nii.gz``
KiTS19                    ``case_00210/imaging.nii.gz``                ``prediction_00210.nii.gz``
KiTS21                    ``images/ct/NAME.mha``                       ``images/SOCKET/NAME.mha``
grand-challenge.org       ``inputs.json``, ``images/.../UUID.mha``     ``images/SOCKET/output.mha``
========================  ===========================================  ============================================

SOCKET is what the challenge calls its output; KiTS21's is ``kidney-tumor-and-cyst``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from kits.errors import InputError
from kits.io.cases import Case, find_cases

SOCKET = "kidney-tumor-and-cyst"
KITS21 = Path("images", "ct")
INPUTS = "inputs.json"


@dataclass(frozen=True)
class Form:
    """What lies in an input folder.

    Args:
        description: for the log, e.g. ``KiTS19 case folders``.
        cases: sorted by name.
    """

    description: str
    cases: list[Case]


def recognise(source: Path, socket: str = SOCKET) -> Form:
    """Tell an input's form and list its cases.

    Args:
        source: a folder in one of the forms, or a single file.
        socket: the output's name, where the form has one.

    Raises:
        InputError: No case was found, two would write one label map, or ``inputs.json`` is not as it should be.
    """
    if (source / INPUTS).is_file():
        image = _image_of_job(source)
        case = Case(image.stem, image, str(PurePosixPath("images", socket, "output.mha")))
        return Form(f"a grand-challenge.org job on {image.relative_to(source)}", [case])
    if (source / KITS21).is_dir():
        cases = [
            Case(path.stem, path, str(PurePosixPath("images", socket, path.name))) for path in _mha(source / KITS21)
        ]
        if not cases:
            raise InputError(f"{source / KITS21}: no CT volume found; looked for *.mha.")
        return Form(f"KiTS21's, {KITS21}/*.mha", cases)
    cases = find_cases(source)
    kinds = dict.fromkeys(_kind(case) for case in cases)
    return Form(" and ".join(kinds), cases)


def _kind(case: Case) -> str:
    if case.source.is_dir():
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
