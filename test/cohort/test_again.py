"""A GPU that gives up: a fresh process does the cases left, on that GPU, else on the CPU if that was left to us."""

import json
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from kits.batch import command
from kits.batch.command import Lost
from kits.batch.options import Options
from kits.batch.report import CaseReport
from kits.batch.watch import Watch
from kits.cascade.cascade import Prediction
from kits.choices import Status
from kits.cohort import again
from kits.cohort.again import GAVE_UP, Left, do_again
from kits.io.cases import find_cases
from kits.runtime.devices import DeviceLost
from test.helpers.threshold import phantom


class LostAtTheSecond:
    """Stands in for a cascade on a GPU that there is not on this machine, and that gives up."""

    device = torch.device("cuda", 7)

    def __init__(self) -> None:
        self.seen = 0

    def predict(self, volume, *_):
        self.seen += 1
        if self.seen > 1:
            raise DeviceLost("The GPU gave up (an illegal access; --device cpu does without it)")
        return Prediction(np.ones(volume.hu.shape, np.uint8), [])


@pytest.fixture
def scans(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in "abc":
        image = sitk.GetImageFromArray(phantom((6, 64, 64))[0])
        image.SetSpacing((0.8, 0.8, 3.0))
        sitk.WriteImage(image, str(folder / f"{name}.nii.gz"))
    return folder


@pytest.fixture
def lost(monkeypatch):
    """The first process, this one, has a GPU that gives up."""
    load = command.load

    def stand_in(options):
        _, outputs = load(replace(options, device="cpu"))
        return LostAtTheSecond(), outputs

    monkeypatch.setattr(command, "load", stand_in)


def arguments(scans: Path, out: Path, device: str) -> list[str]:
    return [*map(str, ["--input", scans, "--output", out, "--report", out / "report.json"]),
            f"--device={device}", "--in-flight=1", "--engine=torch"]  # fmt: skip


@pytest.mark.usefixtures("lost")
def test_a_run_whose_gpu_gives_up_is_finished_on_the_cpu_by_a_fresh_process(scans, tmp_path, caplog, capfd):
    out = tmp_path / "out"
    assert command.main(arguments(scans, out, "auto")) == 0
    assert [one["status"] for one in json.loads((out / "report.json").read_text())] == ["done"] * 3
    assert sitk.GetArrayFromImage(sitk.ReadImage(str(out / "a.nii.gz"))).all(), "what was done is left alone"
    assert not sitk.GetArrayFromImage(sitk.ReadImage(str(out / "c.nii.gz"))).all()
    told = [record.getMessage() for record in caplog.records if "fresh process" in record.getMessage()]
    assert told == [
        "The GPU gave up (an illegal access; --device cpu does without it): a fresh process does the 2 cases left, "
        "on cuda:7.",
        "The GPU gave up, and could not be had again: a fresh process does the 2 cases left, on cpu.",
    ]
    assert "--device cpu" in capfd.readouterr().err, "the fresh process says why it cannot have that GPU"


@pytest.fixture
def begun(monkeypatch):
    """What fresh processes are told; each ends with the next of the statuses, having done a case each."""
    asked: list[Left] = []
    statuses = [GAVE_UP, GAVE_UP, 0]

    def stand_in(left: Left, watch: Watch) -> int:
        asked.append(left)
        reached = left.cases if len(asked) == len(statuses) else left.cases[:1]
        reports = [{"name": one.name, "source": "", "output": one.output_name, "status": "done"} for one in reached]
        left.manifest.write_text(json.dumps(reports))
        return statuses[len(asked) - 1]

    monkeypatch.setattr(again, "in_a_fresh_process", stand_in)
    return asked


def left_of(scans: Path, out: Path, device: str) -> list[CaseReport]:
    cases = find_cases(scans)
    reports = [CaseReport(case.name, str(case.source), case.output_name, Status.NOT_REACHED, "lost") for case in cases]
    options = Options.parse(arguments(scans, out, device), "kits segment")
    return do_again(reports, Lost("cuda:1", "The GPU gave up"), cases, options, Watch())


def test_the_same_gpu_is_tried_once_and_then_the_cpu(scans, tmp_path, begun):
    reports = left_of(scans, tmp_path / "out", "auto")
    assert [one.options.device for one in begun] == ["cuda:1", "cpu"]
    assert [[case.name for case in one.cases] for one in begun] == [["a", "b", "c"], ["b", "c"]]
    assert [str(one.status) for one in reports] == ["done", "done", "not reached"]


def test_who_asked_for_a_gpu_gets_no_cpu_instead(scans, tmp_path, begun):
    reports = left_of(scans, tmp_path / "out", "cuda")
    assert [one.options.device for one in begun] == ["cuda:1"]
    assert [str(one.status) for one in reports] == ["done", "not reached", "not reached"]


def test_a_run_that_is_told_to_end_begins_no_other_process(scans, tmp_path):
    cases = find_cases(scans)
    watch = Watch()
    watch.received = signal.SIGTERM.name
    options = Options.parse(arguments(scans, tmp_path / "out", "auto"), "kits segment")
    assert again.in_a_fresh_process(Left(cases, options, 0.0, tmp_path / "report.json"), watch) is None
    assert not (tmp_path / "out").exists()
