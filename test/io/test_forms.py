"""A challenge's folder form is told by what lies in the input folder."""

import json

import pytest

from kits.errors import InputError
from kits.io.forms import recognise


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def job(folder, *relative_paths, key="socket"):
    """An ``inputs.json`` in the form of grand-challenge.org, and an image under the first of its paths."""
    touch(folder / relative_paths[0] / "0a1b2c3d.mha")
    values = [{key: {"slug": path.rsplit("/")[-1], "relative_path": path}, "image": None} for path in relative_paths]
    (folder / "inputs.json").write_text(json.dumps(values))


def outputs(form):
    return [case.output_name for case in form.cases]


def test_flat_files_and_kits19_folders_are_told_apart_and_may_be_mixed(tmp_path):
    touch(tmp_path / "b.mha")
    assert recognise(tmp_path).description == "files"
    assert recognise(tmp_path / "b.mha").description == "files"
    touch(tmp_path / "case_00210" / "imaging.nii.gz")
    form = recognise(tmp_path)
    assert form.description == "files and KiTS19 case folders"
    assert outputs(form) == ["b.nii.gz", "prediction_00210.nii.gz"]


def test_kits21_gives_every_mha_its_own_name_back(tmp_path):
    for name in ("b.mha", "a.MHA", "._b.mha", "note.txt"):
        touch(tmp_path / "images" / "ct" / name)
    form = recognise(tmp_path)
    assert form.description == "KiTS21's, images/ct/*.mha"
    assert outputs(form) == ["images/kidney-tumor-and-cyst/a.MHA", "images/kidney-tumor-and-cyst/b.mha"]
    assert [case.stem for case in form.cases] == ["a", "b"]


def test_kits21_without_images_is_told(tmp_path):
    touch(tmp_path / "images" / "ct" / "note.txt")
    with pytest.raises(InputError, match=r"images/ct: no CT volume found"):
        recognise(tmp_path)


@pytest.mark.parametrize("key", ["socket", "interface"])
def test_grand_challenge_names_the_one_image_of_a_job(tmp_path, key):
    job(tmp_path, "images/abdominal-ct", "age.json", key=key)
    form = recognise(tmp_path, "labels")
    assert form.description == "a grand-challenge.org job on images/abdominal-ct/0a1b2c3d.mha"
    assert outputs(form) == ["images/labels/output.mha"]
    assert form.cases[0].source == tmp_path / "images" / "abdominal-ct" / "0a1b2c3d.mha"


def test_inputs_json_goes_before_kits21_which_has_the_same_folder(tmp_path):
    job(tmp_path, "images/ct")
    assert outputs(recognise(tmp_path)) == ["images/kidney-tumor-and-cyst/output.mha"]


@pytest.mark.parametrize("text", ["", "{}x", "[1]", '{"a": 1}', "[{}]", '[{"socket": {"slug": "ct"}}]', "[[]]"])
def test_an_inputs_json_of_another_kind_is_refused(tmp_path, text):
    (tmp_path / "inputs.json").write_text(text)
    with pytest.raises(InputError, match=r"inputs\.json: is not grand-challenge"):
        recognise(tmp_path)


@pytest.mark.parametrize("paths", [["age.json"], ["images/ct", "images/pet"], ["images/../../secret"], ["/etc"]])
def test_a_job_without_exactly_one_image_is_refused(tmp_path, paths):
    values = [{"socket": {"relative_path": path}} for path in paths]
    (tmp_path / "inputs.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=rf"inputs\.json: names {len(paths) if len(paths) > 1 else 0} images"):
        recognise(tmp_path)


@pytest.mark.parametrize("names", [[], ["a.tif"], ["a.mha", "b.mha"]])
def test_a_job_whose_folder_holds_another_number_of_mha_files_is_refused(tmp_path, names):
    job(tmp_path, "images/ct")
    (tmp_path / "images" / "ct" / "0a1b2c3d.mha").unlink()
    for name in names:
        touch(tmp_path / "images" / "ct" / name)
    with pytest.raises(InputError, match=r"should hold one \*\.mha"):
        recognise(tmp_path)


def test_one_folder_of_images_is_enough_without_inputs_json(tmp_path):
    touch(tmp_path / "images" / "abdominal-ct" / "0a1b2c3d.mha")
    form = recognise(tmp_path)
    assert form.description == "KiTS21's, images/abdominal-ct/*.mha"
    assert outputs(form) == ["images/kidney-tumor-and-cyst/0a1b2c3d.mha"]


def test_several_folders_of_images_without_inputs_json_are_refused_by_name(tmp_path):
    for name in ("abdominal-ct", "pet"):
        touch(tmp_path / "images" / name / "a.mha")
    with pytest.raises(InputError, match=r"several folders hold images \(abdominal-ct, pet\)"):
        recognise(tmp_path)


def test_what_a_form_passes_over_is_named(tmp_path):
    for name in ("a.mha", "b.nii.gz", ".c.mha"):
        touch(tmp_path / "images" / "ct" / name)
    form = recognise(tmp_path)
    assert [one.split(": ")[0] for one in form.passed_over] == [
        str(tmp_path / "images" / "ct" / name) for name in (".c.mha", "b.nii.gz")
    ]
    touch(tmp_path / "files" / "a.nii.gz")
    touch(tmp_path / "files" / "b.mgz")
    touch(tmp_path / "files" / "notes.txt")
    form = recognise(tmp_path / "files")
    assert form.passed_over == [
        f"{tmp_path / 'files' / 'b.mgz'}: is of a kind that is not read; convert it to .nii.gz."
    ]
    assert form.ignored == ["notes.txt"]
