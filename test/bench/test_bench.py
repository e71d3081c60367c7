"""The benches' own arithmetic: what is scored, against what, and who is said to be unseen."""

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.ablation import switches, without_each
from bench.accuracy import (
    Memoised,
    cases_of,
    refuse_twice,
    score_networks,
    unseen_by,
)
from bench.accuracy_tables import Row, false_tumours, mean, pooled, tables
from bench.improvements import Bench, line, read_cases, variants
from bench.lesions import by_size, calibration, expected_dice, interval, lesions_of, reliability, size_class
from bench.stages import Clock, least, operations, rows, run_case, timed
from kits.choices import Mode
from kits.errors import InputError
from kits.io.images import write_image
from kits.plan import NATIVE, Plan, improvements
from test.helpers.threshold import phantom, phantom_volume, threshold_cascade
from train.config import Data, Source
from train.data.cases import LabelledCase
from train.presets import PAPER
from train.settings import config_of

SPACING = (3.0, 0.8, 0.8)
NAMES = ("locate", "segment", "segment")
"""Of ``threshold_cascade``'s networks: one of stage 1, two of stage 2."""


def row(patient: str, kidney: tuple[int, int], tumour: tuple[int, int], has: str = "both", **changes: object) -> Row:
    values = {"network": "all", "group": "slices", "case": patient, "unseen": True, "tumour_ml": 0.0}
    return Row(patient=patient, kidney=kidney, tumour=tumour, has_kidney=has != "none", has_tumour=has == "both",
               **values | changes)  # type: ignore[arg-type] # fmt: skip


def write_case(folder: Path, names: tuple[str, str]) -> None:
    """A phantom, stored as a CT and its label map."""
    volume, labels = phantom_volume()
    for name, array in zip(names, (volume.hu, labels), strict=True):
        write_image(volume.to_home(array), folder / name)


def test_pooled_dice_counts_voxels_and_mean_dice_counts_patients() -> None:
    rows = [row("a", (90, 100), (0, 10)), row("a", (10, 100), (10, 10)), row("b", (8, 10), (0, 3), "kidney")]
    assert pooled(rows, "kidney") == f"{108 / 210:.3f}"
    assert mean(rows, "kidney") == f"{(100 / 200 + 8 / 10) / 2:.3f} (2)"
    assert mean(rows, "tumour") == f"{10 / 20:.3f} (1)", "who has no tumour is in no tumour mean"
    assert pooled(rows, "tumour") == f"{10 / 23:.3f}", "but what was taken for one counts when all is pooled"


def test_false_tumours_are_those_of_cases_without_any() -> None:
    rows = [
        row("a", (1, 2), (0, 3), "kidney", tumour_ml=4.0),
        row("b", (1, 2), (0, 0), "none"),
        row("c", (1, 2), (1, 2)),
    ]
    assert false_tumours(rows) == "1 of 2"
    assert false_tumours(rows[2:]) == "-"


def test_a_lone_slice_is_scored_on_the_middle_of_its_thin_volume() -> None:
    hu, labels = phantom()
    middle = len(hu) // 2
    case = LabelledCase("lone", "p", (), lambda: (hu[middle : middle + 1], labels[middle : middle + 1], SPACING))
    rows = list(score_networks("slices", case, True, [threshold_cascade()], None))
    assert [one.network for one in rows] == [f"{name}, native" for name in (*NAMES, "ensemble")]
    found = rows[-1]
    assert found.kidney[1] > 1000
    assert found.kidney[0] / found.kidney[1] > 0.95
    assert (found.has_kidney, found.has_tumour) == (True, bool((labels[middle] == 2).any()))


def test_no_stack_of_slices_is_computed_twice_and_each_has_its_own_answer() -> None:
    computed: list[float] = []

    def network(stacks: torch.Tensor) -> torch.Tensor:
        computed.extend(stacks[:, 0, 0, 0].tolist())
        return stacks[:, :3] * 2

    memoised = Memoised(network)
    stacks = torch.tensor([1.0, 2.0, 1.0, 3.0])[:, None, None, None] * torch.ones(1, 5, 4, 4)
    assert torch.equal(memoised(stacks), stacks[:, :3] * 2)
    assert torch.equal(memoised(stacks[2:]), stacks[2:, :3] * 2)
    assert sorted(computed) == [1.0, 2.0, 3.0]


def test_whole_volumes_and_simulations_are_scored_and_marked(tmp_path: Path) -> None:
    for name in ("new", "known"):
        write_case(tmp_path / "volumes" / name, ("ct.nii.gz", "label.nii.gz"))
    for number, made_of in enumerate((["new", "kits-00008"], ["new", "kits-00001"])):
        folder = tmp_path / "simulated" / f"case_{number:05d}"
        write_case(folder, ("imaging.nii.gz", "segmentation.nii.gz"))
        (folder / "simulation.json").write_text(json.dumps({"kind": "painted", "patients": made_of}))
    data = Data((Source("volumes", tmp_path / "volumes"),), valid=("new", "kits-00008"))
    simulated = [tmp_path / "simulated"]
    assert [unseen for *_, unseen in cases_of(data, simulated, only_unseen=True)] == [True, True]
    every = [found for case in cases_of(data, simulated)
             for found in score_networks(*case, [threshold_cascade()], tmp_path / "out")]  # fmt: skip
    rows = [found for found in every if found.network == "ensemble, native"]
    assert [(found.group, found.case, found.unseen) for found in rows] == [
        ("volumes", "known", False),
        ("volumes", "new", True),
        ("simulated painted", "simulated-00000", True),
        ("simulated painted", "simulated-00001", False),
    ]
    assert all(np.divide(*found.kidney) > 0.95 for found in rows)
    assert (tmp_path / "out" / "native" / "new.png").exists()
    text = tables(every)
    assert "| known | seen |" in text
    assert text.count("| simulated painted | ensemble, native |") == 1


def test_who_was_held_out_the_weights_say_and_else_the_configuration() -> None:
    members = threshold_cascade().members
    assert unseen_by(Data(valid=("a", "b")), members).valid == ("a", "b"), "these files say nothing"
    told = replace(members[0], info=replace(members[0].info, held_out=("b", "c")))
    assert unseen_by(Data(valid=("a", "b")), [told, *members[1:]]).valid == ("b",)
    knows_all = replace(members[0], info=replace(members[0].info, held_out=()))
    assert unseen_by(Data(valid=("a", "b")), [knows_all, told]).valid == ()
    assert unseen_by(Data(), [told]).valid == ("b", "c"), "a fold's files say it, the configuration cannot"


def test_folds_that_share_a_case_are_refused() -> None:
    one, other = (row(patient, (9, 10), (9, 10)) for patient in "ab")
    refuse_twice([one, other, replace(one, network="another")])
    with pytest.raises(InputError, match="a was scored 2 times: the weights folders are not folds"):
        refuse_twice([one, other, one])


@pytest.mark.parametrize("network", PAPER)
def test_every_switch_of_the_ablation_is_a_configuration(network: str) -> None:
    settings = [config_of(network, "paper", {"training": changes}) for changes in switches(network).values()]
    assert settings[0] == config_of(network, "paper", {})
    assert settings[-1] == config_of(network, "best", {})
    assert len(set(map(repr, settings))) >= len(settings) - 2, "a switch that changes nothing measures nothing"


def test_sources_are_left_out_one_at_a_time() -> None:
    data = Data((Source("slices", Path("a"), share=0.6), Source("kits", Path("b"), share=0.4)))
    shares = {name: [source.share for source in varied.sources] for name, varied in without_each(data).items()}
    assert shares == {"all sources": [0.6, 0.4], "without a": [0.0, 0.4], "without b": [0.6, 0.0],
                      "without any of kind kits": [0.6, 0.0]}  # fmt: skip


def test_tumours_are_counted_one_by_one() -> None:
    truth = np.zeros((10, 40, 40), bool)
    truth[2:6, 5:15, 5:15] = True  # 400 voxels, of which half are called
    truth[8, 30:35, 30:35] = True  # 25, missed
    truth[0, 0, 0] = True  # a speck
    called = np.zeros_like(truth)
    called[2:4, 5:15, 5:15] = True
    called[2:4, 20:25, 20:25] = True  # 50, false
    lesions, false = lesions_of(called, truth, 0.02)
    assert sorted(lesions) == [(0.5, 0.0), (8.0, 0.5)]
    assert false == (1.0,)
    assert lesions_of(truth & False, truth & False, 0.02) == ((), ())


def test_tumours_are_told_by_size() -> None:
    assert [size_class(ml) for ml in (0.2, 2.0, 9.9, 30.0, 50.0)] == [
        "< 2 ml", "2-5 ml", "5-10 ml", "10-50 ml", "> 50 ml"
    ]  # fmt: skip
    rows = by_size([(1.0, 0.5), (1.5, 0.05), (60.0, 0.1)])
    assert rows == [("< 2 ml", "1 of 2", "0.28"), ("> 50 ml", "1 of 1", "0.10")]


def test_an_interval_holds_the_mean_of_what_it_is_of() -> None:
    values = np.random.default_rng(1).normal(0.9, 0.05, 40).tolist()
    low, high = (float(end) for end in interval(values).split("-"))
    assert low < np.mean(values) < high
    assert high - low == pytest.approx(4 * 0.05 / 40**0.5, rel=0.3)
    assert interval(values[:2]) == "-"


def test_probabilities_that_are_true_promise_the_dice_that_comes() -> None:
    rng = np.random.default_rng(0)
    percent = rng.choice([2, 30, 80, 97], (20, 50, 50)).astype(np.uint8)
    truth = rng.random(percent.shape) < percent / 100
    called = percent > 50
    dice = 2 * (called & truth).sum() / (called.sum() + truth.sum())
    assert expected_dice(percent, called) == pytest.approx(dice, abs=0.01)
    assert np.isnan(expected_dice(percent, called & False))
    rows = calibration(reliability(percent, truth))
    assert [name for name, *_ in rows] == ["30-40 %", "80-90 %", "90-100 %"]
    assert all(abs(float(promised) - float(true)) < 0.03 for _, promised, true in rows)


def test_whole_kits_volumes_are_scored_but_for_their_interpolated_slices(tmp_path: Path) -> None:
    folder = tmp_path / "kits" / "case_00007"
    write_case(folder, ("imaging.nii.gz", "segmentation.nii.gz"))
    truth = phantom()[1]
    shown = np.flatnonzero((truth > 1).any(axis=(1, 2)))
    data = Data((Source("kits", tmp_path / "kits"),), valid=("kits-00007",))
    kidneys = []
    for made in ([], shown.tolist()):
        (folder / "info.json").write_text(json.dumps({"first_slice": 0, "interpolated": made}))
        rows = [found for case in cases_of(data) for found in score_networks(*case, [threshold_cascade()], None, True)]
        found = rows[-1]
        assert (found.group, found.unseen, found.has_tumour) == ("kits", True, not made)
        assert len(found.lesions) == 1
        assert found.lesions[0][1] > 0.9
        assert found.false_ml == ()
        kidneys.append(found.kidney[1])
    assert kidneys[1] < kidneys[0]
    text = tables([replace(found, case=str(n), has_tumour=True) for n in range(3)])
    assert "| unseen | ensemble, native | " in text
    assert "| case |" not in text
    assert "probability of tumour" in text


def test_every_improvement_is_measured_alone_both_ways() -> None:
    plans = list(variants())
    assert len(plans) == 2 + 2 * len(improvements())
    for name, plan, base in plans:
        changed = [f.name for f in fields(Plan) if getattr(plan, f.name) != getattr(base, f.name)]
        assert len(changed) == (plan is not base)
        assert all(one in name or (one, "our networks" in name) == ("mode", True) for one in changed)
    assert len({plan for _, plan, _ in plans}) == len(plans)


def test_improvements_are_scored_on_whole_volumes_and_on_slabs_of_both_folder_forms(tmp_path: Path) -> None:
    write_case(tmp_path / "volumes" / "one", ("ct.nii.gz", "label.nii.gz"))
    write_case(tmp_path / "kits" / "case_00002", ("imaging.nii.gz", "segmentation.nii.gz"))
    cases = read_cases([tmp_path / "volumes", tmp_path / "kits"], 15.0)
    assert [(case.volume.name, case.slab) for case in cases] == [
        ("one", False),
        ("one", True),
        ("kits-00002", False),
        ("kits-00002", True),
    ]
    assert len(cases[1].truth) == len(cases[1].volume.hu) == 5
    assert cases[1].truth.any()
    bench = Bench({mode: threshold_cascade(mode) for mode in Mode})
    figures = bench.measure(cases[::2], NATIVE)
    assert bench.measure(cases[::2], replace(NATIVE, water_is_cyst=False)).kidney == 1
    assert len(bench.known) == 2, "what differs in post-processing alone is segmented once"
    assert bench.measure(cases[::2], replace(NATIVE, every_slice=False)).seconds > 0
    assert len(bench.known) == 4
    assert (figures.kidney, figures.tumour) == (1, 1)
    assert np.isnan(figures.false_ml)
    assert figures.seconds > 0
    worse = replace(figures, kidney=0.5)
    assert line(worse, figures)[:3] == ["0.5000 (-0.5000)", "1.0000 (+0.0000)", "-"]
    assert line(figures, figures)[:1] == ["1.0000"]
    with pytest.raises(InputError, match="There is no labelled volume under"):
        read_cases([tmp_path], 15.0)


def test_a_cases_time_is_split_into_networks_preprocessing_and_all_else(tmp_path: Path) -> None:
    write_case(tmp_path, ("scan.nii.gz", "label.nii.gz"))
    cascade, clock = threshold_cascade(), Clock(torch.device("cpu"))
    volume, result, seconds = run_case(timed(cascade, clock), clock, tmp_path / "scan.nii.gz")
    for stage in ("locate", "segment"):
        parts = [seconds[f"{stage}: {part}"] for part in ("networks", "preprocessing", "all else")]
        assert min(parts) > 0
        assert sum(parts) == pytest.approx(result.seconds[stage])
        assert clock.operations[f"{stage}: networks"] == clock.slices[f"{stage}: networks"] * operations("res-unet")
    assert clock.slices["segment: networks"] > clock.slices["locate: networks"] > 0, "two members, and two regions"
    bounds = least(cascade, clock, volume.hu.size, {"fp32": 1e12, "bf16": 1e12}, 1e10)
    assert set(bounds) == set(seconds)
    assert min(bounds.values()) > 0
    assert [cells[0] for cells in rows(seconds, bounds, clock.slices)] == list(bounds)
