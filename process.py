"""Finds kidneys and kidney tumours in CT volumes: a folder of volumes in, one label map a case out.

    python process.py --input IN --output OUT

Label maps are uint8 (0 background, 1 kidney, 2 tumour) on each scan's own grid. Exit status: 0 all cases done, 1 some
failed (the others are written), 2 nothing to do or a wrong call. Each option can come from the environment instead:
--save-probabilities from KITS_SAVE_PROBABILITIES=1, and so on.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from kits.cascade import MODES, Cascade
from kits.errors import KitsError, OutputError
from kits.files import find_cases
from kits.run import Outputs, run

HERE = Path(__file__).parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        cases = find_cases(options.input)
        check_writable(options.output)
        cascade = Cascade.load(options.weights, options.device, options.mode)
        outputs = Outputs(
            options.output, options.skip_existing, options.save_probabilities, options.overlays, options.report
        )
        reports = run(cases, cascade, outputs)
    except KitsError as error:
        print(f"process.py: {error}", file=sys.stderr)
        return 2
    failed = [report for report in reports if report.status == "failed"]
    for report in failed:
        print(f"process.py: {report.error}", file=sys.stderr)
    return 1 if failed else 0


def parser() -> argparse.ArgumentParser:
    """The options, each with its default from the environment where that names it."""
    result = argparse.ArgumentParser(
        prog="process.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )

    def option(name: str, default: str | None, help: str, **settings: object) -> None:
        variable = "KITS_" + name.strip("-").replace("-", "_").upper()
        result.add_argument(name, default=os.environ.get(variable, default), help=f"{help} [{variable}]", **settings)  # type: ignore[arg-type]

    def switch(name: str, help: str) -> None:
        variable = "KITS_" + name.strip("-").replace("-", "_").upper()
        on = os.environ.get(variable, "").lower() not in ("", "0", "no", "false")
        result.add_argument(name, action="store_true", default=on, help=f"{help} [{variable}=1]")

    option("--input", "/input", "volume, or folder of volumes, KiTS cases or DICOM series", type=Path, metavar="PATH")
    option("--output", "/output", "folder for the label maps", type=Path, metavar="DIR")
    option("--weights", str(HERE / "weights"), "folder with the weight files", type=Path, metavar="DIR")
    option("--device", "auto", "where the networks run", choices=("auto", "cuda", "cpu"))
    option("--mode", "native", "native: every slice of the scan; paper: 3 mm slices, as published", choices=MODES)
    option("--overlays", None, "folder for pictures of the contours", type=Path, metavar="DIR")
    option("--report", None, "JSON manifest: status, volumes, warnings and seconds a case", type=Path, metavar="FILE")
    switch("--skip-existing", "leave cases alone whose label map is there already")
    switch("--save-probabilities", "also write percent maps to OUTPUT/probabilities")
    return result


def check_writable(folder: Path) -> None:
    """Make the output folder and try it before hours of work depend on it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be written to ({error.strerror}); give --output a writable folder."
        ) from error


if __name__ == "__main__":
    sys.exit(main())
