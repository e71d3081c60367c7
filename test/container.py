"""Checks of process.py as an organiser runs it; of an image, run as grand-challenge.org runs it, if one is named.

    python -m test.container [IMAGE]

Networks set by hand, mounted as the weights, tell kidney and tumour by Hounsfield units: what comes out of the made
scans is known to within the voxels at edges, whatever the shipped weights are. Those are asked for their form only.
"""

from __future__ import annotations

import json
import signal
import struct
import subprocess
import sys
import tempfile
import time
import uuid
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from kits.runtime.weights import save_weights, write_checksums
from test.conftest import MEMBERS, info_of, thresholding
from test.helpers.threshold import dice, phantom

ROOT = Path(__file__).resolve().parent.parent
SPACING = (3.0, 0.8, 0.8)
EXPECTED_DICE = {"kidney with tumour": 1.0, "tumour": 1.0}
"""Of the made scan. If the cascade changes for good reasons: run this, look at why, write the new values here."""
TOLERANCE = 0.005
"""Half precision may tip voxels whose HU lie at a threshold; the made scan has none, but resampling may."""
LIMITS = [
    "--network=none",
    "--read-only",
    "--tmpfs=/tmp",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--shm-size=128m",
    "--pids-limit=256",
]


@dataclass
class Run:
    """What a run left: exit status, what it said, and where it wrote."""

    status: int
    said: str
    output: Path


class Process:
    """Runs process.py as it lies here."""

    name = "process.py"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def output_seen(self, output: Path) -> str:
        """The path by which the run knows its output folder."""
        return str(output)

    def command(self, source: Path, output: Path, weights: Path | None) -> list[str]:
        chosen = ["--weights", str(weights)] if weights else []
        return [
            sys.executable, str(ROOT / "process.py"), "--input", str(source), "--output", str(output), *chosen,
        ]  # fmt: skip

    def stop(self, running: subprocess.Popen[str]) -> None:
        running.send_signal(signal.SIGTERM)

    def __call__(self, source: Path, *options: str, weights: Path | None = None, stop: bool = False) -> Run:
        """Run on a folder; ``{output}`` in an option is where it writes; ``stop`` once the networks are there."""
        output = Path(tempfile.mkdtemp(dir=self.folder))
        output.chmod(0o777)  # the container's user is nobody here
        before = contents(source)
        options = tuple(option.format(output=self.output_seen(output)) for option in options)
        command = [*self.command(source, output, weights), *options]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
            assert running.stderr
            said = ""
            for line in running.stderr:
                said += line
                if stop and line.startswith("Networks run on"):
                    self.stop(running)
            status = running.wait(timeout=1800)
        assert "Traceback" not in said, said
        assert contents(source) == before, f"{self.name} changed its input"
        return Run(status, said, output)


class Container(Process):
    """Runs an image with everything taken away that an organiser may take away."""

    name = "the container"

    def __init__(self, folder: Path, image: str) -> None:
        super().__init__(folder)
        self.image, self.label = image, ""

    def output_seen(self, output: Path) -> str:
        return "/output"

    def command(self, source: Path, output: Path, weights: Path | None, memory: str = "8g") -> list[str]:
        self.label = f"kits-test-{uuid.uuid4().hex[:12]}"
        mounts = [f"--volume={source}:/input:ro", f"--volume={output}:/output"]
        if weights:
            mounts.append(f"--volume={weights}:/opt/ml/model:ro")
        return ["docker", "run", "--rm", f"--name={self.label}", *LIMITS, f"--memory={memory}", *mounts, self.image]

    def stop(self, running: subprocess.Popen[str]) -> None:
        subprocess.run(["docker", "stop", "-t", "600", self.label], check=True, capture_output=True)


def main() -> int:
    """Run all checks; an AssertionError says what went wrong."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        run = Container(folder, sys.argv[1]) if len(sys.argv) > 1 else Process(folder)
        weights = threshold_weights(folder / "weights")
        checks = [check_files, check_kits19, check_kits21, check_grand_challenge, check_nothing_to_do, check_sigterm,
                  check_time_limit, check_shipped_weights]  # fmt: skip
        if isinstance(run, Container):
            checks += [check_container_is_left_as_it_was, check_too_little_memory]
        for check in checks:
            started = time.perf_counter()
            source = folder / check.__name__
            source.mkdir()
            check(run, source, weights)
            print(
                f"{run.name}: {(check.__doc__ or '').splitlines()[0]} {time.perf_counter() - started:.0f} s", flush=True
            )
    print(f"{len(checks)} checks of {run.name} passed.")
    return 0


def check_files(run: Process, source: Path, weights: Path) -> None:
    """Flat files: the good ones are written, the bad ones named, status 1."""
    scan, truth = made_scan()
    write(scan, source / "good.nii.gz")
    write(scan, source / "meta.mha")
    (source / "bad.nii.gz").write_text("This is text, not a volume.")
    (source / "huge.nii").write_bytes(huge_nifti())
    done = run(source, "--report", "{output}/report.json", weights=weights)
    assert done.status == 1, done.said
    assert "files" in done.said.split("Input form: ", 1)[1].splitlines()[0], done.said
    assert "bad.nii.gz: cannot be read" in done.said, done.said
    assert "huge.nii: needs about" in done.said, done.said
    assert sorted(contents(done.output)) == ["good.nii.gz", "meta.nii.gz", "report.json"], contents(done.output)
    check_labels(done.output / "good.nii.gz", scan, truth)
    check_labels(done.output / "meta.nii.gz", scan, truth)
    statuses = {case["name"]: case["status"] for case in json.loads((done.output / "report.json").read_text())}
    assert statuses == {"good": "done", "meta": "done", "bad": "failed", "huge": "failed"}, statuses


def check_kits19(run: Process, source: Path, weights: Path) -> None:
    """KiTS19 case folders: prediction_NNNNN.nii.gz, and the zip for the leaderboard."""
    scan, truth = made_scan()
    write(scan, source / "case_00210" / "imaging.nii.gz")
    done = run(source, "--zip", "{output}/submission.zip", weights=weights)
    assert done.status == 0, done.said
    assert sorted(contents(done.output)) == ["prediction_00210.nii.gz", "submission.zip"], contents(done.output)
    check_labels(done.output / "prediction_00210.nii.gz", scan, truth)
    with zipfile.ZipFile(done.output / "submission.zip") as archive:
        assert archive.namelist() == ["prediction_00210.nii.gz"], archive.namelist()
        assert archive.read("prediction_00210.nii.gz") == (done.output / "prediction_00210.nii.gz").read_bytes()


def check_kits21(run: Process, source: Path, weights: Path) -> None:
    """KiTS21: images/ct/NAME.mha gives images/kidney-tumor-and-cyst/NAME.mha."""
    scan, truth = made_scan()
    write(scan, source / "images" / "ct" / "case_7.mha")
    done = run(source, weights=weights)
    assert done.status == 0, done.said
    assert list(contents(done.output)) == ["images/kidney-tumor-and-cyst/case_7.mha"], contents(done.output)
    check_labels(done.output / "images" / "kidney-tumor-and-cyst" / "case_7.mha", scan, truth)


def check_grand_challenge(run: Process, source: Path, weights: Path) -> None:
    """grand-challenge.org: inputs.json names the image, images/SOCKET/output.mha comes out compressed."""
    scan, truth = made_scan()
    write(scan, source / "images" / "abdominal-ct" / f"{uuid.uuid4()}.mha")
    (source / "inputs.json").write_text(json.dumps(grand_challenge_inputs("abdominal-ct")))
    done = run(source, "--output-socket", "kidney-labels", weights=weights)
    assert done.status == 0, done.said
    assert list(contents(done.output)) == ["images/kidney-labels/output.mha"], contents(done.output)
    written = done.output / "images" / "kidney-labels" / "output.mha"
    assert b"CompressedData = True" in written.read_bytes()[:1000]
    check_labels(written, scan, truth)


def check_nothing_to_do(run: Process, source: Path, weights: Path) -> None:
    """An empty folder: status 2 and a sentence."""
    done = run(source, weights=weights)
    assert done.status == 2, done.said
    assert "no CT volume found" in done.said, done.said
    assert not contents(done.output)


def check_sigterm(run: Process, source: Path, weights: Path) -> None:
    """SIGTERM: status 1, what was not reached is told, nothing is half-written."""
    check_early_end(run, source, weights, "SIGTERM", stop=True)


def check_time_limit(run: Process, source: Path, weights: Path) -> None:
    """The time limit: the same."""
    check_early_end(run, source, weights, "The time limit of 0.5 s was reached", "--time-limit=0.5")


def check_early_end(run: Process, source: Path, weights: Path, reason: str, *options: str, stop: bool = False) -> None:
    for name in ("a", "b", "c"):
        write(made_scan()[0], source / f"{name}.nii.gz")
    done = run(source, "--report", "{output}/report.json", *options, weights=weights, stop=stop)
    assert done.status == 1, done.said
    assert reason in done.said, done.said
    cases = {case["output"]: case["status"] for case in json.loads((done.output / "report.json").read_text())}
    assert cases["c.nii.gz"] == "not reached", cases
    written = {name for name in contents(done.output) if name != "report.json"}
    assert written == {name for name, status in cases.items() if status == "done"}, (written, cases)


def check_shipped_weights(run: Process, source: Path, weights: Path) -> None:
    """The shipped weights: a label map of 0, 1 and 2 on the scan's grid, status 0."""
    scan, _ = made_scan()
    write(scan, source / "scan.nii.gz")
    done = run(source)
    assert done.status == 0, done.said
    check_grid(sitk.ReadImage(str(done.output / "scan.nii.gz")), scan)


def check_container_is_left_as_it_was(run: Container, source: Path, weights: Path) -> None:
    """Nothing is written outside /output, even where that is possible."""
    write(made_scan()[0], source / "scan.nii.gz")
    output = source.parent / "free"
    output.mkdir()
    output.chmod(0o777)
    command = [part for part in run.command(source, output, weights) if part not in ("--rm", "--read-only")]
    try:
        subprocess.run(command, check=True, capture_output=True)
        changed = subprocess.run(["docker", "diff", run.label], check=True, capture_output=True, text=True).stdout
    finally:
        subprocess.run(["docker", "rm", run.label], capture_output=True)
    # The runtime itself makes the mount points, and files such as /etc/hosts.
    own = [line for line in changed.splitlines() if not line[2:].startswith(("/etc", "/run", "/dev", "/proc", "/sys"))]
    assert {line[2:] for line in own} <= {"/input", "/output", "/tmp", "/opt", "/opt/ml", "/opt/ml/model"}, changed


def check_too_little_memory(run: Container, source: Path, weights: Path) -> None:
    """Too little memory: status 1 and a sentence, not a silent kill."""
    write(made_scan()[0], source / "scan.nii.gz")
    output = source.parent / "little"
    output.mkdir()
    output.chmod(0o777)
    done = subprocess.run(run.command(source, output, weights, memory="800m"), capture_output=True, text=True)
    assert done.returncode == 1, done
    assert "scan.nii.gz: needs about" in done.stderr, done.stderr


def threshold_weights(folder: Path) -> Path:
    """The hand-set networks of the tests as weight files that any user may read."""
    for name in ("res-unet1", "res-unet2"):
        role, architecture = MEMBERS[name]
        save_weights(folder / f"{name}.safetensors", thresholding(architecture()), info_of(role, architecture))
    write_checksums(folder)
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755)
    return folder


def made_scan() -> tuple[sitk.Image, np.ndarray]:
    """Two kidneys, one with a tumour, stored with two axes flipped; and the truth as it is stored."""
    hu, labels = phantom(spacing=SPACING)
    stored = [sitk.GetImageFromArray(array) for array in (hu, labels)]
    for image in stored:
        image.SetSpacing(SPACING[::-1])
        image.SetOrigin((-60.5, -50.25, 1000.0))
    scan, truth = (sitk.Flip(image, (True, False, True)) for image in stored)
    return scan, sitk.GetArrayFromImage(truth)


def huge_nifti() -> bytes:
    """The header of a scan of 30000 x 30000 x 30000 voxels, which nobody's memory holds."""
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, 30000, 30000, 30000, 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, 4, 16)
    struct.pack_into("<8f", header, 76, 1, 1, 1, 1, 0, 0, 0, 0)
    struct.pack_into("<f", header, 108, 352)
    header[344:348] = b"n+1\0"
    return bytes(header)


def grand_challenge_inputs(slug: str) -> list[dict[str, object]]:
    """An ``inputs.json`` as grand-challenge.org writes it, with a value beside the image."""
    image = {"slug": slug, "kind": "Image", "super_kind": "Image", "relative_path": f"images/{slug}"}
    age = {"slug": "age", "kind": "Integer", "super_kind": "Value", "relative_path": "age.json"}
    return [
        {"socket": image, "file": None, "image": {"name": "scan.mha"}, "value": None},
        {"socket": age, "file": None, "image": None, "value": 61},
    ]


def write(image: sitk.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path), useCompression=True)


def contents(folder: Path) -> dict[str, int]:
    """The files below a folder with their sizes; a run's records, hidden beside the label maps, are its own."""
    files = {str(p.relative_to(folder)): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}
    return {name: size for name, size in files.items() if not name.startswith(".kits-cascade/")}


def check_labels(path: Path, scan: sitk.Image, truth: np.ndarray) -> None:
    labels = sitk.ReadImage(str(path))
    check_grid(labels, scan)
    array = sitk.GetArrayFromImage(labels)
    found = {"kidney with tumour": dice(array > 0, truth > 0), "tumour": dice(array == 2, truth == 2)}
    for name, expected in EXPECTED_DICE.items():
        assert abs(found[name] - expected) <= TOLERANCE, (
            f"{path.name}: Dice of {name} {found[name]:.4f}, not {expected}"
        )


def check_grid(labels: sitk.Image, scan: sitk.Image) -> None:
    """Label map and scan share one grid, and labels are 0, 1 and 2."""
    assert labels.GetPixelID() == sitk.sitkUInt8, labels.GetPixelIDTypeAsString()
    assert labels.GetSize() == scan.GetSize()
    for of in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert np.allclose(getattr(labels, of)(), getattr(scan, of)(), atol=1e-5), of
    assert set(np.unique(sitk.GetArrayViewFromImage(labels))) <= {0, 1, 2}


if __name__ == "__main__":
    sys.exit(main())
