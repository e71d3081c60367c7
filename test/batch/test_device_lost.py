"""A GPU that refuses all further work ends the run: what is finished stays, and no later case is failed by it."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from kits.batch.report import Outputs
from kits.batch.run import run
from kits.cascade.cascade import Prediction
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


def test_a_lost_gpu_ends_the_run_and_the_rest_is_not_reached(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in "abc":
        image = sitk.GetImageFromArray(np.random.default_rng(0).integers(-1000, 300, (4, 32, 32)).astype(np.int16))
        image.SetSpacing((0.8, 0.8, 3.0))
        sitk.WriteImage(image, str(tmp_path / "in" / f"{name}.nii.gz"))
    cascade = LostAtTheSecond()
    reports = run(find_cases(tmp_path / "in"), cascade, Outputs(tmp_path / "out"))  # type: ignore[arg-type]
    assert [str(report.status) for report in reports] == ["done", "not reached", "not reached"]
    assert "gave up" in reports[1].error
    assert cascade.seen == ["a", "b"]
    assert [path.name for path in (tmp_path / "out").glob("*.nii.gz")] == ["a.nii.gz"]
