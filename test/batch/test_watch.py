"""A run that must end early keeps what is finished."""

import json
import os
import signal
import time

import numpy as np
import pytest
import SimpleITK as sitk

from kits.batch.report import Manifest, Outputs
from kits.batch.run import run
from kits.batch.watch import Stopped, Watch
from kits.cascade.cascade import Prediction
from kits.io.cases import find_cases
from test.helpers.trouble import make_trouble


class Empty:
    """Stands in for the cascade: finds nothing, after doing something halfway."""

    def __init__(self, halfway):
        self.halfway = halfway

    def predict(self, volume, keep_probabilities=False, progress=lambda done: None):
        self.halfway(volume.name)
        progress(0.5)
        progress(1.0)
        return Prediction(np.zeros(volume.hu.shape, np.uint8), [])


@pytest.fixture
def scans(tmp_path, make_ct):
    folder = tmp_path / "scans"
    folder.mkdir()
    for name in "abc":
        sitk.WriteImage(sitk.GetImageFromArray(make_ct((4, 32, 32))), str(folder / f"{name}.nii.gz"))
    return folder


def end_on_b(name):
    if name == "b":
        os.kill(os.getpid(), signal.SIGTERM)
        while signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:  # until the main thread has heard it
            time.sleep(0.001)


def test_a_signal_ends_the_run_with_what_is_finished(scans, tmp_path):
    out, report = tmp_path / "out", tmp_path / "report.json"
    watch = Watch()
    with watch.listening():
        reports = run(find_cases(scans), Empty(end_on_b), Outputs(out), watch, Manifest(report))
    assert [one.status for one in reports] == ["done", "not reached", "not reached"]
    assert reports[1].error == reports[2].error == "The run was told to end (SIGTERM)"
    assert [path.name for path in out.iterdir() if not path.name.startswith(".")] == ["a.nii.gz"]
    assert [one["status"] for one in json.loads(report.read_text())] == [one.status for one in reports]


def test_a_case_that_is_finished_when_the_end_comes_is_written(scans, tmp_path):
    watch = Watch()

    class Late(Empty):
        def predict(self, volume, keep_probabilities=False, progress=lambda done: None):
            watch.received = "SIGTERM"
            progress(1.0)
            return Prediction(np.zeros(volume.hu.shape, np.uint8), [])

    reports = run(find_cases(scans), Late(None), Outputs(tmp_path / "out"), watch)
    assert [one.status for one in reports] == ["done", "not reached", "not reached"]


def test_the_time_limit_ends_the_run(scans, tmp_path):
    reports = run(find_cases(scans), Empty(lambda name: None), Outputs(tmp_path / "out"), Watch(seconds=0))
    assert {one.status for one in reports} == {"not reached"}
    assert reports[0].error == "The time limit of 0 s was reached"


def test_signals_are_heeded_only_inside_and_the_second_one_is_not_caught():
    before = signal.getsignal(signal.SIGTERM)
    watch = Watch()
    watch.check()
    with watch.listening():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped, match="SIGTERM"):
            watch.check()
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_time_limit_ends_a_reading_that_hangs(scans, tmp_path, monkeypatch):
    make_trouble(tmp_path, monkeypatch)
    (scans / "a.nii.gz").rename(scans / "a_hang.nii.gz")
    reports = run(find_cases(scans), Empty(lambda name: None), Outputs(tmp_path / "out"), watch=Watch(seconds=2))
    assert {one.status for one in reports} == {"not reached"}
