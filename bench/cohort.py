"""Many small cases over a Ray cluster of two nodes of this machine: do memory and file handles stay flat?

    python -m bench.cohort [--cases 1000] [--minutes 25] [--alone 10] [--out bench/results]
    python -m bench.cohort --table bench/results/cohort.jsonl      # of a bench that was stopped

Each case is a simulated abdomen of 6 slices of 64 x 64, at 6.24 mm, which goes through the whole cascade. The run is
``kits segment --ray``, a worker of one core a node. Every few seconds memory (PSS: shared pages are divided among those
who share them) and open files of the driver and of each worker are noted. The same command without Ray, on one core,
then does some of the cases again: its seconds of a core a case are what the cluster's are compared with, as other
programs on the machine do not lengthen them. What is noted goes to cohort.jsonl in the folder of the results as it
comes, a line a process and moment: whatever stops the bench, the table of what it saw can be made of that.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from bench.common import ROOT, machine, save, table, write_scan

SLICES, SLICE_MM, ROWS, FULL_ROWS = 6, 6.0, 64, 512
SECONDS = 10.0
WARM_CASES = 10
"""Of the beginning, which do not count."""
WORKER = b"ray::CaseWorker"
NOTE = """Memory is PSS. A worker's reading child is a process of its own, and not among the figures of memory. Two
workers on two free cores would reach a ratio of 2 by the clock; on a busy machine that figure says little. The ratio of
seconds of a core says what spreading costs: 1 is nothing.
"""
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Sample:
    """What a process uses at a moment.

    Args:
        second: since the run began.
        who: ``driver`` or ``worker``.
        pid: the process.
        pss: bytes of memory.
        handles: open files.
        cpu: seconds of a core so far, those of its children that ended included.
        done: cases that have a record by now.
    """

    second: float
    who: str
    pid: int
    pss: int
    handles: int
    cpu: float
    done: int


def write_cases(folder: Path, count: int) -> None:
    """Write the cases: one small scan, by as many names."""
    folder.mkdir()
    full = folder.parent / "full.nii.gz"
    write_scan(full, SLICES, SLICE_MM, FULL_ROWS)
    step = FULL_ROWS // ROWS
    first = folder / "case0000.nii.gz"
    sitk.WriteImage(sitk.ReadImage(str(full))[::step, ::step, :], str(first), useCompression=True)
    for number in range(1, count):
        shutil.copy(first, folder / f"case{number:04}.nii.gz")


def command(scans: Path, out: Path, *options: str) -> list[str | Path]:
    """A run's command line."""
    return [
        sys.executable, "-m", "kits", "segment", "--input", scans, "--output", out, "--device", "cpu",
        "--report", out / "report.json", *options,
    ]  # fmt: skip


def workers() -> Iterator[int]:
    """The workers of the cluster that this process started; there may be others on the machine."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if (path / "cmdline").read_bytes().startswith(WORKER) and is_ours(int(path.name)):
                yield int(path.name)
        except OSError:  # it has ended
            continue


def is_ours(pid: int) -> bool:
    """Whether a process is this one or descends from it."""
    if pid in (0, os.getpid()):
        return pid > 0
    return is_ours(int(Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[1]))


def sample(pid: int) -> tuple[int, int, float] | None:
    """A process' memory, open files and seconds of a core; None if it has ended."""
    here = Path("/proc", str(pid))
    try:
        lines = (here / "smaps_rollup").read_text().splitlines()
        pss = next(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        fields = (here / "stat").read_text().rpartition(")")[2].split()
        return pss, len(list((here / "fd").iterdir())), sum(map(int, fields[11:15])) / TICKS
    except (OSError, StopIteration):
        return None


def note(notes: Path, what: dict[str, Any]) -> None:
    """Add a line to the notes, which is there whatever becomes of this process."""
    with notes.open("a", encoding="utf-8") as file:
        file.write(json.dumps(what) + "\n")


def watch(run: subprocess.Popen[Any], out: Path, seconds: float, notes: Path) -> None:
    """Note what driver and workers use until the run ends, or is told to after so many seconds."""
    started = time.monotonic()
    told = False
    while run.poll() is None:
        now = time.monotonic() - started
        done = len(list((out / ".kits-cascade").glob("*.json")))
        for who, pid in [("driver", run.pid), *(("worker", pid) for pid in workers())]:
            if found := sample(pid):
                note(notes, asdict(Sample(round(now, 1), who, pid, *found, done)))
        if now > seconds and not told:
            run.terminate()
            told = True
        time.sleep(SECONDS)


def on_cluster(scans: Path, out: Path, seconds: float, notes: Path) -> None:
    """Run all cases on two nodes of this machine."""
    from ray.cluster_utils import Cluster

    cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    try:
        options = (f"--ray={cluster.address}", "--worker-cores=1")
        run = subprocess.Popen(command(scans, out, *options), cwd=ROOT, stderr=subprocess.DEVNULL)
        watch(run, out, seconds, notes)
    finally:
        cluster.shutdown()


def alone(scans: Path, out: Path, count: int) -> tuple[float, float]:
    """Seconds by the clock, and of a core, that a case takes one process of one thread, without its start.

    Those of a run of one case are taken from those of a run of all.
    """
    usage = []
    for some in (1, count + 1):
        part = out / f"scans{some}"
        part.mkdir(parents=True)
        for path in sorted(scans.iterdir())[:some]:
            (part / path.name).symlink_to(path)
        started = time.monotonic()
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        with subprocess.Popen(
            command(part, out / f"out{some}"), cwd=ROOT, env=environment, stderr=subprocess.DEVNULL
        ) as run:
            _, status, used = os.wait4(run.pid, 0)
            run.returncode = os.waitstatus_to_exitcode(status)
        if run.returncode:
            raise RuntimeError(f"the run of {some} cases ended with status {run.returncode}")
        usage.append((time.monotonic() - started, used.ru_utime + used.ru_stime))
    (wall_1, cpu_1), (wall, cpu) = usage
    return (wall - wall_1) / count, (cpu - cpu_1) / count


def quarters(samples: Sequence[Sample], who: str) -> Iterator[tuple[int, float, float, int, int]]:
    """The number of each quarter of a run after its first cases, mean and largest memory in MB, least and most open
    files in it; not of one in which nothing was noted."""
    chosen = [one for one in samples if one.who == who and one.done > WARM_CASES]
    last = max(one.second for one in chosen)
    first = min(one.second for one in chosen)
    for number in range(4):
        low, high = (first + (last - first) * part / 4 for part in (number, number + 1))
        if part := [one for one in chosen if low <= one.second <= high]:
            memory, handles = [one.pss / 1e6 for one in part], [one.handles for one in part]
            yield number + 1, sum(memory) / len(memory), max(memory), min(handles), max(handles)


def pace(samples: Sequence[Sample]) -> tuple[float, float]:
    """Seconds by the clock, and of all workers' cores, a case, after the first."""
    chosen = [one for one in samples if one.who == "worker" and one.done > WARM_CASES]
    first, last = chosen[0], chosen[-1]
    cpu = 0.0
    for pid in {one.pid for one in chosen}:
        own = [one for one in chosen if one.pid == pid]
        cpu += own[-1].cpu - own[0].cpu
    cases = last.done - first.done
    return (last.second - first.second) / cases, cpu / cases


def text(samples: Sequence[Sample], sequential: tuple[float, float] | None, count: int, where: str) -> str:
    """The results as Markdown.

    Args:
        samples: of the run.
        sequential: seconds by the clock and of a core a case without Ray; None: not measured.
        count: cases that there were.
        where: the machine.

    Raises:
        SystemExit: there is too little for a table.
    """
    done = max((one.done for one in samples), default=0)
    if len({one.done for one in samples if one.who == "worker" and one.done > WARM_CASES}) < 2:
        raise SystemExit(f"{done} cases were seen done: too few for a table.")
    rows = [
        (who, f"{number} of 4", f"{mean:.0f}", f"{most:.0f}", f"{few} to {many}")
        for who in ("worker", "driver")
        for number, mean, most, few, many in quarters(samples, who)
    ]
    wall, cpu = pace(samples)
    head = f"# {done} cases over two nodes\n\n{where}; {done} of {count} scans of {SLICES} x {ROWS} x {ROWS}\n\n"
    flat = table(("process", "quarter of the run", "memory, mean MB", "largest MB", "open files"), rows)
    speed = [("two workers of one core", f"{wall:.2f}", f"{cpu:.2f}")]
    if sequential:
        speed += [
            ("one process, one thread", f"{sequential[0]:.2f}", f"{sequential[1]:.2f}"),
            ("ratio (one process / workers)", f"{sequential[0] / wall:.2f}", f"{sequential[1] / cpu:.2f}"),
        ]
    return f"{head}{flat}\n{table(('', 'seconds by the clock a case', 'seconds of a core a case'), speed)}\n{NOTE}"


def tabulate(notes: Path, out: Path) -> None:
    """Make the table of what was noted, by a bench that came to its end or not."""
    lines = [json.loads(line) for line in notes.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    told = {name: one[name] for one in lines for name in ("count", "where", "alone") if name in one}
    samples = [Sample(**one) for one in lines if "who" in one]
    sequential = (told["alone"][0], told["alone"][1]) if "alone" in told else None
    figures = {"cases": max((one.done for one in samples), default=0), "alone": sequential}
    save("cohort", out, text(samples, sequential, told["count"], told["where"]), figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=25.0, help="then the run is told to end")
    parser.add_argument("--alone", type=int, default=10, help="cases of the run without Ray")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--table", type=Path, metavar="NOTES", help="run nothing: make the table of a bench's notes")
    options = parser.parse_args()
    if options.table:
        tabulate(options.table, options.out)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    notes = options.out / "cohort.jsonl"
    notes.unlink(missing_ok=True)
    note(notes, {"count": options.cases, "where": machine("cpu")})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_cases(folder / "scans", options.cases)
        on_cluster(folder / "scans", folder / "out", 60 * options.minutes, notes)
        reports = json.loads((folder / "out" / "report.json").read_text())
        found = {round(sum(one[side]["kidney_with_masses_ml"] for side in ("left", "right")), 1)
                 for one in reports if one["status"] == "done"}  # fmt: skip
        if len(found) != 1 or not min(found) > 0:
            raise RuntimeError(f"the same scan gave {sorted(found)} ml of kidney")
        note(notes, {"alone": alone(folder / "scans", folder / "alone", options.alone)})
    tabulate(notes, options.out)


if __name__ == "__main__":
    main()
