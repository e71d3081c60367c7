"""The command ``kits segment``, which the container knows as ``process.py``: from its options to its exit status.

What is heavy is imported only after signals are heeded: loading torch takes seconds, in which a run may be told to end.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kits.batch.options import Options
from kits.batch.watch import Watch
from kits.errors import OutputError, exit_status, printable
from kits.io.cases import Case
from kits.io.forms import recognise

if TYPE_CHECKING:
    from kits.cascade.cascade import Cascade

log = logging.getLogger("kits")


def main(arguments: Sequence[str] | None = None, prog: str = "kits segment") -> int:
    """Run the command line; returns the exit status."""
    options = Options.parse(arguments, prog)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    watch = Watch(options.time_limit)
    with watch.listening():
        return exit_status(prog, lambda: segment(options, watch, prog), options.verbose)


def segment(options: Options, watch: Watch, prog: str) -> int:
    """Segment every case of the input; returns the exit status.

    Raises:
        KitsError: there is nothing to do, or the call is wrong.
    """
    cases = prepare(options)
    from kits.batch.report import unfinished
    from kits.batch.run import Outputs, run
    from kits.batch.submission import write_zip
    from kits.runtime.memory import share_memory

    share_memory()
    log.info("Weights from %s.", options.weights)
    outputs = Outputs(options.output, options.extras, options.report, options.skip_existing)
    reports = run(cases, load_cascade(options), outputs, watch)
    complaints = unfinished(reports)
    if options.zip:
        try:
            write_zip(reports, options.output, options.zip, options.zip_incomplete)
        except OutputError as error:
            complaints.append(str(error))
    for complaint in complaints:
        print(f"{prog}: {printable(complaint)}", file=sys.stderr)
    return 1 if complaints else 0


def prepare(options: Options) -> list[Case]:
    """The cases of the input; what would end in vain hours later is refused now.

    Raises:
        KitsError: there are none, a place cannot be written to, or a scan would be overwritten.
    """
    form = recognise(options.input, options.output_socket)
    log.info("Input form: %s; %d to do.", form.description, len(form.cases))
    places = [options.output, *(extra.place for extra in options.extras), options.zip and options.zip.parent]
    for folder in filter(None, places):
        check_writable(folder)
    check_apart(form.cases, options.output)
    if options.zip:
        from kits.batch.submission import check_names

        check_names(form.cases)
    return form.cases


def load_cascade(options: Options) -> Cascade:
    """The cascade as the options want it.

    Raises:
        KitsError: the weights are not as they should be, or what is to run them is not there.
    """
    from kits.cascade.cascade import Cascade

    return Cascade.load(options.weights, options.device, options.mode, options.engine, options.precision)


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
