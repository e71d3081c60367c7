"""Seconds and memory against the number of slices of a scan, and of cases in a run.

    python -m bench.scaling [--slices 29 59 108 212 424 1059] [--cases 50] [--device cpu|cuda] [--out bench/results]

Each scan is simulated, 512 x 512, and goes through process.py in a process of its own. Thicknesses are 324 mm / slices,
but 0.5 to 5 mm as in KiTS19. The cases of the long run are one scan of 29 slices under many names.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.common import ROOT, machine, measured, save, table, write_scan

HEIGHT_MM = 324.0


def over_slices(counts: list[int], rows: int, device: str, folder: Path) -> list[dict[str, Any]]:
    """Seconds and peak bytes of one case of each number of slices."""
    found = []
    for count in counts:
        thickness = min(max(HEIGHT_MM / count, 0.5), 5.0)
        scan, report = folder / f"scan_{count}.nii.gz", folder / "report.json"
        write_scan(scan, count, thickness, rows)
        command: list[str | Path] = ["process.py", "--input", scan, "--output", folder / "out"]
        usage, _ = measured([*command, "--device", device, "--report", report])
        (case,) = json.loads(report.read_text(encoding="utf-8"))
        found.append(
            {"slices": count, "mm": round(thickness, 2), "seconds": sum(case["seconds"].values())}
            | {"stages": case["seconds"], "peak": usage.peak, "cpu": usage.cpu, "wall": usage.wall}
            | {"kidney_ml": case["right"]["parenchyma_ml"] + case["left"]["parenchyma_ml"]}
        )
        print(found[-1], flush=True)
        scan.unlink()
    return found


def over_cases(count: int, rows: int, device: str, folder: Path) -> list[dict[str, Any]]:
    """Seconds since the start, peak bytes so far and the least held since the last case, as label maps appear."""
    source, out = folder / "many", folder / "many_out"
    first = source / "scan_000.nii.gz"
    write_scan(first, 29, 5.0, rows)
    for index in range(1, count):
        (source / f"scan_{index:03d}.nii.gz").symlink_to(first)
    found: list[dict[str, Any]] = []
    started = time.perf_counter()
    command = [sys.executable, "process.py", "--input", str(source), "--output", str(out), "--device", device]
    least = 2**60
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            done = len(list(out.glob("scan_*.nii.gz")))
            lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
            held, peak = (
                next((1024 * int(line.split()[1]) for line in lines if line.startswith(name)), 0)
                for name in ("VmRSS", "VmHWM")
            )
            least = min(least, held or least)
            if peak and done > len(found):
                now = {"seconds": time.perf_counter() - started, "peak": peak, "held": least}
                found += [{"cases": n + 1} | now for n in range(len(found), done)]
                least = 2**60
            time.sleep(0.02)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}")
    return found


def draw(slices: list[dict[str, Any]], cases: list[dict[str, Any]], path: Path, title: str) -> None:
    """Seconds and memory over slices, and over cases."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(8, 5), layout="constrained")
    for column, (rows, key) in enumerate(((slices, "slices"), (cases, "cases"))):
        for line, (value, unit, scale) in enumerate((("seconds", "s", 1.0), ("peak", "peak GB", 1e9))):
            axes[line, column].plot(
                [row[key] for row in rows], [row[value] / scale for row in rows], ".-", color="#c33"
            )
            axes[line, column].set(xlabel=key, ylabel=unit, xlim=(0, None), ylim=(0, None))
            axes[line, column].grid(alpha=0.3)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.scaling", description=__doc__.split("\n")[0])
    parser.add_argument("--slices", type=int, nargs="*", default=[29, 59, 108, 212, 424, 1059])
    parser.add_argument("--cases", type=int, default=50)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        slices = over_slices(arguments.slices, arguments.rows, arguments.device, Path(folder))
        cases = over_cases(arguments.cases, arguments.rows, arguments.device, Path(folder))
    where = machine(arguments.device)
    text = f"# Scans of many slices, runs of many cases\n\n{where}; slices of {arguments.rows} x {arguments.rows}\n\n"
    text += table(
        ["slices", "mm", "seconds a case", "read", "locate", "segment", "write", "peak GB"],
        [
            [row["slices"], row["mm"], f"{row['seconds']:.1f}"]
            + [f"{row['stages'][name]:.1f}" for name in ("read", "locate", "segment", "write")]
            + [f"{row['peak'] / 1e9:.2f}"]
            for row in slices
        ],
    )
    if len(slices) > 1:
        counts = [row["slices"] for row in slices]
        pace, start = np.polyfit(counts, [row["seconds"] for row in slices], 1)
        weight, base = np.polyfit(counts, [row["peak"] / 1e6 for row in slices], 1)
        text += (
            f"\nFitted lines: {start:.1f} s + {1000 * pace:.0f} ms a slice; {base:.0f} MB + {weight:.1f} MB a slice.\n"
        )
    shown = [row for row in cases if row["cases"] in (1, 2, 5, 10, 20, 30, 40, 50) or row is cases[-1]]
    text += "\n" + table(
        ["cases of 29 slices done", "seconds since the start", "peak GB so far", "least held in this case, GB"],
        [
            [row["cases"], f"{row['seconds']:.1f}", f"{row['peak'] / 1e9:.3f}", f"{row['held'] / 1e9:.3f}"]
            for row in shown
        ],
    )
    if len(cases) > 2:
        held, peak = (cases[-1][what] / cases[1][what] for what in ("held", "peak"))
        text += f"\nMemory after {len(cases)} cases / after 2: {held:.3f} held, {peak:.3f} at the peak.\n"
    save("scaling", arguments.out, text, {"machine": where, "slices": slices, "cases": cases})
    draw(slices, cases, arguments.out / "scaling.png", where)


if __name__ == "__main__":
    main()
