"""The command ``kits``: which commands there are, and where each lives.

Each command is a module with ``main(arguments, prog) -> exit status``, imported only once it is asked for: whoever
scores label maps needs no torch, and help comes at once.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Sequence
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any

from kits import __version__
from kits.errors import VERBOSE, KitsError, exit_status

COMMANDS = {
    "segment": ("kits.batch.command", "find kidneys and kidney tumours in CT volumes"),
    "score": ("kits.score.__main__", "compare label maps with references, as KiTS does"),
    "overlay": ("kits.batch.overlay_command", "draw a label map that exists on its scan"),
    "manifest": ("kits.cohort.records", "one table of all finished cases of an output folder"),
    "demo": ("kits.demo", "fetch the example scan, or draw what was found in it"),
    "train": ("train.__main__", "train the networks (pip install 'kits-cascade[train]')"),
}


def main(arguments: Sequence[str] | None = None, prog: str = "kits") -> int:
    """Run the command line; returns the exit status.

    Args:
        arguments: by default the process'.
        prog: what the program is called in help and messages.
    """
    options = parser(prog).parse_args(arguments)
    if options.verbose:
        os.environ[VERBOSE] = "1"
    name = f"{prog} {options.command}"
    return exit_status(name, lambda: run(options.command, options.arguments, name), options.verbose)


def run(command: str, arguments: Sequence[str], prog: str) -> int:
    """Run one command.

    Raises:
        KitsError: what it needs is not installed.
    """
    module, _ = COMMANDS[command]
    if command == "train":
        return train(arguments, prog)
    return int(import_module(module).main(arguments, prog))


def train(arguments: Sequence[str], prog: str) -> int:
    """Run a training command, from a checkout's ``train`` or from the installed ``kits.train``.

    Raises:
        KitsError: what it needs is not installed.
    """
    try:
        module = "kits.train.__main__" if find_spec("kits.train") else COMMANDS["train"][0]
        return int(import_module(module).main(arguments, prog))
    except ModuleNotFoundError as error:
        raise KitsError(f"Training needs {error.name}; run `pip install 'kits-cascade[train]'`.") from error


def parser(prog: str) -> argparse.ArgumentParser:
    """The options before a command, and the command."""
    listing = "\n".join(f"  {name:10}{text}" for name, (_, text) in COMMANDS.items())
    result = argparse.ArgumentParser(
        prog=prog,
        description="Kidneys and kidney tumours in abdominal CT.",
        epilog=f"commands:\n{listing}\n\n{prog} COMMAND --help tells a command's options.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("--version", action=Version, nargs=0, help="this program's, and of what it runs on")
    result.add_argument("--verbose", action="store_true", help="show more, and the traceback of what goes wrong")
    result.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of those below")
    result.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="its options")
    return result


class Version(argparse.Action):
    """Prints the versions and ends."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(versions())
        parser.exit()


def versions() -> str:
    """The version of this program and, for bug reports, of what it runs on."""
    parts = [f"Python {platform.python_version()}"]
    for name in ("torch", "SimpleITK", "openvino", "nvidia-dali-cuda130"):
        try:
            parts.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            parts.append(f"no {name}")
    return f"kits-cascade {__version__} ({', '.join([*parts, platform.platform()])})"
