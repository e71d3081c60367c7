"""How many cases a run has under way at once: bounded by their number, and by the memory that they need."""

from __future__ import annotations

import threading
from collections.abc import Callable

from kits.batch.watch import TICK_SECONDS
from kits.runtime.memory import memory_limit

IN_FLIGHT = {"cpu": 1, "cuda": 3}
"""Cases that take turns at the networks, where nobody says how many: while a GPU runs them for one case, cores prepare
another and clean a third; a CPU's networks leave no core idle."""


class Room:
    """Room for the cases under way: some take turns at the networks, one more than those may be written meanwhile.

    A case with the networks to itself, and at most one other that is written, is always let in; a further one only if
    all have the memory.

    Args:
        most: cases that take turns at the networks.
        base_bytes: memory that a run takes however small its scans.
        limit: says how many bytes there are.
    """

    def __init__(self, most: int, base_bytes: int, limit: Callable[[], int] = memory_limit) -> None:
        self.most = most
        self._base_bytes, self._limit = base_bytes, limit
        self._inside: dict[int, int] = {}  # a case's number, and the bytes that it needs
        self._predicting: set[int] = set()
        self._waiting_alone = 0
        self._changed = threading.Condition()

    def enter(self, number: int, need: int, check: Callable[[], None]) -> None:
        """Wait until there is room for a case.

        Args:
            number: the case's.
            need: bytes that it is expected to take, see ``case_bytes``.
            check: asked again and again; ends the waiting by what it raises.
        """
        with self._changed:
            while not self._lets_in(need):
                check()
                self._changed.wait(TICK_SECONDS)
            self._inside[number] = need
            self._predicting.add(number)

    def _lets_in(self, need: int) -> bool:
        if self._waiting_alone:
            return False
        if not self._predicting and len(self._inside) <= 1:
            return True
        few = len(self._predicting) < self.most and len(self._inside) <= self.most
        return few and self._base_bytes + sum(self._inside.values()) + need <= self._limit()

    def has_company(self) -> bool:
        """Whether several cases take turns at the networks right now."""
        with self._changed:
            return len(self._predicting) > 1

    def wait_alone(self, number: int, check: Callable[[], None]) -> None:
        """Wait until no other case is at the networks; none comes in before this one has left them."""
        with self._changed:
            self._predicting.discard(number)
            self._waiting_alone += 1
            self._changed.notify_all()
            try:
                while self._predicting:
                    check()
                    self._changed.wait(TICK_SECONDS)
            finally:
                self._waiting_alone -= 1
            self._predicting.add(number)

    def predicted(self, number: int) -> None:
        """A case is done with the networks."""
        with self._changed:
            self._predicting.discard(number)
            self._changed.notify_all()

    def leave(self, number: int) -> None:
        """A case is through."""
        with self._changed:
            self._predicting.discard(number)
            self._inside.pop(number, None)
            self._changed.notify_all()
