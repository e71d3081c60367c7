"""A run measures each case once, and writes tables and surfaces beside the label maps; a resumed run keeps them."""

import csv
import json
from dataclasses import asdict

import numpy as np
import pytest
import SimpleITK as sitk

from kits.batch.measured import measured
from kits.batch.outputs import ColourTables, LesionTable, Surfaces
from kits.batch.report import Outputs
from kits.batch.run import run
from kits.cascade.cascade import Prediction
from kits.io.cases import find_cases
from kits.io.volume import Volume


class Thresholds:
    """A cascade that calls kidney and tumour what is bright."""

    def predict(self, volume, keep_probabilities=False, progress=lambda done: None):
        labels = (volume.hu > 110).astype(np.uint8) + (volume.hu > 240).astype(np.uint8)
        return Prediction(labels, [])


@pytest.fixture
def cases(tmp_path, make_ct):
    """A healthy case, and one with a tumour in the patient's left kidney."""
    for name in ("healthy", "tumour"):
        hu = make_ct((12, 64, 64), (3.0, 0.8, 0.8))
        if name == "tumour":
            hu[4:8, 30:38, 42:50] = 300
        image = sitk.GetImageFromArray(hu)
        image.SetSpacing((0.8, 0.8, 3.0))
        (tmp_path / "scans").mkdir(exist_ok=True)
        sitk.WriteImage(image, tmp_path / "scans" / f"{name}.nii.gz")
    return find_cases(tmp_path / "scans")


def test_tables_and_surfaces_of_a_run(tmp_path, cases):
    pytest.importorskip("trimesh")
    out = tmp_path / "out"
    extras = (LesionTable(str(tmp_path / "lesions.csv"), out), Surfaces("glb", out), ColourTables("True", out))
    for expected in ("done", "skipped"):
        reports = run(cases, Thresholds(), Outputs(out, extras, skip_existing=True))
        for extra in extras:
            extra.finish(reports)
        assert [report.status.value for report in reports] == [expected] * 2
        assert not any(report.missing for report in reports)
        with (tmp_path / "lesions.csv").open(encoding="utf-8") as file:
            (row,) = csv.DictReader(file)
        assert (row["case"], row["side"], row["name"]) == ("tumour", "left", "tumour 1")
        assert float(row["volume_ml"]) == pytest.approx(4 * 8 * 8 * 3 * 0.64 / 1000, abs=1e-3)
    assert sorted(path.name for path in (out / "meshes").iterdir()) == ["healthy.glb", "tumour.glb"]
    assert (out / "labels.ctbl").is_file()
    healthy, tumour = (json.loads(json.dumps(asdict(report)))["measurements"] for report in reports)
    assert healthy["lesions"] == []
    assert tumour["lesions"][0]["renal"]["text"]


def test_a_predictions_measurements_are_made_once(make_ct):
    hu = make_ct((12, 64, 64), (3.0, 0.8, 0.8))
    volume = Volume.from_array(hu, (3.0, 0.8, 0.8))
    prediction = Thresholds().predict(volume)
    first = measured(volume, prediction)
    assert measured(volume, prediction) is first
    assert measured(volume, Thresholds().predict(volume)) == first
    assert measured(volume, Prediction(np.zeros_like(prediction.labels), [])).right is None
