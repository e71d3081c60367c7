"""Finds kidneys and kidney tumours in CT volumes: a folder of volumes in, one label map a case out.

    python process.py --input IN --output OUT

Label maps are uint8 (0 background, 1 kidney, 2 tumour) on each scan's own grid. Exit status: 0 all cases done, 1 some
failed or were not reached (the others are written), 2 nothing to do or a wrong call. Each option can come from the
environment instead: --save-probabilities from KITS_SAVE_PROBABILITIES=1, and so on.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from kits.batch.report import CaseReport, Outputs
from kits.batch.run import run
from kits.batch.submission import check_names, write_zip
from kits.batch.watch import Watch
from kits.cascade.cascade import Cascade
from kits.errors import KitsError, OutputError
from kits.io.cases import Case
from kits.io.forms import SOCKET, recognise
from kits.runtime.engine import ENGINES
from kits.runtime.memory import share_memory
from kits.runtime.precision import PRECISIONS
from kits.runtime.weights import MODES

HERE = Path(__file__).parent
MOUNTED_WEIGHTS = Path("/opt/ml/model")
"""Where grand-challenge.org mounts weights that were uploaded apart from the container."""
log = logging.getLogger("kits")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    share_memory()
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    watch = Watch(options.time_limit)
    with watch.listening():
        try:
            form = recognise(options.input, options.output_socket, [options.output])
            log.info("Input form: %s; %d to do.", form.description, len(form.cases))
            if form.ignored:
                log.info("Not looked at, no volumes: %s.", ", ".join(form.ignored))
            for folder in filter(None, (options.output, options.overlays, options.zip and options.zip.parent)):
                check_writable(folder)
            check_apart(form.cases, options.output)
            if options.zip:
                check_names(form.cases)
            log.info("Weights from %s.", options.weights)
            cascade = Cascade.load(options.weights, options.device, options.mode, options.engine, options.precision)
            outputs = Outputs(
                options.output, options.skip_existing, options.save_probabilities, options.overlays, options.report
            )
            reports = run(form.cases, cascade, outputs, watch)
        except KitsError as error:
            print(f"process.py: {error}", file=sys.stderr)
            return 2
    complaints = [*form.passed_over, *unfinished(reports)]
    if options.zip:
        try:
            write_zip(reports, options.output, options.zip, options.zip_incomplete)
        except OutputError as error:
            complaints.append(str(error))
    for complaint in complaints:
        print(f"process.py: {complaint}", file=sys.stderr)
    return 1 if complaints else 0


def unfinished(reports: Sequence[CaseReport]) -> list[str]:
    """A sentence on each case that failed, and one on those that were not reached."""
    sentences = [report.error for report in reports if report.status == "failed"]
    if waiting := [report for report in reports if report.status == "not reached"]:
        done = len(reports) - len(waiting)
        sentences.append(
            f"{waiting[0].error} after {done} of {len(reports)} cases; run again with --skip-existing for the others."
        )
    return sentences


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
    option("--weights", str(default_weights()), "folder with the weight files", type=Path, metavar="DIR")
    choice("--device", "auto", "where the networks run", ("auto", "cuda", "cpu"))
    choice("--engine", "auto", "what runs them; auto: OpenVINO on a CPU, where it is installed, else torch", ENGINES)
    choice("--precision", "auto", "of the networks; auto: fp16 on a GPU, fp32 on a CPU, bf16 in stage 1 where faster",
           ("auto", *PRECISIONS))  # fmt: skip
    choice("--mode", "native", "native: every slice, by our networks; paper: 3 mm slices, as published", MODES)
    option("--overlays", None, "folder for pictures of the contours", type=Path, metavar="DIR")
    option("--report", None, "JSON manifest: status, volumes, warnings and seconds a case", type=Path, metavar="FILE")
    option("--zip", None, "submission for KiTS19's leaderboard, if every case is done", type=Path, metavar="FILE")
    option("--output-socket", SOCKET, "name of the output, where the form of the input has one", metavar="NAME")
    option("--time-limit", "inf", "end in time: what is finished by then is written", type=seconds, metavar="SECONDS")
    switch("--skip-existing", "leave cases alone whose label map is there already")
    switch("--save-probabilities", "also write percent maps to OUTPUT/probabilities")
    switch("--zip-incomplete", "write the --zip even if some case failed or was not reached")
    return result


def default_weights() -> Path:
    """The weights that are mounted, as grand-challenge.org does it, else those that come with the code."""
    return MOUNTED_WEIGHTS if any(MOUNTED_WEIGHTS.glob("*.safetensors")) else HERE / "weights"


def seconds(text: str) -> float:
    """A positive number, for argparse."""
    if not (number := float(text)) > 0:
        raise ValueError(text)
    return number


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
