"""The one exception family, each message a sentence for a person, and the one ladder from it to an exit status.

Library code raises these; only command lines end with a status, by ``exit_status``: 0 all is done, 1 some of it failed
or was not reached, 2 there was nothing to do or the call was wrong.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable

VERBOSE = "KITS_VERBOSE"
"""The variable of --verbose."""

REPORT_A_BUG = "please report it with what --verbose shows and what `kits --version` says"


OUT_OF_MEMORY = (
    "cannot allocate memory",
    "can't allocate memory",
    "failed to allocate memory",
    "memory allocation failed",
    "not enough memory",
    "out of memory",
    "bad_alloc",
    "bad allocation",
)


class KitsError(Exception):
    """Something that a person can put right; ``str(error)`` says what and how, in one line of printable characters.

    Attributes:
        status: with which a command ends that it ends.
    """

    status = 2

    def __str__(self) -> str:
        """The sentence, with what no screen shows (line breaks in a file's name, bytes of no encoding) escaped."""
        return printable(super().__str__())


class InputError(KitsError):
    """An input that cannot be read or is not a CT volume."""


class OutputError(KitsError):
    """A result that cannot be written."""


class WeightsError(KitsError):
    """Weight files that are missing, damaged or meant for something else."""


class GpuMemoryError(KitsError):
    """A GPU's memory ran out, for which a smaller scan or more of the machine's memory is no remedy."""


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
        print(f"{command}: {sentence(error)}", file=sys.stderr)
        return error.status if isinstance(error, KitsError) else 1


def switched_on(variable: str) -> bool:
    """Whether an environment variable says yes."""
    return os.environ.get(variable, "").lower() not in ("", "0", "no", "false")


def sentence(error: BaseException) -> str:
    """What a person is told of an exception: what happened and what to do."""
    if isinstance(error, KeyboardInterrupt):
        return "The run was told to end (SIGINT)."
    if out_of_memory(error) and not isinstance(error, GpuMemoryError):
        return "memory ran out; give more memory, or crop the scan to the abdomen."
    if isinstance(error, KitsError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename is not None else ""
        return printable(f"{place}{error.strerror}; check path, permissions and free space.")
    return printable(f"unexpected {type(error).__name__}: {error}; this is a fault of the program: {REPORT_A_BUG}.")


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, in whatever words Python, torch, ITK or the system's loader say so."""
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, MemoryError | GpuMemoryError):
            return True
        if any(words in str(chain).lower() for words in OUT_OF_MEMORY):
            return True
        chain = chain.__cause__ or chain.__context__
    return False


def disk_is_full(error: BaseException) -> bool:
    """Whether something could not be written for want of room."""
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, OSError) and chain.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return True
        chain = chain.__cause__
    return False


def printable(text: str) -> str:
    """A text with whatever is not printable escaped.

    Example:
        >>> print(printable("a name\\nof two lines"))
        a name\\nof two lines
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
