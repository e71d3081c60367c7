"""Files in and out: volumes, the names of cases, the forms of challenges."""
