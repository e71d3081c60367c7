"""The loop: it resumes to the bit, keeps what it is told to, and tells how it goes."""

import csv
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kits.normalisation import Normalisation
from kits.runtime.engine import Engine
from kits.runtime.weights import load_member
from test.helpers.threshold import Threshold, dice
from test.train.made import DATA, NORM, SMALL, made_scans, trainer
from train import loop
from train.config import Augmentation
from train.loop import DivergedError
from train.optimise import initialised
from train.presets import PRESETS
from train.validation import predict_labels, validate


@pytest.mark.parametrize(("network", "deviation"), [("res-unet1", 0.088), ("res-net", None)])
def test_networks_begin_as_table_1_says(network: str, deviation: float | None) -> None:
    torch.manual_seed(0)
    kernels = [m.weight for m in initialised(PRESETS["paper"][network]).modules() if isinstance(m, torch.nn.Conv2d)]
    for kernel in (k for k in kernels if k.numel() > 2000):
        bound = 0.2 if deviation else (6 / kernel[0].numel()) ** 0.5
        assert kernel.abs().max() <= bound
        assert kernel.std().item() == pytest.approx(deviation or bound / 3**0.5, rel=0.1)


SCRIPT = """
import sys, torch
from pathlib import Path
from test.train.made import SMALL, trainer
from train import loop
torch.set_num_threads(1)
loop.CHECKPOINT_STEPS = 1
trainer(SMALL, Path(sys.argv[1])).fit()
"""


@pytest.fixture
def one_thread() -> Iterator[None]:
    """PyTorch's sums over several threads come in any order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_a_run_that_is_killed_ends_as_if_it_were_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_STEPS", 1)
    whole = trainer(SMALL, tmp_path / "whole").fit()
    log = tmp_path / "parts" / "log.csv"
    with subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path / "parts")]) as process:
        while process.poll() is None and (not log.exists() or len(log.read_text(encoding="utf-8").splitlines()) < 3):
            time.sleep(0.02)
        process.kill()
        process.wait()
    left = torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=True)["progress"]["step"]
    assert 1 <= left < 6
    parts = trainer(SMALL, tmp_path / "parts").fit()
    expected, got = (load_member(path).network.state_dict() for path in (whole, parts))
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    rows = [list(csv.DictReader((tmp_path / run / "log.csv").open())) for run in ("whole", "parts")]
    assert [row["loss"] for row in rows[0]] == [row["loss"] for row in rows[1]]
    assert [row["step"] for row in rows[1]] == ["1", "2", "3", "4", "5", "6"]


def test_dropout_goes_on_to_the_bit_too(tmp_path: Path) -> None:
    config = replace(SMALL, architecture="res-net", dropout=True)
    torch.manual_seed(1)
    losses = []
    for _ in range(2):
        run = trainer(config, tmp_path)
        torch.rand(3)  # whatever else drew random numbers
        losses.append(float(run.take_step(*run.batch(0), 0)))
    assert losses[0] == losses[1]


def test_a_run_can_start_from_a_weight_file_and_keeps_its_normalisation(tmp_path: Path) -> None:
    first = trainer(SMALL, tmp_path / "first").fit()
    slow = replace(SMALL, schedule=replace(SMALL.schedule, learning_rate=1e-9))
    second = trainer(slow, tmp_path / "second", start=first, norm=Normalisation(5.0, 50.0)).fit()
    before, after = load_member(first), load_member(second)
    assert after.info == before.info
    name = "block3.residual.2.weight"
    assert torch.allclose(before.network.state_dict()[name], after.network.state_dict()[name], atol=1e-3)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="Lower the learning rate"):
        trainer(replace(SMALL, schedule=replace(SMALL.schedule, learning_rate=1e30, clip=0.0)), tmp_path).fit()


def test_a_run_without_progress_ends_early_and_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.5, 0.6, 0.6, 0.55, 0.9])
    monkeypatch.setattr(loop, "validate", lambda *a: {"score": next(scores)})
    patient = replace(SMALL.schedule, epochs=5, epoch_steps=1, keep="best", patience=2)
    for _ in range(2):
        trainer(replace(SMALL, schedule=patient), tmp_path).fit()
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert [float(row["score"]) for row in rows] == [0.5, 0.6, 0.6, 0.55]
    assert json.loads((tmp_path / "kept.json").read_text(encoding="utf-8"))["step"] == 2


@pytest.mark.parametrize(("keep", "step"), [("best", 2), ("last", 3)])
def test_a_run_keeps_its_best_or_its_last_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: str, step: int
) -> None:
    scores = iter([0.5, 0.6, 0.4])
    monkeypatch.setattr(loop, "validate", lambda *a: {"score": next(scores)})
    schedule = replace(SMALL.schedule, epochs=3, epoch_steps=1, keep=keep, average=0.0)
    run = trainer(replace(SMALL, schedule=schedule), tmp_path)
    kept = load_member(run.fit()).network.state_dict()
    assert json.loads((tmp_path / "kept.json").read_text(encoding="utf-8"))["step"] == step
    end = run.network.state_dict()
    same = all(torch.allclose(kept[name], end[name], atol=1e-5, rtol=1e-3) for name in kept if "running" in name)
    assert same == (keep == "last")
    assert run.progress.best == 0.6


def test_a_tiny_run_overfits_one_case_and_tells_so(tmp_path: Path) -> None:
    scan = made_scans(2)[0]
    schedule = replace(SMALL.schedule, batch=4, epochs=4, epoch_steps=40, keep="best", learning_rate=4e-3, average=0.8)
    config = replace(SMALL, schedule=schedule, shares=(0.2, 0.3, 0.5), augmentation=Augmentation(()))
    run = trainer(config, tmp_path, train=[scan], valid=[scan])
    member = load_member(run.fit())
    rows = [row for row in csv.DictReader((tmp_path / "log.csv").open()) if row["score"]]
    best = json.loads((tmp_path / "kept.json").read_text(encoding="utf-8"))
    assert best["kidney"] > 0.95
    assert best["score"] == max(float(row["score"]) for row in rows)
    assert member.info.trained_on == DATA.trained_on
    engine = Engine("cpu", "torch")
    assert validate(member.network, [scan], "segment", NORM, engine)["kidney"] == pytest.approx(
        best["kidney"], abs=0.01
    )
    board = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in board.Scalars("score")] == [40, 80, 120, 160]
    assert len(board.Images("slice, truth, answer")) > 0


def test_a_threshold_is_judged_as_it_deserves() -> None:
    scans = made_scans(2)[:1]
    engine = Engine("cpu", "torch")
    network = Threshold()
    scores = validate(network, scans, "segment", NORM, engine)
    predicted = predict_labels(network, scans[0], "segment", NORM, engine)
    assert scores["kidney"] == pytest.approx(dice(predicted > 0, scans[0].labels > 0), abs=1e-3)
    assert scores["kidney"] > 0.9
    assert scores["score"] == pytest.approx((scores["kidney"] + scores["tumour"]) / 2, abs=1e-3)


def test_validation_computes_in_the_precision_of_training_and_gives_the_same_scores(tmp_path: Path) -> None:
    torch.manual_seed(0)
    run = trainer(replace(SMALL, schedule=replace(SMALL.schedule, epochs=4, learning_rate=4e-3)), tmp_path)
    for step in range(8):
        run.take_step(*run.batch(step), step)
    seen: list[torch.dtype] = []
    first = next(module for module in run.validated.modules() if isinstance(module, torch.nn.Conv2d))
    first.register_forward_hook(lambda module, given, got: seen.append(got.dtype))
    scores = {}
    for precision in (torch.float32, torch.bfloat16):
        run.engine.precision = precision
        scores[precision] = run.validate_and_keep(1)
        assert set(seen) == {precision}
        seen.clear()
    single, half = scores.values()
    assert single.keys() == half.keys()
    assert max(single.values()) > 0.1, "there is something to compare"
    assert all(half[name] == pytest.approx(single[name], abs=0.03) for name in single)


def test_every_epoch_is_told_in_a_line_without_a_terminal(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        trainer(replace(SMALL, schedule=replace(SMALL.schedule, epochs=2, epoch_steps=1)), tmp_path).fit()
    lines = [line for line in caplog.messages if "epoch" in line]
    assert [line.split(": ")[1].split(",")[0] for line in lines] == ["epoch 1 of 2", "epoch 2 of 2"]
    assert all("loss" in line and "tumour" in line and "minutes left" in line for line in lines)
