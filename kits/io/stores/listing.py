"""Which cases a store or a list holds, found by the rules that hold for folders (``kits.io.forms``).

A store's folder is laid out on this machine by its names alone, as empty files, and looked through like any other.
"""

from __future__ import annotations

import csv
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from kits.errors import InputError, KitsError, printable
from kits.io.cases import DICOM_ENDINGS, Case, file_case, named_case, survey
from kits.io.formats import ending_of
from kits.io.forms import INPUTS, Form, recognise
from kits.io.stores.transfer import attempt, below, fetch, is_file
from kits.io.stores.url import SCHEME, Url, place

LIST = ".csv"
COLUMN = "source"
HEAD_BYTES = 132
"""By so many first bytes a DICOM file is known."""
HEADS = 3
"""Files without an ending that are looked into, a folder."""


def recognise_at(source: Path | Url, socket: str, output: Path | Url) -> Form:
    """Tell an input's form and list its cases, wherever it lies.

    Args:
        source: a folder or a file, here or on a store, or a list of such (``.csv``).
        socket: the output's name, where the form has one.
        output: which is not looked into.

    Raises:
        KitsError: no case was found, or the store cannot be used.
    """
    if source.name.lower().endswith(LIST):
        return listed(source)
    if isinstance(source, Path):
        return recognise(source, socket, [output] if isinstance(output, Path) else [])
    if is_file(source):
        return Form("one file of a store", [case_at(source)])
    with tempfile.TemporaryDirectory() as folder:
        shadow = Path(folder) / (source.name or "input")
        passed_over = lay_out(source, shadow, output)
        try:
            form = recognise(shadow, socket)
        except InputError as error:
            raise InputError(str(error).replace(str(shadow), source.shown)) from error
        cases = [there(case, source, shadow) for case in form.cases]
        passed_over += [text.replace(str(shadow), source.shown) for text in form.passed_over]
    return Form(f"{form.description} of a store", cases, passed_over, form.ignored)


def there(case: Case, source: Url, shadow: Path) -> Case:
    """A case of a shadow as the one that it stands for."""
    inner = case.source.relative_to(shadow)
    url = source / str(inner) if inner.parts else source
    return replace(case, source=Path(inner.name or source.name), origin=str(url))


def lay_out(source: Url, shadow: Path, output: Path | Url) -> list[str]:
    """Make an empty file for each of a store's folder, as far as that tells cases; returns what could not be made.

    Of a folder's DICOM files one is enough. Files without an ending may be DICOM: the first three of a folder get
    their first bytes.
    """
    files = below(source)
    skip = results_within(source, output)
    passed_over, unknown, with_dicom = [], defaultdict[PurePosixPath, list[PurePosixPath]](list), set()
    shadow.mkdir()
    for inner in files:
        if skip and f"{inner}/".startswith(skip):
            continue
        kind = inner.suffix.lower()
        if kind in DICOM_ENDINGS:
            if inner.parent in with_dicom:
                continue
            with_dicom.add(inner.parent)
        elif (not kind or kind[1:].isdigit()) and len(unknown[inner.parent]) < HEADS:
            unknown[inner.parent].append(inner)
        try:
            (shadow / inner).parent.mkdir(parents=True, exist_ok=True)
            (shadow / inner).touch()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            passed_over.append(printable(f"{source.shown}: {inner}: is no name for a file here ({reason}); rename it."))
    if PurePosixPath(INPUTS) in files:
        fetch({source / INPUTS: shadow / INPUTS})
    fill_heads(source, shadow, [inner for some in unknown.values() for inner in some])
    return passed_over


def results_within(source: Url, output: Path | Url) -> str:
    """What results begin with below the folder of the scans, such as ``out/``; empty if they are not there."""
    if not isinstance(output, Url) or not output.within(source):
        return ""
    return f"{output.removeprefix(source.rstrip('/')).strip('/')}/"


def fill_heads(source: Url, shadow: Path, names: list[PurePosixPath]) -> None:
    """Give some of a shadow's files their first bytes, where they can be had."""
    if not names:
        return

    def heads(system: Any, path: str) -> list[Any]:
        paths = [system._strip_protocol(str(source / inner)) for inner in names]
        return list(system.cat_ranges(paths, 0, HEAD_BYTES, on_error="return"))

    for inner, head in zip(names, attempt(source, heads), strict=True):
        if isinstance(head, bytes) and (shadow / inner).is_file():
            (shadow / inner).write_bytes(head[:HEAD_BYTES])


def case_at(url: Url, name: str = "") -> Case:
    """The case that a URL names, by its name alone: a volume's file, else a folder of DICOM slices or one of them.

    Args:
        url: where it lies.
        name: what it is to be called, if not by its URL.
    """
    path = Path("/", *url.path.parts)
    stem = path.name[: -len(path.suffix)] if path.suffix.lower() in DICOM_ENDINGS else path.name
    case = file_case(path) if ending_of(path) else named_case(stem, path)
    if name:
        case = named_case(name, path)
    return replace(case, source=Path(path.name), origin=str(url))


def listed(table: Path | Url) -> Form:
    """The cases of a list: a CSV file with the column ``source``, a path or a URL a line, and perhaps ``name``.

    A path that does not begin with ``/`` is counted from the list's own folder.

    Raises:
        KitsError: it cannot be read, is no such list, or two lines would write one label map.
    """
    shown = table.shown if isinstance(table, Url) else str(table)
    cases, passed_over = list[Case](), list[str]()
    for number, row in enumerate(rows(table, shown), start=2):
        try:
            cases += cases_of(row, table.parent)
        except KitsError as error:
            passed_over.append(f"{shown}, line {number}: {error}")
    if not cases:
        raise InputError(f"{shown}: names no scan. {' '.join(passed_over[:3])}".rstrip())
    first: dict[str, Case] = {}
    for case in cases:
        if first.setdefault(case.output_name, case) is not case:
            raise InputError(
                f"{shown}: {first[case.output_name].place} and {case.place} would both write {case.output_name}; "
                "give them names of their own in a column `name`."
            )
    return Form("a list", cases, passed_over)


def rows(table: Path | Url, shown: str) -> Iterator[Mapping[str, str]]:
    """The lines of a list.

    Raises:
        KitsError: it cannot be read, or has no column of scans.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = table if isinstance(table, Path) else Path(folder, "list.csv")
        if isinstance(table, Url):
            fetch({table: path})
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                lines = csv.DictReader(file)
                if COLUMN not in (lines.fieldnames or ()):
                    raise InputError(f"{shown}: its first line names no column `{COLUMN}`; add that line to the list.")
                yield from (line for line in lines if (line[COLUMN] or "").strip())
        except (OSError, UnicodeError, csv.Error) as error:
            raise InputError(f"{shown}: cannot be read as a list ({error}); give a CSV file in UTF-8.") from error


def cases_of(row: Mapping[str, str], folder: Path | Url) -> list[Case]:
    """The cases of a line.

    Raises:
        InputError: there is no such file or folder here, or it holds none.
    """
    text, name = row[COLUMN].strip(), (row.get("name") or "").strip()
    if "/" in name:
        raise InputError(f"{name!r} is no name for a label map; leave the slash out.")
    source = place(text) if SCHEME.match(text) else folder / text
    if isinstance(source, Url):
        return [case_at(source, name)]
    found = survey(source).cases
    if name and len(found) > 1:
        raise InputError(f"{source}: holds {len(found)} scans, which cannot all be called {name!r}.")
    return [named_case(name, found[0].source)] if name else found
