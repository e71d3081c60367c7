"""A share of the cases for each of several jobs that know nothing of each other, such as a Slurm array's."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from kits.errors import KitsError
from kits.io.cases import Case


@dataclass(frozen=True)
class Shard:
    """The k-th of n shares, counted from 1.

    A case's share follows from its output's name alone. So jobs that start at different times agree, even where scans
    were added in between: no case is lost, none is done twice.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """``3/16`` as the third of sixteen shares.

        Raises:
            KitsError: it is none.
        """
        number, _, count = text.partition("/")
        if not (number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
            raise KitsError(f"{text!r} is no share of the cases; give K/N with K from 1 to N, such as 3/16.")
        return cls(int(number), int(count))

    def part(self, number: int, count: int) -> Shard:
        """The ``number``-th of ``count`` shares of this share."""
        return Shard(self.number + self.count * (number - 1), self.count * count)

    def of(self, cases: Sequence[Case]) -> list[Case]:
        """This share's cases, in their order."""
        return [case for case in cases if self.holds(case.output_name)]

    def holds(self, name: str) -> bool:
        """Whether the case that writes ``name`` is this share's."""
        digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.number - 1
