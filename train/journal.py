"""What a run tells while it goes on: a CSV log, and TensorBoard's scalars and sample pictures."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import torch
from torch.utils.tensorboard import SummaryWriter

from kits.io.atomic import aside

LOG = "log.csv"
FIELDS = ("step", "epoch", "loss", "learning_rate", "seconds", "waited", "score", "kidney", "tumour", "cyst")
SAMPLES = 4
COLOURS = torch.tensor([[0.0, 0.0, 0.0], [0.1, 0.8, 0.3], [1.0, 0.3, 0.1], [0.9, 0.9, 0.2]])
"""Of background, kidney, tumour and cyst."""


class Journal:
    """The log of a run.

    Args:
        folder: of the run.
        step: at which the run goes on; what an interrupted run wrote of later steps is struck out.
    """

    def __init__(self, folder: Path, step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / LOG
        rows = [row for row in read_log(folder) if int(row["step"]) <= step]
        with aside(self.path) as partial, partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            writer.writeheader()
            writer.writerows(rows)
        self.board = SummaryWriter(folder, purge_step=step)

    def write(self, row: Mapping[str, float]) -> None:
        """Add the ``FIELDS`` among some numbers to the log and to TensorBoard."""
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, FIELDS).writerow({k: round(v, 6) for k, v in row.items() if k in FIELDS})
        for name in FIELDS[1:]:
            if name in row:
                self.board.add_scalar(name, row[name], int(row["step"]))
        self.board.flush()

    def picture(self, step: int, images: torch.Tensor, labels: torch.Tensor, answer: torch.Tensor) -> None:
        """A few patches in a row: the slice, the truth, the answer.

        Args:
            step: after which it was drawn.
            images: standardised (batch, 5, y, x).
            labels, answer: of the same (batch, y, x).
        """
        middle = images[:SAMPLES, images.shape[1] // 2].float().cpu()
        low, high = middle.amin(), middle.amax()
        grey = ((middle - low) / (high - low).clamp_min(1e-6))[..., None].expand(-1, -1, -1, 3)
        panels = [grey]
        for marked in (labels[:SAMPLES].cpu(), answer[:SAMPLES].cpu()):
            panels.append(torch.where(marked[..., None] > 0, 0.6 * COLOURS[marked] + 0.4 * grey, grey))
        sheet = torch.cat([torch.cat(list(panel), dim=1) for panel in panels], dim=0)
        self.board.add_image("slice, truth, answer", sheet, step, dataformats="HWC")
        self.board.flush()

    def close(self) -> None:
        """End TensorBoard's writing."""
        self.board.close()


def read_log(folder: Path) -> list[dict[str, str]]:
    """The rows of a run's log, oldest first; empty where there is none."""
    path = folder / LOG
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
