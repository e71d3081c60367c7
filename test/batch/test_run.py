"""Many cases: one that fails costs no other its result, and the manifest tells what became of each."""

import errno
import gzip
import json
import logging
import threading

import numpy as np
import pytest
import SimpleITK as sitk

from kits.batch.outputs import LabelMap, Overlay, Probabilities
from kits.batch.report import Manifest, Outputs
from kits.batch.run import run
from kits.cascade.cascade import Prediction
from kits.errors import OutputError
from kits.io.cases import find_cases
from kits.io.volume import Volume

SPACING = (3.0, 0.8, 0.7)
VOXEL_ML = 3.0 * 0.8 * 0.7 / 1000
SHAPE = (10, 48, 56)


class Thresholds:
    """Stands in for the cascade: what lies above 110 HU is kidney, above 240 HU tumour.

    Args:
        fail: case name -> exception to raise instead.
        watch: called with the volume's name before each prediction.
    """

    def __init__(self, fail=(), watch=lambda name: None):
        self.fail, self.watch, self.seen = dict(fail), watch, []

    def predict(self, volume, keep_probabilities=False, progress=lambda done: None):
        self.watch(volume.name)
        self.seen.append(volume.name)
        if volume.name in self.fail:
            raise self.fail[volume.name]
        labels = (volume.hu > 110).astype(np.uint8) + (volume.hu > 240)
        result = Prediction(labels, [], [*volume.warnings, "Look twice."])
        if keep_probabilities:
            result.probabilities = np.stack([100 * (labels > 0), 100 * (labels > 1)]).astype(np.uint8)
        with result.timed("segment"):
            progress(0.5)
            progress(1.0)
        return result


def image_of(hu, flip=(False, False, False)):
    """The canonical array as an image, stored backwards along some of the axes (x, y, z)."""
    image = sitk.GetImageFromArray(hu)
    image.SetSpacing(SPACING[::-1])
    image.SetOrigin((-20.5, 33.25, 100.0))
    return sitk.Flip(image, flip)


@pytest.fixture
def ct(make_ct):
    """Kidneys of 180 HU, and a tumour of 260 HU within the left one."""
    hu = make_ct(SHAPE, SPACING)
    hu[3:6, 24:30, 36:42] = 260
    return hu


@pytest.fixture
def scans(tmp_path, ct):
    """A folder of three good scans, a, b and c."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for name in "abc":
        sitk.WriteImage(image_of(ct), str(folder / f"{name}.nii.gz"))
    return folder


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def truncate(path):
    path.write_bytes(path.read_bytes()[:-200])


def names_in(folder):
    """The files that are not hidden, as records are."""
    names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    return sorted(name for name in names if not name.startswith("."))


def test_every_case_gets_a_label_map_on_its_own_grid_and_a_report(scans, out, ct):
    reports = run(find_cases(scans), Thresholds(), Outputs(out))
    assert [report.status for report in reports] == ["done"] * 3
    assert names_in(out) == ["a.nii.gz", "b.nii.gz", "c.nii.gz"]
    given, written = sitk.ReadImage(str(scans / "a.nii.gz")), sitk.ReadImage(str(out / "a.nii.gz"))
    assert written.GetPixelID() == sitk.sitkUInt8
    assert (written.GetSize(), written.GetSpacing()) == (given.GetSize(), given.GetSpacing())
    assert (written.GetOrigin(), written.GetDirection()) == (given.GetOrigin(), given.GetDirection())
    np.testing.assert_array_equal(sitk.GetArrayFromImage(written), (ct > 110).astype(int) + (ct > 240))
    report = reports[0]
    assert (report.name, report.source, report.output) == ("a", str(scans / "a.nii.gz"), "a.nii.gz")
    assert report.size == (56, 48, 10)
    assert report.spacing_mm == pytest.approx((0.7, 0.8, 3.0))
    assert report.warnings == ["Look twice."]
    assert report.error == ""
    assert report.seconds.keys() == {"read", "segment", "write"}


@pytest.mark.parametrize("bad", ["a", "b", "c"])
def test_a_case_that_cannot_be_read_costs_no_other_its_result(scans, out, bad):
    truncate(scans / f"{bad}.nii.gz")
    reports = run(find_cases(scans), Thresholds(), Outputs(out, (Probabilities("", out),)))
    assert {report.name: report.status for report in reports} == {
        name: "failed" if name == bad else "done" for name in "abc"
    }
    failed = next(report for report in reports if report.name == bad)
    assert failed.error.startswith(f"{scans / f'{bad}.nii.gz'}: cannot be read as .nii.gz")
    good = sorted(set("abc") - {bad})
    assert names_in(out) == sorted(
        [f"{n}.nii.gz" for n in good]
        + [f"probabilities/{n}_{of}_percent.nii.gz" for n in good for of in ("kidney", "tumour")]
    )


@pytest.mark.parametrize("error", [ValueError("two\nlines"), RuntimeError(), KeyError("x"), AssertionError("no")])
def test_an_unexpected_exception_stops_one_case_only(scans, out, error):
    reports = run(find_cases(scans), Thresholds(fail={"b": error}), Outputs(out))
    assert [report.status for report in reports] == ["done", "failed", "done"]
    assert str(scans / "b.nii.gz") in reports[1].error
    assert type(error).__name__ in reports[1].error
    assert names_in(out) == ["a.nii.gz", "c.nii.gz"]


def test_a_case_for_which_memory_runs_out_says_so(scans, out):
    reports = run(find_cases(scans), Thresholds(fail={"a": MemoryError()}), Outputs(out))
    assert [report.status for report in reports] == ["failed", "done", "done"]
    assert "memory ran out" in reports[0].error


def test_a_result_that_cannot_be_written_fails_its_case_only(scans, out):
    (out / "b.nii.gz" / "in the way").mkdir(parents=True)
    reports = run(find_cases(scans), Thresholds(), Outputs(out))
    assert [report.status for report in reports] == ["done", "failed", "done"]
    assert str(out / "b.nii.gz") in reports[1].error
    assert names_in(out) == ["a.nii.gz", "c.nii.gz"]


def test_a_picture_that_cannot_be_written_costs_no_label_map(scans, out):
    (out / "pictures" / "a.png").mkdir(parents=True)
    (report,) = run(find_cases(scans / "a.nii.gz"), Thresholds(), Outputs(out, (Overlay(str(out / "pictures"), out),)))
    assert (report.status, report.error) == ("done", "")
    (told,) = report.missing
    assert told.startswith(f"a: no overlay: {out / 'pictures' / 'a.png'}: cannot be written")
    assert names_in(out) == ["a.nii.gz"]


def test_label_maps_that_are_there_are_replaced_otherwise(scans, out):
    out.mkdir()
    (out / "b.nii.gz").write_bytes(b"from an earlier run")
    assert [report.status for report in run(find_cases(scans), Thresholds(), Outputs(out))] == ["done"] * 3
    assert sitk.ReadImage(str(out / "b.nii.gz")).GetSize() == (56, 48, 10)


def test_probabilities_are_percent_maps_on_the_scan_s_grid(scans, out, ct):
    run(find_cases(scans / "a.nii.gz"), Thresholds(), Outputs(out, (Probabilities("", out),)))
    given = sitk.ReadImage(str(scans / "a.nii.gz"))
    for name, expected in (("kidney", ct > 110), ("tumour", ct > 240)):
        image = sitk.ReadImage(str(out / "probabilities" / f"a_{name}_percent.nii.gz"))
        assert image.GetPixelID() == sitk.sitkUInt8
        assert image.GetOrigin() == given.GetOrigin()
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image), 100 * expected)


def test_no_probabilities_and_no_pictures_unless_asked_for(scans, out):
    run(find_cases(scans / "a.nii.gz"), Thresholds(), Outputs(out))
    assert names_in(out) == ["a.nii.gz"]


def test_the_report_is_true_whenever_the_run_is_looked_at(scans, out):
    truncate(scans / "b.nii.gz")
    path, seen = out / "report.json", {}

    def look(name):
        seen[name] = json.loads(path.read_text())

    manifest = Manifest(path)
    manifest.begin()
    reports = run(find_cases(scans), Thresholds(watch=look), Outputs(out), manifest=manifest)
    told = [(entry["name"], entry["status"]) for entry in seen["c"]]
    assert told in ([("a", "done")], [("a", "done"), ("b", "failed")])  # b may be on its way
    assert seen["a"] == []
    final = json.loads(path.read_text())
    assert [entry["status"] for entry in final] == ["done", "failed", "done"]
    assert final[1]["error"] == reports[1].error
    assert final[0]["size"] == [56, 48, 10]
    assert final[0]["left"] == reports[0].left
    assert names_in(out) == ["a.nii.gz", "c.nii.gz", "report.json"]


def test_the_last_case_is_written_while_the_next_is_segmented(scans, out, monkeypatch):
    second_begun = threading.Event()
    write = LabelMap.write

    def write_once_the_next_is_begun(self, case, *rest):
        assert case.name != "a" or second_begun.wait(30)
        return write(self, case, *rest)

    monkeypatch.setattr(LabelMap, "write", write_once_the_next_is_begun)
    reports = run(find_cases(scans), Thresholds(watch=lambda name: name == "b" and second_begun.set()), Outputs(out))
    assert [report.status for report in reports] == ["done"] * 3


def test_no_more_than_one_case_waits_to_be_written(scans, out, monkeypatch):
    written, at_start = [], {}
    write = LabelMap.write

    def note(self, case, *rest):
        paths = write(self, case, *rest)
        written.append(case.name)
        return paths

    monkeypatch.setattr(LabelMap, "write", note)
    run(find_cases(scans), Thresholds(watch=lambda name: at_start.update({name: list(written)})), Outputs(out))
    assert "a" in at_start["c"]


def test_a_report_that_takes_long_to_write_is_not_written_after_each_case(scans, out, monkeypatch):
    clock, written = [100.0], []
    monkeypatch.setattr("kits.batch.report.time.monotonic", lambda: clock[0])

    def slowly(text, path):
        clock[0] += 1.0
        written.append(len(json.loads(text)))

    monkeypatch.setattr("kits.batch.report.write_text", slowly)
    manifest = Manifest(out / "report.json")
    reports = run(find_cases(scans), Thresholds(), Outputs(out))
    for count, now in ((1, 200.0), (2, 219.0), (3, 220.0)):  # 20 times as long as it took
        clock[0] = now
        manifest.write(reports[:count])
    assert written == [1, 3]
    manifest.end(reports)
    assert written == [1, 3, 3], "at the end whatever the time"


def test_an_interrupted_run_leaves_the_report_of_what_is_done(scans, out):
    path = out / "report.json"
    with pytest.raises(KeyboardInterrupt):
        run(find_cases(scans), Thresholds(fail={"c": KeyboardInterrupt()}), Outputs(out), manifest=Manifest(path))
    assert [entry["name"] for entry in json.loads(path.read_text())] == ["a", "b"]
    assert names_in(out) == ["a.nii.gz", "b.nii.gz", "report.json"]


def test_a_report_that_cannot_be_written_is_noticed_before_any_work(out):
    (out / "report.json").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"report\.json.*cannot be written"):
        Manifest(out / "report.json").begin()


def test_a_report_whose_disk_is_full_costs_no_run(scans, out, monkeypatch):
    def full(text, path):
        raise OutputError(f"{path}: no room") from OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("kits.batch.report.write_text", full)
    manifest = Manifest(out / "report.json")
    manifest.begin()
    reports = run(find_cases(scans), Thresholds(), Outputs(out), manifest=manifest)
    assert [report.status for report in reports] == ["done"] * 3
    assert "no room" in manifest.complaint


def test_the_next_volume_is_read_while_one_is_segmented_and_no_further_one(scans, out, monkeypatch):
    read = {name: threading.Event() for name in "abc"}

    def read_volume(_, case):
        read[case.name].set()
        return volume_of(case)

    def look(name):
        if name != "c":
            assert read["b" if name == "a" else "c"].wait(30)
        assert read["c"].is_set() == (name != "a")

    monkeypatch.setattr("kits.io.reader.Reader.read", read_volume)
    assert [report.error for report in run(find_cases(scans), Thresholds(watch=look), Outputs(out))] == [""] * 3


def volume_of(case):
    hu = np.full((2, 8, 8), -1000, np.int16)
    hu[:, 2:6, 2:6] = 180
    return Volume.from_array(hu, SPACING, case.name)


def test_a_line_a_case_is_logged(scans, out, caplog):
    caplog.set_level(logging.INFO)
    truncate(scans / "b.nii.gz")
    run(find_cases(scans), Thresholds(), Outputs(out))
    a, b, c = sorted(record.getMessage() for record in caplog.records)  # one is written while the next is segmented
    assert a.startswith("1/3 a: kidney ")
    assert a.endswith(" s. Look twice.")
    assert b == "2/3 b: failed."
    assert c.startswith("3/3 c: kidney ")


FLIPS = [(False, False, False), (True, False, False), (True, True, False), (False, True, True)]


@pytest.mark.parametrize("flip", FLIPS)
def test_sides_and_millilitres_are_the_patient_s_however_the_scan_is_stored(tmp_path, out, ct, flip):
    sitk.WriteImage(image_of(ct, flip), str(tmp_path / "scan.nii.gz"))
    (report,) = run(find_cases(tmp_path / "scan.nii.gz"), Thresholds(), Outputs(out))
    halves = {"right": ct[..., : SHAPE[2] // 2], "left": ct[..., SHAPE[2] // 2 :]}  # x grows to the patient's left
    for side, half in halves.items():
        kidney, tumour = int(((half > 110) & (half <= 240)).sum()), int((half > 240).sum())
        assert getattr(report, side) == {
            "kidney_with_masses_voxels": kidney + tumour,
            "kidney_with_masses_ml": pytest.approx((kidney + tumour) * VOXEL_ML, abs=0.005),
            "parenchyma_voxels": kidney,
            "parenchyma_ml": pytest.approx(kidney * VOXEL_ML, abs=0.005),
            "tumour_voxels": tumour,
            "tumour_ml": pytest.approx(tumour * VOXEL_ML, abs=0.005),
        }
    assert report.right["tumour_voxels"] == 0
    assert report.left["tumour_voxels"] == 3 * 6 * 6


@pytest.mark.parametrize(("side", "other"), [("left", "right"), ("right", "left")])
def test_a_single_kidney_counts_for_its_side(tmp_path, out, make_ct, side, other):
    hu = make_ct(SHAPE, SPACING)
    gone = slice(None, SHAPE[2] // 2) if side == "left" else slice(SHAPE[2] // 2, None)
    hu[..., gone] = np.minimum(hu[..., gone], 40)
    sitk.WriteImage(image_of(hu), str(tmp_path / "scan.nii.gz"))
    (report,) = run(find_cases(tmp_path / "scan.nii.gz"), Thresholds(), Outputs(out))
    assert getattr(report, side)["kidney_with_masses_voxels"] == (hu > 110).sum() > 0
    assert set(getattr(report, other).values()) == {0}


def test_sides_are_told_from_the_body_s_middle_and_not_from_the_picture_s(tmp_path, out, make_ct):
    hu = np.full((10, 48, 120), -1000, np.int16)
    hu[..., :56] = make_ct(SHAPE, SPACING)  # the patient lies at the picture's edge
    sitk.WriteImage(image_of(hu), str(tmp_path / "scan.nii.gz"))
    (report,) = run(find_cases(tmp_path / "scan.nii.gz"), Thresholds(), Outputs(out))
    assert 0 < report.right["kidney_with_masses_voxels"] < report.left["kidney_with_masses_voxels"]


def test_without_a_kidney_both_sides_hold_nothing(tmp_path, out, make_ct):
    hu = np.minimum(make_ct(SHAPE, SPACING), 40)
    sitk.WriteImage(image_of(hu), str(tmp_path / "scan.nii.gz"))
    (report,) = run(find_cases(tmp_path / "scan.nii.gz"), Thresholds(), Outputs(out))
    assert report.status == "done"
    assert set(report.right.values()) == set(report.left.values()) == {0}
    assert not sitk.GetArrayFromImage(sitk.ReadImage(str(out / "scan.nii.gz"))).any()


def test_outputs_go_where_the_scan_s_name_says(tmp_path, out, ct):
    folder = tmp_path / "kits" / "case_00042"
    folder.mkdir(parents=True)
    sitk.WriteImage(image_of(ct), str(folder / "imaging.nii.gz"))
    outputs = Outputs(out, (Overlay(str(out / "pictures"), out), Probabilities("", out)))
    (report,) = run(find_cases(tmp_path / "kits"), Thresholds(), outputs)
    assert report.name == "case_00042"
    assert names_in(out) == [
        "pictures/prediction_00042.png",
        "prediction_00042.nii.gz",
        "probabilities/prediction_00042_kidney_percent.nii.gz",
        "probabilities/prediction_00042_tumour_percent.nii.gz",
    ]
    assert (out / "pictures" / "prediction_00042.png").read_bytes().startswith(b"\x89PNG")
    with gzip.open(out / "prediction_00042.nii.gz") as file:
        assert file.read(4) == (348).to_bytes(4, "little"), "compressed NIfTI-1"
