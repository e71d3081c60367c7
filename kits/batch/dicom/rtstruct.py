"""RT Structure Set: a part of the label map a structure, as closed contours in the scan's planes."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from kits.batch.colours import COLOURS, KIDNEY
from kits.batch.dicom.segmentation import SERIES, equipment, index_affine
from kits.batch.dicom.source import Plane, Source
from kits.batch.parts import Part

if TYPE_CHECKING:
    from pydicom import Dataset

COPIED = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
    "SpecificCharacterSet",
)


def make_rtstruct(source: Source, numbers: np.ndarray, parts: list[Part], version: str) -> Dataset:
    """An RT Structure Set with a structure a part; holes are joined to their outline by a bridge without width.

    Args:
        source: the scan's images.
        numbers: uint16 (slice, row, column) on the scan's own grid, each voxel the number of its part.
        parts: at least one.
        version: of the software.
    """
    import pydicom
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

    rt = Dataset()
    for keyword in COPIED:
        if keyword in source.first:
            setattr(rt, keyword, source.first[keyword].value)
    now = datetime.now()
    rt.SOPClassUID, rt.SOPInstanceUID = RTStructureSetStorage, generate_uid()
    rt.Modality, rt.SeriesInstanceUID = "RTSTRUCT", generate_uid()
    rt.SeriesNumber, rt.InstanceNumber = SERIES["RTSTRUCT"], 1
    rt.SeriesDescription, rt.OperatorsName = "Kidneys, tumours and cysts (research)", ""
    for keyword, value in equipment(version).items():
        setattr(rt, WORDS[keyword], value)
    rt.StructureSetLabel = "KIDNEYS"
    rt.StructureSetDate = rt.InstanceCreationDate = now.strftime("%Y%m%d")
    rt.StructureSetTime = rt.InstanceCreationTime = now.strftime("%H%M%S")
    rt.ApprovalStatus = "UNAPPROVED"
    frame_of_reference = source.first.FrameOfReferenceUID
    rt.FrameOfReferenceUID, rt.PositionReferenceIndicator = frame_of_reference, ""
    rt.ReferencedFrameOfReferenceSequence = [_referenced(source, frame_of_reference)]
    rt.StructureSetROISequence, rt.ROIContourSequence, rt.RTROIObservationsSequence = [], [], []
    boxes = ndimage.find_objects(numbers, len(parts))
    for part, box in zip(parts, boxes, strict=True):
        roi = _dataset(ROINumber=part.number, ReferencedFrameOfReferenceUID=frame_of_reference, ROIName=part.name)
        roi.ROIGenerationAlgorithm = "AUTOMATIC"
        rt.StructureSetROISequence.append(roi)
        contours = _contours(source, numbers[box] == part.number, [axis.start for axis in box])
        rt.ROIContourSequence.append(
            _dataset(
                ROIDisplayColor=list(COLOURS[part.label]), ContourSequence=contours, ReferencedROINumber=part.number
            )
        )
        kind = "ORGAN" if part.label == KIDNEY else ""
        rt.RTROIObservationsSequence.append(
            _dataset(
                ObservationNumber=part.number,
                ReferencedROINumber=part.number,
                RTROIInterpretedType=kind,
                ROIInterpreter="",
            )
        )
    rt.file_meta = FileMetaDataset()
    rt.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    rt.file_meta.MediaStorageSOPClassUID, rt.file_meta.MediaStorageSOPInstanceUID = rt.SOPClassUID, rt.SOPInstanceUID
    rt.file_meta.ImplementationClassUID = pydicom.uid.PYDICOM_IMPLEMENTATION_UID
    return rt


WORDS = {
    "manufacturer": "Manufacturer",
    "manufacturer_model_name": "ManufacturerModelName",
    "software_versions": "SoftwareVersions",
    "device_serial_number": "DeviceSerialNumber",
}


def _dataset(**values: object) -> Dataset:
    from pydicom.dataset import Dataset

    result = Dataset()
    for keyword, value in values.items():
        setattr(result, keyword, value)
    return result


def _reference(plane: Plane) -> Dataset:
    """The item that points to an image of the scan."""
    item = _dataset(
        ReferencedSOPClassUID=plane.header.SOPClassUID, ReferencedSOPInstanceUID=plane.header.SOPInstanceUID
    )
    if plane.frame is not None:
        item.ReferencedFrameNumber = plane.frame
    return item


def _referenced(source: Source, frame_of_reference: str) -> Dataset:
    """Frame of reference, study, series and images that the contours were drawn on."""
    images = [_reference(Plane(header, None)) for header in source.headers]
    series = _dataset(SeriesInstanceUID=source.first.SeriesInstanceUID, ContourImageSequence=images)
    study = _dataset(
        ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1",  # Detached Study Management, as the standard still wants
        ReferencedSOPInstanceUID=source.first.StudyInstanceUID,
        RTReferencedSeriesSequence=[series],
    )
    return _dataset(FrameOfReferenceUID=frame_of_reference, RTReferencedStudySequence=[study])


def _contours(source: Source, mask: np.ndarray, start: list[int]) -> list[Dataset]:
    """A part's contours, slice by slice, in mm; ``start`` is where its mask begins on the grid."""
    affine = index_affine(source.grid)
    found = []
    for index, plane in enumerate(mask, start=start[0]):
        for outline in outlines(plane):
            voxels = np.column_stack([np.full(len(outline), index), outline + start[1:]])
            points = voxels @ affine[:3, :3].T + affine[:3, 3]
            item = _dataset(
                ContourGeometricType="CLOSED_PLANAR",
                NumberOfContourPoints=len(points),
                ContourData=[decimal(value) for value in points.ravel()],
            )
            if image := source.planes[index]:
                item.ContourImageSequence = [_reference(image)]
            found.append(item)
    return found


def decimal(value: float) -> str:
    """A decimal string of at most 16 characters, as DICOM allows, to a tenth of a micrometre."""
    return f"{value:.4f}".rstrip("0").rstrip(".")


def outlines(mask: np.ndarray) -> list[np.ndarray]:
    """The closed outlines (row, column) of a 2-D mask, midway between its pixels and others.

    Each hole is joined to the outline around it by going there and back on one line.
    """
    from skimage.measure import find_contours, points_in_poly

    # The first point is given again as the last.
    found = [line[:-1] - 1 for line in find_contours(np.pad(mask, 1).astype(float), 0.5, positive_orientation="high")]
    outer = [line for line in found if _area(line) > 0]
    for hole in (line for line in found if _area(line) < 0):
        around = [index for index, line in enumerate(outer) if points_in_poly(hole[:1], line)[0]]
        nearest = min(around, key=lambda index: abs(_area(outer[index])))
        outer[nearest] = _bridged(outer[nearest], hole)
    return outer


def _area(line: np.ndarray) -> float:
    """Twice the signed area of a closed line."""
    row, column = line.T
    return float(np.sum(row * np.roll(column, -1) - np.roll(row, -1) * column))


def _bridged(line: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """One closed line that runs round the outline, over to the hole where they are nearest, round it, and back."""
    distances = np.linalg.norm(line[:, None] - hole[None], axis=2)
    at, to = np.unravel_index(distances.argmin(), distances.shape)
    around = np.roll(hole, -int(to), axis=0)
    return np.concatenate([line[: at + 1], around, around[:1], line[at:]])
