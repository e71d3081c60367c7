"""The whole cascade on one page (paper section 2.3, figure 1).

CT -> 3 mm, halved -> Wide-UNet1 (paper: Res-UNet1) -> kidneys' regions                       stage 1, locate
   regions at native resolution -> Wide-UNet2 (Res-UNet2 and Res-Net) -> probabilities        stage 2, segment
   mean of the networks' probabilities -> label map                                           stage 3, ensemble
   -> too small components and tumours, tumour outside any kidney, what is least like a kidney go,
      what was called tumour and looks like water is a cyst                                   post-processing, clean
"""

from __future__ import annotations

import copy
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from kits.cascade.clean import clean
from kits.cascade.locate import locate, segment_coarsely
from kits.cascade.remarks import remarks
from kits.cascade.segment import beyond, segment
from kits.cascade.stage import Stage, Wrap
from kits.choices import CYST, KIDNEY, TUMOUR, Mode, Precision
from kits.errors import KitsError, WeightsError
from kits.geometry import Box, Grids, Region
from kits.io.volume import Volume
from kits.plan import Plan
from kits.runtime.arriving import arriving, check_finite, finite
from kits.runtime.devices import current, explained
from kits.runtime.engine import Engine
from kits.runtime.runtime import DEFAULT, Runtime
from kits.runtime.weights import Member, load_members

Probabilities = Iterator[tuple[Box, torch.Tensor]]
"""Some slices at a time: their box on the native grid, and float32 (slices, 3, rows, columns)."""

Progress = Callable[[float], None]
"""Told how much of a case is done, from 0 to 1."""
log = logging.getLogger(__name__)


@dataclass
class Prediction:
    """What the cascade found in one volume.

    Args:
        labels: uint8 (z, y, x) on the volume's canonical grid: 0 background, 1 kidney, 2 tumour, 3 cyst if the plan
            tells them apart.
        regions: where stage 2 looked: where stage 1 saw kidneys, and as far as they go on; or where they usually are in
            a thin scan in which it saw none.
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

    def add(self, chunks: Probabilities) -> Iterator[Box]:
        """Write the most probable labels, and the probabilities where they are kept; tells each box that is done.

        Raises:
            KitsError: probabilities are no numbers.
        """

        def wanted(probabilities: torch.Tensor) -> list[torch.Tensor]:
            kept = [] if self.probabilities is None else [probabilities[:, 0], probabilities[:, TUMOUR]]
            return [finite(probabilities), most_probable(probabilities), *kept]

        for box, (is_finite, labels, *kept) in arriving((box, wanted(chunk)) for box, chunk in chunks):
            check_finite(is_finite)
            self.labels[box] = labels
            if self.probabilities is not None:
                self.probabilities[(slice(None), *box)] = np.rint(100 * np.stack([1 - kept[0], kept[1]]))
            yield box


class Cascade:
    """The cascade with its networks loaded, for any number of volumes.

    Args:
        locators: networks of stage 1.
        segmenters: the ensemble's members.
        runtime: how and where it runs. Of the networks those run that the plan's mode names.

    Raises:
        WeightsError: a stage has no network for this mode.
        KitsError: the device or the runner is not there.

    Example:
        >>> from kits import Cascade, Volume
        >>> cascade = Cascade.load("weights")                      # doctest: +SKIP
        >>> cascade.predict(Volume.from_image(image, "scan")).labels     # doctest: +SKIP
    """

    def __init__(self, locators: Sequence[Member], segmenters: Sequence[Member], runtime: Runtime = DEFAULT) -> None:
        self.runtime = runtime
        first, second = (
            members_of(self.plan.mode, 1, locators),
            members_of(self.plan.mode, 2, segmenters, self.plan.members),
        )
        self.locator, self.segmenter = placed(first, second, runtime)

    @classmethod
    def load(cls, weights: str | Path, runtime: Runtime = DEFAULT) -> Cascade:
        """A cascade with the networks of a weights folder.

        Raises:
            WeightsError: the folder does not hold whole, fitting weight files for both stages.
        """
        return cls(*load_members(Path(weights)), runtime)

    @property
    def plan(self) -> Plan:
        """What it does."""
        return self.runtime.plan

    @property
    def device(self) -> torch.device:
        """Where its networks run."""
        return self.locator.engine.device

    @property
    def members(self) -> list[Member]:
        """Its networks: stage 1's, then stage 2's."""
        return [*self.locator.members, *self.segmenter.members]

    def with_plan(self, plan: Plan) -> Cascade:
        """The same networks by another plan, whose mode and members have no say any more: the networks are chosen."""
        other = copy.copy(self)
        other.runtime = replace(self.runtime, plan=plan)
        return other

    def wrapped(self, wrap: Callable[[Stage], Wrap]) -> Cascade:
        """The same cascade with all that its stages do called through something else, see ``Stage.wrapped``."""
        other = copy.copy(self)
        other.locator, other.segmenter = (stage.wrapped(wrap(stage)) for stage in (self.locator, self.segmenter))
        return other

    def locate(self, volume: Volume, progress: Progress = lambda done: None) -> list[Region]:
        """Stage 1: no, one or two regions with a kidney, the larger kidney first; or the usual places."""
        return locate(volume, Grids.of(volume, self.plan), self.locator, progress)

    def segment(
        self, volume: Volume, regions: Sequence[Region], members: Sequence[Member] | None = None
    ) -> Probabilities:
        """Stages 2 and 3: probabilities where the regions lie, in the slices' order; all else is background.

        Args:
            volume: the CT.
            regions: from ``locate``, or a person's.
            members: some of ``segmenter.members`` instead of all.
        """
        stage = replace(self.segmenter.only(members), mirror=self.plan.mirror)
        return segment(volume, Grids.of(volume, self.plan), regions, stage)

    def segment_coarsely(self, volume: Volume, members: Sequence[Member] | None = None) -> Probabilities:
        """Stage 1's own kidney and tumour, of the whole volume, at half the resolution; ``predict`` has no use for it.

        Args:
            volume: the CT.
            members: some of ``locator.members`` instead of all.
        """
        return segment_coarsely(volume, Grids.of(volume, self.plan), self.locator.only(members))

    def label(self, volume: Volume, probabilities: Probabilities) -> np.ndarray:
        """The label map, uint8 (z, y, x), of what ``segment`` or ``segment_coarsely`` gives, cleaned."""
        result = Prediction(np.zeros(volume.hu.shape, np.uint8), [])
        deque(result.add(probabilities), maxlen=0)
        return clean(result.labels, volume, Grids.of(volume, self.plan))

    def predict(
        self,
        volume: Volume,
        keep_probabilities: bool = False,
        progress: Progress = lambda done: None,
        regions: Sequence[Region] | None = None,
        members: Sequence[Member] | None = None,
    ) -> Prediction:
        """Segment kidneys and tumours.

        Args:
            volume: the CT, in HU.
            keep_probabilities: give back the probabilities too.
            progress: called as the work goes on.
            regions: from ``locate``, or a person's, instead of looking for them.
            members: some of ``segmenter.members`` instead of all.

        Raises:
            KitsError: the networks gave what is no number, or a GPU's memory ran out.
            DeviceLost: a GPU refuses all further work of this process.
        """
        grids = Grids.of(volume, self.plan)
        result = Prediction(np.zeros(volume.hu.shape, np.uint8), [], list(volume.warnings))
        if keep_probabilities:
            result.probabilities = np.zeros((2, *volume.hu.shape), np.uint8)
        with current(self.device), explained(self.device):
            with result.timed("locate"):
                result.regions = [*regions] if regions is not None else self.locate(volume, lambda z: progress(0.3 * z))
            with result.timed("segment"):
                self._segment(volume, result, members, lambda done: progress(0.3 + 0.7 * done))
            with result.timed("postprocess"):
                clean(result.labels, volume, grids)
        result.warnings += remarks(result.labels, result.regions, volume, grids)
        progress(1.0)
        return result

    def _segment(
        self, volume: Volume, result: Prediction, members: Sequence[Member] | None, progress: Progress
    ) -> None:
        """Label the regions, and where kidneys go on beyond them."""
        bottom = min((region.first for region in result.regions), default=0)
        top = max((region.last for region in result.regions), default=1)
        for box in result.add(self.segment(volume, result.regions, members)):
            progress((box[0].stop - bottom) / (top - bottom))
        for _ in range(self.plan.follow):
            result.regions, further = beyond(result.labels, result.regions, volume, Grids.of(volume, self.plan))
            if not further:
                break
            deque(result.add(self.segment(volume, further, members)), maxlen=0)


def placed(first: Sequence[Member], second: Sequence[Member], runtime: Runtime) -> tuple[Stage, Stage]:
    """Both stages where they run: on the CPU, if a GPU was only one choice and has not the memory or the right numbers.

    Raises:
        KitsError: the device or the runner is not there, or networks do not run there.
    """
    how = str(runtime.runner), str(runtime.precision)
    engine = Engine(runtime.device, *how)
    log.info("Networks run on %s.", engine)
    try:
        return Stage.of(first, engine), Stage.of(second, engine)
    except KitsError as error:
        chosen = runtime.device == "auto" and runtime.precision == Precision.AUTO
        if not chosen or engine.device.type == "cpu":
            raise
        log.warning("Networks will run on the CPU. %s", error)
    engine = Engine("cpu", *how)
    return Stage.of(first, engine), Stage.of(second, engine)


def members_of(mode: Mode, number: int, stage: Sequence[Member], most: int = 0) -> list[Member]:
    """The members of a stage, the first or the second, that a mode runs; at most so many, 0 is all.

    Raises:
        WeightsError: there is none, or some tell cysts from kidney and others do not.
    """
    members = [one for one in stage if mode in one.info.modes][: most or None]
    if not members:
        raise WeightsError(
            f"Of the weight files none is a network of stage {number} for the mode {mode}; add one, or choose "
            "another mode."
        )
    if len({one.info.classes for one in members}) > 1:
        names = ", ".join(f"{one.name} ({one.info.classes})" for one in members)
        raise WeightsError(f"The networks of stage {number} know different numbers of classes, {names}; keep one kind.")
    return members


def most_probable(probabilities: torch.Tensor) -> torch.Tensor:
    """Labels, uint8 (z, y, x), of probabilities (z, classes, y, x): ``argmax(1)``, but twenty times as fast on a CPU.

    What is not tumour is decided as if cysts were kidney; only then are they told apart.
    """
    background, kidney, tumour, *cyst = probabilities.unbind(1)
    healthy = kidney + cyst[0] if cyst else kidney
    labels = (healthy > background).to(torch.uint8) * KIDNEY
    labels.masked_fill_(tumour > torch.maximum(background, healthy), TUMOUR)
    return labels.masked_fill_((labels == KIDNEY) & (cyst[0] > kidney), CYST) if cyst else labels
