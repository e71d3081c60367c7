"""A case's measurements, made once for all that wants them."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from kits.measure.measure import measure
from kits.measure.results import Measurements

if TYPE_CHECKING:
    from kits.cascade.cascade import Prediction
    from kits.io.volume import Volume

_last: list[tuple[weakref.ref[Prediction], Measurements]] = []


def measured(volume: Volume, prediction: Prediction) -> Measurements:
    """The measurements of a prediction; those of the last one asked for are kept as long as it lives."""
    for seen, found in _last:
        if seen() is prediction:
            return found
    found = measure(prediction.labels, volume.hu, volume.spacing, prediction.probabilities)
    _last[:] = [(weakref.ref(prediction), found)]
    return found
