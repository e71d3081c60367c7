"""Writers of small scans, byte by byte where a library would not write what is asked for."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian

SPACING_XYZ = (0.75, 0.5, 2.5)
ORIGIN = (-100.5, 33.25, 1000.125)
AFFINE = np.array([[-0.75, 0, 0, 100.5], [0, -0.5, 0, -33.25], [0, 0, 2.5, 1000.125], [0, 0, 0, 1]])
"""The same place in NIfTI's axes: right, anterior, superior."""
META_TYPES = {"int16": "MET_SHORT", "uint16": "MET_USHORT", "int32": "MET_INT", "float32": "MET_FLOAT"}


def ct(shape: tuple[int, int, int] = (6, 16, 17)) -> np.ndarray:
    """HU-like noise (z, y, x): air, fat and bone are all there and no two axes look alike."""
    return np.random.default_rng(0).integers(-1000, 1500, shape).astype(np.int16)


def write_nifti(
    path: Path,
    hu: np.ndarray | None = None,
    sform: tuple[np.ndarray, int] = (AFFINE, 1),
    qform: tuple[np.ndarray, int] = (AFFINE, 1),
    kind: type = nib.Nifti1Image,
    edits: Sequence[tuple] = (),
) -> Path:
    """A NIfTI of (z, y, x) voxels, both transforms with their codes; ``edits``: (struct format, offset, values...)."""
    image = kind((ct() if hu is None else hu).transpose(2, 1, 0), sform[0])
    image.set_qform(*qform)
    image.set_sform(*sform)
    data = bytearray(image.to_bytes())
    for form, offset, *values in edits:
        struct.pack_into(form, data, offset, *values)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(bytes(data), 1) if path.suffix == ".gz" else bytes(data))
    return path


def write_meta(path: Path, hu: np.ndarray | None = None, drop: Sequence[str] = (), **fields: str) -> Path:
    """A MetaImage of one file, with header fields changed, added or dropped."""
    hu = ct() if hu is None else hu
    values = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": " ".join(map(str, ORIGIN)),
        "ElementSpacing": " ".join(map(str, SPACING_XYZ)),
        "DimSize": " ".join(map(str, hu.shape[::-1])),
        "ElementType": META_TYPES[hu.dtype.name],
    }
    values |= fields
    file = values.pop("ElementDataFile", "LOCAL")
    header = "".join(f"{key} = {value}\n" for key, value in values.items() if key not in drop)
    voxels = hu.tobytes()
    if values["CompressedData"] == "True":
        voxels = zlib.compress(voxels)
    path.write_bytes(f"{header}ElementDataFile = {file}\n".encode() + (voxels if file == "LOCAL" else b""))
    return path


def write_nrrd(path: Path, hu: np.ndarray | None = None, drop: Sequence[str] = (), **fields: str) -> Path:
    """A NRRD of one file; field names with ``_`` for their blanks."""
    hu = ct() if hu is None else hu
    x, y, z = SPACING_XYZ
    values = {
        "type": hu.dtype.name.replace("float32", "float"),
        "dimension": "3",
        "space": "left-posterior-superior",
        "sizes": " ".join(map(str, hu.shape[::-1])),
        "space directions": f"({x},0,0) (0,{y},0) (0,0,{z})",
        "endian": "little",
        "encoding": "raw",
        "space origin": f"({','.join(map(str, ORIGIN))})",
    }
    values |= {key.replace("_", " "): value for key, value in fields.items()}
    header = "NRRD0004\n" + "".join(f"{key}: {value}\n" for key, value in values.items() if key not in drop)
    voxels = gzip.compress(hu.tobytes()) if values["encoding"] == "gzip" else hu.tobytes()
    path.write_bytes(header.encode() + b"\n" + (b"" if "data file" in values else voxels))
    return path


def dicom_slice(hu: np.ndarray, place: int, **attributes: Any) -> FileDataset:
    """A CT slice (y, x) at 2.5 mm times ``place``, stored unsigned, intercept -1024; None drops an attribute."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = attributes.get("SOPClassUID", CTImageStorage)
    meta.MediaStorageSOPInstanceUID = f"1.2.840.{attributes.get('InstanceNumber', place + 1)}.{place + 1}"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    x, y, z = ORIGIN
    values: dict[str, Any] = {
        "SOPClassUID": meta.MediaStorageSOPClassUID,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "StudyInstanceUID": "1.2.3",
        "SeriesInstanceUID": "1.2.3.4",
        "Modality": "CT",
        "PatientID": "somebody",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "InstanceNumber": place + 1,
        "AcquisitionNumber": 1,
        "Rows": hu.shape[0],
        "Columns": hu.shape[1],
        "PixelSpacing": [SPACING_XYZ[1], SPACING_XYZ[0]],
        "SliceThickness": 2.5,
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "ImagePositionPatient": [x, y, z + 2.5 * place],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
    }
    values |= attributes
    made = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    for name, value in values.items():
        if value is not None:
            setattr(made, name, value)
    made.PixelData = (hu.astype(np.int32) + 1024).astype(np.uint16).tobytes()
    return made


def save_dicom(made: FileDataset, path: Path) -> Path:
    """Write a data set under a name, its folder too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(path, enforce_file_format=True)
    return path


def write_series(
    folder: Path,
    hu: np.ndarray | None = None,
    name: str = "{:03d}.dcm",
    change: Callable[[int], dict[str, Any]] = lambda place: {},
    places: Sequence[int] | None = None,
) -> np.ndarray:
    """A series of slices, named against their order; ``change`` gives a slice's own attributes. Returns its HU."""
    hu = ct() if hu is None else hu
    for place in range(len(hu)) if places is None else places:
        save_dicom(dicom_slice(hu[place], place, **change(place)), folder / name.format(99 - place))
    return hu


def enhanced(
    hu: np.ndarray, places: Sequence[int], intercepts: Sequence[int] | None = None, **attributes: Any
) -> FileDataset:
    """A multi-frame CT of slices in the order of ``places``, each with its own intercept if these are given."""
    moved = ("PixelSpacing", "SliceThickness", "ImageOrientationPatient", "ImagePositionPatient", "RescaleSlope",
             "RescaleIntercept")  # fmt: skip
    made = dicom_slice(hu[0], 0, SOPClassUID=EnhancedCTImageStorage, **dict.fromkeys(moved), **attributes)
    own = [-1024] * len(places) if intercepts is None else intercepts
    shared = Dataset()
    shared.PlaneOrientationSequence = _item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    shared.PixelMeasuresSequence = _item(PixelSpacing=[SPACING_XYZ[1], SPACING_XYZ[0]], SliceThickness=2.5)
    frames, pixels = [], []
    for place, intercept in zip(places, own, strict=True):
        frame = Dataset()
        x, y, z = ORIGIN
        frame.PlanePositionSequence = _item(ImagePositionPatient=[x, y, z + 2.5 * place])
        frame.PixelValueTransformationSequence = _item(RescaleSlope=1, RescaleIntercept=intercept)
        frames.append(frame)
        pixels.append((hu[place].astype(np.int32) - intercept).astype(np.uint16))
    made.NumberOfFrames = len(places)
    made.SharedFunctionalGroupsSequence = Items([shared])
    made.PerFrameFunctionalGroupsSequence = Items(frames)
    made.PixelData = np.stack(pixels).tobytes()
    return made


def _item(**attributes: Any) -> Items:
    item = Dataset()
    for name, value in attributes.items():
        setattr(item, name, value)
    return Items([item])
