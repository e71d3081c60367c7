"""Where a case's time goes, against what the machine could do at most.

    python -m bench.stages [--slices 108] [--slice-mm 3] [--device cpu|cuda] [--engine auto] [--mode paper]

The bound of a network is its multiplications and additions over the fastest matrix product measured in the same process
and number format; that of all else is the bytes that it has to read and write over the speed of a large copy.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.common import ROOT, machine, save, table, write_scan
from kits.cascade.cascade import Cascade, Prediction
from kits.cascade.stage import PREPROCESSING, Stage, Wrap
from kits.choices import Mode, Runner
from kits.geometry import WINDOW_PX
from kits.io.cases import Case
from kits.io.images import read_volume, write_image
from kits.io.volume import Volume
from kits.networks import ARCHITECTURES
from kits.runtime.engine import Engine
from kits.runtime.runtime import Runtime
from kits.runtime.stacks import OFFSETS


class Clock:
    """Adds up by name: seconds that functions take, the slices and bytes that they return, and their operations."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self.slices: dict[str, int] = defaultdict(int)
        self.bytes: dict[str, int] = defaultdict(int)
        self.operations: dict[str, int] = defaultdict(int)

    def clear(self) -> None:
        for sums in (self.seconds, self.slices, self.bytes, self.operations):
            sums.clear()

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def wrap(self, name: str, function: Callable[..., Any], slice_operations: int = 0) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            started = self.now()
            result = function(*arguments)
            self.seconds[name] += self.now() - started
            self.slices[name] += len(result)
            self.bytes[name] += result.nbytes
            self.operations[name] += len(result) * slice_operations
            return result

        return timed


def matrix_peak(engine: Engine) -> float:
    """Operations a second of the fastest of several large matrix products, in an engine's precision."""
    best = 0.0
    for size in (1024, 2048, 4096):
        a, b = (torch.randn(size, size, device=engine.device).to(engine.precision) for _ in range(2))
        for _ in range(4):
            clock = Clock(engine.device)
            started = clock.now()
            a @ b
            best = max(best, 2 * size**3 / (clock.now() - started))
    return best


def bandwidth(device: torch.device) -> float:
    """Bytes a second, read and written, of the fastest of several copies of 256 MB."""
    source = torch.ones(64 * 2**20, device=device)
    target = torch.empty_like(source)
    clock, best = Clock(device), 0.0
    for _ in range(5):
        started = clock.now()
        target.copy_(source)
        best = max(best, 2 * source.nbytes / (clock.now() - started))
    return best


def operations(architecture: str) -> int:
    """Multiplications and additions of one slice."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        ARCHITECTURES[architecture]().eval()(torch.zeros(1, len(OFFSETS), WINDOW_PX, WINDOW_PX))
    return counter.get_total_flops()


def timed(cascade: Cascade, clock: Clock) -> Cascade:
    """The same cascade; each stage's networks and preprocessing are timed under its name."""

    def wrap_stage(stage: Stage) -> Wrap:
        name = "locate" if stage is cascade.locator else "segment"
        costs = {member.name: operations(member.info.architecture) for member in stage.members}

        def wrap(part: str, run: Callable[..., Any]) -> Callable[..., Any]:
            if part == PREPROCESSING:
                return clock.wrap(f"{name}: preprocessing", run)
            return clock.wrap(f"{name}: networks", run, costs[part])

        return wrap

    return cascade.wrapped(wrap_stage)


def run_case(cascade: Cascade, clock: Clock, scan: Path) -> tuple[Volume, Prediction, dict[str, float]]:
    """A case from file to file, the second time: its volume, what was found, and seconds of its parts.

    Raises:
        RuntimeError: the kidneys were not found, so that less was done than on a patient.
    """
    for _ in range(2):  # in the first, buffers are made and kernels chosen
        clock.clear()
        started = time.perf_counter()
        volume = read_volume(Case("scan", scan, "scan.nii.gz"))
        read = time.perf_counter() - started
        result = cascade.predict(volume)
        started = time.perf_counter()
        write_image(volume.to_home(result.labels), scan.with_name("labels.nii.gz"))
        write = time.perf_counter() - started
    if len(result.regions) != 2:
        raise RuntimeError(f"the kidneys of the simulated scan were not found: {result.regions}")
    seconds = {"read": read} | clock.seconds | {"write": write, "postprocess": result.seconds["postprocess"]}
    for stage in ("locate", "segment"):
        inside = clock.seconds[f"{stage}: networks"] + clock.seconds[f"{stage}: preprocessing"]
        seconds[f"{stage}: all else"] = result.seconds[stage] - inside
    return volume, result, seconds


def least(cascade: Cascade, clock: Clock, voxels: int, peaks: dict[str, float], speed: float) -> dict[str, float]:
    """The seconds that each part of a case must take on this machine.

    Args:
        cascade, clock: which ran a case.
        voxels: of the case.
        peaks: operations a second by precision.
        speed: bytes a second.
    """
    else_bytes = 4 * WINDOW_PX**2 * (2 * len(OFFSETS) + 9)
    first, second = (peaks[stage.engine.precision_name] for stage in (cascade.locator, cascade.segmenter))
    return {
        "read": 6 * voxels / speed,  # file's values once, int16 twice
        "locate: preprocessing": (2 * voxels + clock.bytes["locate: preprocessing"]) / speed,
        "locate: networks": clock.operations["locate: networks"] / first,
        "locate: all else": else_bytes * clock.slices["locate: networks"] / speed,
        "segment: preprocessing": 1.5 * clock.bytes["segment: preprocessing"] / speed,
        "segment: networks": clock.operations["segment: networks"] / second,
        "segment: all else": else_bytes * clock.slices["segment: networks"] / speed,
        "postprocess": 2 * voxels / speed,
        "write": 2 * voxels / speed,
    }


def rows(seconds: dict[str, float], bounds: dict[str, float], slices: dict[str, int]) -> list[tuple[object, ...]]:
    """The table's lines."""
    whole = sum(seconds.values())
    return [
        (name, f"{seconds[name]:.3f}", f"{seconds[name] / whole:.0%}", slices.get(name, ""), f"{bound:.3f}",
         f"{seconds[name] / bound:.1f}")
        for name, bound in bounds.items()
    ]  # fmt: skip


def in_networks(clock: Clock, seconds: dict[str, float], peak: float) -> str:
    """A paragraph on the networks' share of a case."""
    whole, inside = sum(seconds.values()), seconds["locate: networks"] + seconds["segment: networks"]
    looked = clock.slices["locate: networks"] + clock.slices["segment: networks"]
    done = clock.operations["locate: networks"] + clock.operations["segment: networks"]
    return (
        f"Whole case {whole:.2f} s, inside the networks {inside:.2f} s: ratio {whole / inside:.2f}. Networks: "
        f"{1000 * inside / looked:.1f} ms a slice, {done / inside / 1e9:.0f} GFLOP/s, {inside * peak / done:.2f} times "
        "the least possible with all in the fastest of these precisions."
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.stages", description=__doc__.split("\n")[0])
    parser.add_argument("--slices", type=int, default=108)
    parser.add_argument("--slice-mm", type=float, default=3.0)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--engine", default="auto", choices=tuple(Runner))
    parser.add_argument("--mode", choices=tuple(Mode), default="native")
    parser.add_argument("--weights", type=Path, default=ROOT / "weights")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results")
    arguments = parser.parse_args()

    started = time.perf_counter()
    cascade = Cascade.load(arguments.weights, Runtime.of(arguments.device, arguments.mode, arguments.engine))
    load = time.perf_counter() - started
    engines = {stage.engine.precision_name: stage.engine for stage in (cascade.locator, cascade.segmenter)}
    peaks = {name: matrix_peak(engine) for name, engine in engines.items()}
    engine = cascade.locator.engine
    speed, clock = bandwidth(engine.device), Clock(engine.device)
    with tempfile.TemporaryDirectory() as folder:
        scan = Path(folder) / "scan.nii.gz"
        write_scan(scan, arguments.slices, arguments.slice_mm, arguments.rows)
        volume, _, seconds = run_case(timed(cascade, clock), clock, scan)
    bounds = least(cascade, clock, volume.hu.size, peaks, speed)

    each = ", ".join(f"{one.name} {operations(one.info.architecture) / 1e9:.1f}" for one in cascade.members)
    peak_text = ", ".join(f"{peak / 1e9:.0f} GFLOP/s in {name}" for name, peak in peaks.items())
    where, how = machine(arguments.device), f"{engine.engine}, {' and '.join(peaks)}"
    text = (
        f"# Where the time goes\n\n{where}; {how}; mode {arguments.mode}; simulated scan of "
        f"{' x '.join(map(str, volume.hu.shape))} voxels of {arguments.slice_mm:g} x 0.78 x 0.78 mm\n\n"
        f"Fastest matrix product {peak_text}; copy {speed / 1e9:.1f} GB/s; all measured here. GFLOP a slice: "
        f"{each}.\n\n"
        + table(["", "seconds", "share", "slices", "least possible", "times that"], rows(seconds, bounds, clock.slices))
        + f"\nLoading and compiling the networks, once a run: {load:.1f} s. "
        + in_networks(clock, seconds, max(peaks.values()))
        + "\n"
    )
    figures: dict[str, object] = {
        "machine": where,
        "engine": engine.engine,
        "precision": " and ".join(peaks),
        "peak_flops": peaks,
    }
    figures |= {"bandwidth": speed, "load": load, "seconds": seconds, "bounds": bounds, "slices": clock.slices}
    name = "stages" if arguments.mode == "native" else f"stages-{arguments.mode}"
    save(name, arguments.out, text, figures)
    draw(seconds, bounds, arguments.out / f"{name}.png", f"{where}; {how}")


def draw(seconds: dict[str, float], bounds: dict[str, float], path: Path, title: str) -> None:
    """Seconds and bounds of each stage as bars."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.2), layout="constrained")
    names = list(bounds)[::-1]
    axes.barh(names, [seconds[name] for name in names], color="#c33", label="measured")
    axes.barh(names, [bounds[name] for name in names], height=0.4, color="#333", label="least possible")
    axes.set_xlabel("seconds")
    axes.set_title(title, fontsize=10)
    axes.legend()
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
