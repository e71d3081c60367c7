"""The command ``kits segment``, which the container knows as ``process.py``: from its options to its exit status.

What is heavy is imported only after signals are heeded: loading torch takes seconds, in which a run may be told to end.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kits import __version__
from kits.batch.options import Options
from kits.batch.watch import Stopped, Watch, process_age
from kits.choices import Status
from kits.errors import InputError, OutputError, disk_is_full, exit_status, printable, sentence
from kits.io.cases import Case
from kits.io.stores.listing import recognise_at
from kits.io.stores.url import Url

if TYPE_CHECKING:
    from kits.batch.report import CaseReport, Manifest, Outputs
    from kits.cascade.cascade import Cascade

log = logging.getLogger("kits")


class OneLine(logging.Formatter):
    """A record a line, whatever the names of files hold; tracebacks keep theirs."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))


def main(arguments: Sequence[str] | None = None, prog: str = "kits segment") -> int:
    """Run the command line; returns the exit status."""
    options = Options.parse(arguments, prog)
    begin_log(options)
    watch = Watch(options.time_limit, process_age())
    with watch.listening():
        return exit_status(prog, lambda: segment(options, watch, prog), options.verbose)


def begin_log(options: Options) -> None:
    """From now on what is logged is shown on stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    log.setLevel(logging.DEBUG if options.verbose else logging.INFO)


def segment(options: Options, watch: Watch, prog: str) -> int:
    """Segment every case of the input; returns the exit status.

    Raises:
        KitsError: there is nothing to do, or the call is wrong.
    """
    from kits.batch.place import scratch

    remote = isinstance(options.output, Url) or isinstance(options.report, Url)
    with scratch() if remote else nullcontext(Path()) as folder:
        return segment_by(options, watch, prog, folder)


def segment_by(options: Options, watch: Watch, prog: str, folder: Path) -> int:
    """Segment every case; ``folder`` holds for the while what goes to a store."""
    from kits.batch.destination import check_store, manifest_of, send_rest
    from kits.batch.report import not_reached, unfinished

    local = options.at(folder / "out")  # what this process itself writes; of each case its worker
    form = recognise_at(options.input, options.output_socket, options.output)
    cases = options.shard.of(apart(form.cases, options))
    log.info("Input form: %s; %d to do.", form.description, len(cases))
    if form.ignored:
        log.info("Not looked at, no volumes: %s.", ", ".join(form.ignored))
    check_store(options, folder)
    check_places(cases, local)
    manifest = manifest_of(options.report, folder)
    manifest.begin()
    try:
        watch.check()
        reports = do(cases, options, watch, manifest)
    except Stopped as stop:
        reports = not_reached(cases, str(stop))
    manifest.end(reports)
    complaints = [
        *form.passed_over,
        *unfinished(reports),
        *filter(None, [manifest.complaint]),
        *finish(reports, local),
        *(send_rest(folder / "out", options.output) if isinstance(options.output, Url) else []),
    ]
    for complaint in complaints:
        print(f"{prog}: {printable(complaint)}", file=sys.stderr)
    done = sum(report.status in (Status.DONE, Status.SKIPPED) for report in reports)
    place = f"{options.output}, report in {options.report}" if options.report else options.output
    log.info("%d of %d cases done; label maps in %s.", done, len(reports), place)
    return 1 if complaints else 0


def do(cases: Sequence[Case], options: Options, watch: Watch, manifest: Manifest) -> list[CaseReport]:
    """Segment the cases: by this process, by one on each of several GPUs, or by a cluster's machines.

    Raises:
        KitsError: the weights are not as they should be, or what is to run them is not there.
        Stopped: the run is to end before it began.
    """
    if not cases:  # a share can be empty
        return []
    if options.ray:
        from kits.cohort.cluster import run_on_cluster

        return run_on_cluster(cases, options, watch, manifest)
    if options.gpus:
        from kits.cohort.local import run_on_gpus

        return run_on_gpus(cases, options, watch)
    reports, lost = do_here(cases, options, watch, manifest)
    if lost:
        from kits.cohort.again import do_again

        reports = do_again(reports, lost, cases, options, watch)
    return reports


@dataclass(frozen=True)
class Lost:
    """A GPU that refuses all further work of this process: which, and why."""

    device: str
    reason: str


def do_here(
    cases: Sequence[Case], options: Options, watch: Watch, manifest: Manifest
) -> tuple[list[CaseReport], Lost | None]:
    """Segment the cases by this process; tells of a GPU that gave up on the way, before the others.

    Raises:
        KitsError: the weights are not as they should be, or what is to run them is not there.
        Stopped: the run is to end before it began.
    """
    from kits.batch.room import IN_FLIGHT
    from kits.batch.run import Run
    from kits.runtime.memory import share_memory

    share_memory()
    cascade, outputs = load(options)
    watch.check()
    device = cascade.device
    at_work = Run(cases, cascade, outputs, watch, manifest, options.in_flight or IN_FLIGHT.get(device.type, 1))
    reports = at_work.do()
    return reports, Lost(str(device), at_work.lost) if at_work.lost else None


def load(options: Options) -> tuple[Cascade, Outputs]:
    """The cascade as the options want it, and where its results go.

    Raises:
        KitsError: the weights are not as they should be, or what is to run them is not there.
    """
    from kits.batch.report import Outputs
    from kits.cascade.cascade import Cascade
    from kits.io.checksum import weights_checksums
    from kits.runtime.memory import base_bytes

    log.info("Weights from %s.", options.weights)
    runtime = options.runtime()
    cascade = Cascade.load(options.weights, runtime)
    recipe = {
        "version": __version__,
        "weights": weights_checksums(options.weights),
        "plan": asdict(runtime.plan),
        "engine": options.engine.value,
        "precision": options.precision.value,
    }
    base = base_bytes(runtime.plan.mode, cascade.segmenter.engine.device.type)
    store = options.output if isinstance(options.output, Url) else None
    return cascade, Outputs(Path(options.output), options.extras, options.skip_existing, recipe, base, store)


def finish(reports: Sequence[CaseReport], options: Options) -> list[str]:
    """Write what belongs to the run as a whole; returns a sentence on each that could not be."""
    from kits.batch.submission import write_zip

    complaints = []
    for extra in options.extras:
        try:
            extra.finish(reports)
        except Exception as error:
            log.debug("%s", extra.name, exc_info=True)
            complaints.append(f"{extra.option}: {sentence(error)}")
    if options.zip:
        try:
            write_zip(reports, Path(options.output), options.zip, options.zip_incomplete)
        except OutputError as error:
            complaints.append(str(error))
    return complaints


def apart(cases: Sequence[Case], options: Options) -> list[Case]:
    """The cases that are not themselves results: those outside an output folder that lies in the input folder.

    Raises:
        KitsError: a scan would be overwritten, or results would be taken for scans by the next run.
    """
    if isinstance(options.input, Url) or isinstance(options.output, Url):
        return list(cases)
    source, output = options.input.resolve(), options.output.resolve()
    if source == output:
        raise OutputError(f"{options.output} is the input folder too; give --output another folder than --input.")
    within = output.is_relative_to(source)
    found = [case for case in cases if not (within and case.source.resolve().is_relative_to(output))]
    if not found:
        raise InputError(f"{options.input}: holds only what lies in {options.output}; give a folder of scans.")
    written = {(options.output / case.output_name).resolve() for case in found}
    written |= {path.resolve() for path in (options.report, options.zip) if isinstance(path, Path)}
    for case in found:
        if case.source.resolve() in written:
            raise OutputError(f"{case.source} is a scan that a result would overwrite; give results another place.")
    return found


def check_places(cases: Sequence[Case], options: Options) -> None:
    """Try every place that is to be written to before hours of work depend on it, and sweep it.

    Raises:
        KitsError: one cannot be written to, for another reason than a full disk where it is not the label maps', or
            the leaderboard would not know a case.
    """
    from kits.io.atomic import is_stream, sweep

    output = Path(options.output)
    check_writable(output)
    sweep([*((output / case.output_name).parent for case in cases), *(extra.place for extra in options.extras)])
    if options.zip:
        from kits.batch.submission import check_names

        if options.runtime().plan.cysts_apart:
            raise InputError("--zip is for KiTS19's leaderboard, to which cysts are kidney; leave --labels kits23 out.")
        check_names(cases)
        if is_stream(options.zip):
            raise OutputError(f"{options.zip}: is a device or a pipe, not a file; give a name for a file.")
    for folder in filter(None, [*(extra.place for extra in options.extras), options.zip and options.zip.parent]):
        try:
            check_writable(folder)
        except OutputError as error:
            if not disk_is_full(error):
                raise
            log.warning("%s", error)


def check_writable(folder: Path) -> None:
    """Make the output folder and try it before hours of work depend on it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(f"{folder} cannot be written to ({error.strerror}); choose a writable folder.") from error


if __name__ == "__main__":
    sys.exit(main())
