"""One case's way through a run: looked up and read, segmented, written; each step by a thread of its own."""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kits.batch.measured import measured
from kits.batch.outputs import LabelMap, Output
from kits.batch.place import Place
from kits.batch.record import Record, read_record, within
from kits.batch.report import CaseReport, volumetry
from kits.cascade.cascade import Prediction
from kits.choices import Status
from kits.errors import InputError, KitsError, OutputError, printable, sentence
from kits.io.atomic import LONGEST_NAME
from kits.io.cases import Case
from kits.io.checksum import file_checksum, input_checksum
from kits.io.images import read_labels
from kits.io.reader import Reader
from kits.io.stores.transfer import StoreError
from kits.runtime.memory import check_memory

if TYPE_CHECKING:
    from kits.batch.report import Outputs
    from kits.cascade.cascade import Cascade
    from kits.io.volume import Volume

log = logging.getLogger(__name__)


@dataclass
class Work:
    """A case on its way.

    Args:
        case: from ``find_cases``.
        place: where its files lie.
        report: what is known of it so far.
        extras: what is to be written besides the label map.
        record: of an earlier run, if it proves that the label map is done; otherwise, in the end, this run's.
        checksum: of the input.
        seen: what the input's store says of its contents.
        read_seconds: what reading took.
        volume: None where nothing is left to do.
        prediction: what was found.
    """

    case: Case
    place: Place
    report: CaseReport
    extras: list[Output] = field(default_factory=list)
    record: Record | None = None
    checksum: str = ""
    seen: str = ""
    read_seconds: float = 0.0
    volume: Volume | None = None
    prediction: Prediction | None = None

    @classmethod
    def on(cls, case: Case, place: Place) -> Work:
        """A case of which nothing is known yet."""
        return cls(case, place, CaseReport(case.name, case.place, case.output_name))

    def told(self, text: str) -> str:
        """A printable text in which a scan of a store goes by its URL: its place here for the while means nothing."""
        text, here = printable(text), printable(str(self.case.source))
        return text.replace(here, printable(self.case.place)) if self.case.source.is_absolute() else text

    @property
    def outputs(self) -> Outputs:
        """Where its results are written."""
        return self.place.outputs


def look(work: Work, reader: Reader) -> None:
    """Find out what is to be done of a case, and read what that takes.

    Raises:
        KitsError: the scan cannot be used.
    """
    started = time.perf_counter()
    outputs, place = work.outputs, work.place
    name = Path(work.case.output_name).name
    if len(os.fsencode(name)) > LONGEST_NAME:
        raise InputError(f"{work.case.place}: its label map's name, {name}, would be too long; rename the scan.")
    work.extras = list(outputs.extras)
    record = recorded(work)
    if record and record.proves(outputs.folder, work.case, outputs.recipe, work.checksum):
        missing = [extra for extra in outputs.extras if not has(record, extra, work)]
        if all(extra.from_labels for extra in missing):
            work.record, work.extras = record, missing
            work.report = replace(record.report, source=work.case.place, status=Status.SKIPPED, missing=[])
    if work.record is None or work.extras:
        work.case = place.fetch(work.case)
        check_memory(work.case, outputs.base_bytes)
        work.volume = reader.read(work.case)
    work.read_seconds = time.perf_counter() - started


def recorded(work: Work) -> Record | None:
    """The record of an earlier run, if that counts; notes what the input is."""
    record = None
    if work.outputs.skip_existing:
        work.place.recall(work.case)
        record = read_record(work.outputs.folder, work.case)
    work.seen = work.place.seen(work.case)
    if record and work.seen and record.seen == work.seen:  # as its store says; so it need not be fetched
        work.checksum = record.input
    else:
        work.case = work.place.fetch(work.case)
        work.checksum = input_checksum(work.case)
    return record


def has(record: Record, extra: Output, work: Work) -> bool:
    """Whether an extra of an earlier run's labels is there."""
    files = extra.paths(work.case)
    return record.lists(extra.option, files, work.outputs.folder) and all(map(work.place.holds, files))


def predict(work: Work, cascade: Cascade, progress: Callable[[float], None]) -> None:
    """Segment a case, or take what an earlier run found.

    Raises:
        KitsError: it cannot be done.
    """
    if work.volume is None:
        return
    if work.record:
        work.prediction = earlier(work.case, work.volume, work.report, work.outputs.folder)
        return
    work.report.size, work.report.spacing_mm = work.volume.home.size_xyz, work.volume.home.spacing_xyz
    work.prediction = cascade.predict(work.volume, any(extra.probabilities for extra in work.extras), progress)
    work.prediction.seconds = {"read": work.read_seconds} | work.prediction.seconds


def earlier(case: Case, volume: Volume, report: CaseReport, folder: Path) -> Prediction:
    """What an earlier run found, from its label map and report."""
    labels, _ = read_labels(folder / case.output_name)
    order, flips = volume.home.canonical_axes()
    labels = labels.transpose(order)[flips]
    if labels.shape != volume.hu.shape:
        raise InputError(f"{folder / case.output_name}: is not on the grid of {case.place}; delete it and run again.")
    return Prediction(labels, [], list(report.warnings))


def write(work: Work) -> None:
    """Write what is asked for, the label map last, then the record that says that it is whole.

    Raises:
        OutputError: the label map cannot be written.
        StoreError: it cannot be sent.
    """
    if work.volume is None or work.prediction is None:
        return
    outputs = work.outputs
    volume, prediction, report = work.volume, work.prediction, work.report
    with prediction.timed("write"):
        written = {extra.option: files for extra in work.extras if (files := write_extra(extra, work))}
        if work.record is None:
            write_labels(work, written)
    if work.record is None:
        report.warnings = list(prediction.warnings)
        report.codes = [code for warning in prediction.warnings if (code := getattr(warning, "code", ""))]
        report.seconds = {name: round(seconds, 3) for name, seconds in prediction.seconds.items()}
        report.right, report.left = volumetry(volume, prediction.labels)
        report.measurements = measurements(work)
        report.sha256 = file_checksum(outputs.folder / work.case.output_name)
        report.status = Status.DONE
        work.record = Record(work.checksum, outputs.recipe, report.sha256, report, seen=work.seen)
    work.record.extras |= {option: within(outputs.folder, files) for option, files in written.items()}
    try:
        work.record.write(outputs.folder, work.case)
    except KitsError as error:
        miss(work, f"{work.case.name}: no record, so that a resumed run will do it again: {error}")
    work.place.publish(work.case)


def measurements(work: Work) -> dict[str, Any]:
    """A case's measurements as plain figures; whatever goes wrong is told, and costs no more."""
    assert work.volume is not None
    assert work.prediction is not None
    volume, prediction = work.volume, work.prediction
    try:
        return asdict(measured(volume, prediction))
    except Exception as error:
        log.debug("%s", work.case.name, exc_info=True)
        miss(work, f"{work.case.name}: no measurements: {sentence(error)}")
        return {}


def write_labels(work: Work, written: dict[str, list[Path]]) -> None:
    """Write the label map; if the disk is full of the case's extras, in their place.

    Raises:
        OutputError: it cannot be written.
    """
    assert work.volume is not None
    assert work.prediction is not None
    label_map = LabelMap("", work.outputs.folder)
    try:
        label_map.write(work.case, work.volume, work.prediction)
    except OutputError:
        if not written:
            raise
        for path in itertools.chain(*written.values()):
            path.unlink(missing_ok=True)
        written.clear()
        label_map.write(work.case, work.volume, work.prediction)
        miss(work, f"{work.case.name}: only the label map is written; for more there was no room.")


def write_extra(extra: Output, work: Work) -> list[Path]:
    """Write something that is not the result itself: whatever goes wrong is told, and costs no more."""
    assert work.volume is not None
    assert work.prediction is not None
    try:
        return extra.write(work.case, work.volume, work.prediction)
    except Exception as error:
        log.debug("%s", work.case.name, exc_info=True)
        miss(work, f"{work.case.name}: no {extra.name}: {sentence(error)}")
        return []


def miss(work: Work, text: str) -> None:
    """Note what is missing besides the label map."""
    text = work.told(text)
    work.report.missing.append(text)
    log.warning("%s", text)


def fail(work: Work, error: str) -> None:
    """Note that a case failed; a label map of another run does not stay under its name, but a proven one does."""
    if work.report.status == Status.SKIPPED:
        work.volume = None
        miss(work, f"{work.case.name}: what is missing besides the label map cannot be made: {error}")
        return
    if work.report.status == Status.DONE:  # but could not be sent
        report = work.report
        work.report = CaseReport(report.name, report.source, report.output, missing=report.missing)
    work.report.status, work.report.error = Status.FAILED, work.told(error)
    try:
        if stale := work.place.set_aside(work.case):
            work.report.error += f" The label map of an earlier run is now {printable(stale)}."
    except OSError as reason:
        work.report.error += f" The label map of an earlier run is still there ({reason.strerror}); remove it."
    except StoreError:
        work.report.error += " A label map of an earlier run may still be there."
