"""GPUs of a Ray cluster that give up: their workers end, the cases are done by fresh ones, and none is tried for ever.

The GPUs are numbers that Ray is told of; what stands in for a cascade on one says when it gives up.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from kits.batch.options import Options
from kits.batch.report import CaseReport, Manifest, Outputs
from kits.batch.watch import Watch
from kits.cascade.cascade import Prediction
from kits.cohort import cluster
from kits.cohort.cluster import CaseWorker, connect, run_on_cluster
from kits.cohort.scatter import TRIES, Share
from kits.errors import KitsError
from kits.io.cases import Case, find_cases
from kits.io.volume import Volume
from kits.runtime.devices import DeviceLost

ray = pytest.importorskip("ray", reason="Ray is not installed (pip install 'kits-cascade[cohort]')")
CORES = 3


class GivesUp:
    """Stands in for a cascade on a GPU: notes what each process begins; a scan's name says when the GPU gives up."""

    device = torch.device("cuda", 0)

    def __init__(self, notes: Path) -> None:
        self.notes, self.lost = notes, False

    def predict(self, volume: Volume, *_: object) -> Prediction:
        before = len(list(self.notes.glob(f"{volume.name}.*")))
        (self.notes / f"{volume.name}.{os.getpid()}").touch()
        if self.lost or volume.name == "always" or (volume.name == "once" and not before):
            self.lost = True
            (self.notes / f"lost.{os.getpid()}").touch()
            raise DeviceLost("The GPU gave up (an illegal access; --device cpu does without it)")
        return Prediction(np.ones(volume.hu.shape, np.uint8), [])


class Worker(CaseWorker):
    """A worker on such a GPU."""

    def run(self, case: Case) -> CaseReport:
        output = Path(self.options.output)
        self.loaded = self.loaded or (GivesUp(output.parent / "notes"), Outputs(output))
        return super().run(case)


class CannotLoadAgain(Worker):
    """The GPU cannot be had any more, once it has given up."""

    def run(self, case: Case) -> CaseReport:
        if list((Path(self.options.output).parent / "notes").glob("lost.*")):
            raise KitsError("There is no cuda:0 here.")
        return super().run(case)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster of this machine that believes to have a GPU."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": CORES, "num_gpus": 1, "include_dashboard": False}
    local: Any = Cluster(initialize_head=True, head_node_args=head)
    yield local.address
    ray.shutdown()
    local.shutdown()


def scans(folder: Path, *names: str) -> Path:
    (folder / "in").mkdir()
    (folder / "notes").mkdir()
    for name in names:
        image = sitk.GetImageFromArray(np.random.default_rng(0).integers(-1000, 300, (4, 32, 32)).astype(np.int16))
        sitk.WriteImage(image, str(folder / "in" / f"{name}.nii.gz"))
    return folder / "in"


def options_of(folder: Path, address: str, *more: str) -> Options:
    words = [f"--input={folder / 'in'}", f"--output={folder / 'out'}", f"--ray={address}", *more]
    return Options.parse(words, "kits segment")


def notes(folder: Path, name: str) -> set[str]:
    """The processes that began a case, or, by the name "lost", whose GPU gave up."""
    return {path.suffix for path in (folder / "notes").glob(f"{name}.*")}


def test_several_workers_share_a_gpu_and_its_cores(address: str, tmp_path: Path) -> None:
    assert connect(options_of(tmp_path, address)) == Share(1.0, 1 / 3)
    assert connect(options_of(tmp_path, address, "--in-flight=1")) == Share(2.0, 1.0)
    assert connect(options_of(tmp_path, address, "--device=cpu")) == Share(2.0)


def test_a_case_whose_gpu_gave_up_is_done_by_a_fresh_worker(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "CaseWorker", Worker)
    cases = find_cases(scans(tmp_path, "a", "always", "b", "c", "once"))
    reports = run_on_cluster(cases, options_of(tmp_path, address), Watch(), Manifest(None))
    assert [str(one.status) for one in reports] == ["done", "failed", "done", "done", "done"]
    assert reports[1].error == (
        f"{cases[1].place}: The GPU gave up (an illegal access; --device cpu does without it), in each of {TRIES} "
        "processes."
    )
    lost = notes(tmp_path, "lost")
    assert notes(tmp_path, "always") < lost
    assert len(notes(tmp_path, "always")) == TRIES
    assert len(lost) == TRIES + 1, "none of them was asked for anything more"
    assert len(notes(tmp_path, "once")) == 2
    assert sorted(path.name.split(".")[0] for path in (tmp_path / "out").glob("*.nii.gz")) == ["a", "b", "c", "once"]


def test_where_a_gpu_that_was_asked_for_cannot_be_had_again_the_rest_is_not_reached(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "CaseWorker", CannotLoadAgain)
    cases = find_cases(scans(tmp_path, "a", "always", "b"))
    options = options_of(tmp_path, address, "--in-flight=1", "--device=cuda")
    reports = run_on_cluster(cases, options, Watch(), Manifest(None))
    assert [str(one.status) for one in reports] == ["done", "not reached", "not reached"]
    assert {one.error for one in reports[1:]} == {"There is no cuda:0 here"}
    with pytest.raises(KitsError, match="no cuda:0 here"):  # in which nothing was done
        run_on_cluster(cases, options, Watch(), Manifest(None))
