"""Fitting, averaging and whole recipes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kits.errors import InputError, KitsError
from kits.normalisation import Normalisation
from kits.runtime.engine import Engine
from kits.runtime.weights import Member, load_member, save_weights
from test.helpers.threshold import Threshold, phantom
from test.train.made import DATA, NORM, SMALL, kits_folder, trainer
from train import recipe
from train.__main__ import main
from train.config import Data, Source
from train.data.cache import prepare, scan_of, split
from train.fit import Fit, average, fit_network
from train.recipe import Recipe, table_2
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


QUICK = """
[data]
valid = ["kits-00002"]
licence = "CC0"
[training]
patch = 64
schedule = {epochs = 1, epoch_steps = 1, batch = 2}
"""
PHASES = """
[[wide-unet1.phases]]
start = "wide-unet2/first"
[[wide-unet2.phases]]
name = "first"
[[wide-unet2.phases]]
name = "second"
average_with = "first"
seed = 1
schedule = {epoch_steps = 2}
"""


def call(tmp_path: Path, command: str, text: str, *more: str) -> int:
    """``python -m train`` on three made-up cases."""
    if not (tmp_path / "kits").exists():
        kits_folder(tmp_path / "kits", 3)
    (tmp_path / "quick.toml").write_text(text)
    data = ["--data", str(tmp_path / "kits"), "--config", str(tmp_path / "quick.toml"), "--device", "cpu"]
    return main([command, *data, *more])


def test_a_recipe_of_phases_ends_with_weights_that_load_and_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = ("--out", str(tmp_path / "out"))
    begun = []

    def killed(fit: Fit) -> Path:
        if fit.folder.name == "second" and not begun:
            begun.append(fit)
            raise KeyboardInterrupt
        return fit_network(fit)

    monkeypatch.setattr(recipe, "fit_network", killed)
    assert call(tmp_path, "all", QUICK + PHASES, *out) == 1
    assert begun
    runs = tmp_path / "out" / "runs"
    before = {path: path.stat().st_mtime_ns for path in runs.glob("*/*/weights.safetensors")}
    assert call(tmp_path, "all", QUICK + PHASES, *out) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    weights = tmp_path / "out" / "weights"
    assert sorted(path.stem for path in weights.glob("*.safetensors")) == ["wide-unet1", "wide-unet2"]
    first, second, shipped = (
        next(weight for weight in load_member(path).network.parameters() if weight.ndim == 4)
        for path in (
            runs / "wide-unet2" / "first" / "weights.safetensors",
            runs / "wide-unet2" / "second" / "weights.safetensors",
            weights / "wide-unet2.safetensors",
        )
    )
    assert torch.allclose(shipped, (first + second) / 2, atol=1e-3)
    card = (weights / "README.md").read_text(encoding="utf-8")
    assert "CC0" in card
    assert "| `wide-unet2` | 3 |" in card, "steps of both phases"
    assert "epoch_steps = 2" in card
    assert "mode: `native`" in (tmp_path / "out" / "evaluation" / "table2.md").read_text(encoding="utf-8")


def test_a_network_that_stays_goes_along_with_one_that_goes_on_and_is_averaged_with_a_file(tmp_path: Path) -> None:
    assert call(tmp_path, "all", QUICK + PHASES, "--out", str(tmp_path / "before")) == 0
    before = {name: tmp_path / "before" / "weights" / f"{name}.safetensors" for name in ("wide-unet1", "wide-unet2")}
    text = f"""
[[wide-unet1.phases]]
start = "{before["wide-unet1"]}"
schedule = {{epochs = 0}}
[[wide-unet2.phases]]
start = "{before["wide-unet2"]}"
average_with = "{before["wide-unet2"]}"
average_share = 0.0
average_logits = [1.0, 0.0, 0.5]
"""
    assert call(tmp_path, "all", QUICK + text, "--out", str(tmp_path / "out")) == 0
    weights = tmp_path / "out" / "weights"
    assert (weights / "wide-unet1.safetensors").read_bytes() == before["wide-unet1"].read_bytes()
    ours, theirs = (load_member(path).network for path in (weights / "wide-unet2.safetensors", before["wide-unet2"]))
    images = torch.randn(1, 5, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        moved = ours.eval()(images) - theirs.eval()(images)
    assert torch.allclose(moved.mean((0, 2, 3)), torch.tensor([1.0, 0.0, 0.5]), atol=0.01)
    assert "| `wide-unet1` | 0 |" in (weights / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("phase", "words"),
    [
        ("schedule = {epochs = 0}", "has no epochs and no start"),
        ("average_with = 'gone.safetensors'", "is averaged with gone.safetensors, which is neither"),
    ],
)
def test_a_phase_without_what_it_needs_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], phase: str, words: str
) -> None:
    text = QUICK + f"[[wide-unet2.phases]]\n{phase}\n"
    assert call(tmp_path, "all", text, "--out", str(tmp_path / "out")) == 2
    assert words in capsys.readouterr().err


def test_the_papers_recipe_learns_where_its_stage_1_looks_and_is_scored_in_its_mode(tmp_path: Path) -> None:
    assert call(tmp_path, "all", QUICK, "--preset", "paper", "--out", str(tmp_path / "out")) == 0
    names = sorted(path.stem for path in (tmp_path / "out" / "weights").glob("*.safetensors"))
    assert names == ["res-net", "res-unet1", "res-unet2"]
    assert "mode: `paper`" in (tmp_path / "out" / "evaluation" / "table2.md").read_text(encoding="utf-8")
    told = (tmp_path / "out" / "runs" / "res-net" / "1" / "config.toml").read_text(encoding="utf-8")
    assert 'regions = "located"' in told


def test_a_recipe_whose_validation_patients_have_no_whole_case_ends_without_a_table(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = Data((Source("volumes", tmp_path / "volumes"),))
    assert table_2(Recipe(data, {}), {"scans": []}, {tmp_path: {"a"}}, tmp_path) is None
    assert "Table 2 is not measured" in caplog.text


def test_a_start_that_is_no_phase_and_no_file_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = QUICK + "[[wide-unet2.phases]]\nstart = 'fifth'\n"
    assert call(tmp_path, "all", text, "--out", str(tmp_path / "out")) == 2
    assert "starts from fifth, which is neither a phase nor a file" in capsys.readouterr().err


def test_the_plan_says_time_disk_and_memory_of_each_phase(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(tmp_path, "plan", QUICK + PHASES, "--folds", "2") == 0
    told = capsys.readouterr().out
    assert "3 cases of 36 slices; their cache takes 0.0 GB on disk" in told
    assert "| wide-unet2/second | 2 | 2, 64 px |" in told
    assert "hours of steps in 2 folds" in told
    assert not list(tmp_path.glob("out*"))


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
    assert main(["average", *map(str, files[:2]), "--share", "0.75", "--out", str(files[2])]) == 0
    for got, a in zip(load_member(files[2]).network.parameters(), one.network.parameters(), strict=True):
        assert torch.allclose(got, a + 0.25, atol=1e-3)
    shift = ["--logits", "0.5", "0", "0.25"]
    assert main(["average", str(files[0]), str(files[0]), *shift, "--out", str(files[2])]) == 0
    images = torch.randn(1, 5, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        moved = load_member(files[2]).network(images) - one.network(images)
    assert torch.allclose(moved.mean((0, 2, 3)), torch.tensor([0.5, 0.0, 0.25]), atol=0.01)
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


def test_a_gpu_whose_memory_runs_out_is_told_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Data((Source("kits", kits_folder(tmp_path / "kits", 2)),), valid=("kits-00001",))
    prepare(data, tmp_path / "cache")

    def full(run: object) -> Path:
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr("train.fit.Trainer.fit", full)
    with pytest.raises(KitsError, match="batches of 2 patches of 64 px"):
        fit_network(Fit(SMALL, data, tmp_path / "cache", tmp_path / "run", "cpu"))


def test_verbose_shows_where_an_error_came_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["prepare", "--data", str(tmp_path / "none"), "--cache", str(tmp_path / "cache")]
    for more, told in (([], False), (["--verbose"], True)):
        assert main([*more, *call]) == 2
        assert ("Traceback" in capsys.readouterr().err) == told


def test_a_case_that_cannot_be_used_is_exit_status_1(tmp_path: Path) -> None:
    folder = kits_folder(tmp_path / "kits", 3)
    (folder / "case_00000" / "imaging.nii.gz").write_bytes(b"no image")
    (tmp_path / "mine.toml").write_text("[data]\nvalid = ['kits-00002']\n")
    cache = tmp_path / "cache"
    assert main(["prepare", "--data", str(folder), "--config", str(tmp_path / "mine.toml"), "--cache", str(cache)]) == 1
    assert (cache / "index.json").exists()


def test_a_network_that_learned_of_cysts_is_averaged_with_one_that_did_not(tmp_path: Path) -> None:
    small = replace(SMALL, architecture="wide-unet")
    start = trainer(small, tmp_path / "start")
    save_weights(tmp_path / "start.safetensors", start.network, start.info)
    wider = trainer(replace(small, classes=4), tmp_path / "run", start=tmp_path / "start.safetensors")
    with torch.no_grad():
        for parameter in wider.network.parameters():
            parameter += 0.5
    save_weights(tmp_path / "wider.safetensors", wider.network, wider.info)
    average(tmp_path / "wider.safetensors", tmp_path / "start.safetensors", tmp_path / "mean.safetensors")
    mean, one = load_member(tmp_path / "mean.safetensors"), load_member(tmp_path / "wider.safetensors")
    assert mean.info.classes == 4
    for (name, got), wanted in zip(mean.network.named_parameters(), one.network.parameters(), strict=True):
        shift = 0.0 if name.startswith("cysts") else 0.25
        assert torch.allclose(got, wanted - shift, atol=2e-3), name
