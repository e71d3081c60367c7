"""What is made of the notes of a long bench, wherever it was stopped, and of a plan's figures."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from bench.cohort import Sample, note, tabulate
from bench.common import table
from bench.plan import Plan


def write_notes(path: Path, moments: int) -> None:
    """Notes of two workers that do a case in 10 s each, of a core's 4 s, from the start on; memory grows in one."""
    note(path, {"count": 1000, "where": "a machine"})
    for moment in range(moments):
        for who, pid in (("driver", 1), ("worker", 2), ("worker", 3)):
            pss = 10**9 + (pid == 3) * moment * 10**6
            note(path, asdict(Sample(10.0 * moment, who, pid, pss, 40 + pid, 4.0 * moment, 2 * moment)))


def test_a_bench_that_was_stopped_has_the_table_of_what_it_saw(tmp_path: Path) -> None:
    write_notes(tmp_path / "notes.jsonl", 30)
    with (tmp_path / "notes.jsonl").open("a") as file:
        file.write('{"second": 300.0, "who": "wor')  # as it was killed
    tabulate(tmp_path / "notes.jsonl", tmp_path)
    told = (tmp_path / "cohort.md").read_text()
    assert "# 58 cases over two nodes" in told
    assert "58 of 1000 scans" in told
    assert "| two workers of one core | 5.00 | 4.00 |" in told
    assert "| driver | 4 of 4 | 1000 | 1000 | 41 to 41 |" in told
    assert "| worker | 4 of 4 | 1013 | 1029 | 42 to 43 |" in told
    assert "ratio" not in told.partition("Memory is PSS")[0], "nothing was measured to compare with"
    assert json.loads((tmp_path / "cohort.json").read_text()) == {"cases": 58, "alone": None}


def test_a_bench_that_came_to_its_end_has_the_ratio_to_one_process(tmp_path: Path) -> None:
    write_notes(tmp_path / "notes.jsonl", 30)
    note(tmp_path / "notes.jsonl", {"alone": [8.0, 3.0]})
    tabulate(tmp_path / "notes.jsonl", tmp_path)
    assert "| ratio (one process / workers) | 1.60 | 0.75 |" in (tmp_path / "cohort.md").read_text()


def test_too_few_cases_are_a_sentence(tmp_path: Path) -> None:
    write_notes(tmp_path / "notes.jsonl", 6)
    with pytest.raises(SystemExit, match="10 cases were seen done: too few"):
        tabulate(tmp_path / "notes.jsonl", tmp_path)


def test_the_plan_in_the_docs_is_what_its_figures_give() -> None:
    text = (Path(__file__).parents[2] / "docs" / "cohorts.md").read_text()
    expected = table(("what", "how", "figure"), Plan().rows()).replace("---", "--")
    assert expected in text, "run `python -m bench.plan` and put its table there"
    assert f"**{Plan().seconds:g} s**" in text


def test_twice_the_seconds_a_scan_are_twice_the_computing_and_twice_the_machines_half_of_it() -> None:
    def computing(plan: Plan) -> str:
        return {what: figure for what, _, figure in plan.rows()}["computing"]

    assert computing(Plan(seconds=12)) == "50 min"
    assert computing(Plan(seconds=24)) == "100 min"
    assert computing(Plan(seconds=24, machines=100)) == "50 min"
