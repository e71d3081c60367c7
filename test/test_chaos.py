"""Runs that are disturbed and resumed end as undisturbed ones do: a short version of ``python -m test.chaos``."""

from test.chaos import main


def test_a_killed_run_and_one_whose_disk_was_full_resume_to_the_same(capsys):
    assert main(["--seconds", "0", "--seed", "3"]) == 0
    assert "2 rounds of seed 3 passed." in capsys.readouterr().out
