"""The one exception family, each message a sentence for a person, and the one ladder from it to an exit status.

Library code raises these; only command lines end with a status, by ``exit_status``: 0 all is done, 1 some of it failed
or was not reached, 2 there was nothing to do or the call was wrong.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable

VERBOSE = "KITS_VERBOSE"
"""The variable of --verbose."""

REPORT_A_BUG = "please report it with what --verbose shows and with what `kits --version` says"


class KitsError(Exception):
    """Something that a person can put right; ``str(error)`` says what and how."""

    status = 2


class InputError(KitsError):
    """An input that cannot be read or is not a CT volume."""


class OutputError(KitsError):
    """A result that cannot be written."""


class WeightsError(KitsError):
    """Weight files that are missing, damaged or meant for something else."""


def exit_status(command: str, work: Callable[[], int], verbose: bool = False) -> int:
    """Do a command's work; whatever ends it becomes a sentence on stderr and an exit status.

    Args:
        command: what the sentence begins with, e.g. ``kits score``.
        work: gives the status, or raises.
        verbose: show the traceback too; so does KITS_VERBOSE=1.
    """
    try:
        return work()
    except BrokenPipeError:  # whoever read our output has gone, `| head` for one: nobody to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes
        return 1
    except (Exception, KeyboardInterrupt) as error:
        if verbose or switched_on(VERBOSE):
            traceback.print_exc()
        print(f"{command}: {printable(sentence(error))}", file=sys.stderr)
        return error.status if isinstance(error, KitsError) else 1


def switched_on(variable: str) -> bool:
    """Whether an environment variable says yes."""
    return os.environ.get(variable, "").lower() not in ("", "0", "no", "false")


def sentence(error: BaseException) -> str:
    """What a person is told of an exception: what happened and what to do."""
    if isinstance(error, KitsError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return "The run was told to end (SIGINT)."
    if out_of_memory(error):
        return "Memory ran out; give more memory."
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename is not None else ""
        return f"{place}{error.strerror}; check path, permissions and free space."
    return f"Unexpected {type(error).__name__}: {error}; {REPORT_A_BUG}."


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, in whatever words Python, torch, ITK or DALI say so."""
    words = ("cannot allocate memory", "can't allocate memory", "not enough memory", "out of memory", "bad_alloc",
             "bad allocation", "failed to allocate memory", "memory allocation failed")  # fmt: skip
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in words)


def printable(text: str) -> str:
    """A text on one line for a terminal: line breaks and control characters, as names of files may hold, escaped.

    Example:
        >>> printable("two\\nlines")
        'two\\\\nlines'
    """
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
