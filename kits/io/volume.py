"""A CT volume in canonical orientation, and the grid that its results go home to.

Geometry goes through the direction matrix, never through array order: whichever of the 48 axis orders and
flips a file is stored in, the rest of the code sees the same array. Only transposes and flips are used, so
the way home is exact; an oblique volume gets the nearest axes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk

from kits.errors import InputError, printable
from kits.io.remark import Remark

if TYPE_CHECKING:
    from kits.io.stored import Stored

AIR_HU = -500  # everything below is air or padding; fat and tissue never are
LOWEST_HU, HIGHEST_HU = -1024, 3071  # what a 12-bit scanner stores
IN_PLANE_MM = (0.1, 10.0)
SLICE_MM = (0.1, 20.0)
RIGHT_ANGLE = 0.1
"""Degrees that two axes may be off a right angle: rounded cosines are, a sheared volume is off by far more."""

Allocate = Callable[..., np.ndarray]
"""As ``np.empty``: a shape and a dtype in, an array out."""


@dataclass(frozen=True)
class Grid:
    """The geometry of an ITK image: index to millimetres in LPS (left, posterior, superior) space."""

    size_xyz: tuple[int, int, int]
    spacing_xyz: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: tuple[float, ...]

    @classmethod
    def of(cls, image: sitk.Image) -> Grid:
        """The grid of a 3-D image."""
        return cls(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())

    def canonical_axes(self) -> tuple[tuple[int, int, int], tuple[slice, slice, slice]]:
        """How a stored (z, y, x) array becomes canonical: ``stored.transpose(order)[flips]``."""
        cosines = np.reshape(self.direction, (3, 3))[::-1, ::-1]  # rows: world z, y, x; columns: array axes

        def alignment(order: tuple[int, ...]) -> float:
            return float(sum(abs(cosines[world, axis]) for world, axis in enumerate(order)))

        order = max(permutations(range(3)), key=alignment)
        flips = tuple(slice(None, None, -1 if cosines[w, axis] < 0 else 1) for w, axis in enumerate(order))
        return order, flips  # type: ignore[return-value]  # three of each


@dataclass(frozen=True, eq=False)
class Volume:
    """A CT volume in Hounsfield units, in canonical orientation.

    Args:
        name: What messages call it.
        hu: int16 (z, y, x), C-contiguous; x grows to the patient's left, y to posterior, z to superior.
        spacing: mm, (z, y, x).
        home: The grid of the image it came from, for ``to_home``.
        warnings: Sentences on what looks odd but does not forbid a result, each with a code.

    Example:
        >>> volume = Volume.from_array(np.random.default_rng(0).normal(0, 300, (4, 32, 32)), (3.0, 0.8, 0.8))
        >>> volume.to_home(volume.hu > 0).GetSize()
        (32, 32, 4)
        >>> Volume.read("scan.nii.gz").warnings  # doctest: +SKIP
        ()
    """

    name: str
    hu: np.ndarray
    spacing: tuple[float, float, float]
    home: Grid
    warnings: tuple[Remark, ...] = ()

    @classmethod
    def read(cls, path: str | Path) -> Volume:
        """Read a NIfTI, MHA or NRRD file, a DICOM file or a folder of DICOM slices.

        This reads in the process at hand. For files of unknown origin, or many, use ``kits.io.reader.Reader``.

        Raises:
            InputError: It cannot be read, or is not a CT volume.
        """
        from kits.io.images import read_stored  # which needs this module

        stored = read_stored(Path(path))
        return replace(cls.from_stored(stored, str(path)), name=printable(Path(path).name))

    @classmethod
    def from_stored(cls, stored: Stored, name: str, empty: Allocate = np.empty) -> Volume:
        """Bring what a reader found into canonical orientation as int16 HU.

        Args:
            stored: Voxels as the file holds them, and their grid.
            name: File name for messages.
            empty: Makes the array for the HU.

        Raises:
            InputError: It is no CT volume: wrong geometry or values.
        """
        volume = cls._checked(stored.voxels, stored.grid, name, (stored.slope, stored.intercept), empty)
        return replace(volume, warnings=stored.remarks + volume.warnings)

    @classmethod
    def from_image(cls, image: sitk.Image, name: str) -> Volume:
        """Bring an ITK image into canonical orientation as int16 HU.

        Args:
            image: 3-D, or 4-D / 5-D with a single frame, of any real pixel type, rescaled to HU.
            name: File name for messages.

        Raises:
            InputError: It is no CT volume: wrong dimensions, geometry or values.
        """
        image = single_frame(image, name)
        return cls._checked(sitk.GetArrayViewFromImage(image), Grid.of(image), name)

    @classmethod
    def from_array(cls, hu: np.ndarray, spacing: tuple[float, float, float], name: str = "volume") -> Volume:
        """Wrap a (z, y, x) array that is canonical already (spacing in mm, (z, y, x)); the array is copied.

        Raises:
            InputError: It is no CT volume: wrong dimensions, spacing or values.
        """
        if hu.ndim != 3 or 0 in hu.shape:
            raise InputError(f"{name}: an array of shape {hu.shape} is not a volume; give a 3-D (z, y, x) array.")
        z, y, x = hu.shape
        sz, sy, sx = (float(s) for s in spacing)
        identity = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
        return cls._checked(hu, Grid((x, y, z), (sx, sy, sz), (0.0, 0.0, 0.0), identity), name)

    @classmethod
    def _checked(
        cls,
        stored: np.ndarray,
        home: Grid,
        name: str,
        rescale: tuple[float, float] = (1.0, 0.0),
        empty: Allocate = np.empty,
    ) -> Volume:
        """Check the geometry, turn the array, check its values."""
        home = _straight(home, name)
        order, flips = home.canonical_axes()
        sz, sy, sx = (home.spacing_xyz[2 - axis] for axis in order)
        _check_spacing((sz, sy, sx), name)
        hu = _to_int16(stored.transpose(order)[flips], name, rescale, empty)
        return cls(name, hu, (sz, sy, sx), home, _check_values(hu, name))

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(np.prod(self.spacing)) / 1000.0

    def to_home(self, array: np.ndarray) -> sitk.Image:
        """Put an array of the canonical grid back onto the exact grid of the image this volume came from.

        Args:
            array: (z, y, x) of the shape of ``hu``, any real dtype (bool becomes uint8).
        """
        if array.shape != self.hu.shape:
            raise ValueError(f"array of shape {array.shape} is not on the grid of shape {self.hu.shape}")
        if array.dtype == bool:
            array = array.astype(np.uint8)  # ITK knows no bool
        order, flips = self.home.canonical_axes()
        image = sitk.GetImageFromArray(np.ascontiguousarray(array[flips].transpose(np.argsort(order))))
        image.SetSpacing(self.home.spacing_xyz)
        image.SetOrigin(self.home.origin)
        image.SetDirection(self.home.direction)
        return image


def checked_size(size: tuple[int, ...], name: str) -> tuple[int, int, int]:
    """The three axes of a volume that may have further ones of length 1.

    Raises:
        InputError: 2-D, several frames or no voxels.
    """
    if not size or min(size) < 1:
        raise InputError(f"{name}: holds no voxels (size {size}); export it again.")
    if len(size) < 3:
        raise InputError(f"{name}: is a 2-D image of {size} pixels; give a volume of slices.")
    if any(frames != 1 for frames in size[3:]):
        raise InputError(f"{name}: has more than one frame (size {size}); give one 3-D volume a file.")
    return size[0], size[1], size[2]


def single_frame(image: sitk.Image, name: str) -> sitk.Image:
    """The 3-D image of scalars that this is, or has as its only frame.

    Raises:
        InputError: 2-D, several frames, no voxels, or several values a voxel.
    """
    size = image.GetSize()
    checked_size(size, name)
    components = image.GetNumberOfComponentsPerPixel()
    if components != 1 or "complex" in image.GetPixelIDTypeAsString():
        raise InputError(
            f"{name}: its voxels are {image.GetPixelIDTypeAsString()} of {components} components, "
            "not one HU value each; export it as greyscale CT."
        )
    return image[(slice(None),) * 3 + (0,) * (len(size) - 3)] if len(size) > 3 else image


def off_right_angles(axes: np.ndarray) -> float:
    """By how many degrees two columns of a 3 x 3 matrix are off a right angle, at most; inf where one is no axis."""
    lengths = np.linalg.norm(axes, axis=0)
    if not (np.isfinite(axes).all() and lengths.all()):
        return float("inf")
    cosines = axes / lengths
    between = (cosines.T @ cosines)[np.triu_indices(3, 1)]
    return float(np.degrees(np.arcsin(np.minimum(np.abs(between), 1))).max())


def _straight(home: Grid, name: str) -> Grid:
    """The grid with its direction free of rounding that other programs would stumble over."""
    cosines = np.reshape(home.direction, (3, 3))
    if not np.allclose(np.linalg.norm(cosines, axis=0), 1, atol=1e-2) or off_right_angles(cosines) > RIGHT_ANGLE:
        raise InputError(
            f"{name}: its axes are not at right angles (direction {np.round(cosines, 3).tolist()}); "
            "correct the header or resample it onto a straight grid."
        )
    if np.allclose(cosines.T @ cosines, np.eye(3), atol=1e-5):
        return home
    u, _, v = np.linalg.svd(cosines)
    return replace(home, direction=tuple((u @ v).ravel().tolist()))


def _check_spacing(spacing: tuple[float, float, float], name: str) -> None:
    for axis, mm, (least, most) in zip("zyx", spacing, (SLICE_MM, IN_PLANE_MM, IN_PLANE_MM), strict=True):
        if not least <= mm <= most:  # NaN is refused, too
            raise InputError(
                f"{name}: its spacing along {axis} is {mm:g} mm, outside {least:g} to {most:g} mm; "
                "correct the spacing in its header."
            )


def _to_int16(
    stored: np.ndarray, name: str, rescale: tuple[float, float] = (1.0, 0.0), empty: Allocate = np.empty
) -> np.ndarray:
    """A C-contiguous int16 copy in HU, rounded and clipped slice by slice so that no float volume is held."""
    if stored.dtype.kind not in "iuf":
        raise InputError(f"{name}: its voxels are {stored.dtype}, not HU values; export it as greyscale CT.")
    hu = empty(stored.shape, np.int16)
    limits = np.iinfo(np.int16)
    slope, intercept = map(np.float64, rescale)
    for index, (source, target) in enumerate(zip(stored, hu, strict=True)):
        if stored.dtype == np.int16 and rescale == (1, 0):
            target[...] = source
            continue
        with np.errstate(over="ignore", invalid="ignore"):  # the outcome is looked at
            rounded = np.rint(source if rescale == (1, 0) else source * slope + intercept)
        if not np.isfinite(rounded).all():
            raise InputError(f"{name}: has NaN or infinite voxels (slice {index}); export it again as integers.")
        target[...] = np.clip(rounded, limits.min, limits.max)
    return hu


def _check_values(hu: np.ndarray, name: str) -> tuple[Remark, ...]:
    """Refuse what is evidently not CT in HU; return a warning for what merely looks odd."""
    low, high = int(hu.min()), int(hu.max())
    if high == low or high < AIR_HU:
        raise InputError(f"{name}: holds only air (values {low} to {high}); give a CT volume of the abdomen.")
    if high - low < 100:
        raise InputError(f"{name}: its values span only {low} to {high}, which is not CT; give it in Hounsfield units.")
    # Padding (-2048, -3024, ...) lies below what a scanner stores and must not hide missing rescaling.
    lowest_inside = min((int(s[s >= LOWEST_HU].min(initial=high)) for s in hu), default=high)
    if lowest_inside >= 0:
        raise InputError(
            f"{name}: its values go from {lowest_inside} to {high}, nothing below 0 HU such as fat or air; "
            "rescale slope and intercept must be applied first."
        )
    air = outside = 0
    for slice_hu in hu:
        air += np.count_nonzero(slice_hu < AIR_HU)
        outside += np.count_nonzero(slice_hu > HIGHEST_HU)
        outside += np.count_nonzero((slice_hu < LOWEST_HU) & (slice_hu > low))
    warnings = []
    if not air:
        text = f"No voxel below {AIR_HU} HU: no air in view, or not a CT volume in Hounsfield units."
        warnings.append(Remark("no-air", text))
    if outside > hu.size / 2:
        percent = round(100 * outside / hu.size)
        text = f"{percent} % of the voxels lie outside {LOWEST_HU} to {HIGHEST_HU} HU."
        warnings.append(Remark("outside-hu", text))
    return tuple(warnings)
