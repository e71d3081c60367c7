"""Cases are found and named by rule at any depth, and what cannot be used is told by name."""

import os
from pathlib import Path

import numpy as np
import pytest

from kits.errors import InputError
from kits.io.cases import find_cases, survey
from kits.io.images import read_volume
from test.helpers.scans import ct, dicom_slice, save_dicom, write_nifti, write_series


def names(folder):
    return {case.name: case.output_name for case in find_cases(folder)}


def test_flat_files_of_every_kind_are_found_and_sorted(tmp_path):
    for name in ("d.nii", "c.nii.gz", "B.MHA", "a.nrrd", ".hidden.nii.gz", "notes.txt", "x.gz"):
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / ".partial").mkdir()
    assert list(names(tmp_path).items()) == [(n, f"{n}.nii.gz") for n in "Bacd"]


def test_kits_folders_give_prediction_names_and_other_files_in_them_are_ignored(tmp_path):
    for name in ("imaging.nii.gz", "segmentation.nii.gz", "aggregated_OR_seg.nii.gz"):
        for case in ("case_00210", "case_00007"):
            (tmp_path / case).mkdir(exist_ok=True)
            (tmp_path / case / name).touch()
    (tmp_path / "imaging_00211.nii.gz").touch()
    expected = {f"case_{n}": f"prediction_{n}.nii.gz" for n in ("00007", "00210", "00211")}
    assert names(tmp_path) == expected
    assert names(tmp_path / "case_00210") == {"case_00210": "prediction_00210.nii.gz"}
    assert names(tmp_path / "case_00210" / "imaging.nii.gz") == {"case_00210": "prediction_00210.nii.gz"}


def test_the_name_of_the_current_folder_counts(tmp_path, monkeypatch):
    write_nifti(tmp_path / "case_00012" / "imaging.nii.gz")
    monkeypatch.chdir(tmp_path / "case_00012")
    assert names(Path()) == {"case_00012": "prediction_00012.nii.gz"}


def test_dicom_folders_are_cases(tmp_path):
    write_series(tmp_path / "patient7", places=[0])
    (tmp_path / "patient7" / "report.txt").write_text("no DICOM")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "report.txt").write_text("no DICOM")
    assert names(tmp_path) == names(tmp_path / "patient7") == {"patient7": "patient7.nii.gz"}


@pytest.mark.parametrize(("one", "other"), [("a.nii", "a.mha"), ("case_00001/imaging.nii.gz", "imaging_00001.nrrd")])
def test_two_inputs_for_one_output_are_refused_by_name(tmp_path, one, other):
    for name in (one, other):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(InputError) as caught:
        find_cases(tmp_path)
    assert str(tmp_path / one) in str(caught.value)
    assert str(tmp_path / other) in str(caught.value)


@pytest.mark.parametrize("name", ["", "nowhere", "notes.txt"])
def test_nothing_found_says_what_was_looked_for_and_where(tmp_path, name):
    (tmp_path / "notes.txt").write_text("no volume")
    with pytest.raises(InputError, match=r"\*\.nii\.gz.*DICOM") as caught:
        find_cases(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_other_folders_are_looked_into_and_named_after_themselves_if_they_hold_one_case(tmp_path):
    write_nifti(tmp_path / "s0001" / "ct.nii.gz")
    write_nifti(tmp_path / "s0001" / "segmentations" / "kidney_left.nii.gz")
    write_series(tmp_path / "patient" / "study" / "series")
    for name in ("thin", "thick"):
        write_series(tmp_path / "other" / "study" / name)
    found = survey(tmp_path)
    assert [case.output_name for case in found.cases] == [
        "other_study_thick.nii.gz",
        "other_study_thin.nii.gz",
        "patient.nii.gz",
        "s0001.nii.gz",
    ]
    assert not found.passed_over
    assert found.ignored == ["s0001/segmentations"]


def test_kits_cases_are_known_at_any_depth(tmp_path):
    write_nifti(tmp_path / "kits19" / "data" / "case_00005" / "imaging.nii.gz")
    assert names(tmp_path) == {"case_00005": "prediction_00005.nii.gz"}


def passed_over(tmp_path):
    write_nifti(tmp_path / "good.nii.gz")
    found = survey(tmp_path)
    assert [case.name for case in found.cases] == ["good"]
    return found.passed_over


def test_what_looks_like_a_volume_but_cannot_be_used_is_named(tmp_path):
    (tmp_path / "dangling.nii.gz").symlink_to("/nowhere/scan.nii.gz")
    (tmp_path / "mounted_later").symlink_to("/nowhere")
    os.mkfifo(tmp_path / "pipe.mha")
    for name in (".hidden.nii.gz", "alone.img", "alone.raw", "packed.nii.bz2", "free.mgz"):
        (tmp_path / name).touch()
    (tmp_path / "case_00001").mkdir()
    (tmp_path / "case_00001" / "segmentation.nii.gz").touch()
    sentences = passed_over(tmp_path)
    for name, reason in {
        "dangling.nii.gz": "link to nowhere",
        "mounted_later": "link to nowhere",
        "pipe.mha": "no regular file",
        ".hidden.nii.gz": "hidden",
        "alone.img": "no header",
        "alone.raw": "no header",
        "packed.nii.bz2": "convert it",
        "free.mgz": "convert it",
        "case_00001": "not downloaded",
    }.items():
        assert any(one.startswith(f"{tmp_path / name}: ") and reason in one for one in sentences), name
    assert len(sentences) == 9


def test_companions_of_other_systems_and_unfinished_files_are_nothing_to_tell_of(tmp_path):
    for name in ("._good.nii.gz", ".DS_Store", ".partial-1234.nii.gz"):
        (tmp_path / name).touch()
    assert passed_over(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_without_permission_costs_no_other_case(tmp_path):
    (tmp_path / "locked").mkdir(mode=0)
    (sentence,) = passed_over(tmp_path)
    assert sentence == f"{tmp_path / 'locked'}: cannot be read (Permission denied); check its permissions."


def test_a_folder_that_cannot_be_listed_costs_no_other_case(tmp_path, monkeypatch):
    (tmp_path / "locked").mkdir()
    listed = type(tmp_path).iterdir

    def iterdir(path):
        if path.name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(type(tmp_path), "iterdir", iterdir)
    (sentence,) = passed_over(tmp_path)
    assert sentence == f"{tmp_path / 'locked'}: cannot be read (Permission denied); check its permissions."


def test_links_in_a_circle_end(tmp_path):
    (tmp_path / "again").symlink_to(tmp_path)
    assert passed_over(tmp_path) == []


def test_the_output_s_folder_is_not_looked_into(tmp_path):
    write_nifti(tmp_path / "scan.nii.gz")
    write_nifti(tmp_path / "out" / "scan.nii.gz")
    assert [case.source for case in survey(tmp_path, [tmp_path / "out"]).cases] == [tmp_path / "scan.nii.gz"]


def test_names_of_two_lines_and_of_no_encoding_are_printable_and_kept(tmp_path):
    write_nifti(tmp_path / "two\nlines.nii.gz")
    latin = os.fsdecode(b"m\xe9d")
    write_nifti(tmp_path / f"{latin}.nii.gz")
    assert names(tmp_path) == {"m\\udce9d": f"{latin}.nii.gz", "two\\nlines": "two\nlines.nii.gz"}
    for case in find_cases(tmp_path):
        np.testing.assert_array_equal(read_volume(case).hu, ct())


def test_dicom_without_its_preamble_is_a_case(tmp_path):
    write_series(tmp_path / "p")
    for path in (tmp_path / "p").iterdir():
        path.write_bytes(path.read_bytes()[132:])
    np.testing.assert_array_equal(read_volume(find_cases(tmp_path)[0]).hu, ct())


def test_a_dicom_file_stands_for_its_series(tmp_path):
    write_series(tmp_path)
    save_dicom(dicom_slice(ct()[0], 50, SeriesInstanceUID="1.2.3.5"), tmp_path / "other.dcm")
    (case,) = find_cases(tmp_path / "099.dcm")
    assert (case.name, case.output_name) == ("099", "099.nii.gz")
    np.testing.assert_array_equal(read_volume(case).hu, ct())


def test_detached_headers_are_cases_and_their_data_files_are_none(tmp_path):
    for header, data in (("a.hdr", "a.img"), ("b.mhd", "b.raw"), ("c.mhd", "c.zraw"), ("d.nhdr", "d.raw.gz")):
        (tmp_path / header).touch()
        (tmp_path / data).touch()
    found = survey(tmp_path)
    assert [case.name for case in found.cases] == list("abcd")
    assert not found.passed_over
    assert not found.ignored
