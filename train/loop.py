"""The training loop: draw, augment, step, average; validate, keep, checkpoint.

A run resumes from its last checkpoint and goes on to the bit: what a step draws depends on the seed and the step
alone, and the checkpoint holds everything else. Several processes (``torchrun``) share each batch.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from kits.choices import Mode, Role
from kits.errors import InputError, KitsError
from kits.io.atomic import aside, write_text
from kits.normalisation import Normalisation
from kits.runtime.engine import Engine
from kits.runtime.memory import keep_memory
from kits.runtime.weights import WeightsInfo, load_member, save_weights

from . import workers
from .config import Config, Data
from .data.augment import Augmenter, keep_for_this_stream
from .data.cache import Scan
from .data.sampling import Box, Emphasis, draw_batch, find_sites
from .journal import Journal
from .losses import kernel_penalty, loss
from .optimise import initialised, optimiser_of, set_modes, with_cysts
from .validation import validate

log = logging.getLogger(__name__)

CHECKPOINT_STEPS = 50
WEIGHTS, CHECKPOINT, KEPT = "weights.safetensors", "checkpoint.pt", "kept.json"


class DivergedError(KitsError):
    """The loss is no finite number any more."""


@dataclass
class Progress:
    """How far a run is: steps done, the running mean of the loss, the best score and its epoch, seconds spent."""

    step: int = 0
    loss: float = 0.0
    best: float = -1.0
    best_epoch: int = 0
    seconds: float = 0.0
    waited: float = 0.0


@dataclass(frozen=True)
class Material:
    """What a network learns from and is validated on.

    Args:
        data: the sources' shares, and what the weight file says of its data, of who was held out, and of its licence.
        train, valid: scans of different patients, as the network's stage sees them.
        norm: mean and standard deviation of the training voxels.
        located: kidney boxes from stage 1, for ``config.regions == "located"``.
    """

    data: Data
    train: Sequence[Scan]
    valid: Sequence[Scan]
    norm: Normalisation
    located: Mapping[str, Sequence[Box]] | None = None


class Trainer:
    """One network's training, resumed where its folder's checkpoint left off.

    Args:
        config: what to train and how.
        material: what to learn from.
        folder: of the run: ``checkpoint.pt``, ``log.csv``, TensorBoard's files, and the weights that
            are kept in ``weights.safetensors`` with their scores in ``kept.json``.
        device: ``auto``, ``cuda`` or ``cpu``.
        start: a weight file to go on from instead of from random weights; its normalisation is kept, and whom it
            learned from is not said to be held out.
    """

    def __init__(
        self, config: Config, material: Material, folder: Path, device: str = "auto", start: Path | None = None
    ) -> None:
        data, norm = material.data, material.norm
        self.config, self.train, self.valid, self.folder = config, material.train, material.valid, folder
        keep_memory()
        self.engine = Engine(workers.device(device), "torch")
        # cuDNN's fastest kernels add up in any order: what resumes to the bit takes those that do not.
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        log.info("Training on %s.", self.engine)
        torch.manual_seed(config.seed)
        before = load_member(start) if start else None
        norm = before.info.norm if before else norm
        held_out: tuple[str, ...] | None = data.valid
        if before:  # what it learned from is not unlearned; where it does not say, nobody knows
            said = before.info.held_out
            held_out = None if said is None else tuple(patient for patient in data.valid if patient in said)
        modes = tuple(Mode(mode) for mode in config.modes)
        self.info = WeightsInfo(
            Role(config.role), config.architecture, norm, data.trained_on, data.licence, modes, held_out, config.classes
        )
        network = before.network if before else initialised(config)
        if before and before.info.classes < config.classes:
            network = with_cysts(network, before.info.architecture)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name.startswith(config.only))
        # Tensor.to knows memory formats, but torch's own annotations of Module.to leave them out.
        self.network: nn.Module = network.to(
            self.engine.device,
            memory_format=torch.channels_last,  # type: ignore[call-overload]
        )
        self.average = AveragedModel(
            self.network, multi_avg_fn=get_ema_multi_avg_fn(config.schedule.average), use_buffers=True
        )
        self.validated: nn.Module = self.average.module if config.schedule.average else self.network
        self.shared = workers.wrap(self.network, self.engine.device)
        emphasis = Emphasis(config.thin, config.by_tumour, config.cysts, config.far)
        self.sites = find_sites(material.train, config.role, material.located, emphasis)
        self.source_shares = [source.share for source in data.sources]
        if config.schedule.batch % workers.count():
            raise InputError(f"A batch of {config.schedule.batch} is not shared evenly by {workers.count()} processes.")
        self.augment = Augmenter(config, norm, config.schedule.batch // workers.count(), self.engine.device)
        slices = sum(map(len, self.sites.values()))
        self.epoch_steps = config.schedule.epoch_steps or -(-slices // config.schedule.batch)
        self.steps = config.schedule.epochs * self.epoch_steps
        self.optimiser, self.schedule = optimiser_of(self.network, config.schedule, self.steps)
        self.scaler = torch.amp.GradScaler(self.engine.device.type, enabled=self.engine.precision == torch.float16)
        self.progress = Progress()
        self.resume()

    def fit(self) -> Path:
        """Train to the end, or until nothing has improved for long; returns the file of the weights that are kept.

        Raises:
            DivergedError: the loss is no finite number.
        """
        first = self.progress.step
        began = time.monotonic() - self.progress.seconds
        if self.exhausted():
            return self.folder / WEIGHTS
        journal = Journal(self.folder, first) if workers.rank() == 0 else None
        silent = None if journal else True  # None: no bar where there is no terminal
        steps = tqdm(range(first, self.steps), self.folder.name, self.steps, initial=first, disable=silent)
        with ThreadPoolExecutor(1) as ahead, logging_redirect_tqdm():
            upcoming = ahead.submit(self.batch, first)
            for step in steps:
                asked = time.monotonic()
                images, labels = upcoming.result()
                keep_for_this_stream(images, labels)
                self.progress.waited += time.monotonic() - asked
                upcoming = ahead.submit(self.batch, step + 1)
                value = workers.mean(self.take_step(images, labels, step))
                if not np.isfinite(value):
                    raise DivergedError(
                        f"{self.folder}: the loss is {value} at step {step + 1}, training has diverged. Lower the "
                        f"learning rate and start again; {CHECKPOINT} still holds an earlier step."
                    )
                self.progress.loss = value if step == 0 else 0.98 * self.progress.loss + 0.02 * value
                self.progress.step = step + 1
                self.progress.seconds = time.monotonic() - began
                epoch, rest = divmod(step + 1, self.epoch_steps)
                if rest and (step + 1) % CHECKPOINT_STEPS:
                    continue
                scores = self.validate_and_keep(epoch) if rest == 0 else {}
                if journal:
                    self.save_checkpoint()
                    rate = float(self.optimiser.param_groups[0]["lr"])
                    journal.write(asdict(self.progress) | {"epoch": epoch, "learning_rate": rate} | scores)
                    if scores:
                        log.info("%s", self.line(epoch, scores))
                        with torch.inference_mode(), self.engine.autocast():
                            journal.picture(step + 1, images, labels, self.validated(images).argmax(1))
                if self.exhausted():
                    break
            upcoming.cancel()
        steps.close()
        if journal:
            journal.close()
        return self.folder / WEIGHTS

    def exhausted(self) -> bool:
        """Whether nothing has improved for as many epochs as the schedule has patience."""
        patience = self.config.schedule.patience
        return 0 < patience <= self.progress.step // self.epoch_steps - self.progress.best_epoch

    def line(self, epoch: int, scores: Mapping[str, float]) -> str:
        """What there is to tell of an epoch."""
        epochs, done = self.config.schedule.epochs, self.progress.step
        left = self.progress.seconds / done * (self.steps - done) / 60
        told = ", ".join(f"{name} {score:.3f}" for name, score in scores.items())
        loss = self.progress.loss
        return f"{self.folder}: epoch {epoch} of {epochs}, loss {loss:.3f}, {told}; {left:.0f} minutes left."

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """This process' part of a step's batch: the same patches whatever the number of processes."""
        seed = self.config.seed
        picked = draw_batch(self.sites, self.source_shares, self.config, np.random.default_rng((seed, step)))
        mine = range(workers.rank(), len(picked), workers.count())
        generators = [np.random.default_rng((seed, step, number)) for number in mine]
        return self.augment(self.train, [picked[number] for number in mine], generators)

    def take_step(self, images: torch.Tensor, labels: torch.Tensor, step: int) -> torch.Tensor:
        """One optimiser step; returns the loss."""
        how = self.config.schedule
        torch.manual_seed(hash((self.config.seed, step, workers.rank())) % 2**63)  # for dropout
        set_modes(self.network, self.config.dropout)
        with self.engine.autocast():
            logits = self.shared(images)
        value = loss(logits, labels, self.config.loss)
        if self.config.loss.l2:
            value = value + self.config.loss.l2 * kernel_penalty(self.network)
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(value).backward()
        if how.clip:
            self.scaler.unscale_(self.optimiser)
            nn.utils.clip_grad_norm_(self.network.parameters(), how.clip)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.schedule.step()
        if how.average:
            self.average.update_parameters(self.network)
        return value.detach()

    def validate_and_keep(self, epoch: int) -> dict[str, float]:
        """Score whole validation cases; write the weights if they are to be kept. The first process does it."""
        scores: dict[str, float] = {"score": 0.0}
        if workers.rank() == 0:
            how = self.config
            with self.engine.autocast():
                scores = validate(self.validated.eval(), self.valid, how.role, self.info.norm, self.engine, how.classes)
        score = workers.from_first(scores["score"], self.engine.device)
        better = score > self.progress.best
        if better:
            self.progress.best, self.progress.best_epoch = score, epoch
        if workers.rank() == 0 and (better or self.config.schedule.keep == "last"):
            save_weights(self.folder / WEIGHTS, self.validated, self.info)
            about = {"step": self.progress.step, "minutes": round(self.progress.seconds / 60, 1)} | scores
            write_text(json.dumps(about) + "\n", self.folder / KEPT)
        return scores

    def parts(self) -> dict[str, Any]:
        """Everything with a state, as ``state_dict`` and ``load_state_dict`` know it."""
        return {"network": self.network, "average": self.average, "optimiser": self.optimiser,
                "schedule": self.schedule, "scaler": self.scaler}  # fmt: skip

    def save_checkpoint(self) -> None:
        """Write aside, then rename: a kill at any moment leaves a whole checkpoint."""
        state = {name: part.state_dict() for name, part in self.parts().items()}
        with aside(self.folder / CHECKPOINT) as partial:
            torch.save(state | {"progress": asdict(self.progress)}, partial)

    def resume(self) -> None:
        """Take up the checkpoint, if there is one."""
        path = self.folder / CHECKPOINT
        if path.exists():
            state = torch.load(path, map_location=self.engine.device, weights_only=True)
            for name, part in self.parts().items():
                if state[name]:  # a CPU's scaler, which scales nothing, has no state for a GPU's
                    part.load_state_dict(state[name])
            self.progress = Progress(**state["progress"])
