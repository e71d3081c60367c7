"""A case's measurements, made once for all that wants them."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING

from kits.measure.measure import measure
from kits.measure.results import Measurements

if TYPE_CHECKING:
    from kits.cascade.cascade import Prediction
    from kits.io.volume import Volume


class _Last(threading.local):
    """Of each thread, for each writes one case at a time: a prediction, and its measurements."""

    kept: tuple[weakref.ref[Prediction], Measurements] | None = None


_last = _Last()


def measured(volume: Volume, prediction: Prediction) -> Measurements:
    """The measurements of a prediction; those of the last one asked for are kept as long as it lives."""
    if _last.kept and _last.kept[0]() is prediction:
        return _last.kept[1]
    found = measure(prediction.labels, volume.hu, volume.spacing, prediction.probabilities)
    _last.kept = weakref.ref(prediction), found
    return found
