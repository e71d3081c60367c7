"""What a run writes of each case: one class an output, and the one list of them.

To add one: write a class here, or in a file of its own, and name it in ``EXTRAS``. Its option, its variable, the check
that its folder can be written to, its place in the report and in a resumed run follow.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from kits.io.cases import Case

if TYPE_CHECKING:
    from kits.batch.report import CaseReport
    from kits.cascade.cascade import Prediction
    from kits.io.volume import Volume


class Output(ABC):
    """One kind of file that a run writes of each case.

    Args:
        value: of its option, as the user gave it.
        folder: where the run writes label maps.

    Attributes:
        name: what sentences call it, e.g. ``overlay``.
        option: e.g. ``--overlays``; its variable is then KITS_OVERLAYS.
        help: the option's.
        metavar: what the option's value is called; empty for a switch.
        choices: values that the option takes, if it takes few.
        extra: whether a run goes on without it: a warning and exit status 1.
        from_labels: whether volume and label map suffice for it, so that a resumed run can make it.
        probabilities: whether it wants the prediction's probabilities.
    """

    name: ClassVar[str]
    option: ClassVar[str]
    help: ClassVar[str]
    metavar: ClassVar[str] = "DIR"
    choices: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[bool] = True
    from_labels: ClassVar[bool] = True
    probabilities: ClassVar[bool] = False

    def __init__(self, value: str, folder: Path) -> None:
        self.value, self.folder = value, folder

    @property
    def place(self) -> Path:
        """The folder that it writes to, tried before any work."""
        return Path(self.value)

    @abstractmethod
    def paths(self, case: Case) -> list[Path]:
        """The files that ``write`` makes of a case."""

    @abstractmethod
    def write(self, case: Case, volume: Volume, prediction: Prediction) -> list[Path]:
        """Write what there is of one case, each file whole or not at all; returns the files.

        Raises:
            KitsError: it cannot be made or written.
        """

    def finish(self, reports: Sequence[CaseReport]) -> list[Path]:
        """Write what belongs to the run as a whole, such as an index, after its last case; returns the files.

        Raises:
            KitsError: it cannot be made or written.
        """
        return []


class LabelMap(Output):
    """The result itself: uint8 0 background, 1 kidney, 2 tumour, on the scan's own grid."""

    name, option, help, extra = "label map", "", "", False

    @property
    def place(self) -> Path:
        return self.folder

    def paths(self, case: Case) -> list[Path]:
        return [self.folder / case.output_name]

    def write(self, case: Case, volume: Volume, prediction: Prediction) -> list[Path]:
        from kits.io.images import write_image

        (path,) = self.paths(case)
        write_image(volume.to_home(prediction.labels), path)
        return [path]


class Overlay(Output):
    """A picture of the contours."""

    name, option, help = "overlay", "--overlays", "folder for pictures of the contours"

    def paths(self, case: Case) -> list[Path]:
        return [self.place / f"{case.stem}.png"]

    def write(self, case: Case, volume: Volume, prediction: Prediction) -> list[Path]:
        from kits.batch.overlay import write_overlay

        (path,) = self.paths(case)
        write_overlay(path, volume.hu, volume.spacing, prediction.labels)
        return [path]


class Probabilities(Output):
    """Percent maps of kidney with tumour and of tumour."""

    name, option, help = "probability maps", "--save-probabilities", "also write percent maps to OUTPUT/probabilities"
    metavar, from_labels, probabilities = "", False, True

    @property
    def place(self) -> Path:
        return self.folder / "probabilities"

    def paths(self, case: Case) -> list[Path]:
        return [self.place / f"{case.stem}_{name}_percent.nii.gz" for name in ("kidney", "tumour")]

    def write(self, case: Case, volume: Volume, prediction: Prediction) -> list[Path]:
        from kits.io.images import write_image

        assert prediction.probabilities is not None
        paths = self.paths(case)
        for path, percent in zip(paths, prediction.probabilities, strict=True):
            write_image(volume.to_home(percent), path)
        return paths


EXTRAS: tuple[type[Output], ...] = (Overlay, Probabilities)
"""What may be asked for besides the label map, in the order of the options and of writing."""
