"""Fitting, averaging and whole recipes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kits.errors import InputError
from kits.normalisation import Normalisation
from kits.runtime.engine import Engine
from kits.runtime.weights import Member, load_member, save_weights
from test.helpers.threshold import Threshold, phantom
from test.train.made import DATA, NORM, SMALL, kits_folder, trainer
from train.__main__ import main
from train.config import Data, Source
from train.data.cache import prepare, scan_of, split
from train.fit import Fit, average, fit_network
from train.validation import locate_kidneys


def test_stage_1_finds_the_regions_that_stage_2_learns_from() -> None:
    hu, labels = phantom()
    halved = scan_of("a", "a", hu, labels, (3.0, 1.6, 1.6))
    member = Member("threshold", Threshold(), load_info())
    boxes = locate_kidneys(member, [halved], Engine("cpu", "torch"))["a"]
    assert len(boxes) == 2
    truth = sorted(halved.kidneys)
    for (low, high), (true_low, true_high) in zip(sorted(boxes), truth, strict=True):
        expected = np.array([true_low, true_high]) * (1, 2, 2)
        assert np.abs(np.array([low, high]) - expected).max() <= 6


def test_stage_1_finds_a_lone_slices_kidneys_too() -> None:
    hu, labels = phantom()
    middle = len(hu) // 2
    halved = scan_of("a", "a", hu[middle : middle + 1], labels[middle : middle + 1], (3.0, 1.6, 1.6))
    member = Member("threshold", Threshold(), load_info())
    assert len(locate_kidneys(member, [halved], Engine("cpu", "torch"))["a"]) == 2


def load_info() -> object:
    from kits.runtime.weights import WeightsInfo

    return WeightsInfo("locate", "res-unet", NORM, "nothing", "none")


def test_the_whole_recipe_ends_with_weights_that_load(tmp_path: Path) -> None:
    kits_folder(tmp_path / "kits", 3)
    (tmp_path / "quick.toml").write_text(
        "[data]\nvalid = ['kits-00002']\nlicence = 'CC0'\n"
        "[training]\npatch = 64\n[training.schedule]\nepochs = 1\nepoch_steps = 2\nbatch = 2\n"
    )
    call = ["all", "--data", str(tmp_path / "kits"), "--config", str(tmp_path / "quick.toml"), "--out",
            str(tmp_path / "out"), "--device", "cpu"]  # fmt: skip
    assert main(call) == 0
    weights = tmp_path / "out" / "weights"
    names = ["res-net", "res-unet1", "res-unet2", "wide-unet1", "wide-unet2"]
    assert sorted(path.stem for path in weights.glob("*.safetensors")) == names
    card = (weights / "README.md").read_text(encoding="utf-8")
    assert "CC0" in card
    assert "epoch_steps = 2" in card
    assert (tmp_path / "out" / "evaluation" / "table2.md").exists()
    stamps = [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("out/runs/*/weights.safetensors"))]
    assert main(call) == 0  # goes on from where all is done
    assert stamps == [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("out/runs/*/weights.safetensors"))]


def test_a_network_can_take_its_normalisation_from_the_ensemble_that_it_is_to_join(tmp_path: Path) -> None:
    beside = trainer(SMALL, tmp_path / "before").fit()
    kits_folder(tmp_path / "kits", 2)
    data = ["--data", str(tmp_path / "kits"), "--cache", str(tmp_path / "cache")]
    (tmp_path / "quick.toml").write_text(
        "[data]\nvalid = ['kits-00001']\n[training]\npatch = 64\n"
        "[training.schedule]\nepochs = 1\nepoch_steps = 1\nbatch = 2\n"
    )
    data += ["--config", str(tmp_path / "quick.toml")]
    assert main(["prepare", *data]) == 0
    for name, more in (("alone", []), ("joining", ["--normalisation-of", str(beside)])):
        assert main(["fit", "wide-unet2", *data, "--folder", str(tmp_path / name), "--device", "cpu", *more]) == 0
    alone, joining = (load_member(tmp_path / name / "weights.safetensors").info for name in ("alone", "joining"))
    assert joining.norm == NORM != alone.norm
    assert joining.architecture == "wide-unet"


def test_a_weight_file_says_who_was_held_out(tmp_path: Path) -> None:
    data = Data((Source("kits", kits_folder(tmp_path / "kits", 3)),), valid=("kits-00001", "of-simulated-scans-only"))
    index = prepare(data, tmp_path / "cache")
    config = replace(SMALL, schedule=replace(SMALL.schedule, epochs=1, epoch_steps=1))
    for number, fold in enumerate((None, (0, 3), (1, 3))):
        file = fit_network(Fit(config, data, tmp_path / "cache", tmp_path / str(number), "cpu", fold=fold))
        expected = split(index, data, fold)[1] if fold else sorted(data.valid)
        assert load_member(file).info.held_out == tuple(expected)


def test_the_mean_of_two_networks_knows_whom_either_knew(tmp_path: Path) -> None:
    before = trainer(folder=tmp_path / "run")
    files = [tmp_path / f"{name}.safetensors" for name in ("one", "other", "mean", "strange")]
    save_weights(files[0], before.network, replace(before.info, held_out=("a", "b")))
    with torch.no_grad():
        for parameter in before.network.parameters():
            parameter += 1
    save_weights(files[1], before.network, replace(before.info, held_out=("b",)))
    save_weights(files[3], before.network, replace(before.info, norm=Normalisation(0.0, 1.0)))
    assert main(["average", *map(str, files[:2]), "--out", str(files[2])]) == 0
    one, other, mean = (load_member(file) for file in files[:3])
    assert mean.info == replace(one.info, held_out=("b",))
    for got, a, b in zip(*(member.network.parameters() for member in (mean, one, other)), strict=True):
        assert torch.allclose(got, (a + b) / 2, atol=1e-3)
    with pytest.raises(InputError, match="differ in their norm"):
        average(files[0], files[3], files[2])


@pytest.mark.parametrize(
    ("said", "expected"),
    [(("a", "c"), ("a",)), ((), ()), (None, None)],
    ids=["it knew one of them", "it knew all", "it does not say"],
)
def test_whom_the_weights_to_start_from_knew_is_not_held_out(
    said: tuple[str, ...] | None, expected: tuple[str, ...] | None, tmp_path: Path
) -> None:
    before = trainer(folder=tmp_path / "before")
    file = tmp_path / "before.safetensors"
    save_weights(file, before.network, replace(before.info, held_out=said))
    after = trainer(folder=tmp_path / "after", data=replace(DATA, valid=("a", "b")), start=file)
    assert after.info.held_out == expected


def test_fitting_needs_a_prepared_cache(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run `python -m train prepare` first"):
        fit_network(Fit(SMALL, DATA, tmp_path, tmp_path / "run"))
