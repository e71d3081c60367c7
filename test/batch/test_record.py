"""A case is done only if its record proves it; what is stale is set aside; what is missing besides is made."""

import json
import os

import numpy as np
import pytest
import SimpleITK as sitk

from kits.batch.outputs import Overlay, Probabilities
from kits.batch.record import FOLDER
from kits.batch.report import Outputs
from kits.batch.run import run
from kits.errors import InputError, OutputError
from kits.io.cases import Case, find_cases
from kits.io.checksum import file_checksum, input_checksum
from test.batch.test_run import Thresholds, ct, image_of, names_in, out, scans, truncate

__all__ = ["ct", "out", "scans"]
RECIPE = {"mode": "native"}


def resumed(scans, out, cascade=None, recipe=RECIPE, extras=()):
    cascade = cascade or Thresholds()
    return cascade, run(find_cases(scans), cascade, Outputs(out, extras, True, recipe))


@pytest.fixture
def finished(scans, out):
    """The reports of a run that is done."""
    return run(find_cases(scans), Thresholds(), Outputs(out, recipe=RECIPE))


def test_cases_that_are_done_are_left_alone_and_keep_their_figures(scans, out, finished):
    cascade, reports = resumed(scans, out)
    assert cascade.seen == []
    assert [report.status for report in reports] == ["skipped"] * 3
    for before, after in zip(finished, reports, strict=True):
        assert (after.left, after.right, after.warnings) == (before.left, before.right, before.warnings)
        assert after.sha256 == before.sha256 == file_checksum(out / before.output)
        assert tuple(after.size) == before.size


HARMS = {
    "no record": lambda out, scans: (out / FOLDER / "b.nii.gz.json").unlink(),
    "a record that is no JSON": lambda out, scans: (out / FOLDER / "b.nii.gz.json").write_text("{"),
    "a record of something else": lambda out, scans: (out / FOLDER / "b.nii.gz.json").write_text("[1]"),
    "a record of another format": lambda out, scans: (out / FOLDER / "b.nii.gz.json").write_text('{"format": 7}'),
    "an empty label map": lambda out, scans: (out / "b.nii.gz").write_bytes(b""),
    "a label map cut short": lambda out, scans: truncate(out / "b.nii.gz"),
    "no label map": lambda out, scans: (out / "b.nii.gz").unlink(),
    "another case's label map": lambda out, scans: sitk.WriteImage(
        sitk.GetImageFromArray(np.ones((2, 3, 4), np.uint8)), str(out / "b.nii.gz")
    ),
    "another scan": lambda out, scans: sitk.WriteImage(
        sitk.ReadImage(str(scans / "b.nii.gz")) + 1, str(scans / "b.nii.gz")
    ),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_case_that_is_not_proven_is_done_again(scans, out, finished, harm):
    HARMS[harm](out, scans)
    cascade, reports = resumed(scans, out)
    assert cascade.seen == ["b"]
    assert [report.status for report in reports] == ["skipped", "done", "skipped"]
    assert sitk.ReadImage(str(out / "b.nii.gz")).GetSize() == (56, 48, 10)


def test_other_options_or_weights_do_all_again(scans, out, finished):
    cascade, _ = resumed(scans, out, recipe={"mode": "paper"})
    assert cascade.seen == ["a", "b", "c"]


def test_the_stale_label_map_of_a_case_that_fails_is_set_aside_by_name(scans, out, finished):
    truncate(scans / "b.nii.gz")
    _, reports = resumed(scans, out)
    assert reports[1].status == "failed"
    assert f"The label map of an earlier run is now {out / 'b.stale.nii.gz'}." in reports[1].error
    assert names_in(out) == ["a.nii.gz", "b.stale.nii.gz", "c.nii.gz"]


def test_extras_that_are_missing_are_made_from_the_label_map(scans, out, finished):
    extras = (Overlay(str(out / "pictures"), out),)
    cascade, reports = resumed(scans, out, extras=extras)
    assert (cascade.seen, [report.status for report in reports]) == ([], ["skipped"] * 3)
    assert names_in(out / "pictures") == ["a.png", "b.png", "c.png"]
    (out / "pictures" / "b.png").unlink()
    before = (out / "pictures" / "a.png").stat().st_mtime_ns
    resumed(scans, out, extras=extras)
    assert (out / "pictures" / "b.png").is_file()
    assert (out / "pictures" / "a.png").stat().st_mtime_ns == before, "what is there is left alone"


@pytest.mark.parametrize("flip", [(False, False, False), (True, False, True)])
def test_a_picture_made_from_a_label_map_is_the_one_made_at_once(tmp_path, out, ct, flip):
    sitk.WriteImage(image_of(ct, flip), str(tmp_path / "scan.nii.gz"))
    cases = find_cases(tmp_path / "scan.nii.gz")
    run(cases, Thresholds(), Outputs(out, (Overlay(str(tmp_path / "at once"), out),)))
    run(cases, Thresholds(), Outputs(out, (Overlay(str(tmp_path / "later"), out),), True))
    assert (tmp_path / "at once" / "scan.png").read_bytes() == (tmp_path / "later" / "scan.png").read_bytes()


def test_an_extra_that_label_maps_do_not_tell_takes_another_prediction(scans, out, finished):
    cascade, _ = resumed(scans, out, extras=(Probabilities("", out),))
    assert cascade.seen == ["a", "b", "c"]
    cascade, _ = resumed(scans, out, extras=(Probabilities("", out),))
    assert cascade.seen == []


def test_an_extra_that_cannot_be_made_later_leaves_the_proven_label_map(scans, out, finished):
    (out / "pictures" / "b.png").mkdir(parents=True)
    _, reports = resumed(scans, out, extras=(Overlay(str(out / "pictures"), out),))
    assert [report.status for report in reports] == ["skipped"] * 3
    assert "no overlay" in reports[1].missing[0]
    assert (out / "b.nii.gz").is_file()


def test_extras_that_fill_the_disk_make_room_for_the_label_map(scans, out, monkeypatch):
    from kits.batch.outputs import LabelMap

    write = LabelMap.write

    def full_with_pictures(self, *rest):
        if any((out / "pictures").glob("*.png")):
            raise OutputError("no room")
        return write(self, *rest)

    monkeypatch.setattr(LabelMap, "write", full_with_pictures)
    (report,) = run(find_cases(scans / "a.nii.gz"), Thresholds(), Outputs(out, (Overlay(str(out / "pictures"), out),)))
    assert (report.status, names_in(out)) == ("done", ["a.nii.gz"])
    assert "only the label map is written" in report.missing[0]


def test_a_record_that_cannot_be_written_costs_no_label_map(scans, out):
    out.mkdir()
    (out / FOLDER).write_text("in the way")
    reports = run(find_cases(scans), Thresholds(), Outputs(out))
    assert [report.status for report in reports] == ["done"] * 3
    assert "no record" in reports[0].missing[0]
    assert names_in(out) == ["a.nii.gz", "b.nii.gz", "c.nii.gz"]


def test_a_record_is_json_a_case_and_names_what_decided_the_labels(scans, out, finished):
    record = json.loads((out / FOLDER / "a.nii.gz.json").read_text())
    assert record["recipe"] == RECIPE
    assert record["input"] == file_checksum(scans / "a.nii.gz")
    assert record["labels"] == file_checksum(out / "a.nii.gz")
    assert record["report"]["left"] == finished[0].left


def test_a_name_that_would_be_too_long_is_refused_before_any_work(tmp_path, out, ct):
    scan = tmp_path / f"{'n' * 250}.nii"
    sitk.WriteImage(image_of(ct), str(tmp_path / "short.nii"))
    (tmp_path / "short.nii").rename(scan)
    cascade = Thresholds()
    (report,) = run(find_cases(scan), cascade, Outputs(out))
    assert (report.status, cascade.seen) == ("failed", [])
    assert "would be too long; rename the scan" in report.error


def test_a_long_name_has_its_label_map_record_and_picture(tmp_path, out, ct):
    name = "n" * 248
    sitk.WriteImage(image_of(ct), str(tmp_path / "short.nii.gz"))
    (tmp_path / "short.nii.gz").rename(tmp_path / f"{name}.nii.gz")
    cases = find_cases(tmp_path / f"{name}.nii.gz")
    (report,) = run(cases, Thresholds(), Outputs(out, (Overlay(str(out / "pictures"), out),)))
    assert (report.status, report.missing) == ("done", [])
    _, (report,) = resumed(tmp_path / f"{name}.nii.gz", out, recipe={})
    assert report.status == "skipped"


def test_a_folder_s_checksum_tells_its_files_and_waits_for_no_pipe(tmp_path):
    folder = tmp_path / "dicom"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "1").write_text("one")
    case = Case("dicom", folder, "dicom.nii.gz")
    first = input_checksum(case)
    os.mkfifo(folder / "pipe")
    (folder / "nowhere").symlink_to(tmp_path / "nowhere")
    assert input_checksum(case) == first
    (folder / "deep" / "1").rename(folder / "deep" / "2")
    assert input_checksum(case) != first


def test_a_scan_that_cannot_be_opened_is_told(tmp_path):
    with pytest.raises(InputError, match="cannot be opened"):
        input_checksum(Case("none", tmp_path / "none.nii.gz", "none.nii.gz"))


@pytest.mark.parametrize(
    ("header", "text", "voxels"),
    [
        ("a.mhd", "NDims = 3\nElementDataFile = other.raw\n", "other.raw"),
        ("a.nhdr", "NRRD0004\ndata file: other.raw\n", "other.raw"),
        ("a.hdr", "", "a.img"),
        ("IM0001", "", "IM0002"),
    ],
)
def test_a_scan_s_checksum_tells_of_all_files_that_it_is_read_from(tmp_path, header, text, voxels):
    (tmp_path / header).write_text(text)
    (tmp_path / voxels).write_bytes(b"voxels")
    (tmp_path / "b.nii.gz").write_bytes(b"another scan")
    case = Case("a", tmp_path / header, "a.nii.gz")
    first = input_checksum(case)
    assert input_checksum(case) == first
    (tmp_path / voxels).write_bytes(b"others")
    assert input_checksum(case) != first
