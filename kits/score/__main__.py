"""``python -m kits.score PREDICTIONS REFERENCES [--convention kits19|kits23] [--json FILE]``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from kits.errors import KitsError
from kits.score import CONVENTIONS


def main(argv: list[str] | None = None) -> int:
    """Command line; returns 0, 1 if a case has no score or impossible labels, or 2 if there was nothing to score."""
    parser = argparse.ArgumentParser(prog="python -m kits.score", description="Score label maps as KiTS does.")
    parser.add_argument("predictions", type=Path, help="folder of label maps, or one file")
    parser.add_argument("references", type=Path, help="folder of reference label maps, or one file")
    parser.add_argument("--convention", choices=CONVENTIONS, default="kits19")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the scores there too")
    arguments = parser.parse_args(argv)
    from kits.io.atomic import write_text  # after the help, which should come at once
    from kits.score.folders import score_folders

    try:
        scores = score_folders(arguments.predictions, arguments.references, arguments.convention)
    except KitsError as error:
        print(error, file=sys.stderr)
        return 2
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
