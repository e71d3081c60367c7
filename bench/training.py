"""How fast training is, what share of it waits for data, and what the cache costs.

    python -m bench.training --config FILE --cache DIR [--preset best|paper] [--steps 20] [--networks NAME ...]

Each network takes some steps from random weights on the cache's training scans; the first steps, in which kernels are
chosen, do not count. The last column is the time in which a step's patches were not ready; the goal is under 10 %.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from bench.common import ROOT, machine, save, table
from kits.normalisation import Normalisation
from train.data.cache import load, read_index
from train.loop import Material, Trainer
from train.presets import NETWORKS, PRESETS
from train.settings import config_of, data_of, read_settings

WARM_UP = 3


def measure(trainer: Trainer, steps: int) -> tuple[float, float]:
    """Slices a second, and the share of the time spent waiting for data."""
    trainer.steps = WARM_UP
    trainer.fit()
    before = replace(trainer.progress)
    trainer.steps = WARM_UP + steps
    trainer.fit()
    seconds = trainer.progress.seconds - before.seconds
    slices = steps * trainer.config.schedule.batch
    return slices / seconds, (trainer.progress.waited - before.waited) / seconds


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.training", description=__doc__.split("\n")[0])
    parser.add_argument("--config", type=Path, nargs="+", required=True)
    parser.add_argument("--cache", type=Path, required=True, help="folder that python -m train prepare filled")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="best")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--networks", nargs="*", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results")
    arguments = parser.parse_args()
    settings = read_settings(*arguments.config)
    index = read_index(arguments.cache)
    norm = Normalisation(index["mean"], index["std"])
    rows = []
    for network in arguments.networks:
        config = config_of(network, arguments.preset, settings)
        config = replace(config, schedule=replace(config.schedule, epochs=1, epoch_steps=10**9))
        scans = [s for s in load(arguments.cache, config.role) if s.patient in index["split"]["train"]]
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(config, Material(data_of(settings), scans, [], norm), Path(folder), arguments.device)
            speed, waiting = measure(trainer, arguments.steps)
        rows.append((network, len(scans), f"{speed:.2f}", f"{waiting:.1%}"))
        print(*rows[-1], flush=True)
    raw = sum(size for scan in index["scans"] for _, size, _ in scan["origin"])
    held = sum(path.stat().st_size for path in arguments.cache.rglob("*.npy"))
    where = machine(trainer.engine.device.type)
    precision = trainer.engine.precision_name
    batch = f"batches of {config.schedule.batch} patches of {config.patch} px"
    text = (
        f"# How fast training is\n\n{where}, {torch.get_num_threads()} threads; {precision}; preset "
        f"`{arguments.preset}`, {batch}; {arguments.steps} steps each\n\n"
        + table(("network", "scans", "slices a second", "waiting for data"), rows)
        + f"\nCache, uncompressed for memory mapping: {held / 2**20:.0f} MB; raw data, compressed: "
        f"{raw / 2**20:.0f} MB; {held / raw:.2f} times.\n"
    )
    save("training", arguments.out, text, {"machine": where, "rows": rows, "cache_bytes": held, "raw_bytes": raw})


if __name__ == "__main__":
    main()
