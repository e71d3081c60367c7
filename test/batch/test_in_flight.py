"""Several cases under way at once: the same results, failures and ends as one after the other."""

import json
import logging
import os
import signal
import threading
import time
from functools import partial

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch import nn

from kits.batch.outputs import Overlay, Probabilities
from kits.batch.report import Manifest, Outputs
from kits.batch.room import Room
from kits.batch.run import run
from kits.batch.watch import Watch
from kits.cascade.cascade import Cascade, Prediction
from kits.errors import GpuMemoryError
from kits.io.cases import find_cases
from kits.runtime.devices import DeviceLost
from kits.runtime.runtime import Runtime
from test.helpers.threshold import Threshold, member, phantom

NAMES = "abcde"


class Meeting:
    """Stands in for the cascade: finds nothing, tells who is at the networks with whom.

    Args:
        halfway: called with each volume's name while it is segmented.
    """

    def __init__(self, halfway=lambda name: None):
        self.halfway, self.here, self.most, self.lock = halfway, set(), 0, threading.Lock()

    def predict(self, volume, keep_probabilities=False, progress=lambda done: None):
        with self.lock:
            self.here.add(volume.name)
            self.most = max(self.most, len(self.here))
        try:
            self.halfway(volume.name)
            progress(0.5)
            return Prediction(np.zeros(volume.hu.shape, np.uint8), [])
        finally:
            with self.lock:
                self.here.discard(volume.name)


class OneAnswer(Threshold):
    """Writes each answer over the last, as compiled and recorded networks do, and takes its time."""

    def __init__(self):
        super().__init__()
        self.answer = torch.zeros(0)

    def forward(self, x_BCYX):
        found = super().forward(x_BCYX)
        self.answer = self.answer if self.answer.shape == found.shape else torch.empty_like(found)
        self.answer.copy_(found)
        time.sleep(0.01)
        return self.answer


def cascade_of(network: type[nn.Module]) -> Cascade:
    return Cascade([member("locate", network())], [member("segment", network())], Runtime.of("cpu", "native", "torch"))


@pytest.fixture
def scans(tmp_path):
    """Five patients, each with kidneys and a tumour of other sizes; c's scan is the longest."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        hu, _ = phantom(
            (24 if name == "c" else 14 + 2 * number, 64, 80), tumour_mm=7.0 + number, radius_mm=(18.0, 12.0, 12.0)
        )
        image = sitk.GetImageFromArray(hu)
        image.SetSpacing((0.8, 0.8, 3.0))
        sitk.WriteImage(image, str(folder / f"{name}.nii.gz"))
    return folder


@pytest.fixture
def small_scans(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    for name in NAMES:
        hu = np.random.default_rng(0).integers(-1000, 300, (4, 32, 32)).astype(np.int16)
        sitk.WriteImage(sitk.GetImageFromArray(hu), str(folder / f"{name}.nii.gz"))
    return folder


def result(scans, out, in_flight, cascade):
    """All that a run writes but its seconds: the files' bytes, and the reports."""
    manifest = Manifest(out / "report.json")
    manifest.begin()
    outputs = Outputs(out, (Overlay(str(out / "pictures"), out), Probabilities("", out)))
    reports = run(find_cases(scans), cascade, outputs, manifest=manifest, in_flight=in_flight)
    assert [(one.status, one.error) for one in reports] == [("done", "")] * len(NAMES)
    files = {str(path.relative_to(out)): path for path in sorted(out.rglob("*")) if path.is_file()}
    told = [
        json.loads(files.pop(name).read_text().replace(str(out), "OUT"))
        for name in list(files)
        if name.endswith(".json")
    ]
    for one in [*told[-1], *(record["report"] for record in told[:-1])]:
        del one["seconds"]
    return {name: path.read_bytes() for name, path in files.items()}, told


def test_what_a_run_writes_does_not_depend_on_how_many_cases_are_under_way(scans, tmp_path):
    one, several = (result(scans, tmp_path / str(n), n, cascade_of(OneAnswer)) for n in (1, 3))
    assert one == several
    assert len({one[0][f"{name}.nii.gz"] for name in NAMES}) == len(NAMES), "they could not be mistaken"
    assert sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "3" / "c.nii.gz"))).max() == 2


def test_as_many_cases_as_wanted_are_under_way_and_no_more(small_scans, tmp_path):
    three = threading.Barrier(3)
    cascade = Meeting(lambda name: name in "abc" and three.wait(30))
    reports = run(find_cases(small_scans), cascade, Outputs(tmp_path / "out"), in_flight=3)
    assert [one.status for one in reports] == ["done"] * 5
    assert cascade.most == 3


def test_where_memory_is_short_fewer_cases_are_under_way(small_scans, tmp_path, monkeypatch):
    monkeypatch.setattr("kits.batch.run.Room", partial(Room, limit=lambda: 10**9))
    cascade = Meeting(lambda name: time.sleep(0.05))
    reports = run(find_cases(small_scans), cascade, Outputs(tmp_path / "out", base_bytes=10**9), in_flight=3)
    assert [one.status for one in reports] == ["done"] * 5
    assert cascade.most == 1


@pytest.mark.parametrize("bad", ["a", "c", "e"])
def test_a_case_that_fails_among_others_costs_none_its_result(small_scans, tmp_path, bad):
    def halfway(name):
        if name == bad:
            raise ValueError("no")

    (small_scans / "b.nii.gz").write_bytes(b"no scan")
    reports = run(find_cases(small_scans), Meeting(halfway), Outputs(tmp_path / "out"), in_flight=3)
    assert [one.name for one in reports] == [*NAMES]
    assert {one.name for one in reports if one.status == "failed"} == {bad, "b"}
    assert {path.name for path in (tmp_path / "out").glob("*.nii.gz")} == {
        f"{name}.nii.gz" for name in NAMES if name not in (bad, "b")
    }


@pytest.mark.parametrize(
    "trouble", [torch.cuda.OutOfMemoryError("CUDA out of memory"), GpuMemoryError("The memory of cuda:0 ran out.")]
)
def test_a_case_for_which_memory_runs_out_in_company_is_done_alone(small_scans, tmp_path, trouble):
    begun, met, failed = threading.Barrier(3), [], []

    def halfway(name):
        if name in "abc" and name not in failed:
            begun.wait(30)
        if name == "b":
            if not failed:
                failed.append(name)
                raise trouble
            met.append(set(cascade.here))
        elif not failed:
            time.sleep(0.2)

    cascade = Meeting(halfway)
    reports = run(find_cases(small_scans), cascade, Outputs(tmp_path / "out"), in_flight=3)
    assert [one.status for one in reports] == ["done"] * 5
    assert met == [{"b"}]


def test_a_case_for_which_memory_runs_out_alone_fails(small_scans, tmp_path):
    tries = []

    def halfway(name):
        if name == "b":
            tries.append(name)
            raise MemoryError

    reports = run(find_cases(small_scans), Meeting(halfway), Outputs(tmp_path / "out"), in_flight=1)
    assert [one.status for one in reports] == ["done", "failed", "done", "done", "done"]
    assert tries == ["b"]


def test_a_signal_keeps_what_is_finished_and_ends_all_that_is_under_way(small_scans, tmp_path):
    begun, last = threading.Barrier(3), threading.Event()

    def halfway(name):
        if name == "a":
            return
        if name == "b":  # not before a is told of
            while not (tmp_path / "out" / "a.nii.gz").exists():
                time.sleep(0.001)
        begun.wait(30)
        if name == "b":
            os.kill(os.getpid(), signal.SIGTERM)
        last.wait(0.3)  # the main thread hears it meanwhile

    watch, path = Watch(), tmp_path / "report.json"
    with watch.listening():
        cases = find_cases(small_scans)
        reports = run(cases, Meeting(halfway), Outputs(tmp_path / "out"), watch, Manifest(path), in_flight=3)
    assert [one.status for one in reports] == ["done"] + ["not reached"] * 4
    assert {one.error for one in reports[1:]} == {"The run was told to end (SIGTERM)"}
    assert [one["status"] for one in json.loads(path.read_text())] == [one.status for one in reports]
    assert [path.name for path in (tmp_path / "out").glob("*.nii.gz")] == ["a.nii.gz"]


def test_a_case_finished_before_an_earlier_one_is_ended_is_written_and_told_in_its_place(small_scans, tmp_path):
    watch, second = Watch(), tmp_path / "out" / "b.nii.gz"

    def halfway(name):
        if name == "a":
            while not second.exists():
                time.sleep(0.001)
            watch.received = "SIGTERM"

    reports = run(find_cases(small_scans)[:3], Meeting(halfway), Outputs(tmp_path / "out"), watch, in_flight=2)
    assert [one.name for one in reports] == ["a", "b", "c"]
    assert [one.status for one in reports[:2]] == ["not reached", "done"]


def test_cases_are_told_of_in_their_order_whichever_ends_first(small_scans, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    written = tmp_path / "out" / "c.nii.gz"

    def halfway(name):
        while name == "a" and not written.exists():
            time.sleep(0.001)

    run(find_cases(small_scans), Meeting(halfway), Outputs(tmp_path / "out"), in_flight=3)
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        f"{number}/5 {name}" for number, name in enumerate(NAMES, start=1)
    ]


def test_a_gpu_that_gives_up_fails_no_case_that_was_under_way_beside(small_scans, tmp_path):
    begun = threading.Barrier(3)

    def halfway(name):
        begun.wait(30)
        raise DeviceLost("The GPU gave up (an illegal access)")

    reports = run(find_cases(small_scans), Meeting(halfway), Outputs(tmp_path / "out"), in_flight=3)
    assert {(one.status, one.error) for one in reports} == {("not reached", "The GPU gave up (an illegal access)")}


def nothing() -> None:
    """Always go on."""


def test_room_is_given_by_number_and_by_memory():
    room = Room(2, base_bytes=100, limit=lambda: 160)
    for number, need in ((0, 30), (1, 30)):
        room.enter(number, need, nothing)
    assert room.has_company()

    def give_up():
        raise TimeoutError

    with pytest.raises(TimeoutError):
        room.enter(2, 0, give_up)  # two take turns at the networks
    room.predicted(0)
    with pytest.raises(TimeoutError):
        room.enter(2, 1, give_up)  # 160 are taken, though 0 is only being written
    room.enter(2, 0, give_up)
    room.leave(0)
    room.predicted(1)
    room.predicted(2)
    room.leave(1)
    room.enter(3, 1000, give_up)  # by itself whatever it needs, as where there is one at a time
    assert not room.has_company()


def test_who_waits_to_be_alone_lets_nobody_in_before():
    room, alone = Room(3, 0, limit=lambda: 10), threading.Event()
    for number in range(2):
        room.enter(number, 1, nothing)
    thread = threading.Thread(target=lambda: (room.wait_alone(0, nothing), alone.set()))
    thread.start()
    try:
        assert not alone.wait(0.2)
        room.leave(1)
        assert alone.wait(30)
    finally:
        thread.join()
    assert not room.has_company()
