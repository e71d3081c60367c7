"""A sentence for a person, with a code for a program."""

from __future__ import annotations


class Remark(str):
    """What looks odd about an input but forbids no result: a string, with a ``code`` that never changes.

    Example:
        >>> remark = Remark("no-spacing", "The header has no spacing.")
        >>> remark, remark.code
        ('The header has no spacing.', 'no-spacing')
    """

    code: str

    def __new__(cls, code: str, text: str) -> Remark:
        """A sentence and its code, in lower case with hyphens."""
        self = super().__new__(cls, text)
        self.code = code
        return self

    def __reduce__(self) -> tuple[type[Remark], tuple[str, str]]:
        """What copies and pickles are made of."""
        return Remark, (self.code, str(self))
