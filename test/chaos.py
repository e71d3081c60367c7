"""Runs that are killed, told to end, or find the disk full at random moments, then resumed.

    python -m test.chaos [--seconds N] [--seed S]

What comes out in the end must be what an undisturbed run gives: the same label maps to the byte and the same figures in
the report. At no moment may anything half-written lie under a label map's or the report's name. A disk that is full is
a small file system of its own where this may be mounted, else a limit on the size of files.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from kits.io.atomic import PARTIAL
from test.container import threshold_weights
from test.helpers.threshold import phantom

ROOT = Path(__file__).resolve().parent.parent
CASES = 3
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
MOST_SECONDS = 600
CHANGING = ("seconds", "status")
"""What a resumed run may tell otherwise than an undisturbed one."""


class Chaos:
    """Disturbed runs in a folder, compared with an undisturbed one.

    Args:
        folder: for scans, weights and results.
        seed: of all that is random.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random = folder, random.Random(seed)
        self.weights = threshold_weights(folder / "weights")
        self.source = folder / "scans"
        self.source.mkdir()
        for number in range(CASES):
            hu, _ = phantom(shape=(16, 96, 128), tumour_mm=7.0 + number)
            image = sitk.GetImageFromArray(hu)
            image.SetSpacing((0.8, 0.8, 3.0))
            sitk.WriteImage(image, str(self.source / f"scan{number}.nii.gz"))
        self.output = folder / "undisturbed"
        started = time.monotonic()
        status, said = self.run()
        self.seconds = time.monotonic() - started
        assert status == 0, said
        self.maps, self.figures = label_maps(self.output), figures(self.output)
        assert len(self.maps) == CASES

    def run(self, disturb: Callable[[subprocess.Popen[str]], None] | None = None, file_bytes: int = 0):
        """One run on ``self.output``; returns its exit status and what it said."""
        command = [sys.executable, str(ROOT / "process.py"), "--input", str(self.source), "--output", str(self.output)]
        command += ["--weights", str(self.weights), "--device", "cpu", "--engine", "torch", "--skip-existing"]
        command += ["--overlays", str(self.output / "pictures"), "--report", str(self.output / "report.json")]

        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

        environment = {k: v for k, v in os.environ.items() if not k.startswith("KITS_")} | {"OMP_NUM_THREADS": "1"}
        with (self.folder / "said").open("w+") as said:
            running = subprocess.Popen(
                command, stderr=said, env=environment, text=True, preexec_fn=limit if file_bytes else None
            )
            try:
                if disturb:
                    disturb(running)
                status = running.wait(MOST_SECONDS)
            finally:
                running.kill()
                running.wait()
            said.seek(0)
            return status, said.read()

    def kill(self, running: subprocess.Popen[str]) -> None:
        """End a run by a signal, most often once its networks are there."""
        if self.random.random() < 0.8:
            until = time.monotonic() + MOST_SECONDS
            while running.poll() is None and time.monotonic() < until and "Networks run" not in self.said():
                time.sleep(0.01)
            time.sleep(self.random.uniform(0, 0.4 * self.seconds))
        else:
            time.sleep(self.random.uniform(0, self.seconds))
        if running.poll() is None:
            running.send_signal(self.random.choice(SIGNALS))

    def said(self) -> str:
        """What the run at hand has said so far."""
        return (self.folder / "said").read_text()

    def round(self, number: int, full: bool) -> str:
        """Disturb a run once or more, resume it, compare; returns what was done to it."""
        self.output = self.folder / f"round{number}"
        self.output.mkdir()
        done = []
        with disk(self.output, self.random.randrange(16, 200) if full else 0) as limited:
            if full:
                few = 0 if limited else self.random.randrange(200, 4000)
                status, said = self.run(file_bytes=few)
                done.append(f"a full disk ({status})")
                self.check(status, said)
            else:
                for _ in range(self.random.randrange(1, 4)):
                    status, said = self.run(self.kill)
                    done.append(f"a signal ({status})")
                    self.check(status, said)
            if limited:
                subprocess.run(["mount", "-o", "remount,size=64m", self.output], check=True)
            status, said = self.run()
            assert status == 0, said
            self.check(status, said)
            assert label_maps(self.output) == self.maps
            assert figures(self.output) == self.figures
            assert {path.stem for path in (self.output / "pictures").glob("*.png")} == {
                f"scan{i}" for i in range(CASES)
            }
            assert not list(self.output.rglob(f"{PARTIAL}*")), "what a killed writer left is swept"
        shutil.rmtree(self.output)
        return ", ".join(done)

    def check(self, status: int, said: str) -> None:
        """What must hold at any moment: each label map is whole, and so is the report."""
        assert "Traceback" not in said, said
        assert status in (0, 1, 2, *(-number for number in SIGNALS)), (status, said)
        for name, content in label_maps(self.output).items():
            assert content == self.maps[name], f"{name} is not whole"
        report = self.output / "report.json"
        assert not report.exists() or isinstance(json.loads(report.read_text()), list)


def label_maps(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("[!.]*.nii.gz")}


def figures(folder: Path) -> list[dict[str, Any]]:
    """A report without what may change."""
    cases = json.loads((folder / "report.json").read_text())
    return [{key: value for key, value in case.items() if key not in CHANGING} for case in cases]


@contextlib.contextmanager
def disk(folder: Path, kilobytes: int) -> Iterator[bool]:
    """Mount a small disk on a folder, where that is wanted and allowed; gives whether it was."""
    options = ["-t", "tmpfs", "-o", f"size={kilobytes}k"]
    mounted = bool(kilobytes) and (
        subprocess.run(["mount", *options, "kits-chaos", folder], capture_output=True).returncode == 0
    )
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", folder], check=True)


def main(arguments: list[str] | None = None) -> int:
    """Disturb runs for as long as is told, two at least; an AssertionError says what did not hold."""
    parser = argparse.ArgumentParser(prog="python -m test.chaos", description="Disturb runs, resume them, compare.")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    until = time.monotonic() + options.seconds
    with tempfile.TemporaryDirectory() as name:
        chaos = Chaos(Path(name), options.seed)
        rounds = 0
        while rounds < 2 or time.monotonic() < until:
            print(f"round {rounds}: {chaos.round(rounds, rounds % 3 == 1)}: resumed to the same", flush=True)
            rounds += 1
    print(f"{rounds} rounds of seed {options.seed} passed.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
