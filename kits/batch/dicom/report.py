"""DICOM Structured Report (TID 1500): the measurements of each kidney and lesion, tied to its segment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kits.batch.colours import KIDNEY
from kits.batch.dicom.segmentation import MAKER, MODEL, SERIES, words_of
from kits.batch.dicom.source import Source
from kits.batch.parts import Part
from kits.measure.results import Measurements

if TYPE_CHECKING:
    import highdicom as hd


def make_report(
    source: Source, segmentation: hd.seg.Segmentation, parts: list[Part], measured: Measurements, version: str
) -> hd.sr.EnhancedSR:
    """A measurement report on a segmentation.

    Args:
        source: the scan's images.
        segmentation: of the same parts.
        parts: each becomes a group of measurements, but for what is too small for that.
        measured: in the figures of ``kits.measure``.
        version: of the software.
    """
    import highdicom as hd
    from pydicom.sr.codedict import codes

    series = hd.sr.SourceSeriesForSegmentation(source.first.SeriesInstanceUID)
    groups = [_group(segmentation, series, part, measured, version) for part in parts if part.side]
    observer = hd.sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
            uid=hd.UID(), name=MODEL, manufacturer_name=MAKER, model_name=MODEL
        ),
    )
    content = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=observer),
        procedure_reported=codes.cid100.CTUnspecifiedBodyRegion,
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
        referenced_images=source.headers,
    )
    return hd.sr.EnhancedSR(
        evidence=[segmentation, *source.headers],
        content=content[0],
        series_instance_uid=hd.UID(),
        series_number=SERIES["SR"],
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer=MAKER,
        is_complete=True,
        is_final=False,
        series_description="Measurements of kidneys, tumours and cysts (research)",
    )


def _group(
    segmentation: hd.seg.Segmentation,
    series: hd.sr.SourceSeriesForSegmentation,
    part: Part,
    measured: Measurements,
    version: str,
) -> hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    """A part's measurements, and what it is."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    category, kind = words_of(part)
    side = codes.SCT.Right if part.side == "right" else codes.SCT.Left
    return hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(
            segmentation.get_segment_description(part.number).tracking_uid, part.name
        ),
        referenced_segment=hd.sr.ReferencedSegment(
            segmentation.SOPClassUID, segmentation.SOPInstanceUID, part.number, source_series=series
        ),
        finding_type=kind,
        finding_category=category,
        finding_sites=[hd.sr.FindingSite(codes.SCT.Kidney, laterality=side)],
        algorithm_id=hd.sr.AlgorithmIdentification(MODEL, version),
        measurements=_measurements(part, measured),
    )


def _measurements(part: Part, measured: Measurements) -> list[hd.sr.Measurement]:
    """The figures that DICOM has words for."""
    import highdicom as hd
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    mm, hounsfield = codes.UCUM.Millimeter, codes.UCUM.HounsfieldUnit
    words = {
        "volume_ml": (codes.SCT.Volume, Code("mL", "UCUM", "milliliter"), None),
        "axial_mm": (codes.SCT.LongAxis, mm, None),
        "perpendicular_mm": (codes.SCT.ShortAxis, mm, None),
        "longest_mm": (codes.SCT.Diameter, mm, codes.SCT.Maximum),
        "length_mm": (codes.SCT.Length, mm, None),
        "hu_mean": (codes.DCM.AttenuationCoefficient, hounsfield, codes.SCT.Mean),
        "hu_sd": (codes.DCM.AttenuationCoefficient, hounsfield, codes.SCT.StandardDeviation),
    }
    return [
        hd.sr.Measurement(name, value, unit, derivation=derivation)
        for key, (name, unit, derivation) in words.items()
        if (value := _figure(part, measured, key)) is not None
    ]


def _figure(part: Part, measured: Measurements, key: str) -> float | None:
    """One of a part's figures; None where it has no such one."""
    if part.label != KIDNEY:
        lesion = next(one for one in measured.lesions if one.name == part.name)
        return getattr(lesion, key, None)
    kidney = measured.right if part.side == "right" else measured.left
    return getattr(kidney, "parenchyma_ml" if key == "volume_ml" else key, None)
