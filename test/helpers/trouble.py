"""Trouble in the process that reads: what a decoder may do, by a file's name."""

import textwrap
from pathlib import Path

import pytest

TROUBLE = """
    import os, pathlib, signal, time
    opened = pathlib.Path.open
    def trouble(path, *arguments, **settings):
        if "crash" in path.name:
            os.kill(os.getpid(), signal.SIGSEGV)
        if "killed" in path.name:
            os.kill(os.getpid(), signal.SIGKILL)
        if "hang" in path.name:
            time.sleep(1000)
        if "bug" in path.name:
            raise ZeroDivisionError("nobody thought of that")
        return opened(path, *arguments, **settings)
    pathlib.Path.open = trouble
"""


def make_trouble(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have Python processes that start from now on crash, hang or stumble over files of such names."""
    (folder / "python").mkdir()
    (folder / "python" / "sitecustomize.py").write_text(textwrap.dedent(TROUBLE))
    monkeypatch.setenv("PYTHONPATH", str(folder / "python"))
