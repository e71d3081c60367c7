"""Which frames of a folder are the one volume to read: series, phases, copies."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np

from kits.errors import InputError
from kits.io.dicom.files import PHASE, TIMES, Found, Frame
from kits.io.remark import Remark

SAME_MM = 0.01
"""Slices nearer to each other than this lie at one position."""
PHASE_SLICES = 3
"""A part of a series of so many slices that lies among another part's is a phase of its own."""
NAMED = 3
"""So many files a remark names; the others it counts."""
Key = tuple[str, tuple[int, int], tuple[float, ...]]
"""Series, rows and columns, and the numbers that say where these run to and how far apart they are."""
MOST_UNREAD = 0.2
"""A folder of which a larger share cannot be read is refused."""


def choose(found: Found, folder: Path) -> tuple[list[Frame], list[Remark]]:
    """The frames of the largest axial volume, sorted along their normal, and remarks on what was left out.

    Raises:
        InputError: there is no CT volume, or it cannot be told which slices belong together.
    """
    frames, remarks = _usable(found, folder)
    groups: dict[Key, list[Frame]] = defaultdict(list)
    for frame in frames:
        groups[_key(frame, groups)].append(frame)
    chosen = max(groups.values(), key=lambda group: (_is_axial(group), len(group)))
    if len({frame.patient for group in groups.values() for frame in group if len(group) > 1}) > 1:
        raise InputError(f"{folder}: holds slices of several patients; give each a folder of its own.")
    others = [group for group in groups.values() if group is not chosen]
    same = [group for group in others if group[0].series == chosen[0].series]
    if len(others) > len(same):
        count = len(groups) - len(same)
        text = f"The folder holds {count} DICOM series; took the one of {len(chosen)} slices."
        remarks.append(Remark("several-series", text))
    for group in same:
        rows, columns = group[0].shape
        text = (
            f"Left out {_slices(len(group))} of the same series with another size, spacing or orientation "
            f"({columns} x {rows} pixels): {named(frame.file for frame in group)}."
        )
        remarks.append(Remark("other-slices", text))
    if not _is_axial(chosen):
        remarks.append(Remark("not-axial", "The DICOM series is not axial."))
    chosen = _one_phase(_without_copies(chosen, remarks), folder, remarks)
    return sorted(chosen, key=_along), remarks


def _usable(found: Found, folder: Path) -> tuple[list[Frame], list[Remark]]:
    """Frames that can be slices of a volume, and remarks on all that cannot."""
    remarks = []
    frames = [frame for frame in found.frames if not frame.aside and frame.placed]
    aside = [frame for frame in found.frames if frame.aside]
    nowhere = [frame for frame in found.frames if not (frame.aside or frame.placed)]
    if not frames:
        raise InputError(
            f"{folder}: {_why_none(found, aside, nowhere)}; give a folder with the slices of one CT series."
        )
    if len(found.unread) > MOST_UNREAD * (len(found.unread) + len({frame.file for frame in found.frames})):
        path, why = next(iter(found.unread.items()))
        raise InputError(
            f"{folder}: {len(found.unread)} of its DICOM files cannot be read, {path.name} the first ({why}); "
            "copy the folder again."
        )
    if found.unread:
        why = next(iter(found.unread.values()))
        text = f"{len(found.unread)} DICOM file(s) could not be read ({why}): {named(found.unread)}; they are missing."
        remarks.append(Remark("unreadable-slices", text))
    if aside:
        kinds = ", ".join(sorted({frame.aside.lower() for frame in aside}))
        text = f"Left out {_slices(len(aside))} of no volume ({kinds}): {named(f.file for f in aside)}."
        remarks.append(Remark("left-aside", text))
    if nowhere:
        text = f"Left out {_slices(len(nowhere))} without a position: {named(frame.file for frame in nowhere)}."
        remarks.append(Remark("no-position", text))
    if found.other:
        kinds = ", ".join(f"{count} x {kind}" for kind, count in sorted(found.other.items()))
        remarks.append(Remark("no-ct", f"Left out what is no CT: {kinds}."))
    if found.passed:
        remarks.append(Remark("no-file", f"Passed over what is no regular file: {named(found.passed)}."))
    return frames, remarks


def _why_none(found: Found, aside: list[Frame], nowhere: list[Frame]) -> str:
    if nowhere:
        return "its slices have no position or orientation, so their order and distance are unknown"
    if aside:
        return f"holds {aside[0].aside.lower()} images only"
    if found.unread:
        path, why = next(iter(found.unread.items()))
        return f"none of its DICOM files can be read, {path.name} the first ({why})"
    if found.other:
        return f"holds no CT but {', '.join(sorted(found.other))}"
    return "holds no DICOM image"


def _key(frame: Frame, known: Iterable[Key]) -> Key:
    """What slices of one volume share; numbers that differ by rounding only count as the same."""
    numbers = (*frame.axes.ravel().tolist(), *frame.spacing)
    for key in known:
        series, shape, theirs = key
        if (series, shape) == (frame.series, frame.shape) and np.allclose(numbers, theirs, 0, 2e-3, equal_nan=True):
            return key
    return frame.series, frame.shape, numbers


def normal_of(frame: Frame) -> np.ndarray:
    """The unit vector that slices of a frame's orientation are stacked along."""
    normal = np.cross(*frame.axes)
    return normal / np.linalg.norm(normal)


def _along(frame: Frame) -> float:
    return float(frame.position @ normal_of(frame))


def _is_axial(group: list[Frame]) -> bool:
    return bool(np.abs(normal_of(group[0])).argmax() == 2)


def _without_copies(group: list[Frame], remarks: list[Remark]) -> list[Frame]:
    """The frames without those that are there twice: same SOPInstanceUID, same position."""
    first: dict[tuple, Frame] = {}
    for frame in group:
        key = (frame.uid or str(frame.file), frame.index, frame.number, *frame.position.tolist())
        first.setdefault(key, frame)
    kept = set(first.values())
    if copies := [frame.file for frame in group if frame not in kept]:
        remarks.append(Remark("copies", f"Left out copies of {_slices(len(copies))}: {named(copies)}."))
    return list(first.values())


def _one_phase(group: list[Frame], folder: Path, remarks: list[Remark]) -> list[Frame]:
    """One phase of a series: told apart by an attribute, or by consecutive numbers."""
    while parts := _phases(group):
        name, split = parts
        taken = max(split.values(), key=len)
        value = next(value for value, part in split.items() if part is taken)
        text = (
            f"The series holds {len(split)} phases or reconstructions, told apart by {name}; "
            f"took that of {value}, {_slices(len(taken))}."
        )
        remarks.append(Remark("several-phases", text))
        group = taken
    if _overlap(group):
        raise InputError(f"{folder}: several slices lie at the same position; give the slices of one phase only.")
    return group


def _phases(group: list[Frame]) -> tuple[str, dict[str, list[Frame]]] | None:
    """The attribute that splits a group into phases, and its parts; None if it is one phase or cannot be split."""
    overlap = _overlap(group)
    for name in (*PHASE, *TIMES):
        parts: dict[str, list[Frame]] = defaultdict(list)
        for frame in group:
            parts[frame.phase.get(name, "unknown")].append(frame)
        large = {value: part for value, part in parts.items() if len(part) >= PHASE_SLICES}
        if len(parts) < 2 or not large:
            continue
        if overlap and not any(map(_overlap, parts.values())):
            return name, dict(parts)
        if name in PHASE and _intermingled(large):
            return name, dict(parts)
    return _runs(group) if overlap else None


def _overlap(group: list[Frame]) -> bool:
    """Whether two slices lie at one position."""
    along = np.sort([_along(frame) for frame in group])
    return bool((np.diff(along) < SAME_MM).any())


def _intermingled(parts: dict[str, list[Frame]]) -> bool:
    """Whether parts of a series share more of the body than one slice: then they are two looks at it."""
    spans = sorted((min(along), max(along)) for part in parts.values() if (along := [_along(f) for f in part]))
    steps = [np.median(np.diff(np.sort([_along(f) for f in part]))) for part in parts.values()]
    return any(high - low > 1.5 * max(steps) for (_, high), (low, _) in pairwise(spans))


def _runs(group: list[Frame]) -> tuple[str, dict[str, list[Frame]]] | None:
    """Phases that come one after the other by InstanceNumber, each with the same positions."""
    numbers = Counter(frame.number for frame in group)
    if max(numbers.values()) > 1:
        return None
    runs: list[list[Frame]] = [[]]
    seen: set[int] = set()
    for frame in sorted(group, key=lambda frame: frame.number):
        place = round(_along(frame) / SAME_MM)
        if place in seen:
            runs.append([])
            seen = set()
        seen.add(place)
        runs[-1].append(frame)
    if len(runs) < 2 or len({len(run) for run in runs}) > 1 or len(runs[0]) < PHASE_SLICES:
        return None
    return "InstanceNumber", {f"{run[0].number} to {run[-1].number}": run for run in runs}


def named(files: Iterable[Path]) -> str:
    """Names of files, the first few of many."""
    names = list(dict.fromkeys(file.name for file in files))
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _slices(count: int) -> str:
    return f"{count} slice{'s' * (count != 1)}"
