"""Smoke check of the real entrypoint: ``process.py`` on a small made-up scan, beside a file that is none.

    python -m test.smoke

Whether the made-up kidneys are found is not asked; that all the promised files come, and no others, is.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Run the check; an AssertionError says what went wrong."""
    with tempfile.TemporaryDirectory() as folder:
        check_one_good_one_bad(Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        check_nothing_to_do(Path(folder))
    print("Smoke check passed.")
    return 0


def check_one_good_one_bad(folder: Path) -> None:
    """The good case is written on its own grid, the bad one is named, and the manifest knows both."""
    source, output, report = folder / "in", folder / "out", folder / "report.json"
    source.mkdir()
    scan = made_up_scan()
    sitk.WriteImage(scan, str(source / "good.nii.gz"))
    (source / "bad.nii.gz").write_text("This is text, not a volume.")

    done = process("--input", source, "--output", output, "--overlays", folder / "overlays", "--report", report)
    assert done.returncode == 1, f"exit status {done.returncode}, not 1:\n{done.stderr}"
    assert "bad.nii.gz" in done.stderr, f"the message names no bad file:\n{done.stderr}"
    assert "Traceback" not in done.stderr, done.stderr
    assert [path.name for path in output.iterdir()] == ["good.nii.gz"], list(output.iterdir())
    assert (folder / "overlays" / "good.png").stat().st_size > 10_000

    labels = sitk.ReadImage(str(output / "good.nii.gz"))
    assert labels.GetPixelID() == sitk.sitkUInt8, labels.GetPixelIDTypeAsString()
    assert labels.GetSize() == scan.GetSize()
    for of in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert np.allclose(getattr(labels, of)(), getattr(scan, of)(), atol=1e-5), of
    assert set(np.unique(sitk.GetArrayViewFromImage(labels))) <= {0, 1, 2}

    cases = {case["name"]: case for case in json.loads(report.read_text())}
    assert {name: case["status"] for name, case in cases.items()} == {"good": "done", "bad": "failed"}, cases
    assert "bad.nii.gz" in cases["bad"]["error"], cases["bad"]


def check_nothing_to_do(folder: Path) -> None:
    """An empty folder is a wrong call, answered with a sentence that names it."""
    (folder / "in").mkdir()
    done = process("--input", folder / "in", "--output", folder / "out")
    assert done.returncode == 2, f"exit status {done.returncode}, not 2:\n{done.stderr}"
    assert str(folder / "in") in done.stderr, done.stderr


def process(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """``process.py`` with these arguments, on the CPU."""
    command = [sys.executable, str(ROOT / "process.py"), "--device", "cpu", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def made_up_scan() -> sitk.Image:
    """A body of fat with muscle, spine and two bright kidneys in air: 40 slices of 256x256, 3 x 1.4 x 1.4 mm."""
    z, y, x = np.meshgrid(np.arange(40) * 3.0, np.arange(256) * 1.4, np.arange(256) * 1.4, indexing="ij")

    def ellipsoid(centre: tuple[float, float, float], radii: tuple[float, float, float]) -> np.ndarray:
        return sum(((a - c) / r) ** 2 for a, c, r in zip((z, y, x), centre, radii, strict=True)) < 1

    hu = np.full(z.shape, -1000.0)
    hu[ellipsoid((60, 179, 179), (1e6, 115, 165))] = -100  # fat
    hu[ellipsoid((60, 179, 179), (1e6, 100, 150))] = 40  # soft tissue
    hu[ellipsoid((60, 200, 179), (1e6, 70, 90))] = -100  # fat round the kidneys
    hu[ellipsoid((60, 240, 179), (1e6, 25, 25))] = 400  # spine
    for side in (125, 233):
        hu[ellipsoid((60, 215, side), (50, 28, 25))] = 150
    hu += np.random.default_rng(0).normal(0, 12, hu.shape)
    image = sitk.GetImageFromArray(np.rint(hu).astype(np.int16))
    image.SetSpacing((1.4, 1.4, 3.0))
    image.SetOrigin((-179.0, -179.0, -500.0))
    return image


if __name__ == "__main__":
    sys.exit(main())
