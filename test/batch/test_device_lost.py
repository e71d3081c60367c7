"""A GPU that refuses all further work ends the run: what is finished stays, and no later case is failed by it."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from kits.batch.report import Outputs
from kits.batch.run import run
from kits.cascade.cascade import Prediction
from kits.errors import GpuMemoryError
from kits.io.cases import find_cases
from kits.io.volume import Volume
from kits.runtime.devices import DeviceLost


class LostAtTheSecond:
    """Stands in for a cascade whose GPU gives up."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def predict(self, volume: Volume, *_: object) -> Prediction:
        self.seen.append(volume.name)
        if len(self.seen) > 1:
            raise DeviceLost("The GPU gave up (an illegal access; --device cpu does without it)")
        return Prediction(np.ones(volume.hu.shape, np.uint8), [])


class Full:
    """Stands in for a cascade whose GPU has not the memory for a scan."""

    def predict(self, volume: Volume, *_: object) -> Prediction:
        raise GpuMemoryError("The memory of cuda:0 ran out; end what else runs on it.") from RuntimeError("NO_ROOM")


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for name in "abc":
        image = sitk.GetImageFromArray(np.random.default_rng(0).integers(-1000, 300, (4, 32, 32)).astype(np.int16))
        image.SetSpacing((0.8, 0.8, 3.0))
        sitk.WriteImage(image, str(tmp_path / "in" / f"{name}.nii.gz"))
    return tmp_path / "in"


def test_a_gpu_without_the_memory_for_a_case_is_named_and_its_remedy_is_told(scans: Path, tmp_path: Path) -> None:
    cases = find_cases(scans)
    reports = run(cases, Full(), Outputs(tmp_path / "out"))  # type: ignore[arg-type]
    assert [one.error for one in reports] == [
        f"{case.place}: The memory of cuda:0 ran out; end what else runs on it." for case in cases
    ]


def test_a_lost_gpu_ends_the_run_and_the_rest_is_not_reached(scans: Path, tmp_path: Path) -> None:
    cascade = LostAtTheSecond()
    reports = run(find_cases(scans), cascade, Outputs(tmp_path / "out"))  # type: ignore[arg-type]
    assert [str(report.status) for report in reports] == ["done", "not reached", "not reached"]
    assert "gave up" in reports[1].error
    assert cascade.seen == ["a", "b"]
    assert [path.name for path in (tmp_path / "out").glob("*.nii.gz")] == ["a.nii.gz"]
