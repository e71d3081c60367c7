"""A stage of the cascade: its networks on their engine, and what makes their input."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from kits.cascade.preprocess import Slices, pad_to_window
from kits.geometry import Corner, Shape
from kits.networks import Network
from kits.normalisation import Normalisation
from kits.runtime.engine import Engine
from kits.runtime.weights import Member

Wrap = Callable[[str, Callable[..., Any]], Callable[..., Any]]
"""Takes the name of a part of the work, and the function that does it; gives what is to be called instead."""

PREPROCESSING = "preprocessing"
"""The part that is no network, see ``Stage.wrapped``; the others have their networks' names."""


@dataclass(frozen=True, eq=False)
class Stage:
    """Networks that see the same slices, ready to run.

    Args:
        members: the networks with what their weight files say; all want the same input.
        networks: the same, as ``engine.place`` gave them.
        engine: where they run.
        slab: makes slices; ``wrapped`` exchanges it.
        mirror: whether each network also sees every slice mirrored, right to left.
    """

    members: tuple[Member, ...]
    networks: tuple[Network, ...]
    engine: Engine
    slab: Callable[[Slices, int, int], torch.Tensor] = Slices.slab
    mirror: bool = False

    @classmethod
    def of(cls, members: Sequence[Member], engine: Engine) -> Stage:
        """Networks placed on an engine."""
        return cls(tuple(members), tuple(engine.place(member.network) for member in members), engine)

    @property
    def norm(self) -> Normalisation:
        """How the networks' input is standardised."""
        return self.members[0].info.norm

    def only(self, members: Sequence[Member] | None) -> Stage:
        """The stage with some of its members alone; None: with all.

        Raises:
            ValueError: none is left, or one is no member of this stage.
        """
        if members is None:
            return self
        chosen = [index for index, one in enumerate(self.members) if any(one is member for member in members)]
        if not chosen or len(chosen) != len(members):
            names = ", ".join(member.name for member in self.members)
            raise ValueError(f"members must be some of this stage's ({names}), got {[one.name for one in members]}")
        return replace(
            self,
            members=tuple(self.members[index] for index in chosen),
            networks=tuple(self.networks[index] for index in chosen),
        )

    def wrapped(self, wrap: Wrap) -> Stage:
        """The stage with every part of its work called through something else: to time it, or to remember it.

        Args:
            wrap: called with each member's name and network, and with ``PREPROCESSING`` and what makes slices.
        """
        networks = (wrap(member.name, network) for member, network in zip(self.members, self.networks, strict=True))
        return replace(self, networks=tuple(networks), slab=wrap(PREPROCESSING, self.slab))

    def slices(self, hu_ZYX: np.ndarray, shape: Shape) -> Slices:
        """A volume's int16 HU (z, y, x) as this stage's slices of a grid."""
        return Slices(hu_ZYX, shape, self.norm, self.engine.device)

    def input(self, slices: Slices, first: int = 0, last: int | None = None) -> torch.Tensor:
        """Slices [first, last), all by default: float32 (z, y, x), padded to at least a window's size."""
        return pad_to_window(self.slab(slices, first, slices.shape[0] if last is None else last), self.norm.air)

    def predict(
        self, slices_ZYX: torch.Tensor, centres: Sequence[int], windows: Iterable[Corner], step: float = 1.0
    ) -> torch.Tensor:
        """Mean probabilities of the networks, float32 (len(centres), classes, y, x); see ``Engine.predict``."""
        networks = [*self.networks, *map(mirrored, self.networks)] if self.mirror else self.networks
        with self.engine.turn:  # what networks return is overwritten at their next call
            return self.engine.predict(networks, slices_ZYX, centres, windows, step)


def mirrored(network: Network) -> Network:
    """A network that sees slices mirrored, right to left, and answers as if it had not."""
    return lambda stacks_BCYX: network(stacks_BCYX.flip(-1)).flip(-1)
