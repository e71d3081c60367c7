"""The whole cascade on one page (paper section 2.3, figure 1).

CT -> 3 mm, halved -> Wide-UNet1 (paper: Res-UNet1) -> kidneys' regions                       stage 1, locate
   regions at native resolution -> Wide-UNet2 (Res-UNet2 and Res-Net) -> probabilities        stage 2, segment
   mean of the networks' probabilities -> label map                                           stage 3, ensemble
   -> too small components and tumours, tumour outside any kidney, third kidneys go,
      what was called tumour and looks like water is a cyst                                   post-processing
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from kits.cascade.clean import ENHANCED_HU, clean, kidney_hu
from kits.cascade.locate import locate
from kits.cascade.segment import segment
from kits.errors import WeightsError
from kits.geometry import Region
from kits.io.volume import Volume
from kits.runtime.engine import engines_of_stages
from kits.runtime.weights import MODES, Member, load_members

KIDNEY, TUMOUR = 1, 2

Progress = Callable[[float], None]
"""Told how much of a case is done, from 0 to 1."""


@dataclass
class Prediction:
    """What the cascade found in one volume.

    Args:
        labels: uint8 (z, y, x) on the volume's canonical grid: 0 background, 1 kidney, 2 tumour.
        regions: where stage 1 saw kidneys, or where they usually are in a thin scan in which it saw none.
        warnings: what a person should know before trusting the labels.
        seconds: time spent in each stage.
        probabilities: percent (0-100) of kidney with tumour and of tumour, uint8 (2, z, y, x), when asked for.
    """

    labels: np.ndarray
    regions: list[Region]
    warnings: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    probabilities: np.ndarray | None = None

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time spent inside to a stage's."""
        start = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


class Cascade:
    """The cascade with its networks loaded, for any number of volumes.

    Args:
        locators: networks of stage 1.
        segmenters: the ensemble's members.
        device: ``auto``, ``cuda`` or ``cpu``.
        engine: ``auto``, ``openvino`` or ``torch``.
        mode: ``native`` predicts every slice of the scan; ``paper`` follows the paper to the letter. Each weight file
            says which modes run it.
        precision: ``auto`` (see ``kits.runtime.engine.engines_of_stages``), ``fp32``, ``bf16`` or ``fp16``.

    Example:
        >>> from kits import Cascade, Volume
        >>> cascade = Cascade.load("weights")                      # doctest: +SKIP
        >>> cascade.predict(Volume.from_image(image, "scan")).labels     # doctest: +SKIP
    """

    def __init__(
        self,
        locators: list[Member],
        segmenters: list[Member],
        device: str = "auto",
        mode: str = "native",
        engine: str = "auto",
        precision: str = "auto",
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"mode must be one of {MODES}, got {mode!r}")
        self.locate_engine, self.segment_engine = engines_of_stages(device, engine, precision)
        self.mode = mode
        locators, segmenters = members_of(mode, locators, segmenters)
        self.members = [*locators, *segmenters]
        self.locators = [self.locate_engine.place(member.network) for member in locators]
        self.segmenters = [self.segment_engine.place(member.network) for member in segmenters]
        self.locate_norm = locators[0].info.norm
        self.segment_norm = segmenters[0].info.norm

    @classmethod
    def load(
        cls,
        weights: str | Path,
        device: str = "auto",
        mode: str = "native",
        engine: str = "auto",
        precision: str = "auto",
    ) -> Cascade:
        """A cascade with the networks of a weights folder.

        Raises:
            WeightsError: the folder does not hold whole, fitting weight files for both stages.
        """
        return cls(*load_members(Path(weights)), device, mode, engine, precision)

    def predict(
        self, volume: Volume, keep_probabilities: bool = False, progress: Progress = lambda done: None
    ) -> Prediction:
        """Segment kidneys and tumours.

        Args:
            volume: the CT, in HU.
            keep_probabilities: give back the probabilities too.
            progress: called as the work goes on.
        """
        shape = volume.hu.shape
        to_the_letter = self.mode == "paper"
        result = Prediction(np.zeros(shape, np.uint8), [], list(volume.warnings))
        if keep_probabilities:
            result.probabilities = np.zeros((2, *shape), np.uint8)

        with result.timed("locate"):
            result.regions = locate(
                volume,
                self.locators,
                self.locate_norm,
                self.locate_engine,
                to_the_letter,
                lambda done: progress(0.3 * done),
            )

        with result.timed("segment"):
            bottom = min((region.first for region in result.regions), default=0)
            top = max((region.last for region in result.regions), default=1)
            chunks = segment(
                volume, result.regions, self.segmenters, self.segment_norm, self.segment_engine, to_the_letter
            )
            for box, chunk in chunks:
                result.labels[box] = most_probable(chunk).cpu().numpy()
                if result.probabilities is not None:
                    kidney_and_tumour = np.stack([1 - chunk[:, 0].cpu().numpy(), chunk[:, TUMOUR].cpu().numpy()])
                    result.probabilities[(slice(None), *box)] = np.rint(100 * kidney_and_tumour)
                progress(0.3 + 0.7 * (box[0].stop - bottom) / (top - bottom))

        with result.timed("postprocess"):
            clean(result.labels, volume, to_the_letter)
        result.warnings += remarks(result, volume)
        progress(1.0)
        return result


def members_of(mode: str, locators: list[Member], segmenters: list[Member]) -> tuple[list[Member], list[Member]]:
    """The members of each stage that a mode runs.

    Raises:
        WeightsError: a stage would have none.
    """
    stages = [[one for one in stage if mode in one.info.modes] for stage in (locators, segmenters)]
    for number, stage in enumerate(stages, start=1):
        if not stage:
            raise WeightsError(
                f"Of the weight files none is a network of stage {number} for the mode {mode}; add one, or choose "
                "another mode."
            )
    return stages[0], stages[1]


def most_probable(probabilities: torch.Tensor) -> torch.Tensor:
    """Labels, uint8 (z, y, x), of probabilities (z, 3, y, x): ``argmax(1)``, but twenty times as fast on a CPU."""
    background, kidney, tumour = probabilities.unbind(1)
    labels = (kidney > background).to(torch.uint8) * KIDNEY
    return labels.masked_fill_(tumour > torch.maximum(background, kidney), TUMOUR)


def remarks(result: Prediction, volume: Volume) -> list[str]:
    """Sentences on results that a person should look at twice."""
    found = []
    labelled = np.flatnonzero(result.labels.any(axis=(1, 2)))
    if not len(labelled):
        return ["No kidney was found: the label map is empty. Is this an abdominal CT in Hounsfield units?"]
    if len(result.regions) == 1:
        found.append("Only one kidney, or two that are fused, was found.")
    if labelled[0] == 0 or labelled[-1] == len(result.labels) - 1:
        found.append("A kidney is cut by the first or the last slice of the scan: its volume is incomplete.")
    shown = slice(labelled[0], labelled[-1] + 1)
    if (kidney := kidney_hu(result.labels[shown], volume.hu[shown])) < ENHANCED_HU:
        found.append(
            f"The kidneys measure {kidney:.0f} HU, as without contrast medium: the labels, tumours above all, are not "
            "to be trusted in such scans."
        )
    return found
