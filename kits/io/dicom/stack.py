"""From frames to a volume: pixels in HU, in order of position, on an even and straight grid."""

from __future__ import annotations

from collections import defaultdict
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from kits.errors import InputError
from kits.io.dicom.files import Frame, find_frames
from kits.io.dicom.series import choose, named, normal_of
from kits.io.remark import Remark
from kits.io.stored import Stored
from kits.io.volume import Grid

AIR = -1024
LARGEST_GAP_MM = 25.0
"""Slices are interpolated across no larger gap."""
MOST_INTERPOLATED = 0.5
ON_GRID = 0.1
"""A slice counts as in place if it is off by less than this share of the slice spacing, or of a pixel."""
LOWEST, HIGHEST = np.iinfo(np.int16).min, np.iinfo(np.int16).max


def read(path: Path) -> Stored:
    """The CT volume of a folder, or of the series that a file belongs to, in HU.

    Raises:
        InputError: it holds no CT volume, or one that cannot be put together.
    """
    frames, remarks = choose(find_frames(path), path)
    slices, bad = _pixels(frames, path)
    if bad:
        text = f"{len(bad)} DICOM file(s) are damaged: {named(bad)}; their slices are missing."
        remarks.append(Remark("unreadable-slices", text))
        good = [index for index, frame in enumerate(frames) if frame.file not in bad]
        frames, slices = [frames[index] for index in good], slices[good]
    return _stacked(frames, slices, path, remarks)


def _pixels(frames: list[Frame], path: Path) -> tuple[np.ndarray, set[Path]]:
    """HU of the frames, int16 (z, y, x), and the files whose pixels cannot be read."""
    slices = np.empty((len(frames), *frames[0].shape), np.int16)
    by_file: dict[Path, list[int]] = defaultdict(list)
    for place, frame in enumerate(frames):
        by_file[frame.file].append(place)
    bad: dict[Path, str] = {}
    for file, places in by_file.items():
        try:
            _decode(file, places, frames, slices)
        except MemoryError:
            raise
        except Exception as error:  # pydicom and its decoders raise what they like at damage
            bad[file] = str(error)
    share = sum(len(by_file[file]) for file in bad) / len(frames)
    if share > 0.2 or any(frames[by_file[file][0]].frames_in_file > 1 for file in bad):
        file, why = next(iter(bad.items()))
        raise InputError(
            f"{path}: {len(bad)} of its files cannot be read, {file.name} the first, damaged or cut short ({why}); "
            "copy it again."
        )
    return slices, set(bad)


def _decode(file: Path, places: list[int], frames: list[Frame], slices: np.ndarray) -> None:
    import pydicom
    from pydicom.pixels import pixel_array

    # From memory: a length that the file does not have asks for no more than there is.
    dataset: Any = pydicom.dcmread(BytesIO(file.read_bytes()), force=True)
    if "TransferSyntaxUID" not in dataset.file_meta:
        little, implicit = dataset.original_encoding[1], dataset.original_encoding[0]
        dataset.file_meta.TransferSyntaxUID = f"1.2.840.10008.1.2{'' if implicit else '.1' if little else '.2'}"
    spare = int(dataset.BitsAllocated) - int(dataset.BitsStored)
    for place in places:
        raw = pixel_array(dataset, index=frames[place].index, raw=True)
        if raw.shape != slices.shape[1:]:
            raise ValueError(f"pixels of shape {raw.shape}")
        if spare and not dataset.file_meta.TransferSyntaxUID.is_compressed:  # what lies above belongs to no pixel
            above = int(dataset.BitsAllocated) - 1 - int(dataset.HighBit)
            raw = np.right_shift(np.left_shift(raw, above), spare)
        slope, intercept = frames[place].rescale
        if (
            slope == 1 and intercept.is_integer() and abs(intercept) < 1 << 30 and raw.itemsize <= 2
        ):  # as nearly all CT is, in a third of the time
            np.clip(raw + np.int32(intercept), LOWEST, HIGHEST, out=slices[place], casting="unsafe")
        else:
            slices[place] = np.clip(np.rint(raw * slope + intercept), LOWEST, HIGHEST)


def _stacked(frames: list[Frame], slices: np.ndarray, path: Path, remarks: list[Remark]) -> Stored:
    """Slices in order of position on an even, straight grid."""
    first = frames[0]
    row, column = first.axes
    normal = normal_of(first)
    column = np.cross(normal, row)
    positions = np.array([frame.position for frame in frames])
    origin, (row_mm, column_mm) = positions[0], first.spacing
    if not np.isfinite([row_mm, column_mm]).all():
        raise InputError(f"{path}: its slices have no pixel spacing; export the series again.")
    across = (positions - origin) @ np.stack([column, row]).T / (row_mm, column_mm)  # pixels
    if np.abs(across).max() > ON_GRID:
        low = np.floor(across.min(0) + 1e-6)
        far = float(np.abs(across * (row_mm, column_mm)).max())
        if (np.ptp(across, axis=0) > np.array(first.shape) / 2).any():
            raise InputError(
                f"{path}: its slices lie up to {far:.0f} mm beside each other, not behind each other; "
                "give the slices of one volume."
            )
        slices = _shifted(slices, across - low)
        origin = origin + column * low[0] * row_mm + row * low[1] * column_mm
        text = (
            f"The slices are shifted against each other by up to {far:.1f} mm, as by a tilted gantry; "
            "resampled onto a straight grid, on which the label map lies too."
        )
        remarks.append(Remark("tilted", text))
    along = (positions - positions[0]) @ normal
    slices, slice_mm = _even(slices, along, first.thickness, path, remarks)
    direction = np.column_stack([row, column, normal])
    z, y, x = slices.shape
    corner = (float(origin[0]), float(origin[1]), float(origin[2]))
    grid = Grid((x, y, z), (column_mm, row_mm, slice_mm), corner, tuple((direction + 0.0).ravel().tolist()))
    return Stored(slices, grid, remarks=tuple(remarks))


def _shifted(slices: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Each slice moved by a number of pixels (y, x), of zero or more, linearly interpolated; what is new is air."""
    grown = np.ceil(by.max(0) - 1e-6).astype(int)
    moved = np.full((len(slices), *(np.array(slices.shape[1:]) + grown)), AIR, np.int16)
    for source, target, shift in zip(slices, moved, by, strict=True):
        plane = source.astype(np.float32)
        for axis in (0, 1):
            whole, part = divmod(max(float(shift[axis]), 0.0), 1)
            pad = [(0, 0), (0, 0)]
            pad[axis] = (int(whole), int(grown[axis] - whole))
            near = np.pad(plane, pad, constant_values=AIR)
            plane = near if part < 1e-6 else (1 - part) * near + part * _one_on(near, axis)
        target[...] = np.rint(plane)
    return moved


def _one_on(plane: np.ndarray, axis: int) -> np.ndarray:
    """A plane moved on by one pixel."""
    moved = np.full_like(plane, AIR)
    if axis == 0:
        moved[1:] = plane[:-1]
    else:
        moved[:, 1:] = plane[:, :-1]
    return moved


def _even(
    slices: np.ndarray, along: np.ndarray, thickness: float, path: Path, remarks: list[Remark]
) -> tuple[np.ndarray, float]:
    """Slices at even distances, those that are missing interpolated, and the distance in mm."""
    if len(along) == 1:
        if not thickness > 0:
            raise InputError(f"{path}: is a single slice without a thickness; give a volume of slices.")
        remarks.append(Remark("single-slice", f"A single slice; taken as {thickness:g} mm thick, as its header says."))
        return slices, thickness
    steps = np.diff(along)
    even_already = np.ptp(steps) < ON_GRID * np.median(steps)
    usual = float(np.mean(steps) if even_already else np.percentile(steps, 20, method="nearest"))
    if steps.max() > LARGEST_GAP_MM and steps.max() > 1.5 * usual:
        at = int(steps.argmax())
        raise InputError(
            f"{path}: slices are missing, or these are two blocks: {usual:g} mm lie between most slices, but "
            f"{steps[at]:g} mm between slice {at + 1} and {at + 2} of {len(along)}; give one whole block."
        )
    counts = np.maximum(np.rint(steps / usual), 1).astype(int)
    mm = round(float(along[-1] / counts.sum()), 6)
    wanted = np.arange(counts.sum() + 1) * mm
    after = np.clip(np.searchsorted(along, wanted), 1, len(along) - 1)
    nearest = np.where(wanted - along[after - 1] < along[after] - wanted, after - 1, after)
    there = np.abs(along[nearest] - wanted) < ON_GRID * mm
    if there.all():
        return slices, mm
    if np.count_nonzero(~there) > MOST_INTERPOLATED * len(wanted):
        raise InputError(
            f"{path}: its slices lie at uneven distances, {steps.min():g} to {steps.max():g} mm; "
            "perhaps they are of several acquisitions. Give the slices of one."
        )
    even = np.empty((len(wanted), *slices.shape[1:]), np.int16)
    for place, mm_along in enumerate(wanted):
        if there[place]:
            even[place] = slices[nearest[place]]
            continue
        before = after[place] - 1
        share = float(np.clip((mm_along - along[before]) / steps[before], 0, 1))
        even[place] = np.rint((1 - share) * slices[before] + share * slices[before + 1])
    text = (
        f"Gaps in z: slices are {usual:g} mm apart, but up to {steps.max():g} mm in places; "
        f"{np.count_nonzero(~there)} of {len(wanted)} slices are interpolated."
    )
    remarks.append(Remark("gaps", text))
    return even, mm
