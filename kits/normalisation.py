"""HU window, mean and standard deviation: what turns HU into network input."""

from __future__ import annotations

from dataclasses import dataclass

HU_WINDOW = (-30.0, 300.0)
"""Values are clipped to this range (section 2.2): below lies fat, above bone."""


@dataclass(frozen=True)
class Normalisation:
    """What turns HU into network input: clip to ``window`` (HU), subtract ``mean``, divide by ``std`` (HU).

    The mean and standard deviation are those of the clipped training voxels; they travel with the weights.
    """

    mean: float
    std: float
    window: tuple[float, float] = HU_WINDOW

    @property
    def air(self) -> float:
        """The value that air has in network input: what padding is filled with."""
        return (self.window[0] - self.mean) / self.std
