"""R.E.N.A.L. and PADUA of a measured tumour; which figure each item follows from is in docs/measurements.md.

The nearness to sinus and collecting system is an estimate: the masks carry neither vessels nor collecting system.
"""

from __future__ import annotations

from kits.measure.results import Lesion, Padua, Points, Renal

ENDOPHYTIC = 0.05
"""A tumour of which no more than this share bulges out of the kidney counts as entirely endophytic."""
TOUCHES_MM = 1.0
"""A gap of at most this to the sinus counts as none: it is the masks' own uncertainty."""
NO_SINUS = "not computable: the mask shows no sinus"
NO_KIDNEY = "not computable: no parenchyma is labelled on this side"
CUT = "not computable: the scan's first or last slice cuts the tumour"
NOT_SEGMENTED = "not computable: {} are not segmented"


def renal(lesion: Lesion) -> Renal:
    """The R.E.N.A.L. nephrometry score of a tumour."""
    radius = _by_size(lesion, 70.0, inclusive=True)
    exophytic = _exophytic(lesion)
    nearness = _nearness(lesion.to_sinus_mm)
    location = _polar_location(lesion)
    face = {"anterior": "a", "posterior": "p", "neither": "x"}.get(lesion.face or "")
    items = [item.points for item in (radius, exophytic, nearness, location)]
    total = None if None in items else sum(n for n in items if n)
    words = ["?" if n is None else str(n) for n in items]
    return Renal(
        radius,
        exophytic,
        nearness,
        face,
        location,
        Points(None, NOT_SEGMENTED.format("the renal vessels")),
        total,
        None if total is None else "low" if total <= 6 else "moderate" if total <= 9 else "high",
        "+".join([*words[:3], face or "?", words[3]]) + f" = {total if total else '?'}{face or ''}",
    )


def padua(lesion: Lesion) -> Padua:
    """The PADUA score of a tumour, as far as it can be known without the collecting system."""
    if lesion.between_lines is None:
        location = Points(None, NO_SINUS)
    else:
        middle = lesion.between_lines > 0.5
        location = Points(2 if middle else 1, f"{lesion.between_lines:.0%} of the volume between the sinus lines")
    if lesion.rim is None:
        rim = Points(None, NO_KIDNEY)
    else:
        rim = Points(2 if lesion.rim == "medial" else 1, f"its centre is {lesion.rim} of the kidney's long axis")
    gap = lesion.to_sinus_mm
    if gap is None:
        sinus = Points(None, NO_SINUS)
    else:
        sinus = Points(2 if gap <= TOUCHES_MM else 1, f"{gap:.1f} mm from the sinus (estimate)")
    exophytic, size = _exophytic(lesion), _by_size(lesion, 70.0, inclusive=False)
    known = [item.points for item in (location, exophytic, rim, sinus, size)]
    least = None if None in known else sum(n for n in known if n) + 1
    collecting = Points(None, NOT_SEGMENTED.format("the collecting systems"))
    face = {"anterior": "a", "posterior": "p"}.get(lesion.face or "")
    return Padua(location, exophytic, rim, sinus, collecting, size, face, None if least is None else (least, least + 1))


def _by_size(lesion: Lesion, large: float, inclusive: bool) -> Points:
    """At most 4 cm, up to 7 cm, more; 7.0 cm itself is large in R.E.N.A.L. and not in PADUA."""
    mm = lesion.longest_mm
    points = 1 if mm <= 40 else 3 if mm > large or (inclusive and mm == large) else 2
    if lesion.cut and points < 3:
        return Points(None, CUT)
    return Points(points, f"longest diameter {mm:.1f} mm")


def _exophytic(lesion: Lesion) -> Points:
    share = lesion.outside_share
    if share is None:
        return Points(None, NO_KIDNEY)
    points = 1 if share >= 0.5 else 2 if share > ENDOPHYTIC else 3
    return Points(points, f"{share:.0%} of the volume outside the kidney's natural outline")


def _nearness(gap: float | None) -> Points:
    if gap is None:
        return Points(None, NO_SINUS)
    points = 1 if gap >= 7 else 2 if gap > 4 else 3
    return Points(points, f"{gap:.1f} mm from the sinus (estimate: the collecting system is not segmented)")


def _polar_location(lesion: Lesion) -> Points:
    share = lesion.between_lines
    if share is None:
        return Points(None, NO_SINUS)
    points = 3 if share > 0.5 or lesion.crosses_middle else 2 if share > 0 else 1
    middle = ", reaches the middle between them" if lesion.crosses_middle else ""
    return Points(points, f"{share:.0%} of the volume between the polar lines{middle}")
