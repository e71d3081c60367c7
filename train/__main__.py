"""``python -m train fit NETWORK``: train one of the cascade's networks on lone slices and whole volumes."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from train.cases import Scan, slice_folder, volume_folder
from train.config import PRESETS
from train.loop import fit

FOLDS = 8


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m train", description=__doc__)
    command = parser.add_subparsers(required=True).add_parser("fit", help="train one network")
    command.add_argument("network", choices=sorted(PRESETS))
    command.add_argument("--slices", type=Path, nargs="*", default=[], help="folders with a slices.json")
    command.add_argument("--volumes", type=Path, nargs="*", default=[], help="folders of NAME/{ct,label}.nii.gz")
    command.add_argument("--leave-out", nargs="*", default=[], help="volumes to validate on instead")
    command.add_argument("--run", type=Path, required=True, help="folder of the run: checkpoint, log, weights")
    command.add_argument("--start", type=Path, help="weight file to go on from instead of from random weights")
    command.add_argument("--steps", type=int)
    command.add_argument("--learning-rate", type=float)
    command.add_argument("--patch", type=int, help="rows and columns of a training patch, px")
    command.add_argument("--no-dropout", action="store_true", help="to end Res-Net's training with")
    command.add_argument("--threads", type=int)
    command.add_argument("--trained-on", default="unstated", help="for the weight file's metadata")
    command.add_argument("--licence", default="unstated", help="for the weight file's metadata")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    config = PRESETS[arguments.network]
    for name in ("steps", "learning_rate", "patch"):
        if getattr(arguments, name):
            config = replace(config, **{name: getattr(arguments, name)})
    if arguments.no_dropout:
        config = replace(config, dropout=False)
    halve = config.role == "locate"
    scans = [scan for folder in arguments.slices for scan in slice_folder(folder, halve)]
    scans += [scan for folder in arguments.volumes for scan in volume_folder(folder, halve)]
    valid = [scan for scan in scans if held_out(scan, arguments.leave_out)]
    train = [scan for scan in scans if not held_out(scan, arguments.leave_out)]
    info = {"trained_on": arguments.trained_on, "licence": arguments.licence}
    print(fit(config, train, valid, arguments.run, info, arguments.start))


def held_out(scan: Scan, names: list[str]) -> bool:
    """Validation: one KiTS patient in eight, by number, and the volumes named."""
    prefix, _, number = scan.patient.partition("-")
    return scan.patient in names or (prefix == "kits" and int(number) % FOLDS == 0)


if __name__ == "__main__":
    main()
