"""HU window, mean and standard deviation: what turns HU into network input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from kits.plan import HU_WINDOW

Values = TypeVar("Values")


def clip_array(values: Any, low: float, high: float) -> Any:
    """Clip a NumPy array or a torch tensor."""
    return values.clip(low, high)


@dataclass(frozen=True)
class Normalisation:
    """What turns HU into network input: clip to ``window`` (HU), subtract ``mean``, divide by ``std`` (HU).

    The mean and standard deviation are those of the clipped training voxels (paper section 2.2); they travel with the
    weights.

    Example:
        >>> Normalisation(mean=60.0, std=80.0).apply(np.array([-1000.0, 60.0, 140.0]))
        array([-1.125,  0.   ,  1.   ])
    """

    mean: float
    std: float
    window: tuple[float, float] = HU_WINDOW

    def apply(self, hu: Values, clip: Callable[[Values, float, float], Values] = clip_array) -> Values:
        """Network input of HU.

        Args:
            hu: floats: a NumPy array, a torch tensor, or a node of a DALI graph.
            clip: clips such a thing to two limits; a DALI graph's is ``nvidia.dali.math.clamp``.
        """
        standardised: Any = clip(hu, *self.window)
        return (standardised - self.mean) / self.std

    @property
    def air(self) -> float:
        """The value that air has in network input: what padding is filled with."""
        return (self.window[0] - self.mean) / self.std
