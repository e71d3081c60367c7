"""One table of all that was done: the cases' records of any number of runs, shards and machines, merged.

    kits manifest OUT [--parquet FILE] [--jsonl FILE]

Each finished case has its record beside the label maps (``kits.batch.record``), whichever machine made it, so merging
is reading them all. A row a case; millilitres a side, checksums of input and label map, what it was made with.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kits.batch.place import scratch
from kits.batch.record import FOLDER, FORMAT
from kits.errors import InputError, KitsError, exit_status
from kits.io.atomic import aside, write_text
from kits.io.stores.transfer import below, fetch, send
from kits.io.stores.url import Url, place

log = logging.getLogger(__name__)


def rows(output: Path) -> Iterator[dict[str, Any]]:
    """A flat row for each case's record below an output folder, sorted by the label map's name.

    Raises:
        InputError: there is none, or one cannot be read.
    """
    files = sorted((output / FOLDER).rglob("*.json"))
    if not files:
        raise InputError(f"{output}: holds no record of a finished case; give the --output of a run.")
    for file in files:
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            if record["format"] != FORMAT:
                raise ValueError(f"format {record['format']!r}")
            yield flat(record)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{file}: is no record of a case ({error!r}); remove it and run its case again."
            ) from error


def flat(record: dict[str, Any]) -> dict[str, Any]:
    """One record as a row."""
    report, recipe = record["report"], record["recipe"]
    row = {name: report[name] for name in ("name", "source", "output", "status", "warnings", "codes", "missing")}
    for side in ("right", "left"):
        row |= {f"{side}_{name}": value for name, value in report[side].items()}
    row |= {f"spacing_{axis}_mm": mm for axis, mm in zip("xyz", report["spacing_mm"], strict=True)}
    row |= {f"size_{axis}": count for axis, count in zip("xyz", report["size"], strict=True)}
    return row | {
        "seconds": round(sum(report["seconds"].values()), 3),
        "version": recipe.get("version", ""),
        "recipe_sha256": hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest(),
        "input_sha256": record["input"],
        "labels_sha256": record["labels"],
    }


def write_jsonl(table: Sequence[dict[str, Any]], path: Path) -> None:
    """Write rows as JSON lines, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    write_text("".join(f"{json.dumps(row)}\n" for row in table), path)


def write_parquet(table: Sequence[dict[str, Any]], path: Path) -> None:
    """Write rows as one Parquet file, whole or not at all.

    Raises:
        KitsError: pyarrow is not installed.
        OutputError: it cannot be written.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise KitsError("Parquet needs pyarrow; run `pip install 'kits-cascade[cohort]'`.") from error
    names = list(dict.fromkeys(name for row in table for name in row))
    with aside(path) as partial:
        parquet.write_table(pyarrow.Table.from_pylist(
            [{name: row.get(name) for name in names} for row in table]
        ), partial)  # fmt: skip


def main(arguments: Sequence[str] | None = None, prog: str = "kits manifest") -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog=prog, description="One table of all finished cases of an output folder.")
    parser.add_argument("output", type=place, help="folder or URL of label maps, of any number of runs or shards")
    parser.add_argument("--parquet", type=Path, metavar="FILE", help="default: OUTPUT/manifest.parquet")
    parser.add_argument("--jsonl", type=Path, metavar="FILE", help="default: OUTPUT/manifest.jsonl")
    options = parser.parse_args(arguments)
    return exit_status(prog, lambda: merge_at(options.output, options.parquet, options.jsonl), False)


def merge_at(output: Path | Url, parquet: Path | None, jsonl: Path | None) -> int:
    """Write both tables, of a folder here or on a store, where they then go; returns the exit status.

    Raises:
        KitsError: there is no record, or the store cannot be used.
    """
    targets = [parquet or output / "manifest.parquet", jsonl or output / "manifest.jsonl"]
    with scratch() as folder:
        source = output if isinstance(output, Path) else fetch_records(output, folder)
        here = [one if isinstance(one, Path) else folder / one.name for one in targets]
        count = merge(source, here[0], here[1])
        for path, target in zip(here, targets, strict=True):
            if isinstance(target, Url):
                send(path, target)
    print(f"{count} cases in {targets[0]} and {targets[1]}")
    return 0


def fetch_records(output: Url, folder: Path) -> Path:
    """Bring a store's records to a folder of this machine, which is returned."""
    records = output / FOLDER
    fetch({records / inner: folder / FOLDER / inner for inner in below(records) if inner.suffix == ".json"})
    return folder


def merge(output: Path, parquet: Path, jsonl: Path) -> int:
    """Write both tables; returns how many rows they have."""
    table = list(rows(output))
    write_parquet(table, parquet)
    write_jsonl(table, jsonl)
    return len(table)
