"""Reads scans whose headers and bodies were changed at random, between scans that are whole.

    python -m test.fuzz [--seconds N] [--seed S] [--keep FOLDER]

Each round writes a scan, changes a few bytes or words of it, reads it in a child process and then a whole neighbour.
Wrong is: a crash, a hang, an error that nobody foresaw, a neighbour that is lost or differs, and a place in space that
changed without a word. Without a word it may change only to what another reader (``oracle``) finds in the header too.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from kits.errors import InputError
from kits.io.cases import Case
from kits.io.reader import Reader
from kits.io.volume import Volume
from test.fuzz.changes import change
from test.fuzz.kinds import KINDS, Kind
from test.fuzz.oracle import Place, place_of
from test.helpers.scans import ct, write_nifti

PATIENCE = 1 / 12
"""Ten seconds for a file, of which each is a few kilobytes."""
MEMORY = 1 << 30
BAD = ("its reader crashed", "reading took more", "its reader ended", "the system ended", "cannot be read (")
"""Beginnings of sentences that tell of what should not happen."""


def main(arguments: list[str] | None = None) -> int:
    """Run for the time that is given; returns 1 at the first thing that is wrong, else 0."""
    parser = argparse.ArgumentParser(prog="python -m test.fuzz", description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=None, help="by default another one each time")
    parser.add_argument("--keep", type=Path, default=None, help="folder for the scan that something is wrong with")
    options = parser.parse_args(arguments)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    until = time.monotonic() + options.seconds
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder, Reader(lambda: MEMORY, PATIENCE) as reader:
        neighbour = Case("neighbour", write_nifti(Path(folder) / "neighbour.nii.gz"), "neighbour.nii.gz")
        number = 0
        while time.monotonic() < until:
            chance = random.Random(f"{seed}-{number}")
            kind = KINDS[number % len(KINDS)]
            path, changes = damaged(kind, Path(folder) / "scan", chance)
            outcome, wrong = judged(reader, kind, path, neighbour)
            counts[outcome] += 1
            if wrong:
                print(f"seed {seed}, round {number}, {kind.name}: {wrong}\nchanged: {'; '.join(changes)}")
                if options.keep:
                    shutil.copytree(path.parent, options.keep / f"{seed}-{number}", symlinks=True)
                return 1
            number += 1
    told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
    print(f"seed {seed}: {number} damaged scans, nothing wrong ({told}).")
    return 0


def damaged(kind: Kind, folder: Path, chance: random.Random) -> tuple[Path, list[str]]:
    """Write a scan and change one of its files; returns the scan and what was changed."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    path = kind.write(folder)
    files = sorted(folder.iterdir()) if path.is_dir() else [path]
    file = chance.choice(files)
    data, changes = change(file.read_bytes(), kind.header_bytes, kind.is_text, chance)
    file.write_bytes(data)
    return path, [f"{file.name}: {one}" for one in changes]


def judged(reader: Reader, kind: Kind, path: Path, neighbour: Case) -> tuple[str, str]:
    """What became of a damaged scan, and what is wrong with that; empty if nothing is."""
    outcome, wrong = "refused", ""
    try:
        volume = reader.read(Case("scan", path, "scan.nii.gz"))
    except InputError as error:
        if any(bad in str(error) for bad in BAD):
            wrong = str(error)
        elif not str(error).startswith(str(path)):
            wrong = f"the sentence does not begin with the scan's name: {error}"
    except Exception as error:
        wrong = f"{type(error).__name__}: {error}"
    else:
        outcome, wrong = looked_at(volume, kind, path)
    try:
        if not wrong and not np.array_equal(reader.read(neighbour).hu, ct()):
            wrong = "the neighbour differs"
    except InputError as error:
        wrong = f"the neighbour is lost: {error}"
    return outcome, wrong


def looked_at(volume: Volume, kind: Kind, path: Path) -> tuple[str, str]:
    """Whether a volume that was read lies where it did, is told to lie elsewhere, or really does."""
    found = Place.of_grid(volume.home)
    if found.near(kind.place):
        return "read as before", ""
    if volume.warnings:
        return "read with a warning", ""
    try:
        said = place_of(kind.oracle, path)
    except Exception as error:  # another reader that gives up proves nothing
        return "read", f"moved to {found} without a word, and the {kind.oracle} oracle failed: {error!r}"
    if said.near(found):
        return "read as its header says", ""
    return "read", f"moved to {found} without a word, but its header says {said}"


if __name__ == "__main__":
    sys.exit(main())
