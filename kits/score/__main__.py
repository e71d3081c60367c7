"""``python -m kits.score PREDICTIONS REFERENCES [--convention kits19|kits23] [--json FILE]``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from kits.errors import KitsError, exit_status
from kits.score import CONVENTIONS


def main(argv: Sequence[str] | None = None, prog: str = "python -m kits.score") -> int:
    """Command line; returns 0, 1 if a case has no score or impossible labels, or 2 if there was nothing to score."""
    parser = argparse.ArgumentParser(prog=prog, description="Score label maps as KiTS does.")
    parser.add_argument("predictions", type=Path, help="folder of label maps, or one file")
    parser.add_argument("references", type=Path, help="folder of reference label maps, or one file")
    parser.add_argument("--convention", choices=CONVENTIONS, default="kits19")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the scores there too")
    parser.add_argument("--verbose", action="store_true", help="show the traceback of what goes wrong")
    arguments = parser.parse_args(argv)
    return exit_status(prog, lambda: score(arguments), arguments.verbose)


def score(arguments: argparse.Namespace) -> int:
    """Print the scores, and what could not be scored.

    Raises:
        KitsError: there is nothing to score.
    """
    from kits.io.atomic import write_text  # after the help, which should come at once
    from kits.score.folders import score_folders

    scores = score_folders(arguments.predictions, arguments.references, arguments.convention)
    if scores.cases:
        print(scores.table())
    for case in scores.missing:
        print(f"{case}: there is no prediction, so it was scored as all background.", file=sys.stderr)
    for message in [*scores.warnings, *scores.out_of_range, *scores.failed.values()]:
        print(message, file=sys.stderr)
    if arguments.json:
        try:
            write_text(scores.to_json() + "\n", arguments.json)
        except KitsError as error:
            print(error, file=sys.stderr)
            return 1
    return 1 if scores.failed or scores.out_of_range else 0


if __name__ == "__main__":
    sys.exit(main())
