"""Many cases: run, report, pictures, submission."""
