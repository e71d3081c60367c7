"""Kidneys and kidney tumours in abdominal CT: the 2.5D cascade of Santini et al. (KiTS19), from Python.

from kits import Cascade, Volume
cascade = Cascade.load("weights")
labels = cascade.predict(Volume.from_image(SimpleITK.ReadImage("scan.nii.gz"), "scan")).labels
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kits.cascade.cascade import Cascade, Prediction
    from kits.errors import InputError, KitsError, OutputError, WeightsError
    from kits.io.volume import Volume
    from kits.plan import Plan
    from kits.runtime.runtime import Runtime

__version__ = "0.2.0"
__all__ = [
    "Cascade",
    "InputError",
    "KitsError",
    "OutputError",
    "Plan",
    "Prediction",
    "Runtime",
    "Volume",
    "WeightsError",
    "__version__",
]

_HOMES = {
    "Cascade": "kits.cascade.cascade",
    "Prediction": "kits.cascade.cascade",
    "Plan": "kits.plan",
    "Runtime": "kits.runtime.runtime",
    "Volume": "kits.io.volume",
} | dict.fromkeys(("InputError", "KitsError", "OutputError", "WeightsError"), "kits.errors")


def __getattr__(name: str) -> Any:
    """Import what is asked for only then: scoring label maps needs no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
