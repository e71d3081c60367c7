"""Kidneys and kidney tumours in abdominal CT: the 2.5D cascade of Santini et al. (KiTS19), from Python.

from kits import Cascade, Volume
cascade = Cascade.load("weights")
labels = cascade.predict(Volume.from_image(SimpleITK.ReadImage("scan.nii.gz"), "scan")).labels
"""

from kits.cascade import Cascade, Prediction
from kits.errors import InputError, KitsError, OutputError, WeightsError
from kits.volume import Volume

__all__ = ["Cascade", "InputError", "KitsError", "OutputError", "Prediction", "Volume", "WeightsError"]
