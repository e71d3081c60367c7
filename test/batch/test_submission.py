"""The submission zip holds every prediction at its root, or does not come to be."""

import logging
import zipfile
from pathlib import Path

import pytest

from kits.batch.report import CaseReport
from kits.batch.submission import check_names, write_zip
from kits.choices import Status
from kits.errors import InputError, OutputError
from kits.io.cases import Case
from kits.io.checksum import file_checksum


@pytest.fixture
def reports(tmp_path):
    """Two finished cases, whose label maps are there, and a failed one, whose map of an earlier run is."""
    statuses = {"prediction_00210.nii.gz": "done", "prediction_00211.nii.gz": "skipped"}
    found = []
    for name, status in (statuses | {"prediction_00212.nii.gz": "failed"}).items():
        (tmp_path / name).write_text(name)
        found.append(CaseReport(name, name, name, Status(status), sha256=file_checksum(tmp_path / name)))
    return found


def test_finished_predictions_lie_at_the_root(tmp_path, reports, caplog):
    caplog.set_level(logging.INFO)
    write_zip(reports[:2], tmp_path, tmp_path / "submission.zip")
    with zipfile.ZipFile(tmp_path / "submission.zip") as archive:
        assert archive.namelist() == ["prediction_00210.nii.gz", "prediction_00211.nii.gz"]
        assert archive.read("prediction_00211.nii.gz") == b"prediction_00211.nii.gz"
    assert caplog.messages == [f"{tmp_path / 'submission.zip'}: 2 predictions; KiTS19's test set has 88 more."]


def test_an_incomplete_set_is_refused_unless_told(tmp_path, reports):
    path = tmp_path / "submission.zip"
    with pytest.raises(OutputError, match=r"not written, 1 of 3 predictions are missing, prediction_00212\.nii\.gz"):
        write_zip(reports, tmp_path, path)
    assert not path.exists()
    write_zip(reports, tmp_path, path, allow_incomplete=True)
    with zipfile.ZipFile(path) as archive:
        assert len(archive.namelist()) == 2


@pytest.mark.parametrize("harm", ["gone", "empty", "another", "a folder"])
def test_a_label_map_that_is_not_the_one_that_was_written_is_not_packed(tmp_path, reports, harm):
    path = tmp_path / "prediction_00211.nii.gz"
    path.unlink()
    if harm == "a folder":
        path.mkdir()
    elif harm != "gone":
        path.write_text("" if harm == "empty" else "another")
    with pytest.raises(OutputError, match=r"1 of 2 predictions are missing, prediction_00211"):
        write_zip(reports[:2], tmp_path, tmp_path / "submission.zip")
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".zip")]


def test_an_empty_zip_is_never_written(tmp_path, reports):
    with pytest.raises(OutputError, match="not written"):
        write_zip(reports[2:], tmp_path, tmp_path / "submission.zip", allow_incomplete=True)
    assert not (tmp_path / "submission.zip").exists()


@pytest.mark.parametrize("name", ["scan.nii.gz", "prediction_210.nii.gz", "images/x/output.mha"])
def test_names_that_the_leaderboard_does_not_know_are_refused(name):
    with pytest.raises(InputError, match="a submission holds"):
        check_names([Case("scan", Path("scan.nii.gz"), name)])
