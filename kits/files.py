"""Which cases lie under a folder, how they are read, and how results are written.

Nothing here trusts ITK to notice damage: it fills a truncated NIfTI with zeros, reads NaN as 0 and an
impossible spacing as 1 mm, and reports success when the disk is full, all of it silently.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from isal import igzip
from isal.igzip_lib import IsalError

from kits.errors import InputError, OutputError
from kits.volume import Volume, single_frame

# ITK itself knows upper-case endings for some formats only, so each is told by name.
READERS = {".nii": "NiftiImageIO", ".nii.gz": "NiftiImageIO", ".mha": "MetaImageIO", ".nrrd": "NrrdImageIO"}
LOOKED_FOR = "*.nii, *.nii.gz, *.mha, *.nrrd, case_*/imaging.nii.gz or folders of DICOM slices"
# Its stubs call IsalError a value; it is a class.
UNREADABLE: tuple[type[Exception], ...] = (RuntimeError, EOFError, igzip.BadGzipFile, IsalError)  # type: ignore[assignment]
UNWRITABLE: tuple[type[Exception], ...] = (OSError, *UNREADABLE)
MOST_COMPRESSED = 1032
"""DEFLATE makes nothing smaller than by this factor."""
DAMAGED = "it is damaged, cut short or of another kind than its name says; copy or export it again"

sitk.ProcessObject.SetGlobalWarningDisplay(False)  # ITK's C++ warnings would tear the progress bar


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
        return name[: -len(_ending(Path(name)))]


def find_cases(source: Path) -> list[Case]:
    """The cases that ``source`` is (a file, a DICOM or KiTS folder) or holds, sorted by name.

    Raises:
        InputError: Nothing was found, or two inputs would write the same output.
    """
    if source.is_file():
        cases = [_file_case(source)] if _ending(source) else []
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
    yield from (_file_case(path) for path in visible if path.is_file() and _ending(path))
    for path in [folder, *(path for path in visible if path.is_dir())]:
        if kits := _kits_imaging(path):
            yield _file_case(kits)
        elif _holds_dicom(path):
            name = path.absolute().name
            yield Case(name, path, f"{name}.nii.gz")


def _ending(path: Path) -> str:
    """The ending of ``path`` in lower case if a volume can be read from it, else an empty string."""
    return max((e for e in READERS if path.name.lower().endswith(e)), key=len, default="")


def _file_case(path: Path) -> Case:
    name = path.name[: -len(_ending(path))]
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
            if path.is_file() and not path.name.startswith(".") and path.name != "DICOMDIR" and not _ending(path):
                with path.open("rb") as file:
                    if file.read(132)[128:] == b"DICM":
                        return True
    return False


def count_voxels(case: Case) -> int:
    """How many voxels a case has by its header, for a look before reading; 0 where it has none to be read."""
    reader = sitk.ImageFileReader()
    try:
        files = sorted(path for path in case.source.iterdir() if path.is_file()) if case.source.is_dir() else []
        reader.SetFileName(str(files[len(files) // 2] if files else case.source))
        reader.ReadImageInformation()
    except (RuntimeError, OSError):  # what is wrong with it is for read_volume to say
        return 0
    return prod(reader.GetSize()) * max(len(files), 1)


def read_volume(case: Case) -> Volume:
    """Read the CT volume of a case, in canonical orientation.

    Raises:
        InputError: It cannot be read, or is not a CT volume.
    """
    if case.source.is_dir():
        image, notes = _read_dicom(case.source)
    else:
        image, notes = read_image(case.source), ()
    volume = Volume.from_image(image, str(case.source))
    return replace(volume, name=case.name, warnings=notes + volume.warnings)


def read_labels(path: Path) -> tuple[np.ndarray, tuple[float, float, float]]:
    """A label map as it is stored: uint8 (z, y, x) in ITK's axis order, and its spacing in mm (z, y, x).

    Raises:
        InputError: It cannot be read, or holds anything but whole numbers of 0 to 255.
    """
    image = single_frame(read_image(path), str(path))
    stored = sitk.GetArrayViewFromImage(image)
    with np.errstate(invalid="ignore"):  # what cannot be converted is caught by the comparison
        labels = stored.astype(np.uint8)
    if not np.array_equal(labels, stored):
        raise InputError(f"{path}: is not a label map (whole numbers of 0 to 255); give one.")
    x, y, z = image.GetSpacing()
    return labels, (z, y, x)


def read_image(path: Path) -> sitk.Image:
    """Read a NIfTI, MHA or NRRD file whole, with its integrity checked.

    Raises:
        InputError: It is missing, unreadable, damaged, or in another format.
    """
    ending = _ending(path)
    if not ending:
        raise InputError(f"{path}: unknown kind of file; give {', '.join(READERS)}.")
    try:
        voxels = _check_nifti(path) if ending.startswith(".nii") else None
        with path.open("rb"):  # the system's own reason, where ITK would only say that it failed
            image = None if voxels is None else _placed(voxels, path, READERS[ending])
            return sitk.ReadImage(str(path), imageIO=READERS[ending]) if image is None else image
    except UNREADABLE as error:
        raise InputError(f"{path}: cannot be read as {ending}: {DAMAGED}.") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror}); check path and permissions.") from error


def _placed(voxels: np.ndarray, path: Path, image_io: str) -> sitk.Image | None:
    """A file's voxels as an image, placed as ITK reads its header; None where ITK would change them."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO(image_io)
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    if reader.GetSize() != voxels.shape[::-1] or reader.GetPixelID() != sitk.sitkInt16:  # such as voxels to rescale
        return None
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(reader.GetSpacing())
    image.SetOrigin(reader.GetOrigin())
    image.SetDirection(reader.GetDirection())
    return image


def _check_nifti(path: Path) -> np.ndarray | None:
    """Check a NIfTI-1 file's header, voxels, length and gzip checksum in one pass.

    Fields and offsets: https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h

    Returns:
        The voxels as they are stored, (z, y, x), if they are int16 of three axes, as most CT is: ISA-L has them in half
        of ITK's time. None for any other kind; its voxels are not kept.

    Raises:
        InputError: The header is impossible, or voxels are NaN or infinite.
        EOFError, OSError, IsalError: The file is damaged.
    """
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    with igzip.open(path) if zipped else path.open("rb") as stream:
        header = stream.read(348)
        order = {struct.pack("<i", 348): "<", struct.pack(">i", 348): ">"}.get(header[:4])
        if order is None or len(header) < 348:
            raise EOFError("no NIfTI-1 header")
        axes, *size = struct.unpack_from(f"{order}8h", header, 40)
        kind, bits = struct.unpack_from(f"{order}2h", header, 70)
        spacing = struct.unpack_from(f"{order}3f", header, 80)
        (offset,) = struct.unpack_from(f"{order}f", header, 108)
        if not 0 <= offset < 1 << 30:  # NaN is refused, too
            raise EOFError("voxels that start nowhere")
        if not 1 <= axes <= 7 or min(size[:axes]) < 1:
            raise InputError(f"{path}: holds no voxels (size {tuple(size[:axes])}); export it again.")
        if not all(0 < mm < float("inf") for mm in spacing[:axes]):
            raise InputError(f"{path}: its spacing is {spacing} mm; correct the spacing (pixdim) in its header.")
        missing = prod(size[:axes]) * bits // 8
        floats = {16: np.dtype(f"{order}f4"), 64: np.dtype(f"{order}f8")}.get(kind)
        if missing > path.stat().st_size * MOST_COMPRESSED:
            raise EOFError("far fewer voxels than the header promises")
        plain = kind == 4 and axes == 3 and order == "<"
        voxels = np.empty(size[2::-1], np.int16) if plain else None
        room = np.empty(0, np.uint8) if voxels is None else voxels.reshape(-1).view(np.uint8)
        stream.read(max(int(offset) - 348, 0))
        while block := stream.read(1 << 20):
            missing -= len(block)
            room[: len(block)] = np.frombuffer(block, np.uint8)[: len(room)]
            room = room[len(block) :]
            if floats and not np.isfinite(np.frombuffer(block, floats, len(block) // floats.itemsize)).all():
                raise InputError(f"{path}: has NaN or infinite voxels; export it again as integers.")
    if missing > 0:
        raise EOFError("fewer voxels than the header promises")
    return voxels


def _read_dicom(folder: Path) -> tuple[sitk.Image, tuple[str, ...]]:
    """The largest axial series of a folder, rescaled to HU by GDCM, and notes on what else was found."""
    try:
        found = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
        series = [sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid) for uid in found]
        axial = {files: _is_axial(files[0]) for files in series if files}
        if not axial:
            raise InputError(f"{folder}: holds no DICOM image series; give a folder of CT slices.")
        files = max(axial, key=lambda files: (axial[files], len(files)))
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(files)
        reader.MetaDataDictionaryArrayUpdateOn()  # keeps each slice's position
        image = reader.Execute()
    except RuntimeError as error:
        raise InputError(
            f"{folder}: cannot be read as a DICOM series; give a folder with the slices of one CT series."
        ) from error
    notes = []
    if len(axial) > 1:
        notes.append(f"The folder holds {len(axial)} DICOM series; took the one of {len(files)} slices.")
    if not axial[files]:
        notes.append("The DICOM series is not axial.")
    steps = _slice_steps(reader, len(files), image.GetDirection()[2::3])
    if steps.size and steps.min() < 1e-3:
        raise InputError(f"{folder}: several slices lie at the same position; give the slices of one phase only.")
    if steps.size and np.ptp(steps) > 0.1 * np.median(steps):
        notes.append(
            f"Gaps in z: slices are {np.median(steps):g} mm apart, but up to {steps.max():g} mm in places; "
            f"read as if evenly {image.GetSpacing()[2]:g} mm apart."
        )
    return image, tuple(notes)


def _is_axial(file: str) -> bool:
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(file)
    reader.ReadImageInformation()
    normal = np.abs(reader.GetDirection()[2::3])
    return bool(normal.argmax() == 2)


def _slice_steps(reader: sitk.ImageSeriesReader, count: int, normal: tuple[float, ...]) -> np.ndarray:
    """Distances in mm between neighbouring slices along the normal; empty where positions are not given."""
    position = "0020|0032"
    if not all(reader.HasMetaDataKey(index, position) for index in range(count)):
        return np.empty(0)
    points = [[float(mm) for mm in reader.GetMetaData(i, position).split("\\")] for i in range(count)]
    return np.abs(np.diff(np.asarray(points) @ np.asarray(normal)))


def write_image(image: sitk.Image, path: Path) -> None:
    """Write an image, compressed: either whole under its name or, if anything fails, not at all.

    Raises:
        OutputError: It cannot be written.
    """
    with aside(path) as partial:
        sitk.WriteImage(image, str(partial), useCompression=True)
        if _ending(path).startswith(".nii"):
            _check_nifti(partial)  # ITK reports no error when the disk is full


def write_text(text: str, path: Path) -> None:
    """Write a text file in UTF-8: either whole or, if anything fails, not at all.

    Raises:
        OutputError: It cannot be written.
    """
    with aside(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """A hidden name beside ``path`` to write to, which takes its place once all went well."""
    partial = path.with_name(f".partial-{path.name}")  # the prefix keeps the ending, by which ITK picks the format
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except UNWRITABLE as error:
        reason = getattr(error, "strerror", None) or "the disk may be full"
        raise OutputError(
            f"{path}: cannot be written ({reason}); check the output folder's permissions and free space."
        ) from error
    finally:
        with suppress(OSError):  # e.g. its folder is a file: then nothing was written either
            partial.unlink(missing_ok=True)
