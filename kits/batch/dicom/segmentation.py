"""DICOM Segmentation: a part of the label map a segment, binary, on the scan's own grid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kits.batch.colours import COLOURS, CYST, KIDNEY
from kits.batch.dicom.source import Source
from kits.batch.parts import Part
from kits.io.volume import Grid

if TYPE_CHECKING:
    import highdicom as hd
    from pydicom import Dataset
    from pydicom.sr.coding import Code

MAKER, MODEL = "KiTS Cascade contributors", "KiTS Cascade"
SERIES = {"SEG": 9001, "RTSTRUCT": 9002, "SR": 9003}
"""Series numbers, out of the way of a scanner's own."""


def equipment(version: str) -> dict[str, Any]:
    """Who made an object, as DICOM wants to know it."""
    return {
        "manufacturer": MAKER,
        "manufacturer_model_name": MODEL,
        "software_versions": version,
        "device_serial_number": "none",
    }


def algorithm(version: str) -> hd.AlgorithmIdentificationSequence:
    """The algorithm's name, version and family."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    return hd.AlgorithmIdentificationSequence(MODEL, codes.DCM.ArtificialIntelligence, version)


def make_segmentation(source: Source, numbers: np.ndarray, parts: list[Part], version: str) -> hd.seg.Segmentation:
    """A DICOM Segmentation with a segment a part.

    Args:
        source: the scan's images.
        numbers: uint16 (slice, row, column) on the scan's own grid, each voxel the number of its part.
        parts: at least one.
        version: of the software.
    """
    import highdicom as hd

    volume = hd.Volume(
        numbers,
        index_affine(source.grid),
        coordinate_system=hd.CoordinateSystemNames.PATIENT,
        frame_of_reference_uid=source.first.FrameOfReferenceUID,
    )
    return hd.seg.Segmentation(
        source_images=source.headers,
        pixel_array=volume,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,  # the kind that every reader knows
        segment_descriptions=[describe(part, version) for part in parts],
        series_instance_uid=hd.UID(),
        series_number=SERIES["SEG"],
        sop_instance_uid=hd.UID(),
        instance_number=1,
        series_description="Kidneys, tumours and cysts (research)",
        content_label="KIDNEYS",
        content_description="Kidneys, tumours and cysts",
        **equipment(version),
    )


def index_affine(grid: Grid) -> np.ndarray:
    """4 x 4: (slice, row, column) of an array on a grid to mm in the patient's space."""
    affine = np.eye(4)
    affine[:3, :3] = (np.reshape(grid.direction, (3, 3)) * grid.spacing_xyz)[:, ::-1]
    affine[:3, 3] = grid.origin
    return affine


def describe(part: Part, version: str) -> hd.seg.SegmentDescription:
    """A part in DICOM's words: SNOMED CT's codes for what and where it is."""
    import highdicom as hd
    from highdicom.color import CIELabColor
    from pydicom.sr.codedict import codes

    category, kind = words_of(part)
    description = hd.seg.SegmentDescription(
        segment_number=part.number,
        segment_label=part.name,
        segmented_property_category=category,
        segmented_property_type=kind,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm(version),
        tracking_uid=hd.UID(),
        tracking_id=part.name,
        anatomic_regions=None if part.label == KIDNEY else [codes.SCT.Kidney],
        display_color=CIELabColor.from_rgb(*COLOURS[part.label]),
    )
    if part.side:
        _add_side(description, part)
    return description


def words_of(part: Part) -> tuple[Code, Code]:
    """A part's category and kind."""
    from pydicom.sr.codedict import codes

    if part.label == KIDNEY:
        return codes.SCT.Organ, codes.SCT.Kidney
    return codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.Cyst if part.label == CYST else codes.SCT.Neoplasm


def _add_side(description: Dataset, part: Part) -> None:
    """Say right or left of the kidney, or of the kidney that the lesion is in."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    side = hd.sr.CodedConcept.from_code(codes.SCT.Right if part.side == "right" else codes.SCT.Left)
    if part.label == KIDNEY:
        description.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [side]
    else:
        description.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = [side]
