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
from kits.files import Case, find_cases
from kits.run import Outputs, run

HERE = Path(__file__).parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        cases = find_cases(options.input)
        for folder in filter(None, (options.output, options.overlays)):
            check_writable(folder)
        check_apart(cases, options.output)
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
        value = os.environ.get(variable) or default  # set but empty counts as not set
        result.add_argument(name, default=value, help=f"{help} [{variable}]", **settings)  # type: ignore[arg-type]

    def choice(name: str, default: str, help: str, choices: Sequence[str]) -> None:
        def check(value: str) -> str:  # argparse's own choices let a wrong default, here the environment's, pass
            if value not in choices:
                raise argparse.ArgumentTypeError(f"{value!r} is none of {', '.join(choices)}")
            return value

        option(name, default, help, type=check, metavar=f"{{{','.join(choices)}}}")

    def switch(name: str, help: str) -> None:
        variable = "KITS_" + name.strip("-").replace("-", "_").upper()
        on = os.environ.get(variable, "").lower() not in ("", "0", "no", "false")
        result.add_argument(name, action="store_true", default=on, help=f"{help} [{variable}=1]")

    option("--input", "/input", "volume, or folder of volumes, KiTS cases or DICOM series", type=Path, metavar="PATH")
    option("--output", "/output", "folder for the label maps", type=Path, metavar="DIR")
    option("--weights", str(HERE / "weights"), "folder with the weight files", type=Path, metavar="DIR")
    choice("--device", "auto", "where the networks run", ("auto", "cuda", "cpu"))
    choice("--mode", "native", "native: every slice of the scan; paper: 3 mm slices, as published", MODES)
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
        raise OutputError(f"{folder} cannot be written to ({error.strerror}); choose a writable folder.") from error


def check_apart(cases: Sequence[Case], output: Path) -> None:
    """Refuse to write a label map over the scan that it belongs to, or over another one."""
    sources = {case.source.resolve() for case in cases}
    for case in cases:
        if (output / case.output_name).resolve() in sources:
            raise OutputError(
                f"{output / case.output_name} is a scan that a label map would overwrite; "
                "give --output another folder than --input."
            )


if __name__ == "__main__":
    sys.exit(main())
