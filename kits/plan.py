"""What the modes decide: every constant of the paper once, with its section, and every improvement as a field.

Santini et al., "Kidney tumor segmentation using an ensembling multi-stage deep learning approach", arXiv 1909.00735.
What the networks were trained on is a constant, since without another training no other value makes sense. All else is
a field of ``Plan``: ``PAPER`` has the paper's value, ``NATIVE`` ours, and each can be switched alone.
"""

from __future__ import annotations

import difflib
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from kits.choices import Mode
from kits.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SLICE_MM = 3.0
"""Slice thickness that the networks see (section 2.2)."""
HU_WINDOW = (-30.0, 300.0)
"""HU are clipped to this range (section 2.2): below lies fat, above bone. Each weight file names its own."""
WINDOW_PX = 256
"""Rows and columns that a network sees at once (section 2.3)."""
OFFSETS = (-2, -1, 0, 1, 2)
"""Neighbours that a network sees beside the central slice, in steps of ``SLICE_MM`` (section 3.1)."""


@dataclass(frozen=True)
class Plan:
    """How the cascade works, but for its networks' weights.

    Args:
        mode: whose networks run; each weight file names its modes.
        every_slice: stage 2 predicts every native slice, its neighbours sampled ``SLICE_MM`` apart. Else, as section
            2.2 has it, slices of ``SLICE_MM``, whose probabilities are interpolated back.
        finest_mm: in-plane spacing below which rows and columns are resampled. KiTS19 begins at 0.44 mm (section 2.1).
        coarsest_mm: and above which; KiTS19 ends at 1.04 mm.
        typical_mm: the in-plane spacing that they are resampled to, KiTS19's most usual.
        look_every: stage 1 looks at one of so many slices of ``SLICE_MM``, and at each one near a kidney's ends; 1 is
            every slice (section 2.3).
        margin_mm: how much further than stage 1's kidney its region reaches at least; stage 1 misses poles and rims.
        follow: how many times, by ``margin_mm`` each, stage 2 looks further where a kidney reaches a region's end.
        second_look: where stage 1 finds nothing in a scan too thin for a kidney, stage 2 looks at the usual places.
        kidneys: how many there are at most (section 2.3: one region for each kidney).
        smallest_voxels: components with fewer voxels go (section 2.4), counted at native in-plane spacing and
            ``SLICE_MM``.
        scale_thin_scans: a scan too thin for a whole kidney has smaller limits, in proportion.
        likeness: components are taken for kidneys by how much they look like one (place, size, HU, a partner), and
            none that cannot be one; else by size alone.
        at_most_kidneys: of the final components only the ``kidneys`` largest, or most alike, stay.
        neck_mm: what hangs on a kidney by no more than that is none of it; 0 lets all stay.
        tumour_needs_kidney: tumour that touches no kidney goes, unless the scan's first or last slice cuts it.
        smallest_tumour_ml: what is called tumour and is smaller counts as kidney; 0 lets all stay.
        water_is_cyst: what is called tumour and looks like water is a cyst.
        mirror: stage 2 looks at each slice mirrored, too, for twice the time.
        members: of stage 2 run at most so many networks, the first by name; 0 is all.
        cysts_apart: cysts are label 3, as in KiTS21 and KiTS23; else kidney, as in KiTS19.

    Raises:
        ValueError: a field has a value that makes no sense.

    Example:
        >>> replace(PAPER, every_slice=True).finest_mm
        0.4
    """

    mode: Mode = Mode.PAPER
    every_slice: bool = False
    finest_mm: float = 0.4
    coarsest_mm: float = 1.1
    typical_mm: float = 0.78
    look_every: int = 1
    margin_mm: float = 15.0
    follow: int = 0
    second_look: bool = False
    kidneys: int = 2
    smallest_voxels: int = 5000
    scale_thin_scans: bool = False
    likeness: bool = False
    at_most_kidneys: bool = False
    neck_mm: float = 0.0
    tumour_needs_kidney: bool = True
    smallest_tumour_ml: float = 0.0
    water_is_cyst: bool = False
    cysts_apart: bool = False
    mirror: bool = False
    members: int = 0

    def __post_init__(self) -> None:
        for name in ("look_every", "kidneys"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("margin_mm", "follow", "smallest_voxels", "neck_mm", "smallest_tumour_ml", "members"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if not 0 < self.finest_mm <= self.typical_mm <= self.coarsest_mm < float("inf"):
            raise ValueError(
                "finest_mm, typical_mm and coarsest_mm must be above 0 and in this order, "
                f"got {self.finest_mm}, {self.typical_mm} and {self.coarsest_mm}"
            )

    @classmethod
    def of(cls, mode: Mode | str) -> Plan:
        """The plan of a mode: ``PAPER`` or ``NATIVE``.

        Raises:
            ValueError: there is no such mode.
        """
        return {Mode.PAPER: PAPER, Mode.NATIVE: NATIVE}[Mode(mode)]

    @classmethod
    def from_toml(cls, path: Path, base: Plan | None = None) -> Plan:
        """A plan with the fields that a TOML file names, and all others of another plan.

        Args:
            path: lines such as ``look_every = 2``.
            base: has the other fields; ``NATIVE`` by default.

        Raises:
            InputError: the file cannot be read, or has a field that there is not, or a value that cannot be.
        """
        try:
            found = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}); give --plan a TOML file.") from error
        except ValueError as error:  # what is no TOML, and what is no UTF-8
            raise InputError(f"{path} is no TOML file ({error}); give lines such as `look_every = 2`.") from error
        types = get_type_hints(cls)
        changes = {}
        for name, value in found.items():
            if name not in types:
                near = difflib.get_close_matches(name, types, 1)
                hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(types)}."
                raise InputError(f"{path}: a plan has no field {name!r}; {hint}")
            changes[name] = _typed(path, name, value, types[name])
        try:
            return replace(base or NATIVE, **changes)
        except ValueError as error:
            raise InputError(f"{path}: {error}.") from error


def _typed(path: Path, name: str, value: Any, wanted: type) -> Any:
    """A field's value out of a TOML file in the field's own type; a whole number may stand for a float.

    Raises:
        InputError: it is of another type.
    """
    if wanted is float and type(value) is int:
        return float(value)
    if wanted is Mode:
        if value in tuple(Mode):
            return Mode(value)
        raise InputError(f"{path}: {name} must be one of {', '.join(Mode)}, got {value!r}.")
    if type(value) is wanted:
        return value
    kind = {bool: "true or false", int: "a whole number", float: "a number"}[wanted]
    raise InputError(f"{path}: {name} must be {kind}, got {value!r}.")


PAPER = Plan()
"""The paper to the letter, in so far as it says (docs/decisions.md tells the rest)."""

NATIVE = Plan(
    mode=Mode.NATIVE,
    every_slice=True,
    finest_mm=0.62,  # finer, the networks take kidney for tumour: few that they learned from look as large
    look_every=3,
    follow=4,
    second_look=True,
    scale_thin_scans=True,
    likeness=True,
    at_most_kidneys=True,
    neck_mm=10.0,
    smallest_tumour_ml=1.0,
    water_is_cyst=True,
)
"""Every improvement over the paper."""


def improvements() -> list[str]:
    """The fields in which ``NATIVE`` leaves the paper, the networks (``mode``) among them."""
    return [field.name for field in fields(Plan) if getattr(NATIVE, field.name) != getattr(PAPER, field.name)]
