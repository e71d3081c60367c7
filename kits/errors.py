"""The one exception family: each message is a sentence for a person, naming the file and the remedy.

Library code raises these; only ``process.py`` and the other command lines turn them into exit codes.
"""


class KitsError(Exception):
    """Something that a person can put right; ``str(error)`` says what and how, in one line of printable characters."""

    def __str__(self) -> str:
        """The sentence, with what no screen shows (line breaks in a file's name, bytes of no encoding) escaped."""
        return printable(super().__str__())


def printable(text: str) -> str:
    """A text with whatever is not printable escaped.

    Example:
        >>> print(printable("a name\\nof two lines"))
        a name\\nof two lines
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


class InputError(KitsError):
    """An input that cannot be read or is not a CT volume."""


class OutputError(KitsError):
    """A result that cannot be written."""


class WeightsError(KitsError):
    """Weight files that are missing, damaged or meant for something else."""
