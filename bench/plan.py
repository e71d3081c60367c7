"""What a large cohort takes on many machines: a plan on paper, from one measured figure and what is assumed.

    python -m bench.plan [--seconds 7.2] [--scans 100000] [--machines 50] [--price 0.70] ...

Nothing is measured here. docs/cohorts.md has the table that this prints without options.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields

from bench.common import table


@dataclass(frozen=True)
class Plan:
    """A cohort and the machines for it; all but ``seconds`` is to be replaced by one's own.

    Args:
        seconds: a scan on the cores of one worker, measured (the column ``seconds`` of ``kits manifest``).
        scans: how many.
        megabytes: of a scan, compressed.
        result_megabytes: of its label map and record.
        machines: how many.
        workers: a machine; each takes two cores.
        worker_gigabytes: of memory, for the largest scan.
        rate: at which a worker fetches, MB/s; a scan is fetched before it is segmented, not meanwhile.
        lost: the part of the time that goes to stragglers and to what is done again.
        start: minutes until the machines work.
        price: of a machine an hour.
        request_price: of a million requests to the store.
    """

    seconds: float = 7.2
    scans: int = 100_000
    megabytes: float = 80.0
    result_megabytes: float = 0.3
    machines: int = 50
    workers: int = 8
    worker_gigabytes: float = 2.7
    rate: float = 50.0
    lost: float = 0.15
    start: float = 10.0
    price: float = 0.70
    request_price: float = 5.0

    def rows(self) -> list[tuple[str, str, str]]:
        """What, how it is reckoned, and the figure."""
        all_workers = self.machines * self.workers
        fetching = self.megabytes / self.rate
        each = self.seconds + fetching
        computing = self.scans * self.seconds / all_workers / 60
        with_fetching = self.scans * each / all_workers / 60
        minutes = with_fetching * (1 + self.lost) + self.start
        hours = self.machines * minutes / 60
        requests = 6 * self.scans / 1e6
        return [
            ("workers", f"{self.machines} machines x {self.workers}", f"{all_workers}"),
            ("memory a machine", f"{self.workers} x {self.worker_gigabytes:g} GB",
             f"{self.workers * self.worker_gigabytes:.0f} GB"),
            ("computing", f"{self.scans} x {self.seconds:g} s / {all_workers}", f"{computing:.0f} min"),
            ("with fetching", f"+ {self.megabytes:g} MB / {self.rate:g} MB/s = {fetching:.1f} s a scan",
             f"{with_fetching:.0f} min"),
            ("in all", f"x {1 + self.lost:g} + {self.start:g} min", f"{minutes:.0f} min"),
            ("machine hours", f"{self.machines} x {minutes:.0f} min", f"{hours:.0f}"),
            ("cost of machines", f"{hours:.0f} x {self.price:.2f}", f"{hours * self.price:.0f}"),
            ("from the store", f"{self.scans} x {self.megabytes:g} MB", f"{self.scans * self.megabytes / 1e6:.1f} TB"),
            ("the same, a second", f"{all_workers} x {self.megabytes:g} MB / {each:.1f} s",
             f"{all_workers * self.megabytes / each / 1e3:.1f} GB/s"),
            ("to the store", f"{self.scans} x {self.result_megabytes:g} MB",
             f"{self.scans * self.result_megabytes / 1e3:.0f} GB"),
            ("requests", f"two to read, four to write a scan, at {self.request_price:g} a million",
             f"{requests:.1f} million, {requests * self.request_price:.0f}"),
            ("disk a machine", f"{self.workers} x {self.megabytes:g} MB",
             f"{self.workers * self.megabytes / 1e3:.1f} GB"),
        ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in fields(Plan):
        kind = type(field.default)
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default, metavar="N")
    print(table(("what", "how", "figure"), Plan(**vars(parser.parse_args())).rows()), end="")


if __name__ == "__main__":
    main()
