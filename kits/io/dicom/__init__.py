"""DICOM: which frames of a folder are the CT, and where they lie.

``files`` reads headers and tells what is no CT; ``series`` chooses one volume's frames; ``stack`` puts them into place.
Positions decide: no count, no order of files, no SpacingBetweenSlices.
"""

from kits.io.dicom.files import count, looks_like_dicom
from kits.io.dicom.stack import read

__all__ = ["count", "looks_like_dicom", "read"]
