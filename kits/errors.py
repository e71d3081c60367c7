"""The one exception family: each message is a sentence for a person, naming the file and the remedy.

Library code raises these; only ``process.py`` and the other command lines turn them into exit codes.
"""


class KitsError(Exception):
    """Something that a person can put right; ``str(error)`` says what and how."""


class InputError(KitsError):
    """An input that cannot be read or is not a CT volume."""


class OutputError(KitsError):
    """A result that cannot be written."""


class WeightsError(KitsError):
    """Weight files that are missing, damaged or meant for something else."""
