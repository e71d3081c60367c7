"""Scans for stores, and the stores: a run with one must give what a run without gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import SimpleITK as sitk

from kits.batch.command import main
from kits.cascade.cascade import Cascade
from test.helpers.threshold import phantom, threshold_cascade

OPTIONS = ["--device", "cpu", "--engine", "torch", "--precision", "fp32", "--mode", "paper"]
NAMES = {"a.nii.gz", "prediction_00007.nii.gz", "deep.nii.gz", "c.nii.gz"}
"""The label maps of ``forms``."""


@pytest.fixture(scope="session")
def forms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small scans in the forms that folders have, one of them damaged."""
    folder = tmp_path_factory.mktemp("forms")
    for number, name in enumerate(("a.nii.gz", "case_00007/imaging.nii.gz", "deep/b.mha", "c.mhd")):
        hu, _ = phantom(shape=(12, 96, 128), radius_mm=(16.0, 13.0, 13.0), tumour_mm=5.0 + number)
        image = sitk.GetImageFromArray(hu)
        image.SetSpacing((0.8, 0.8, 3.0))
        (folder / name).parent.mkdir(exist_ok=True)
        sitk.WriteImage(image, str(folder / name))
    (folder / "damaged.nii.gz").write_bytes(b"no scan")
    return folder


@pytest.fixture(scope="session")
def segment(threshold_weights: Path) -> Callable[..., int]:
    """A function ``(source, out, *options)`` that runs the command with networks that take no time; its status."""

    def run(source: str | Path, out: str | Path, *options: str) -> int:
        given = ["--input", str(source), "--output", str(out), "--weights", str(threshold_weights), *OPTIONS, *options]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Cascade, "load", lambda *_: threshold_cascade("paper"))
            return main(given)

    return run


@pytest.fixture(scope="session")
def here(forms: Path, segment: Callable[..., int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Label maps of the same scans by a run without a store."""
    out = tmp_path_factory.mktemp("here")
    assert segment(forms, out) == 1
    assert {path.name for path in out.glob("*.nii.gz")} == NAMES
    return out


@pytest.fixture(scope="session")
def s3_address() -> Iterator[str]:
    pytest.importorskip("moto", reason="moto is not installed")
    from test.helpers.store import s3_server

    with s3_server() as address:
        yield address


@pytest.fixture
def s3(s3_address: str, monkeypatch: pytest.MonkeyPatch):
    """S3 with an empty bucket; variables name it to all processes."""
    from test.helpers.store import s3_store

    monkeypatch.setattr("kits.io.stores.transfer.WAITS_SECONDS", (0.1, 0.2))
    with s3_store(s3_address, monkeypatch) as store:
        yield store


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch):
    """Google's store with an empty bucket; variables name it to all processes."""
    from test.helpers.store import google_store

    monkeypatch.setattr("kits.io.stores.transfer.WAITS_SECONDS", (0.1, 0.2))
    with google_store(monkeypatch) as store:
        yield store


@pytest.fixture(params=["s3", "google"])
def store(request: pytest.FixtureRequest):
    """One store after the other."""
    return request.getfixturevalue(request.param)
