"""DICOM files: what each is, and the frames that it holds.

Attributes and their meaning: DICOM PS3.3, https://dicom.nema.org/medical/dicom/current/output/html/part03.html
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from kits.io.formats import PARTS, ending_of

CT_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.2",  # CT
    "1.2.840.10008.5.1.4.1.1.2.1",  # enhanced CT, many frames a file
    "1.2.840.10008.5.1.4.1.1.2.2",  # the same, converted from single frames
}
ASIDE = {
    "LOCALIZER",
    "SCOUT",
    "MIP",
    "MINIP",
    "MIN_IP",
    "MAX_IP",
    "PROJECTION IMAGE",
    "PROJECTION",
    "SCREEN SAVE",
    "DOSE_INFO",
}
"""Words of ImageType that tell what is no slice of a volume."""
PHASE = (
    "TemporalPositionIdentifier",
    "TemporalPositionIndex",
    "AcquisitionNumber",
    "NominalPercentageOfCardiacPhase",
    "ContrastBolusAgentPhase",
    "ConvolutionKernel",
    "KVP",
    "StackID",
)
"""Attributes that are the same in all slices of a phase, the plainest first."""
TIMES = ("SeriesTime", "AcquisitionTime", "ContentTime", "TriggerTime")
"""Attributes that tell apart slices that lie at one position, but may differ within a phase."""
NOT_SLICES = (".txt", ".pdf", ".xml", ".json", ".csv", ".md", ".jpg", ".jpeg", ".png", ".html", ".htm", ".zip", ".gz",
              ".inf", ".exe", ".dll", ".ini", ".db", ".log", ".tif", ".tiff", ".js", ".css", ".gif", ".bmp", ".svg",
              ".sha256", ".md5", ".doc", ".docx", ".xlsx", ".yml", ".yaml", ".toml", ".py", ".sh")  # fmt: skip
"""Endings of what lies beside slices on a CD or in an export."""
HEAD = 1 << 20
VR = {b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"IS", b"LO", b"LT", b"OB", b"OW", b"PN", b"SH", b"SL", b"SQ",
      b"SS", b"ST", b"TM", b"UI", b"UL", b"UN", b"US", b"UT"}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Frame:
    """One slice of a file.

    Args:
        file, index: where its pixels are.
        uid: its file's SOPInstanceUID.
        patient, series: whom and what it belongs to.
        shape: rows and columns.
        spacing: mm between rows, and between columns.
        axes: (2, 3), unit vectors: where a row, and where a column runs to; NaN if not given.
        position: mm, of the first pixel; NaN if not given.
        rescale: slope and intercept to HU.
        thickness: mm; NaN if not given.
        aside: why it is no slice of a volume, e.g. ``LOCALIZER``; empty if it is one.
        number: InstanceNumber.
        phase: attributes that tell phases apart.
    """

    file: Path
    index: int
    uid: str
    patient: str
    series: str
    shape: tuple[int, int]
    spacing: tuple[float, float]
    axes: np.ndarray
    position: np.ndarray
    rescale: tuple[float, float]
    thickness: float
    aside: str
    number: int
    phase: dict[str, str]
    frames_in_file: int = 1

    @property
    def placed(self) -> bool:
        """Whether the header says where it lies."""
        return bool(np.isfinite(self.axes).all() and np.isfinite(self.position).all())


@dataclass
class Found:
    """What a folder's files are.

    Args:
        frames: of CT.
        other: what is no CT, e.g. ``RT Dose Storage`` -> how many files.
        unread: files that should be slices but cannot be read -> why.
        passed: entries that are no files, e.g. pipes -> what they are.
    """

    frames: list[Frame] = field(default_factory=list)
    other: dict[str, int] = field(default_factory=dict)
    unread: dict[Path, str] = field(default_factory=dict)
    passed: dict[Path, str] = field(default_factory=dict)


class NotCt(Exception):
    """A DICOM file that is no CT; the text says what it is."""


def looks_like_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM does, with its 128 bytes of preamble or, as some programs write, without.

    Raises:
        OSError: it cannot be opened.
    """
    with path.open("rb") as file:
        head = file.read(132)
    if head[128:] == b"DICM":
        return True
    group, element, kind = head[:2], head[2:4], head[4:6]
    if group not in (b"\x02\0", b"\x08\0") or len(head) < 12 or element[1:] != b"\0":
        return False
    return kind in VR or int.from_bytes(head[4:8], "little") < 1 << 10


def count(path: Path) -> int:
    """About how many voxels a folder's slices have, judged by one of its files; 0 if it cannot be said."""
    import pydicom  # half a second, which what reads no DICOM need not wait for

    files = [file for file in _entries(path) if file.is_file() and _may_be_slice(file)]
    if not files:
        return 0
    for file in (files[len(files) // 2], files[0], files[-1]):
        try:
            with file.open("rb") as stream:
                header: Any = pydicom.dcmread(BytesIO(stream.read(HEAD)), stop_before_pixels=True, force=True)
            return int(header.Rows) * int(header.Columns) * int(header.get("NumberOfFrames") or 1) * len(files)
        except Exception:  # pydicom raises what it likes; what is wrong is for ``read`` to say
            continue
    return 0


def find_frames(path: Path) -> Found:
    """What the files of a folder are; or those of a file's folder that belong to the same series."""
    import pydicom.pixels  # noqa: F401  # here, so that what is wrong with the library is not taken for damage of a file

    found = Found()
    for file in _entries(path):
        try:
            mode = file.stat().st_mode
        except OSError as error:
            if _may_be_slice(file):
                found.unread[file] = "a link to nowhere" if file.is_symlink() else str(error.strerror)
            continue
        if stat.S_ISDIR(mode):
            continue
        if not stat.S_ISREG(mode):
            found.passed[file] = "no regular file"
        elif _may_be_slice(file):
            _sort_in(file, found)
    if not path.is_dir():
        series = {frame.series for frame in found.frames if frame.file == path}
        if path in found.unread or not series:
            return Found(other=found.other, unread={p: why for p, why in found.unread.items() if p == path})
        found.frames = [frame for frame in found.frames if frame.series in series]
    return found


def _sort_in(file: Path, found: Found) -> None:
    """Note of one file what it is."""
    try:
        found.frames += frames_of(file)
    except NotCt as kind:
        found.other[str(kind)] = found.other.get(str(kind), 0) + 1
    except OSError as error:
        found.unread[file] = str(error.strerror or error)
    except MemoryError:
        raise
    except Exception as error:  # pydicom raises what it likes at damage
        empty = not file.stat().st_size
        if empty or looks_like_dicom(file) or file.suffix.lower() in (".dcm", ".ima"):
            found.unread[file] = "empty" if empty else f"damaged: {error}"


def _entries(path: Path) -> list[Path]:
    folder = path if path.is_dir() else path.parent
    return sorted(file for file in folder.iterdir() if not file.name.startswith(".") and file.name != "DICOMDIR")


def _may_be_slice(file: Path) -> bool:
    return not (ending_of(file) or file.name.lower().endswith((*NOT_SLICES, *PARTS)))


def frames_of(file: Path) -> Iterator[Frame]:
    """The frames of a CT file, by its header alone.

    Raises:
        NotCt: it is something else.
        Exception: whatever pydicom raises at damage.
    """
    import pydicom
    from pydicom.uid import UID

    with file.open("rb") as stream:
        header: Any = pydicom.dcmread(stream, stop_before_pixels=True, force=True)
    kind = UID(header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID") or "")
    modality = str(header.get("Modality", ""))
    if kind and kind not in CT_CLASSES:
        raise NotCt(kind.name)
    if not header.get("Rows"):
        raise ValueError("no DICOM image")
    if modality and modality != "CT":
        raise NotCt(f"an image of modality {modality}")
    if header.get("SamplesPerPixel", 1) != 1 or str(header.get("PhotometricInterpretation", "")) == "MONOCHROME1":
        raise NotCt("a colour or inverted image")
    return (_frame(file, header, index) for index in range(_frame_count(header)))


def _frame_count(header: Any) -> int:
    count = int(header.get("NumberOfFrames") or 1)
    given = header.get("PerFrameFunctionalGroupsSequence")
    if not 1 <= count <= 100_000 or (given is not None and len(given) != count):
        raise ValueError(f"{count} frames, but {0 if given is None else len(given)} are described")
    return count


class _Groups:
    """A frame's attributes: from its own functional groups, the shared ones, or the file, in this order."""

    def __init__(self, header: Any, index: int) -> None:
        own = header.get("PerFrameFunctionalGroupsSequence")
        shared = header.get("SharedFunctionalGroupsSequence")
        groups = ([own[index]] if own else []) + ([shared[0]] if shared else [])
        self.places = [
            item[0] for group in groups for element in group if element.VR == "SQ" and (item := element.value)
        ]
        self.places.append(header)

    def get(self, name: str) -> Any:
        """The attribute's value, None if it is nowhere."""
        return next((value for place in self.places if (value := place.get(name)) not in (None, "")), None)

    def numbers(self, name: str, count: int) -> np.ndarray:
        """Its numbers; NaN if it is nowhere or of another count."""
        value = self.get(name)
        values = np.atleast_1d(np.array([] if value is None else value, np.float64))
        return values if values.shape == (count,) else np.full(count, np.nan)


def _frame(file: Path, header: Any, index: int) -> Frame:
    groups = _Groups(header, index)
    axes = groups.numbers("ImageOrientationPatient", 6).reshape(2, 3)
    lengths = np.linalg.norm(axes, axis=1, keepdims=True)
    if np.isfinite(axes).all() and (np.abs(lengths - 1).max() > 0.01 or abs(axes[0] @ axes[1]) > 0.01):
        raise ValueError("its orientation is no pair of directions at right angles")
    slope, intercept = (groups.numbers(name, 1)[0] for name in ("RescaleSlope", "RescaleIntercept"))
    missing = np.isnan([slope, intercept]) & [
        groups.get("RescaleSlope") is None,
        groups.get("RescaleIntercept") is None,
    ]
    slope, intercept = np.where(missing, (1.0, 0.0), (slope, intercept))
    if not (np.isfinite([slope, intercept]).all() and slope):
        raise ValueError(f"its rescale slope and intercept are {slope} and {intercept}")
    if (unit := str(groups.get("RescaleType") or "HU").upper()) not in ("HU", "US", "HU_MOD"):
        raise NotCt(f"an image in {unit}, not in HU")
    image_type = groups.get("FrameType") or groups.get("ImageType") or []
    words = {str(word).upper() for word in ([image_type] if isinstance(image_type, str) else image_type)}
    row_mm, column_mm = groups.numbers("PixelSpacing", 2)
    return Frame(
        file,
        index,
        str(header.get("SOPInstanceUID", "")),
        str(header.get("PatientID", "")),
        str(header.get("SeriesInstanceUID", "")),
        (int(header.Rows), int(header.Columns)),
        (float(row_mm), float(column_mm)),
        axes / lengths,
        groups.numbers("ImagePositionPatient", 3),
        (float(slope), float(intercept)),
        float(groups.numbers("SliceThickness", 1)[0]),
        min(words & ASIDE, default=""),
        int(header.get("InstanceNumber") or 0),
        {name: str(value) for name in (*PHASE, *TIMES) if (value := groups.get(name)) is not None},
        _frame_count(header),
    )
