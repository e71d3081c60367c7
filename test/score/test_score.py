"""Scores agree with the organisers' formulas, the empty cases included, and files find their references."""

import json
import math
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from kits.errors import InputError
from kits.score.__main__ import main
from kits.score.folders import score_folders
from kits.score.metrics import KITS23_CLASSES, dice, score_case
from test.helpers.trouble import make_trouble

pytestmark = pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")
SPACING = (3.0, 0.8, 0.8)
BOX = (slice(2, 6), slice(4, 12), slice(4, 12))


def label_map(box=None, label=1, shape=(8, 16, 16)):
    labels = np.zeros(shape, np.uint8)
    if box:
        labels[box] = label
    return labels


def write(path: Path, labels) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(labels)
    image.SetSpacing(SPACING[::-1])
    sitk.WriteImage(image, str(path))
    return path


def organisers_kits19(predictions, gt):
    """``evaluate`` of starter_code/evaluation.py in neheller/kits19, without its reading of files."""
    with np.errstate(invalid="ignore"):
        scores = []
        for threshold in (0, 1):
            pd, truth = np.greater(predictions, threshold), np.greater(gt, threshold)
            scores.append(2 * np.logical_and(pd, truth).sum() / (pd.sum() + truth.sum()))
    return scores


def test_dice_of_a_hand_counted_case():
    assert dice(np.array([1, 1, 0, 0], bool), np.array([1, 0, 1, 1], bool)) == 2 * 1 / (2 + 3)


@pytest.mark.parametrize("seed", range(5))
def test_kits19_agrees_with_the_organisers_formula(seed):
    prediction, truth = np.random.default_rng(seed).integers(0, 3, (2, 4, 9, 7)).astype(np.uint8)
    ours = score_case(prediction, truth, SPACING, "kits19")
    assert list(ours.values()) == pytest.approx(organisers_kits19(prediction, truth), abs=0)


@pytest.mark.parametrize(
    ("prediction", "truth"), [(None, None), (BOX, None), (None, BOX), (BOX, BOX)], ids=["00", "10", "01", "11"]
)
@pytest.mark.parametrize("label", [1, 2])
def test_kits19_empty_sides_agree_with_the_organisers_formula(prediction, truth, label):
    prediction, truth = label_map(prediction, label), label_map(truth, label)
    ours = score_case(prediction, truth, SPACING, "kits19")
    np.testing.assert_array_equal(list(ours.values()), organisers_kits19(prediction, truth))


def test_kits19_both_empty_is_nan():
    assert all(math.isnan(score) for score in score_case(label_map(), label_map(), SPACING, "kits19").values())


def test_kits23_is_one_if_both_are_empty_and_zero_if_one_is():
    both = score_case(label_map(), label_map(), SPACING, "kits23")
    assert set(both.values()) == {1.0}
    assert len(both) == 6
    assert set(score_case(label_map(BOX, 2), label_map(), SPACING, "kits23").values()) == {0.0}
    assert set(score_case(label_map(), label_map(BOX, 2), SPACING, "kits23").values()) == {0.0}


def test_kits23_cyst_is_a_mass_but_no_tumour():
    kidney_only, cyst = label_map(BOX, 1), label_map(BOX, 1)
    cyst[3, 6, 6] = 3
    scores = score_case(kidney_only, cyst, SPACING, "kits23")
    assert (scores["kidney+masses"], scores["masses"], scores["tumour"]) == (1, 0, 1)


def test_kits23_surface_dice_forgives_a_shift_within_its_tolerance_only():
    truth = label_map(BOX, 2)
    within, beyond = (np.roll(truth, voxels, axis=2) for voxels in (1, 2))  # 0.8 and 1.6 mm
    assert score_case(within, truth, SPACING, "kits23")["surface tumour"] == 1
    assert 0 < score_case(beyond, truth, SPACING, "kits23")["surface tumour"] < 1


def test_surface_dice_takes_each_axis_own_spacing():
    truth = label_map(BOX, 2)
    shifted = np.roll(truth, 1, axis=0)
    thick, thin = (score_case(shifted, truth, (z, 0.8, 0.8), "kits23")["surface tumour"] for z in (3.0, 1.0))
    assert thick < thin == 1


def test_surface_dice_is_the_same_at_the_volumes_edge():
    inside, moved = label_map(BOX, 2, (12, 24, 24)), np.roll(label_map(BOX, 2, (12, 24, 24)), 2, axis=1)
    cut = (slice(2, 6), slice(4, 14), slice(4, 12))
    whole, cropped = (
        score_case(a, b, SPACING, "kits23")["surface tumour"]
        for a, b in ((moved, inside), (np.ascontiguousarray(moved[cut]), np.ascontiguousarray(inside[cut])))
    )
    assert whole == pytest.approx(cropped)


def test_kits23_tolerances_are_the_organisers():
    assert [round(c.tolerance, 3) for c in KITS23_CLASSES.values()] == [1.033, 1.133, 1.150]


def test_missing_prediction_counts_as_background(tmp_path, capsys):
    write(tmp_path / "truth" / "case_00210" / "segmentation.nii.gz", label_map(BOX, 2))
    write(tmp_path / "truth" / "case_00211" / "segmentation.nii.gz", label_map(BOX, 2))
    write(tmp_path / "ours" / "prediction_00210.nii.gz", label_map(BOX, 2))
    scores = score_folders(tmp_path / "ours", tmp_path / "truth")
    assert scores.missing == ["00211"]
    assert scores.means == {"kidney+tumour": 0.5, "tumour": 0.5}
    assert scores.composite == {"dice": 0.5}
    assert main([str(tmp_path / "ours"), str(tmp_path / "truth")]) == 0
    assert "00211: there is no prediction" in capsys.readouterr().err


def test_mean_is_over_the_cases_that_have_a_number(tmp_path, capsys):
    for case, label in (("a", 1), ("b", 2)):
        write(tmp_path / "truth" / f"{case}.nii.gz", label_map(BOX, label))
        write(tmp_path / "ours" / f"{case}.nii.gz", label_map(BOX, label))
    scores = score_folders(tmp_path / "ours", tmp_path / "truth")
    assert math.isnan(scores.cases["a"]["tumour"])
    assert scores.means["tumour"] == 1
    assert scores.defined == {"kidney+tumour": 2, "tumour": 1}
    assert "cases in the mean" in scores.table()
    assert json.loads(scores.to_json())["cases"]["a"]["tumour"] is None


def test_wrong_shape_fails_its_case_only_and_names_both_files(tmp_path, capsys):
    for case in ("a", "b"):
        write(tmp_path / "truth" / f"{case}.nii.gz", label_map(BOX))
    bad = write(tmp_path / "ours" / "a.nii.gz", label_map(shape=(8, 16, 15)))
    write(tmp_path / "ours" / "b.nii.gz", label_map(BOX))
    assert main([str(tmp_path / "ours"), str(tmp_path / "truth"), "--json", str(tmp_path / "s.json")]) == 1
    message = capsys.readouterr().err
    for part in (str(bad), "(8, 16, 15)", str(tmp_path / "truth" / "a.nii.gz"), "(8, 16, 16)"):
        assert part in message
    written = json.loads((tmp_path / "s.json").read_text())
    assert list(written["cases"]) == ["b"]
    assert list(written["failed"]) == ["a"]


def test_unreadable_prediction_fails_its_case_only(tmp_path):
    for case in ("a", "b"):
        write(tmp_path / "truth" / f"{case}.nii.gz", label_map(BOX))
        write(tmp_path / "ours" / f"{case}.nii.gz", label_map(BOX))
    (tmp_path / "ours" / "a.nii.gz").write_text("text")
    scores = score_folders(tmp_path / "ours", tmp_path / "truth")
    assert list(scores.failed) == ["a"]
    assert "a.nii.gz" in scores.failed["a"]
    assert list(scores.cases) == ["b"]


@pytest.mark.parametrize(
    ("prediction", "reference"),
    [
        ("prediction_00210.nii.gz", "case_00210/segmentation.nii.gz"),
        ("prediction_00210.nii.gz", "segmentation_00210.nii.gz"),
        ("prediction_00210.nii.gz", "prediction_00210.nii.gz"),
        ("prediction_00210.mha", "case_00210.nii.gz"),
        ("case_00210.nii.gz", "case_00210/segmentation.nii.gz"),
        ("liver-7.nii.gz", "liver-7/label.nii.gz"),
        ("liver-7.nii.gz", "liver-7/segmentation.nrrd"),
        ("liver.7.mha", "liver.7.nii.gz"),
    ],
)
def test_pairing_by_name(tmp_path, prediction, reference):
    write(tmp_path / "ours" / prediction, label_map(BOX))
    write(tmp_path / "truth" / reference, label_map(BOX))
    write(tmp_path / "truth" / Path(reference).parent / "imaging.nii.gz", label_map())
    (tmp_path / "ours" / "report.json").write_text("{}")
    (tmp_path / "ours" / "overlays").mkdir()
    scores = score_folders(tmp_path / "ours", tmp_path / "truth")
    assert [row["kidney+tumour"] for row in scores.cases.values()] == [1]
    assert not scores.missing
    assert not scores.warnings


def test_two_files_are_a_pair_whatever_their_names(tmp_path):
    ours, truth = write(tmp_path / "x.nii.gz", label_map(BOX)), write(tmp_path / "label.nii.gz", label_map(BOX))
    assert score_folders(ours, truth).cases["x"]["kidney+tumour"] == 1


def test_prediction_without_reference_is_a_warning(tmp_path):
    write(tmp_path / "truth" / "a.nii.gz", label_map(BOX))
    for case in ("a", "b"):
        write(tmp_path / "ours" / f"{case}.nii.gz", label_map(BOX))
    (warning,) = score_folders(tmp_path / "ours", tmp_path / "truth").warnings
    assert "b.nii.gz" in warning


def test_cysts_under_kits19_are_a_warning(tmp_path):
    ours, truth = write(tmp_path / "a.nii.gz", label_map(BOX)), write(tmp_path / "b.nii.gz", label_map(BOX, 3))
    (warning,) = score_folders(ours, truth).warnings
    assert "--convention kits23" in warning


def test_nothing_to_score_is_status_2_with_a_sentence(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    file = write(tmp_path / "a.nii.gz", label_map(BOX))
    for ours, truth, part in (
        (tmp_path / "empty", tmp_path / "empty", "no reference"),
        (tmp_path / "absent", tmp_path, "does not exist"),
        (tmp_path / "empty", file, "two folders or two files"),
    ):
        assert main([str(ours), str(truth)]) == 2
        assert part in capsys.readouterr().err


def test_two_references_of_one_case_are_refused(tmp_path):
    write(tmp_path / "case_00001.nii.gz", label_map())
    write(tmp_path / "segmentation_00001.nii.gz", label_map())
    with pytest.raises(InputError, match="both mean case 00001"):
        score_folders(tmp_path, tmp_path)


def test_a_score_is_as_stored_but_a_prediction_on_another_grid_is_a_warning(tmp_path):
    truth = label_map((slice(2, 6), slice(1, 5), slice(4, 12)), 2)
    write(tmp_path / "truth" / "a.nii.gz", truth)
    image = sitk.ReadImage(str(write(tmp_path / "ours" / "a.nii.gz", truth)))

    def warnings(changed):
        sitk.WriteImage(changed, str(tmp_path / "ours" / "a.nii.gz"))
        scores = score_folders(tmp_path / "ours", tmp_path / "truth")
        return scores.cases["a"]["tumour"], scores.warnings

    assert warnings(image) == (1, [])
    score, (sentence,) = warnings(sitk.Flip(image, [False, True, False]))
    assert score < 1
    assert "axes run in other directions" in sentence
    assert "write the label map on the reference's grid" in sentence
    image.SetSpacing((1.0, 1.0, 1.0))
    score, (sentence,) = warnings(image)
    assert score == 1
    assert "spacing differs" in sentence
    image.SetSpacing(SPACING[::-1])
    image.SetOrigin((50, 0, 0))
    assert "origin differs" in warnings(image)[1][0]


def test_labels_off_by_a_rounding_of_the_header_s_slope_are_those_labels(tmp_path):
    truth = label_map(BOX, 2)
    stored = write(tmp_path / "ours" / "a.nii", truth.astype(np.int16) * 1000)
    data = bytearray(stored.read_bytes())
    struct.pack_into("<2f", data, 112, 0.001, 1.5e-5)
    stored.write_bytes(data)
    write(tmp_path / "truth" / "a.nii.gz", truth)
    assert score_folders(tmp_path / "ours", tmp_path / "truth").means == {"kidney+tumour": 1, "tumour": 1}


@pytest.mark.parametrize("convention", ["kits19", "kits23"])
def test_labels_that_no_convention_has_are_an_error_by_name_though_they_are_scored(tmp_path, capsys, convention):
    write(tmp_path / "truth" / "a.nii.gz", label_map(BOX, 1))
    ours = write(tmp_path / "ours" / "a.nii.gz", label_map(BOX, 255))
    assert main([str(tmp_path / "ours"), str(tmp_path / "truth"), "--convention", convention]) == 1
    assert f"{ours} has label 255" in capsys.readouterr().err
    assert "a" in score_folders(tmp_path / "ours", tmp_path / "truth", convention).cases


def test_an_empty_folder_of_predictions_is_status_2_with_a_sentence(tmp_path, capsys):
    write(tmp_path / "truth" / "a.nii.gz", label_map(BOX))
    (tmp_path / "ours").mkdir()
    assert main([str(tmp_path / "ours"), str(tmp_path / "truth")]) == 2
    assert "There is no prediction under" in capsys.readouterr().err


def test_kits21_s_names_are_known_on_both_sides(tmp_path):
    for name in ("aggregated_MAJ_seg", "aggregated_OR_seg"):
        write(tmp_path / "truth" / "case_00003" / f"{name}.nii.gz", label_map(BOX if "MAJ" in name else None))
    write(tmp_path / "truth" / "case_00003" / "imaging.nii.gz", label_map())
    write(tmp_path / "ours" / "images" / "kidney-tumor-and-cyst" / "case_00003.mha", label_map(BOX))
    scores = score_folders(tmp_path / "ours", tmp_path / "truth")
    assert {case: row["kidney+tumour"] for case, row in scores.cases.items()} == {"00003": 1}


def test_a_file_that_crashes_its_reader_costs_its_case_only(tmp_path, monkeypatch):
    for case in ("a", "crash"):
        write(tmp_path / "truth" / f"{case}.nii.gz", label_map(BOX))
        write(tmp_path / "ours" / f"{case}.nii.gz", label_map(BOX))
    make_trouble(tmp_path, monkeypatch)
    scores = score_folders(tmp_path / "ours", tmp_path / "truth")
    assert list(scores.cases) == ["a"]
    assert "SIGSEGV" in scores.failed["crash"]


def test_help_comes_without_torch_numpy_or_itk():
    code = (
        "import sys, contextlib, io; from kits.score.__main__ import main\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()): main(['--help'])\n"
        "print({'torch', 'numpy', 'SimpleITK', 'scipy', 'surface_distance'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
