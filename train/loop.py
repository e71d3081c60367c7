"""The training loop: sample, augment, step, average; checkpoint, judge, and write the weights.

A run resumes from its last checkpoint; what is shipped is the running average of the weights and of
batch norm's statistics, since the raw ones swing at a high learning rate.
"""

from __future__ import annotations

import csv
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from kits.networks import ARCHITECTURES
from kits.preprocess import HU_WINDOW, Normalisation
from kits.stacks import stack_slices
from kits.weights import WeightsInfo, load_member, save_weights
from train.augment import FLOOR_HU, patch
from train.cases import Scan
from train.config import Config
from train.losses import loss
from train.sampling import draw, sites

CHECKPOINT_STEPS = 50
JUDGE_STEPS = 200


def normalisation(scans: Sequence[Scan]) -> Normalisation:
    """Mean and standard deviation of the clipped training voxels, every fourth row and column."""
    values = np.concatenate([np.clip(s.hu[:, ::4, ::4], *HU_WINDOW).ravel().astype(np.float32) for s in scans])
    return Normalisation(round(float(values.mean()), 2), round(float(values.std()), 2))


def fit(
    config: Config,
    train: Sequence[Scan],
    valid: Sequence[Scan],
    folder: Path,
    info: dict[str, str],
    start: Path | None = None,
) -> Path:
    """Train one network, or go on where its folder's checkpoint left off; returns the weight file.

    Args:
        config: what to train and how.
        train, valid: scans of different patients.
        folder: holds ``checkpoint.pt``, ``log.csv`` and ``weights.safetensors``.
        info: ``trained_on`` and ``licence`` for the weight file.
        start: a weight file to go on from instead of from random weights; its normalisation is kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    before = load_member(start) if start else None
    norm = before.info.norm if before else normalisation(train)
    network = before.network.requires_grad_() if before else ARCHITECTURES[config.architecture]()
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(config.average), use_buffers=True)
    optimizer = torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=config.steps, pct_start=0.15
    )
    parts = {"network": network, "average": average, "optimizer": optimizer, "schedule": schedule}
    checkpoint = folder / "checkpoint.pt"
    done = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        done = state.pop("step")
        for name, part in parts.items():
            part.load_state_dict(state[name])
    by_group = sites(train, config.role)
    class_weights = torch.tensor(config.class_weights)

    def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng((config.seed, step))
        picked = [draw(by_group, config, rng) for _ in range(config.batch)]
        pairs = [patch(train[site.scan], site, config, norm, rng) for site in picked]
        images, labels = (torch.stack(part) for part in zip(*pairs, strict=True))
        return images.contiguous(memory_format=torch.channels_last), labels

    running, started = 0.0, time.monotonic()
    progress = tqdm(range(done, config.steps), initial=done, total=config.steps, disable=None)
    with ThreadPoolExecutor(1) as ahead:
        upcoming = ahead.submit(batch, done)
        for step in progress:
            images, labels = upcoming.result()
            upcoming = ahead.submit(batch, step + 1)
            set_modes(network, config.dropout)
            value = loss(network(images), labels, class_weights)
            if not torch.isfinite(value):
                raise FloatingPointError(f"The loss is {value.item()} at step {step}; lower the learning rate.")
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            average.update_parameters(network)
            running = value.item() if step == done else 0.98 * running + 0.02 * value.item()
            finished = step + 1 == config.steps
            if (step + 1) % CHECKPOINT_STEPS == 0 or finished:
                save_checkpoint(checkpoint, {n: p.state_dict() for n, p in parts.items()} | {"step": step + 1})
                row = {
                    "step": step + 1,
                    "loss": round(running, 4),
                    "seconds": round(time.monotonic() - started),
                }
                if (step + 1) % JUDGE_STEPS == 0 or finished:
                    row |= judge(average.module, valid, config.role, norm)
                    about = WeightsInfo(config.role, config.architecture, norm, **info)
                    save_weights(folder / "weights.safetensors", average.module, about)
                write_row(folder / "log.csv", row)
    return folder / "weights.safetensors"


def set_modes(network: nn.Module, dropout: bool) -> None:
    """Training mode, with or without dropout."""
    network.train()
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.train(dropout)


def save_checkpoint(path: Path, state: dict[str, object]) -> None:
    """Write aside, then rename: a kill at any moment leaves a whole checkpoint."""
    aside = path.with_suffix(".partial")
    torch.save(state, aside)
    aside.replace(path)


def write_row(path: Path, row: dict[str, float]) -> None:
    """Append a row to the CSV log."""
    fields = ["step", "loss", "seconds", "kidney", "tumour", "kidney_mean", "tumour_mean"]
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fields)
        if fresh:
            writer.writeheader()
        writer.writerow(row)


@torch.inference_mode()
def judge(network: nn.Module, scans: Sequence[Scan], role: str, norm: Normalisation) -> dict[str, float]:
    """Dice of kidney+tumour and of tumour on true regions, pooled over all pixels and as a mean over patients.

    Patients without the structure do not enter its mean. A quick figure for watching a run; ``kits.score`` of the
    whole cascade is the one to quote.
    """
    network.eval()
    sums: dict[tuple[str, str], np.ndarray] = defaultdict(lambda: np.zeros(2))
    for group, chosen in sites(scans, role).items():
        for site in chosen[:: 4 if group[1] else 1]:
            scan = scans[site.scan]
            low = max(0, site.slice - 2)
            slices = torch.from_numpy(scan.hu[low : site.slice + 3]).float()
            stack = window(stack_slices(slices, torch.tensor([site.slice - low])), site.centre, FLOOR_HU)
            stack = (stack.clamp(*norm.window) - norm.mean) / norm.std
            truth = window(torch.from_numpy(scan.labels[site.slice])[None, None], site.centre, 0)
            predicted = network(stack).argmax(1)[0]
            for name, threshold in (("kidney", 0), ("tumour", 1)):
                p, t = predicted > threshold, truth[0, 0] > threshold
                sums[name, scan.patient] += (2 * int((p & t).sum()), int(p.sum() + t.sum()))
    result = {}
    for name in ("kidney", "tumour"):
        rows = np.array([value for (n, _), value in sums.items() if n == name and value[1] > 0])
        result[name] = round(float(rows[:, 0].sum() / max(rows[:, 1].sum(), 1)), 4)
        result[f"{name}_mean"] = round(float((rows[:, 0] / rows[:, 1]).mean()), 4)
    return result


def window(image: torch.Tensor, centre: tuple[float, float], fill: float, size: int = 256) -> torch.Tensor:
    """Cut ``size`` x ``size`` px about a centre out of (batch, channels, rows, columns), filled beyond the edges."""
    rows, columns = image.shape[-2:]
    top, left = round(centre[0] - size / 2), round(centre[1] - size / 2)
    pads = (max(0, -left), max(0, left + size - columns), max(0, -top), max(0, top + size - rows))
    padded = torch.nn.functional.pad(image, pads, value=fill)
    return padded[..., top + pads[2] : top + pads[2] + size, left + pads[0] : left + pads[0] + size]
