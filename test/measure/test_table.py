"""The table of lesions: a row each, empty cells for what is not known."""

import csv
from dataclasses import asdict

import pytest

from kits.errors import OutputError
from kits.measure.measure import measure
from kits.measure.table import COLUMNS, write_csv

from .phantom import kidney, with_tumour

MM = (1.0, 1.0, 1.0)


def test_a_row_a_lesion(tmp_path):
    labels = with_tumour((0, 20, 0), 15)
    labels[:, :, 90:] = with_tumour((40, 0, 0), 8)[:, :, ::-1][:, :, 90:]
    labels[40:44, 40:50, 40:50] = 3
    measured = measure(labels, None, MM)
    write_csv(
        tmp_path / "new" / "a.csv", [("one, two", asdict(measured)), ("healthy", asdict(measure(kidney(), None, MM)))]
    )
    with (tmp_path / "new" / "a.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(COLUMNS)
    assert [(row["case"], row["name"], row["side"]) for row in rows] == [
        ("one, two", "tumour 1", "right"),
        ("one, two", "tumour 2", "left"),
        ("one, two", "cyst 1", "right"),
    ]
    tumour, _, cyst = rows
    assert float(tumour["volume_ml"]) == measured.lesions[0].volume_ml
    assert tumour["hu_mean"] == cyst["renal_total"] == ""
    assert tumour["renal_total"] == str(measured.lesions[0].renal.total)
    assert tumour["renal_a"] == "p"


def test_no_lesions_leave_a_header(tmp_path):
    write_csv(tmp_path / "a.csv", [])
    assert (tmp_path / "a.csv").read_text().splitlines() == [",".join(COLUMNS)]


def test_what_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write_csv(tmp_path / "file" / "a.csv", [])
