"""The zip file that KiTS19's leaderboard takes: ``prediction_00210.nii.gz`` and its like, at the root."""

from __future__ import annotations

import logging
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

from kits.batch.report import CaseReport
from kits.choices import Status
from kits.errors import InputError, OutputError
from kits.io.atomic import aside
from kits.io.cases import Case
from kits.io.checksum import file_checksum

TEST_CASES = range(210, 300)
"""KiTS19's test set; the leaderboard wants a prediction of each."""
log = logging.getLogger(__name__)


def check_names(cases: Sequence[Case]) -> None:
    """Refuse cases that the leaderboard would not know, before any work is done.

    Raises:
        InputError: a case is not named as KiTS19's are.
    """
    for case in cases:
        if not re.fullmatch(r"prediction_\d{5}\.nii\.gz", case.output_name):
            raise InputError(
                f"{case.place}: a submission holds prediction_NNNNN.nii.gz only, not {case.output_name}; "
                "name scans as KiTS19 does, case_00210/imaging.nii.gz, or leave --zip out."
            )


def is_whole(report: CaseReport, folder: Path) -> bool:
    """Whether a case is done and its label map still the one that was written."""
    try:
        return report.status in (Status.DONE, Status.SKIPPED) and (
            report.sha256 == file_checksum(folder / report.output)
        )
    except OSError:
        return False


def write_zip(reports: Sequence[CaseReport], folder: Path, path: Path, allow_incomplete: bool = False) -> None:
    """Pack the label maps of a run that are as it left them: either the whole zip comes under its name, or none.

    Args:
        reports: of the run.
        folder: where it wrote label maps.
        path: the zip file.
        allow_incomplete: pack those that are done, though others are not.

    Raises:
        OutputError: A case has no label map, or the zip cannot be written.
    """
    whole = {report.output for report in reports if is_whole(report, folder)}
    missing = [report.output for report in reports if report.output not in whole]
    if not whole or (missing and not allow_incomplete):
        raise OutputError(
            f"{path}: not written, {len(missing)} of {len(reports)} predictions are missing, {missing[0]} the first; "
            "mend what failed, or add --zip-incomplete."
        )
    with aside(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:  # they are compressed
        for name in sorted(whole):
            archive.write(folder / name, name)
    absent = {f"prediction_{number:05d}.nii.gz" for number in TEST_CASES} - whole
    log.info("%s: %d predictions%s.", path, len(whole), f"; KiTS19's test set has {len(absent)} more" if absent else "")
