"""What a run writes of each case: one class an output, and the one list of them.

To add one: write a class here, or in a file of its own, and name it in ``EXTRAS``. Its option, its variable, the check
that its folder can be written to, its place in the report and in a resumed run follow.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar

from kits.io.cases import Case

if TYPE_CHECKING:
    from kits.batch.report import CaseReport
    from kits.cascade.cascade import Prediction
    from kits.io.volume import Volume


T = TypeVar("T", bound="Output")


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

    def at(self: T, folder: Path) -> T:
        """The same for label maps in another folder."""
        return type(self)(self.value, folder)

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
        from kits.batch.measured import measured
        from kits.batch.overlay import Heading, write_overlay

        (path,) = self.paths(case)
        heading = Heading(case.name, tuple(prediction.warnings), measured(volume, prediction))
        write_overlay(path, volume.hu, volume.spacing, prediction.labels, None, heading)
        return [path]


class Probabilities(Output):
    """Percent maps of kidney with masses and of tumour."""

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


class LesionTable(Output):
    """A row a lesion, over all cases; written at the end, from the report's measurements."""

    name, option, metavar = "table of lesions", "--measurements", "FILE.csv"
    help = "table with a row a lesion: volume, diameters, place, R.E.N.A.L. and PADUA"

    @property
    def place(self) -> Path:
        return Path(self.value).parent

    def paths(self, case: Case) -> list[Path]:
        return []

    def write(self, case: Case, volume: Volume, prediction: Prediction) -> list[Path]:
        return []

    def finish(self, reports: Sequence[CaseReport]) -> list[Path]:
        from kits.measure.table import write_csv

        path = Path(self.value)
        write_csv(path, [(report.name, report.measurements) for report in reports if report.measurements])
        return [path]


class Surfaces(Output):
    """Meshes of parenchyma and lesions."""

    name, option, metavar, choices = "surfaces", "--mesh", "FORMAT", ("stl", "obj", "glb")
    help = "also write surfaces of kidneys and lesions to OUTPUT/meshes (needs kits-cascade[report])"

    @property
    def place(self) -> Path:
        return self.folder / "meshes"

    def paths(self, case: Case) -> list[Path]:
        return [self.place / (f"{case.stem}.glb" if self.value == "glb" else f"{case.stem}/surfaces.json")]

    def write(self, case: Case, volume: Volume, prediction: Prediction) -> list[Path]:
        from kits.batch.measured import measured
        from kits.batch.meshes import write_meshes

        lesions = measured(volume, prediction).lesions
        write_meshes(self.paths(case)[0], self.value, volume, prediction.labels, lesions)
        return self.paths(case)


class ColourTables(Output):
    """Names and colours of the labels for ITK-SNAP and 3D Slicer, once a run."""

    name, option, metavar = "colour tables", "--colours", ""
    help = "also write labels.itksnap.txt and labels.ctbl, names and colours for ITK-SNAP and 3D Slicer, to OUTPUT"

    @property
    def place(self) -> Path:
        return self.folder

    def paths(self, case: Case) -> list[Path]:
        return []

    def write(self, case: Case, volume: Volume, prediction: Prediction) -> list[Path]:
        return []

    def finish(self, reports: Sequence[CaseReport]) -> list[Path]:
        from kits.batch.colours import write_tables

        return write_tables(self.folder)


class Pages(Output):
    """A page a case with slices, surfaces and measurements, and an index over all."""

    name, option, help = "viewer page", "--html", "folder for viewer pages that open from disk, without a network"
    probabilities = True  # for how sure the networks were; a page made of a label map alone does not tell

    def __init__(self, value: str, folder: Path) -> None:
        """See ``Output``.

        Raises:
            OutputError: what pages are made with is not here; better known before the work than after.
        """
        super().__init__(value, folder)
        from kits.batch.meshes import needed
        from kits.batch.viewer.fetch import niivue

        niivue()
        for module in ("skimage.measure", "trimesh"):
            needed(module)

    def paths(self, case: Case) -> list[Path]:
        return [self.place / "cases" / f"{case.stem}.{ending}" for ending in ("html", "data.js", "png", "json")]

    def write(self, case: Case, volume: Volume, prediction: Prediction) -> list[Path]:
        from kits.batch.measured import measured
        from kits.batch.viewer.page import write_page

        figures = measured(volume, prediction)
        write_page(self.place, case.stem, volume, prediction.labels, figures, prediction.warnings)
        return self.paths(case)

    def finish(self, reports: Sequence[CaseReport]) -> list[Path]:
        from kits.batch.viewer.page import write_index
        from kits.choices import Status

        return [write_index(self.place, {one.name: one.error for one in reports if one.status == Status.FAILED})]


class Dicom(Output):
    """DICOM objects of the scans that came as DICOM."""

    name, option, help = "DICOM object", "--dicom", "of DICOM scans, to OUTPUT/dicom: SEG, RT structure set, report"
    choices = ("seg", "rtstruct", "sr", "all")

    def __init__(self, value: str, folder: Path) -> None:
        """See ``Output``.

        Raises:
            OutputError: a library is missing; better known before the work than after.
        """
        super().__init__(value, folder)
        from kits.batch.dicom.source import require_libraries

        require_libraries()

    @property
    def place(self) -> Path:
        return self.folder / "dicom"

    def paths(self, case: Case) -> list[Path]:
        # A report refers to a segmentation.
        kinds = {"sr": ("seg", "sr"), "all": ("seg", "rtstruct", "sr")}.get(self.value, (self.value,))
        return [self.place / f"{case.stem}.{kind}.dcm" for kind in kinds]

    def write(self, case: Case, volume: Volume, prediction: Prediction) -> list[Path]:
        from kits.batch.dicom.output import write_dicom
        from kits.batch.measured import measured

        if not prediction.labels.any():  # which the case's warnings say
            return []
        files = {path.suffixes[-2][1:]: path for path in self.paths(case)}
        return write_dicom(files, case.source, volume, prediction.labels, measured(volume, prediction))


EXTRAS: tuple[type[Output], ...] = (Overlay, Probabilities, LesionTable, Surfaces, Pages, Dicom, ColourTables)
"""What may be asked for besides the label map, in the order of the options and of writing."""
