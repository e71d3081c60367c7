"""Table 2 holds what kits.score gives for each network alone and the ensemble, over all folds' cases."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kits import choices
from kits.batch.colours import COLOURS
from kits.cascade.cascade import Cascade
from kits.errors import InputError
from kits.io.cases import find_cases
from kits.io.images import read_volume
from kits.io.volume import Volume
from kits.plan import PAPER as PAPER_PLAN
from kits.runtime.engine import Engine
from kits.runtime.runtime import Runtime
from kits.score.folders import score_folders
from kits.score.metrics import score_case
from test.helpers.threshold import TUMOUR, Threshold, phantom, threshold_cascade
from test.train.report.made import (
    KITS_AXES,
    NETWORKS,
    SMALL,
    SPACING,
    VOXEL_ML,
    BlindToTumour,
    named,
    rough,
    trio,
    write_case,
)
from train.__main__ import main
from train.report import evaluate as module
from train.report.evaluate import evaluate
from train.report.figure4 import examples
from train.report.table import ENSEMBLE, PAPER, Figure, Fold, Score, Table


def call(*arguments: object) -> int:
    return main(["evaluate", *map(str, arguments)])


def case_names(count: int) -> tuple[str, ...]:
    return tuple(f"case_{number:05d}" for number in range(1, count + 1))


def test_the_ensembles_scores_are_those_of_kits_score_on_its_label_maps(data, tmp_path, weights):
    table = evaluate([Fold(Path("weights"), case_names(3))], data, tmp_path / "out")
    scores = score_folders(tmp_path / "out" / "predictions", data)
    ours = {one.case.removeprefix("case_"): one for one in table.scores if one.network == ENSEMBLE}
    assert {case: one.kidney for case, one in ours.items()} == {
        c: row["kidney+tumour"] for c, row in scores.cases.items()
    }
    theirs = {case: row["tumour"] for case, row in scores.cases.items()}
    assert {case: one.tumour for case, one in ours.items()} == pytest.approx(theirs, abs=0, nan_ok=True)
    assert 0.5 < ours["00001"].kidney < 1
    assert 0.5 < ours["00001"].tumour < 1
    assert ours["00002"].kidney == ours["00002"].tumour == 1
    assert table.figures(ENSEMBLE)["kidney"].mean == pytest.approx(scores.means["kidney+tumour"])


@pytest.mark.parametrize("mode", ["native", "paper"])
def test_each_member_of_stage_2_is_scored_as_the_cascade_with_it_alone(data, tmp_path, weights, mode, monkeypatch):
    # the paper's 5000 are more than these kidneys have
    monkeypatch.setattr("kits.plan.PAPER", replace(PAPER_PLAN, smallest_voxels=500))
    table = evaluate([Fold(Path("weights"), ("case_00001",))], data, tmp_path / "out", mode)
    locators, segmenters = trio()
    volume = read_volume(find_cases(data)[0])
    _, truth = phantom(**SMALL)
    for name, members in [(one.name, [one]) for one in segmenters] + [(ENSEMBLE, segmenters)]:
        labels = Cascade(locators, members, Runtime.of("cpu", mode)).predict(volume).labels
        expected = score_case(labels, rough(truth), SPACING, "kits19")
        (score,) = (one for one in table.scores if one.network == name)
        assert {"kidney+tumour": score.kidney, "tumour": score.tumour} == expected
        assert (score.tumour == 0) == (name == "res-net")


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((14, 96, 128), SPACING), ((43, 97, 127), (1.0, 0.8, 0.8)), ((9, 40, 50), (5.0, 2.0, 2.0))],
)
def test_stage_1_alone_answers_on_the_native_grid(shape, spacing):
    hu, truth = phantom(shape=shape, spacing=spacing, radius_mm=(18.0, 15.0, 15.0), tumour_mm=7.0)
    volume = Volume.from_array(hu, spacing)
    cascade = threshold_cascade()
    labels = cascade.label(volume, cascade.segment_coarsely(volume))
    assert labels.shape == shape
    assert labels.dtype == np.uint8
    score = score_case(labels, truth, spacing, "kits19")
    assert 0.88 < score["kidney+tumour"] < 1  # half the resolution has its price
    assert 0.7 < score["tumour"] < 1


def test_stage_1s_row_is_its_own_answer_after_post_processing(data, tmp_path, weights):
    hu, labels = phantom(**SMALL)
    hu[2, 5:9, 60:64] = TUMOUR  # touches no kidney and is too small: post-processing removes it
    write_case(data, 4, hu, labels)
    table = evaluate([Fold(Path("weights"), ("case_00002", "case_00004"))], data, tmp_path / "out")
    without, with_speck = (one for one in table.scores if one.network == "res-unet1")
    assert without.kidney == with_speck.kidney
    assert 0.88 < without.kidney < 1
    assert without.seconds > 0


def test_cases_without_a_tumour_are_in_no_tumour_mean_and_what_is_found_there_is_told(tmp_path, weights):
    hu, labels = phantom(**SMALL)
    data = tmp_path / "data"
    write_case(data, 1, hu, labels)
    write_case(data, 2, hu, np.minimum(labels, 1))  # what looks like a tumour is none
    healthy, kidneys = phantom(**SMALL | {"tumour_mm": 0})
    write_case(data, 3, healthy, kidneys)
    table = evaluate([Fold(Path("weights"), case_names(3))], data, tmp_path / "out")
    figures = table.figures(ENSEMBLE)
    assert figures["tumour"] == Figure(1.0, 0.0, 1)
    assert figures["kidney"].cases == 3
    assert figures["false_tumour_ml"].cases == 2
    assert figures["false_tumour_ml"].mean == pytest.approx((labels == 2).sum() * VOXEL_ML / 2)
    assert table.figures("res-net")["false_tumour_ml"].mean == 0
    rows = list(csv.DictReader((tmp_path / "out" / "per_case.csv").open()))
    ensemble = {row["case"]: row for row in rows if row["network"] == ENSEMBLE}
    assert ensemble["case_00002"]["tumour"] == "0.0"
    assert ensemble["case_00003"]["tumour"] == ""
    assert ensemble["case_00001"]["false_tumour_ml"] == ""


def test_folds_make_one_table_and_each_case_is_judged_by_its_own_folds_networks(data, tmp_path, weights):
    weights["a"], weights["b"] = trio("-fold0"), trio("-fold1")
    folds = [Fold(Path("a"), ("case_00001", "case_00003")), Fold(Path("b"), ("case_00002",))]
    table = evaluate(folds, data, tmp_path / "out")
    assert table.networks == NETWORKS
    assert {(one.case, one.fold) for one in table.scores} == {("case_00001", 0), ("case_00003", 0), ("case_00002", 1)}
    assert table.figures("res-net")["kidney"].cases == 3
    seen = [weights[name][1][0].network.seen for name in "ab"]
    assert seen[0] > 1.5 * seen[1] > 0  # two cases, and one
    assert "the networks of its own fold" in table.markdown()
    kidneys = [one.kidney for one in table.scores if one.network == ENSEMBLE]
    assert table.figures(ENSEMBLE)["kidney"] == Figure(
        pytest.approx(np.mean(kidneys)), pytest.approx(np.std(kidneys)), 3
    )


def test_networks_that_only_their_fold_tells_apart_keep_it(data, tmp_path, weights):
    locators, segmenters = trio()
    weights["weights"] = (
        locators,
        [named(f"res-net-fold{n}", "segment", one.network) for n, one in enumerate(segmenters)],
    )
    table = evaluate([Fold(Path("weights"), ("case_00002",))], data, tmp_path / "out")
    assert table.networks == ["res-unet1", "res-net-fold0", "res-net-fold1", ENSEMBLE]


def test_a_case_that_fails_is_told_and_costs_the_others_nothing(data, tmp_path, weights, capsys):
    path = data / "case_00001" / "imaging.nii.gz"
    path.write_bytes(path.read_bytes()[:2000])
    (data / "case_00003" / "segmentation.nii.gz").unlink()
    hu, labels = phantom(**SMALL)
    write_case(data, 4, hu, labels[1:])
    names = [f"case_{number:05d}" for number in (1, 2, 3, 4)]
    assert call("--data", data, "--weights", "weights", "--out", tmp_path / "out", "--cases", *names) == 1
    document = json.loads((tmp_path / "out" / "table2.json").read_text(encoding="utf-8"))
    assert set(document["failed"]) == {"case_00001", "case_00003", "case_00004"}
    assert "damaged" in document["failed"]["case_00001"]
    assert "segmentation.nii.gz" in document["failed"]["case_00003"]
    assert "not of one scan" in document["failed"]["case_00004"]
    assert document["networks"][ENSEMBLE]["kidney"] == {"mean": 1.0, "std": 0.0, "cases": 1}
    assert "Failed, and in no mean:** case_00001, case_00003, case_00004." in capsys.readouterr().out
    assert (tmp_path / "out" / "figure4.png").is_file()


def test_an_unexpected_error_is_a_failed_case_too(data, tmp_path, weights):
    class Broken(Threshold):
        def forward(self, x_BCYX: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no such kernel")

    weights["weights"] = trio()[0], [named("res-net", "segment", Broken())]
    table = evaluate([Fold(Path("weights"), ("case_00002",))], data, tmp_path / "out")
    assert table.scores == []  # neither has stage 1 a row: all rows are over the same cases
    assert "no such kernel" in table.failed["case_00002"]
    assert not (tmp_path / "out" / "figure4.png").exists()


def test_cases_without_a_reference_are_left_out_unless_named(data, tmp_path, weights, capsys):
    (data / "case_00003" / "segmentation.nii.gz").unlink()
    assert call("--data", data, "--weights", "weights", "--out", tmp_path / "out") == 0
    rows = csv.DictReader((tmp_path / "out" / "per_case.csv").open())
    assert {row["case"] for row in rows} == {"case_00001", "case_00002"}
    assert "| Res-UNet2 |" in capsys.readouterr().out


def test_folds_on_the_command_line_want_a_list_of_cases_each(data, tmp_path, weights, capsys):
    weights["other"] = trio()
    both = ("--data", data, "--weights", "weights", "other", "--out", tmp_path / "out")
    assert call(*both) == 2
    assert "python -m train all --folds K" in capsys.readouterr().err
    assert call(*both, "--cases", "case_00001", "case_00002") == 2
    assert not (tmp_path / "out").exists()
    assert call(*both, "--cases", "case_00001", "--cases", "case_00002") == 0
    folds = json.loads((tmp_path / "out" / "table2.json").read_text(encoding="utf-8"))["folds"]
    assert folds == [{"weights": "weights", "cases": ["case_00001"]}, {"weights": "other", "cases": ["case_00002"]}]


def test_wrong_cases_are_told_before_any_work(data, tmp_path, weights):
    folder = Path("weights")
    with pytest.raises(InputError, match="holds no case_00099"):
        evaluate([Fold(folder, ("case_00001", "case_00099"))], data, tmp_path / "out")
    with pytest.raises(InputError, match="case_00001 would be scored twice"):
        evaluate([Fold(folder, ("case_00001",)), Fold(folder, ("case_00001", "case_00002"))], data, tmp_path / "out")
    with pytest.raises(InputError, match="no case to evaluate on"):
        evaluate([Fold(folder, ())], data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_cysts_count_as_kidney(tmp_path, weights):
    hu, labels = phantom(**SMALL)
    cysts = labels.copy()
    cysts[:5][labels[:5] == 1] = 3
    name = write_case(tmp_path / "data", 1, hu, cysts)
    table = evaluate([Fold(Path("weights"), (name,))], tmp_path / "data", tmp_path / "out")
    assert table.figures(ENSEMBLE)["tumour"].mean == table.figures(ENSEMBLE)["kidney"].mean == 1
    assert "Cysts count as kidney" in (tmp_path / "out" / "table2.md").read_text(encoding="utf-8")


def test_the_papers_figures_stand_beside_ours_and_are_said_to_be_on_other_cases(data, tmp_path, weights):
    table = evaluate([Fold(Path("weights"), ("case_00002",))], data, tmp_path / "out")
    text = (tmp_path / "out" / "table2.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("| ")][2:]
    assert [line.split(" | ")[0] for line in lines] == ["| Res-UNet1", "| Res-UNet2", "| Res-Net", "| Ensemble"]
    assert lines[-1] == "| Ensemble | 1.000 ± 0.000 (1) | 1.000 ± 0.000 (1) | none | 0.98 ± 0.01 | 0.73 ± 0.25 |"
    assert "not of these cases" in text
    document = json.loads(table.to_json(), parse_constant=pytest.fail)
    assert document["paper"]["res-net"]["tumour"] == {"mean": 0.72, "std": 0.26}
    assert document["networks"][ENSEMBLE]["false_tumour_ml"] == {"mean": None, "std": None, "cases": 0}
    assert list(PAPER) == table.networks


def made_score(case: str, tumour: float, false_ml: float = math.nan, kidney: float = 0.9) -> Score:
    return Score(case, 0, ENSEMBLE, kidney, tumour, false_ml, 1.0)


def test_figure_4_shows_the_best_the_median_and_the_worst_tumour():
    scores = [made_score(str(n), tumour) for n, tumour in enumerate((0.5, 0.1, 0.9, 0.3, 0.7))]
    chosen = examples(Table("native", (), [*scores, made_score("healthy", math.nan, 0.0)]))
    assert {title: one.tumour for title, one in chosen.items()} == {"best": 0.9, "median": 0.5, "worst": 0.1}
    healthy = [made_score(str(n), math.nan, 0.0, kidney) for n, kidney in enumerate((0.8, 0.9))]
    chosen = examples(Table("native", (), healthy))
    assert {title: one.kidney for title, one in chosen.items()} == {"best": 0.9, "worst": 0.8}
    assert examples(Table("native", ())) == {}


def test_figure_4_has_the_truth_above_and_the_prediction_below(data, tmp_path, weights):
    weights["weights"] = trio()[0], [named("res-net", "segment", BlindToTumour())]
    evaluate([Fold(Path("weights"), ("case_00002",))], data, tmp_path / "out")
    picture = Image.open(tmp_path / "out" / "figure4.png")
    assert picture.mode == "RGB"
    red = np.abs(np.asarray(picture, int) - COLOURS[choices.TUMOUR]).max(axis=2) < 40
    rows = np.flatnonzero(red[:, :494].any(axis=1))
    assert len(rows)
    assert rows[0] < picture.height / 2
    middle = slice(picture.height // 2, picture.height - 120)  # above the legend
    assert not red[middle].any()


def test_the_table_grows_case_by_case(data, tmp_path, weights, monkeypatch):
    def interrupt(case, *arguments):
        if case.name == "case_00002":
            raise KeyboardInterrupt
        return whole(case, *arguments)

    whole = module.evaluate_case
    monkeypatch.setattr(module, "evaluate_case", interrupt)
    with pytest.raises(KeyboardInterrupt):
        evaluate([Fold(Path("weights"), case_names(3))], data, tmp_path / "out")
    rows = csv.DictReader((tmp_path / "out" / "per_case.csv").open())
    assert {row["case"] for row in rows} == {"case_00001"}


def test_weight_files_are_judged_from_end_to_end(tmp_path, threshold_weights, monkeypatch):
    monkeypatch.setattr(Engine, "place", lambda self, network: network)
    hu, labels = phantom(shape=(3, 96, 128), radius_mm=(4.0, 15.0, 15.0), tumour_mm=7.0)
    write_case(tmp_path / "data", 7, hu, labels, KITS_AXES)
    assert call("--data", tmp_path / "data", "--weights", threshold_weights, "--out", tmp_path / "out") == 0
    networks = json.loads((tmp_path / "out" / "table2.json").read_text(encoding="utf-8"))["networks"]
    assert list(networks) == NETWORKS
    for name in NETWORKS[1:]:
        assert networks[name]["kidney"]["mean"] == networks[name]["tumour"]["mean"] == 1
